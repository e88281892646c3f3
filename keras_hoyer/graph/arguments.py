"""The arguments of a call, named as the layer names them and handed on as its rule takes them."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_hoyer._keras import context_arguments
from keras_hoyer.graph.axes import Axis, Tensor


@dataclasses.dataclass
class RuleArguments:
    """The arguments of a call, as a rule takes them.

    Args:
        args: by position.
        kwargs: by name.
        unnamed: those of `kwargs` that the rule takes by a `**kwargs` only.
        refused: those that the rule does not take, by name.
    """

    args: list[Any] = dataclasses.field(default_factory=list)
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    unnamed: dict[str, Any] = dataclasses.field(default_factory=dict)
    refused: dict[str, Any] = dataclasses.field(default_factory=dict)


def for_rule(
    operation: Any, rule: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> RuleArguments:
    """Hands a rule what it takes of the arguments that a layer or operation was called with.

    However the call was written, an argument is known by the name that `call` gives it. A rule
    takes it under that name, or at the same place under a name of its own, or not at all.

    Args:
        operation: the layer or operation.
        rule: its rule, called as `rule(graph, operation, ...)`.
        args: the arguments by position, with a `Tensor` for each tensor.
        kwargs: the arguments by name.
    """
    takes = list(inspect.signature(rule).parameters.values())[2:]
    kinds = {parameter.kind for parameter in takes}
    places = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = {p.name for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    called = set(inspect.signature(operation.call).parameters)
    result = RuleArguments()
    chosen: dict[str, Any] = {}
    rest = []
    for name, place, value in _given(operation, args, kwargs):
        own = places[place] if place is not None and place < len(places) else None
        if name in names:
            chosen[name] = value
        elif own is not None and own.name not in called:
            chosen[own.name] = value
        elif Parameter.VAR_POSITIONAL in kinds and place is not None:
            rest.append(value)
        elif Parameter.VAR_KEYWORD in kinds and name is not None:
            result.unnamed[name] = value
        else:
            result.refused[name or f"argument {place}"] = value
    for parameter in places:
        # By position as far as there is no gap: what is left over may be the rule's `*args`.
        if parameter.name not in chosen:
            break
        result.args.append(chosen.pop(parameter.name))
    result.args += rest
    result.kwargs = {**chosen, **result.unnamed}
    return result


def all_labelled(value: Any) -> Any:
    """A tensor with frozen channels for None, so that a user's rule need not ask for it."""
    if not isinstance(value, Tensor):
        return value
    axes = [
        Axis(np.zeros(n, "int64"), np.full(n, np.nan)) if axis is None and n is not None else axis
        for axis, n in zip(value.axes, value.shape, strict=True)
    ]
    return Tensor(value.shape, axes)


def of_its_tensor(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[..., Any]:
    """The operation, or plain function, as a function of the only tensor in its arguments."""
    call = getattr(operation, "call", operation)
    kwargs = accepted(operation, kwargs)

    def function(x: Any) -> Any:
        def put(value: Any) -> Any:
            return x if isinstance(value, Tensor) else value

        return call(*tree.map_structure(put, args), **tree.map_structure(put, kwargs))

    return function


def accepted(operation: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments without those, such as `training`, that Keras drops for a layer like this."""
    if not kwargs or not isinstance(operation, keras.Layer):
        return kwargs
    parameters = inspect.signature(operation.call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return kwargs
    dropped = context_arguments(operation) - set(parameters)
    return {name: value for name, value in kwargs.items() if name not in dropped}


def _given(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str | None, int | None, Any]]:
    """Each argument with the name and the place that it has in `call`."""
    signature = inspect.signature(operation.call)
    parameters = signature.parameters
    order = list(parameters)
    bound = signature.bind(*args, **accepted(operation, kwargs))
    for name, value in bound.arguments.items():
        kind, place = parameters[name].kind, order.index(name)
        if kind is Parameter.VAR_POSITIONAL:
            yield from ((None, place + index, entry) for index, entry in enumerate(value))
        elif kind is Parameter.VAR_KEYWORD:
            yield from ((key, None, entry) for key, entry in value.items())
        else:
            yield name, None if kind is Parameter.KEYWORD_ONLY else place, value
