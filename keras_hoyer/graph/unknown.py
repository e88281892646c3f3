"""What calls without a rule cost: found from what they call in turn."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, tree

from keras_hoyer.graph.axes import Cost, Unknown
from keras_hoyer.graph.walk import ChannelGraph

Shape = Sequence[int | None]


def costs_inside(call: Unknown) -> tuple[list[Cost], bool]:
    """The costs of a call, and whether they are complete.

    A layer is called on symbolic inputs, and what it calls is counted. If that fails, each entry of
    what looks like a kernel counts once.
    """
    operation = call.operation
    if not isinstance(operation, keras.Layer):
        return [Cost(call.path, (call.repeats, _multiply_adds(call)))], True
    try:
        model, steps = _opened(call)
        graph = ChannelGraph(model, values=False)
    except Exception:  # whatever a foreign layer raises, what it calls cannot be seen
        kernels = [variable for variable in operation.weights if is_kernel(variable)]
        costs = [Cost(call.path, (call.repeats,), k, tuple(k.shape)) for k in kernels]
        return costs, not kernels
    costs, complete = list(graph.calls.costs), True
    for inner in graph.calls.unknown:
        found, whole = costs_inside(inner)
        costs += found
        complete &= whole
    times = call.repeats * steps
    return [_many(cost, call.path, times) for cost in costs], complete


def _many(cost: Cost, path: str, times: int) -> Cost:
    """A cost within a layer as one of the layer, with sizes that stay."""
    sizes = () if cost.kernel is None else tuple(cost.kernel.shape)
    return Cost(path, (times, cost.number // math.prod(sizes)), cost.kernel, sizes)


def _opened(call: Unknown) -> tuple[keras.Model, int]:
    """A model of what a layer calls, and how many times it calls that for one example."""
    layer, args, kwargs = call.operation, call.args, call.kwargs
    steps = 1
    if isinstance(layer, layers.RNN):
        [sequence, *_] = [x for x in tree.flatten((args, kwargs)) if _is_symbolic(x)]
        steps = sequence.shape[1] or 1
        states = layer.get_initial_state(batch_size=1)
        one_step = keras.KerasTensor((None, *sequence.shape[2:]), sequence.dtype)
        args = (one_step, tree.map_structure(_spec_of_state, states))
        kwargs = {}
    inputs: dict[int, keras.KerasTensor] = {}

    def fresh(x: Any) -> Any:
        if not _is_symbolic(x):
            return x
        if id(x) not in inputs:
            inputs[id(x)] = keras.Input(batch_shape=(None, *x.shape[1:]), dtype=x.dtype)
        return inputs[id(x)]

    args, kwargs = tree.map_structure(fresh, (args, kwargs))
    # Nothing that the layer assigns or adds to its losses is to stay.
    with keras.StatelessScope(collect_losses=True):
        called = layer.cell if isinstance(layer, layers.RNN) else layer
        outputs = called.call(*args, **kwargs)
    outputs = [y for y in tree.flatten(outputs) if _is_symbolic(y)]
    return keras.Model(list(inputs.values()), outputs), steps


def _spec_of_state(state: Any) -> keras.KerasTensor:
    return keras.KerasTensor((None, *state.shape[1:]), keras.backend.standardize_dtype(state.dtype))


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)


def has_kernels(operation: Any) -> bool:
    """Whether a layer, or a layer inside it, has something that looks like a kernel."""
    return isinstance(operation, keras.Layer) and any(map(is_kernel, operation.weights))


def is_kernel(variable: keras.Variable) -> bool:
    """Whether a variable looks like one that inputs are multiplied with."""
    is_float = keras.backend.is_float_dtype(variable.dtype)
    return is_float and len(variable.shape) > 1 and variable.name != "embeddings"


def _multiply_adds(call: Unknown) -> int:
    """The multiply-adds of an operation of `keras.ops` without a rule."""
    count = _COUNTS.get(type(call.operation).__name__)
    if count is None:
        return 0
    operands = [x.shape for x in tree.flatten((call.args, call.kwargs)) if hasattr(x, "shape")]
    return count(call.operation, _size(call.outputs[0][1:]), *operands)


def _along_last(operation: Any, made: int, left: Shape, *_: Shape) -> int:
    return made * _size(left[-1:])


def _separable(operation: Any, made: int, x: Shape, depthwise: Shape, pointwise: Shape) -> int:
    return made // (pointwise[-1] or 1) * (_size(depthwise) + _size(pointwise))


# From the operation, the number of entries that it makes, and the shapes of its operands.
_COUNTS: dict[str, Callable[..., int]] = {
    "SeparableConv": _separable,
    "Matmul": _along_last,
    "Dot": _along_last,
    "Inner": _along_last,
    "Outer": lambda operation, made, *_: made,
    "Vdot": lambda operation, made, left, *_: _size(left),
}


def _size(shape: Shape) -> int:
    return math.prod(n or 1 for n in shape)
