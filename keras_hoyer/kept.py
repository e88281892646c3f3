"""Looking at a model without leaving a trace in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_hoyer._keras import flatten_layers
from keras_hoyer.weights import find_weights


@contextmanager
def left_as_it_is(model: keras.Model, but: Sequence[keras.Variable] = ()) -> Iterator[None]:
    """A scope after which the states of layers and metrics are what they were before.

    Args:
        model: The model.
        but: Variables that may change.
    """
    passed = {id(weight.variable) for weight in find_weights(model)} | {id(v) for v in but}
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    # Those of stateful recurrent layers are among no layer's variables.
    held = keras.tree.flatten([getattr(layer, "states", None) for layer in flatten_layers(model)])
    held = [state for state in held if isinstance(state, keras.Variable)]
    states = [v for v in (*model.variables, *metrics, *held) if id(v) not in passed]
    kept = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in states]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


@contextmanager
def calls_replaced(
    layers: Sequence[keras.Layer],
    replaced: Callable[[keras.Layer, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """A scope in which layers are called by other functions.

    Args:
        layers: The layers, each once.
        replaced: From a layer and its `call` to the function in its place.
    """
    before = [(layer, vars(layer).get("call")) for layer in layers]
    try:
        for layer in layers:
            vars(layer)["call"] = replaced(layer, layer.call)
        yield
    finally:
        for layer, call in before:
            vars(layer).pop("call", None)
            if call is not None:
                vars(layer)["call"] = call
