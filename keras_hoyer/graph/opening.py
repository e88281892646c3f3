"""Models as graphs of calls, whichever way they were written."""

from collections.abc import Iterator
from typing import Any

import keras


def has_graph(model: Any) -> bool:
    """Whether the model is a Sequential or functional one whose operations can be seen."""
    return getattr(model, "_functional", None) is not None or hasattr(model, "_nodes_by_depth")


def as_function(model: keras.Model) -> Any:
    """The functional graph of a model; a subclassed one is called on symbolic inputs to see it.

    Args:
        model: a built model.

    Returns:
        A functional model that shares the layers of `model`.

    Raises:
        ValueError: if the model is not built, or cannot be traced.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Invalid value for argument `model`. Expected a Keras model. Received: model={model}"
        )
    if getattr(model, "_functional", None) is not None:
        return model._functional
    if hasattr(model, "_nodes_by_depth"):
        return model
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built, so its channels are unknown. Call it on data, "
            "or call `model.build(input_shape)`, first."
        )
    try:
        shapes = model._build_shapes_dict
        inputs = [_symbolic_inputs(shape) for shape in shapes.values()]
        return keras.Model(inputs[0] if len(inputs) == 1 else inputs, model.call(*inputs))
    except Exception as error:
        raise ValueError(
            f"The graph of the subclassed model '{model.name}' cannot be seen: calling it on "
            f"symbolic inputs raised {type(error).__name__}: {error}\nWrap its layers in a "
            "functional model: `inputs = keras.Input(...)`; `keras.Model(inputs, outputs)`, with "
            "keras.ops and without Python control flow over tensors."
        ) from error


def nodes_in_order(function: Any) -> Iterator[Any]:
    """The calls of a functional graph, each after the calls that it depends on."""
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if node.operation and not node.is_input:
                yield node


def all_layers(model: keras.Model) -> list:
    """The model and everything in it, a layer before the layers inside it."""
    return list(model._flatten_layers(include_self=True, recursive=True))


def _symbolic_inputs(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _symbolic_inputs(entry) for name, entry in shape.items()}
    if all(n is None or isinstance(n, int) for n in shape):
        return keras.Input(shape=shape[1:])
    return [_symbolic_inputs(entry) for entry in shape]
