"""Layers that are made of layers: what one calls, seen by calling it on symbolic inputs."""

import contextlib
import dataclasses
import functools
import itertools
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer._keras import all_of, calls_of, forgetting_calls, going_through, own_variables
from keras_hoyer.graph.arguments import accepted

# What stands for open axes where a layer cannot be called on them; no layer has so many channels.
BATCH, LENGTH = 2, 97

_LIBRARIES = ("keras", "tensorflow", "jax", "torch", "numpy", "keras_hoyer")


class CannotOpen(Exception):
    """What a layer calls cannot be seen; the message says why, for others to quote."""


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """What a layer calls in one call, as a functional graph.

    Args:
        layer: the layer.
        given: the symbolic tensors that the layer is called on in its model, each once.
        inputs: those that stand for them.
        outputs: what comes out; an array where it does not depend on the inputs, and None where
            the layer gives None though Keras foresees a tensor.
        nodes: the calls, each after those that it depends on.
        sample: what stands for open lengths, or None if these are open here as well.
        hidden: what the layer does that its calls do not show, in words; empty if nothing.
    """

    layer: Any
    given: Sequence[keras.KerasTensor]
    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    nodes: Sequence[Any]
    sample: int | None
    hidden: str


def open_call(layer: keras.Layer, node: Any) -> Opened:
    """Calls a layer as a node of a graph does, on symbolic inputs of the same shapes.

    Where its code cannot do with open axes, these get a size.

    Args:
        layer: a built layer.
        node: the call.

    Raises:
        CannotOpen: if its code cannot be called on symbolic inputs, or does not give what the node
            has as outputs.
    """
    args, kwargs = node.arguments.args, accepted(layer, node.arguments.kwargs)
    tensors = [x for x in tree.flatten((args, kwargs)) if _is_symbolic(x)]
    sizes: list[tuple[int | None, int]] = [(None, BATCH)]
    if any(None in x.shape for x in tensors):
        # The examples may lie along another axis than the first: then one size does for all.
        sizes += [(LENGTH, BATCH), (LENGTH, LENGTH)]
    first: Exception | None = None
    for sample, batch in sizes:
        try:
            opened = _traced(layer, args, kwargs, sample, batch)
        except Exception as error:  # whatever code raises that was not written for it
            first = first or error
            continue
        if len(opened.outputs) != len(node.outputs):
            outputs = [y for y in opened.outputs if y is not None]
            opened = dataclasses.replace(opened, outputs=outputs)
        if not _fit(opened, node):
            first = first or ValueError("it gives other shapes than its `compute_output_shape`")
        elif sample is None and len(sizes) > 1 and not _is_open(opened, args, kwargs):
            first = first or ValueError("it makes arrays as large as an open axis")
        else:
            return opened
    raise CannotOpen(f"its `call` cannot be followed: {_described(first)}") from first


def _is_open(opened: Opened, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether what a layer gives its operations is the same whatever the size of an open axis.

    Ranges up to an unknown size are empty on some backends, without an error; and code may take a
    default in place of an unknown size.
    """
    constants = _constants(opened)
    try:
        other = _traced(opened.layer, args, kwargs, LENGTH)
    except Exception:  # its code may not go that far, or needs another size
        return all(np.size(value) for value in constants)
    if not same_calls(opened, other):
        return all(np.size(value) for value in constants)
    others = _constants(other)
    return len(constants) == len(others) and all(
        one is None or np.array_equal(one, two, equal_nan=True)
        for one, two in zip(constants, others, strict=True)
    )


def _constants(opened: Opened) -> list[Any]:
    """The numbers and arrays that operations are given, and None where a size is not known."""
    values: list[Any] = []
    for node in opened.nodes:
        settings = [] if isinstance(node.operation, keras.Layer) else vars(node.operation).items()
        given = [value for name, value in settings if not name.startswith("_")]
        values += tree.flatten([node.arguments.args, node.arguments.kwargs, given])
    return [
        value if value is None else ops.convert_to_numpy(value)
        for value in values
        if value is None or _is_constant(value)
    ]


def _is_constant(value: Any) -> bool:
    if isinstance(value, (int, float, np.ndarray)):
        return True
    return ops.is_tensor(value) and not _is_symbolic(value)


def _fit(opened: Opened, node: Any) -> bool:
    """Whether what comes out has the shapes that the node has, as far as both are known."""
    pairs = itertools.zip_longest(opened.outputs, node.outputs)
    found = [tuple(getattr(x, "shape", getattr(y, "shape", ()))) for x, y in pairs]
    expected = [tuple(x.shape) for x in node.outputs]
    return list(map(len, found)) == list(map(len, expected)) and all(
        None in pair or pair[0] == pair[1] for pairs in map(zip, found, expected) for pair in pairs
    )


def depends_on_training(opened: Opened, node: Any) -> bool:
    """Whether the layer calls something else in training."""
    args, kwargs = node.arguments.args, accepted(opened.layer, node.arguments.kwargs)
    if "training" not in opened.layer.call_signature_parameters or kwargs.get("training"):
        return False
    try:
        other = _traced(opened.layer, args, {**kwargs, "training": True}, opened.sample)
    except Exception:
        return True
    return not same_calls(opened, other)


def same_calls(one: Opened, other: Opened) -> bool:
    """Whether a layer does the same in two calls."""
    return list(map(_kind, one.nodes)) == list(map(_kind, other.nodes))


def _kind(node: Any) -> Any:
    """The layer, or what kind of operation it is."""
    operation = node.operation
    return id(operation) if isinstance(operation, keras.Layer) else type(operation)


def _traced(
    layer: keras.Layer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sample: int | None,
    batch: int = BATCH,
) -> Opened:
    # In the order of `tree.flatten`, by which others line up what they call the result on.
    known: dict[int, tuple[keras.KerasTensor, keras.KerasTensor]] = {}
    for x in filter(_is_symbolic, tree.flatten((args, kwargs))):
        shape = x.shape
        if sample is not None:
            shape = [n or (LENGTH if i else batch) for i, n in enumerate(shape)]
        if id(x) not in known:
            known[id(x)] = x, keras.Input(batch_shape=tuple(shape), dtype=x.dtype)
    args, kwargs = tree.map_structure(
        lambda x: known[id(x)][1] if _is_symbolic(x) else x, (args, kwargs)
    )
    # Nothing that the layer assigns or adds to its losses is to stay.
    gone_through: list[keras.Layer] = [layer]
    inside = [part for part in all_of(layer) if part is not layer]
    with (
        forgetting_calls(layer),
        going_through(inside, gone_through, [part for part in inside if _is_nameless(part)]),
        keras.StatelessScope(collect_losses=True) as scope,
        noting_losses(all_of(layer), scope.losses),
    ):
        results = layer.call(*args, **kwargs)
        outputs = tree.flatten(results)
        made = [y for y in outputs if _is_symbolic(y)]
        if not made or not all(y is None or hasattr(y, "shape") for y in outputs):
            raise ValueError("an output does not depend on the inputs")
        nodes = calls_of(made)
    given, inputs = zip(*known.values(), strict=True) if known else ((), ())
    hidden = _hidden(layer, gone_through, scope, nodes, sample)
    if len(made) < sum(y is not None for y in outputs):
        hidden = hidden or "it gives arrays that do not depend on its inputs"
    return Opened(layer, given, inputs, outputs, nodes, sample, hidden)


@contextlib.contextmanager
def noting_losses(layers: Sequence[keras.Layer], losses: list[Any]) -> Iterator[None]:
    """A scope in which layers may add losses that are symbolic, which Keras does not take.

    Args:
        layers: those to which it applies.
        losses: gets the symbolic losses, of which nothing else stays.
    """

    def noting(add: Callable[[Any], None], loss: Any) -> None:
        if any(map(_is_symbolic, tree.flatten(loss))):
            losses.append(loss)
        else:
            add(loss)

    for layer in layers:
        object.__setattr__(layer, "add_loss", functools.partial(noting, layer.add_loss))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "add_loss")


def _is_nameless(layer: keras.Layer) -> bool:
    """Whether a layer is a plain function that no name could load again in the layer's place."""
    function = layer.activation if type(layer) is keras.layers.Activation else None
    if not isinstance(function, types.FunctionType) or function.__module__.startswith("keras."):
        return False
    return keras.saving.get_registered_object(keras.saving.get_registered_name(function)) is None


def _hidden(
    layer: keras.Layer,
    gone_through: Sequence[keras.Layer],
    scope: Any,
    nodes: Sequence[Any],
    sample: int | None,
) -> str:
    held = {id(inner) for inner in all_of(layer)}
    foreign = [
        node.operation.name
        for node in nodes
        if getattr(node.operation, "weights", None) and id(node.operation) not in held
    ]
    if foreign:
        raise ValueError(f"it calls the layer '{foreign[0]}', which it does not hold")
    if sample is not None:
        return "its code needs the sizes of all axes"
    baked = [node.operation.name for node in nodes if open_sizes(node) and not reshape_of(node)]
    if baked:
        return f"its operation '{baked[0]}' is given the size of an open axis"
    if any(map(own_variables, gone_through)):
        return "it has weights of its own"
    if any(part.activity_regularizer is not None for part in gone_through):
        return "it has an activity regularizer"
    if scope.losses or scope.state_mapping:
        return "it adds losses or sets variables"
    return ""


def open_sizes(node: Any) -> bool:
    """Whether an operation was given the unknown size of an open axis for a number."""
    operation = node.operation
    if isinstance(operation, keras.Layer):
        return False
    # What is not a shape, such as an axis, is None by itself.
    lists = [value for value in vars(operation).values() if isinstance(value, (list, tuple))]
    return any(None in value and len(value) > 1 for value in lists)


def reshape_of(node: Any) -> tuple[int, ...] | None:
    """The target of a `Reshape` layer that does what a reshape of an open batch is to do."""
    shape = getattr(node.operation, "newshape", None)
    if not isinstance(shape, (list, tuple)) or shape[0] is not None:
        return None
    target = tuple(-1 if n is None else n for n in shape[1:])
    return target if target.count(-1) <= 1 else None


def _described(error: Exception | None) -> str:
    """The error with the last line that is no library's, if there is one."""
    if error is None:
        return "it gives no outputs"
    text = str(error).strip().partition("\n")[0]
    text = text if len(text) < 120 else f"{text[:117]}..."
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _is_library(frame.filename):
            line = f"{Path(frame.filename).name}, line {frame.lineno}: `{frame.line}`"
            return f"{line} raised {type(error).__name__}: {text}"
    return f"{type(error).__name__}: {text}"


def _is_library(filename: str) -> bool:
    path = Path(filename)
    if path.is_relative_to(sysconfig.get_path("stdlib")) and "site-packages" not in path.parts:
        return True
    roots = [getattr(sys.modules.get(name), "__file__", None) for name in _LIBRARIES]
    return any(root and path.is_relative_to(Path(root).parent) for root in roots)


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)
