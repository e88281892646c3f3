"""Models as graphs of calls, whichever way they were written."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_hoyer._keras import (
    all_of,
    build_shapes,
    calls_in_order,
    follows_its_graph,
    graph_of,
    has_call,
    input_structure,
    last_call,
)
from keras_hoyer.graph.opened import Opened, noting_losses


def has_graph(model: Any) -> bool:
    """Whether the model is a Sequential or functional one whose operations can be seen.

    One with a `call` of its own computes something else than its graph says.
    """
    if not isinstance(model, keras.Model):
        return False
    return graph_of(model) is not None and follows_its_graph(model)


def as_function(model: keras.Model) -> Any:
    """The functional graph of a model; a subclassed one is called on symbolic inputs to see it.

    Args:
        model: a built model.

    Returns:
        A functional model that shares the layers of `model`.

    Raises:
        ValueError: if the model is not built, has no `call`, or cannot be traced.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Invalid value for argument `model`. Expected a Keras model. Received: model={model}"
        )
    if not has_call(model):
        parts = ", ".join(f"'{layer.name}'" for layer in model.layers) or "none"
        raise ValueError(
            f"The model '{model.name}' has no `call`, so no channels can be followed through it. "
            f"Call this on each of its parts that is a model of its own. Its parts: {parts}."
        )
    if has_graph(model):
        return graph_of(model)
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built, so its channels are unknown. Call it on data, "
            "or call `model.build(input_shape)`, first."
        )
    try:
        return _traced(model, [])
    except Exception as error:
        raise ValueError(
            f"The graph of the subclassed model '{model.name}' cannot be seen: calling it on "
            f"symbolic inputs raised {type(error).__name__}: {error}\nIf it takes several "
            "arguments, call it once on `keras.Input`s, since Keras keeps the shape of the first "
            "only. Else wrap its layers in a functional model: `inputs = keras.Input(...)`; "
            "`keras.Model(inputs, outputs)`, with keras.ops and without Python control flow over "
            "tensors."
        ) from error


def adds_losses(model: keras.Model) -> bool:
    """Whether the `call` of a subclassed model, whose graph can be seen, adds losses itself."""
    losses: list[Any] = []
    if not has_graph(model):
        _traced(model, losses)
    return bool(losses)


def nested_inputs(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], list[Any]]:
    """The tensors that a model in a graph is called on, in the order of its inputs, and the rest.

    Args:
        function: the graph of the model.
        args: what it is called with.
        kwargs: the same by name.
    """
    rest = {f"argument {index}": value for index, value in enumerate(args[1:])} | kwargs
    given = args[0] if args else rest.pop("inputs")
    if isinstance(given, dict):
        struct = input_structure(function)
        if isinstance(struct, dict):
            given = {name: given[name] for name in struct}
        else:
            given = [given[x.name] for x in function.inputs]
    return tree.flatten(given), tree.flatten(rest)


def ranked_inputs(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The tensors that a nested model computes with: it adds or drops a last axis of one entry."""
    inputs, _ = nested_inputs(function, args, kwargs)
    for index, (x, reference) in enumerate(zip(inputs, function.inputs, strict=True)):
        if x is not None and len(x.shape) < len(reference.shape):
            inputs[index] = ops.expand_dims(x, -1)
        elif x is not None and len(x.shape) > len(reference.shape):
            inputs[index] = ops.squeeze(x, -1)
    return inputs


def nodes_in_order(function: Any) -> list[Any]:
    """The calls of a functional graph, each after the calls that it depends on."""
    return list(function.nodes) if isinstance(function, Opened) else calls_in_order(function)


def call_on(
    model: keras.Model,
    tensors: Sequence[Any],
    training: bool = False,
    like: keras.Model | None = None,
) -> Any:
    """Calls a model on the flat inputs of its `as_function`, as it is written to be called.

    Args:
        model: the model.
        tensors: the inputs.
        training: whether it is called as in training.
        like: a model of the same class that has been built. Defaults to `model`.
    """
    if has_graph(model):
        structure = tree.pack_sequence_as(input_structure(as_function(model)), tensors)
        return model(structure, training=training)
    given, rest = _arguments(like or model), iter(tensors)
    given = tree.map_structure(lambda x: next(rest) if _is_symbolic(x) else x, given)
    if "training" in inspect.signature(model.call).parameters:
        given["training"] = training
    args, kwargs = _spread(model, given)
    return model(*args, **kwargs)


def _traced(model: keras.Model, losses: list[Any]) -> keras.Model:
    """The functional model of what a subclassed model's `call` does; `losses` gets what it adds."""
    layers = {layer.name for layer in all_of(model)}
    given = {name: _fresh(value, layers) for name, value in _arguments(model).items()}
    if "training" in inspect.signature(model.call).parameters:
        given["training"] = None  # what is recorded of it would be the same in every phase
    inputs = [value for value in given.values() if _is_symbolic(value)]
    args, kwargs = _spread(model, given)
    with noting_losses([model], losses):
        outputs = model.call(*args, **kwargs)
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=model.name)


def _spread(model: keras.Model, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Named arguments as `call` takes them: by name, if it has no `*args`."""
    signature = inspect.signature(model.call)
    kinds = {signature.parameters[name].kind: name for name in given}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        bound = inspect.BoundArguments(signature, given)
        return bound.args, bound.kwargs
    more = kinds.get(inspect.Parameter.VAR_KEYWORD, "")
    named = {name: value for name, value in given.items() if name != more}
    return (), {**named, **given.get(more, {})}


def _arguments(model: keras.Model) -> dict[str, Any]:
    """What a subclassed model is called with, by name, with symbolic tensors."""
    signature = inspect.signature(model.call)
    called = last_call(model)
    if called is not None:
        return dict(signature.bind(*called[0], **called[1]).arguments)
    if input_structure(model) is not None:
        return {next(iter(signature.parameters)): input_structure(model)}
    shapes = build_shapes(model)
    names = {f"{name}_shape": name for name in signature.parameters}
    if not shapes.keys() <= names.keys():  # `build` has a name of its own for the first
        names = dict(zip(shapes, signature.parameters, strict=False))
    return {names[name]: _tensor_of(shape) for name, shape in shapes.items()}


def _is_symbolic(value: Any) -> bool:
    return any(isinstance(x, keras.KerasTensor) for x in tree.flatten(value))


def _fresh(value: Any, taken: set[str], name: str | None = None) -> Any:
    """New inputs for symbolic tensors, named by their keys where these are not `taken`."""
    if isinstance(value, keras.KerasTensor):
        name = None if name in taken else name
        return keras.Input(batch_shape=value.shape, dtype=value.dtype, name=name)
    if isinstance(value, dict):
        return {key: _fresh(entry, taken, key) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fresh(entry, taken) for entry in value]
    return value


def _tensor_of(shape: Any) -> Any:
    """Symbolic tensors of the shapes that a model was built with, for any batch."""
    if shape is None:
        return None
    if isinstance(shape, dict):
        return {name: _tensor_of(entry) for name, entry in shape.items()}
    if all(n is None or isinstance(n, int) for n in shape):
        return keras.KerasTensor((None, *shape[1:]))
    return [_tensor_of(entry) for entry in shape]
