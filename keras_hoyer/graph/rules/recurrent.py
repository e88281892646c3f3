"""How channels go through recurrent layers: those of a kind, and those around cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops, tree

from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.facts import title
from keras_hoyer.graph.registry import find_rule
from keras_hoyer.graph.rules.common import (
    as_list,
    constants_of,
    forgetting,
    rule,
    used_inputs,
    zeros_of,
)
from keras_hoyer.graph.walk import ChannelGraph

_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)


@rule(layers.LSTM, layers.GRU, layers.SimpleRNN)
def _recurrent(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    result = _run(graph, layer, x, initial_state)
    units = graph.channels(layer.cell, "units", layer.units)
    graph.resize(layer, lambda size: {"units": size(units)})
    return result


@rule(layers.RNN)
def _rnn(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    if x.rank != 3 or not _has_vectors(layer.cell):
        return graph.opaque(layer, [x], f" (around {title(layer.cell)})")
    graph.hold(layer, cell=layer.cell)
    return _run(graph, layer, x, initial_state)


def _has_vectors(cell: Any) -> bool:
    """Whether all states of a cell are vectors."""
    return all(isinstance(n, int) for n in tree.flatten(cell.state_size))


def _run(graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any) -> Any:
    """The outputs of a recurrent layer around its cell."""
    graph.freeze(*x.axes[:-1])
    states = _initial(graph, layer.cell)
    given = [s for s in tree.flatten(initial_state) if isinstance(s, Tensor)]
    for known, state in zip(tree.flatten(states), given, strict=False):
        graph.join(known.axes[-1], state.axes[-1])
    if given:
        states = tree.pack_sequence_as(states, given)
    stored = tree.flatten(layer.states or ()) if layer.stateful else ()
    if stored:
        for known, variable in zip(tree.flatten(states), stored, strict=True):
            graph.weight(variable, (None, known.axes[-1]), state=True)
        states = tree.map_structure(forgetting, states)
    step = Tensor((x.shape[0], x.shape[-1]), (None, x.axes[-1]), (x.sizes[0], x.sizes[-1]))
    out, states = _step(graph, layer.cell, step, states, x.sizes[1])
    return _results(layer, x, out, tree.flatten(states))


def _results(layer: Any, x: Tensor, out: Tensor, states: Sequence[Tensor]) -> Any:
    """What a recurrent layer gives, from what comes out of one step."""
    result = out
    if layer.return_sequences:
        result = Tensor((*x.shape[:2], *out.shape[1:]), (None, None, *out.axes[1:]))
    return [result, *states] if layer.return_state else result


def _initial(graph: ChannelGraph, cell: Any) -> Any:
    """The states that a cell begins with: zeros, unless it has a method of its own for them."""
    if isinstance(cell, layers.StackedRNNCells):
        return [_initial(graph, inner) for inner in cell.cells]
    own = getattr(type(cell), "get_initial_state", None)
    zero = own is None or own.__module__.startswith("keras.")
    states = []
    for number, n in enumerate(as_list(cell.state_size)):
        axis = graph.channels(cell, f"state {number}", n)
        states.append(Tensor((None, n), (None, axis.having(0 if zero else np.nan))))
    return states


def _step(
    graph: ChannelGraph, cell: Any, x: Tensor, states: Any, steps: int | None
) -> tuple[Tensor, Any]:
    """What a cell makes of one step of a sequence, at any time, and its states.

    Args:
        graph: the graph.
        cell: the cell.
        x: its input.
        states: the states that it begins with.
        steps: how many steps there are.
    """
    if find_rule(cell)[0] is _stacked_cells:
        graph.hold(cell, cells=list(cell.cells))
        results = []
        for inner, before in zip(cell.cells, states, strict=True):
            x, after = _step(graph, inner, x, before, steps)
            results.append(after)
        return x, results
    if find_rule(cell)[0] is _gated_cell:
        return _gated(graph, cell, x, states, steps)
    return _settled(graph, cell, x, states, steps)


def _settled(
    graph: ChannelGraph, cell: Any, x: Tensor, states: Sequence[Tensor], steps: int | None
) -> tuple[Tensor, list[Tensor]]:
    """A step of a cell by its own rule, or opened, with what is constant of its states for good."""
    states, mark = list(states), graph.mark()
    while True:
        whole = "it is the cell of a recurrent layer"
        # Where steps are masked, zeros come out.
        outputs = [zeros_of(y) for y in graph.inside(cell, x, states, steps=steps, whole=whole)]
        out, after = outputs[0], outputs[1:]
        settled = True
        for number, (one, two) in enumerate(zip(states, after, strict=True)):
            axis = graph.join(one.axes[-1], two.axes[-1])
            if axis is None:
                continue
            before = constants_of(one.axes[-1], len(axis))
            lost = (before == 0) & (constants_of(two.axes[-1], len(axis)) != 0)
            if lost.any():
                settled = False
                known = np.where(lost, np.nan, before)
                states[number] = one.replace(-1, axis.having(known))
        if settled or not graph.values:
            return out, after
        graph.back_to(mark)


@rule(*_CELLS)
def _gated_cell(graph: ChannelGraph, cell: Any, x: Tensor, states: Any, **kwargs: Any) -> Any:
    out, after = _gated(graph, cell, x, states, 1)
    return [out, *after]


@rule(layers.StackedRNNCells)
def _stacked_cells(graph: ChannelGraph, cell: Any, x: Tensor, states: Any, **kwargs: Any) -> Any:
    out, after = _step(graph, cell, x, states, 1)
    return [out, *tree.flatten(after)]


def _gated(
    graph: ChannelGraph, cell: Any, x: Tensor, states: Any, steps: int | None
) -> tuple[Tensor, list[Tensor]]:
    """A step of a cell that multiplies its input and its state by kernels for several gates."""
    states = tree.flatten(states)
    out = graph.channels(cell, "units", cell.units)
    graph.resize(cell, lambda size: {"units": size(out)})
    graph.freeze(*x.axes[:-1])
    source = x.axes[-1]
    wide = out.tile(cell.kernel.shape[-1] // cell.units)
    graph.join(out, *(state.axes[-1] for state in states))
    graph.weight(cell.kernel, (source, wide), reads=(0,), uses=[steps or 1])
    graph.weight(cell.recurrent_kernel, (out, wide), reads=(0,), uses=[steps or 1])
    if cell.bias is not None:
        graph.weight(cell.bias, (*(None,) * (len(cell.bias.shape) - 1), wide))
    if graph.mixes(cell.activation) or graph.mixes(getattr(cell, "recurrent_activation", None)):
        graph.freeze(out)
    kernel, recurrent = graph.value(cell.kernel), graph.value(cell.recurrent_kernel)
    if kernel is not None and recurrent is not None:
        graph.read(source, _reached(kernel), (wide,))
        before = [state.axes[-1] for state in states]
        out = out.having(_silent_units(graph, cell, (kernel, recurrent), source, before))
        graph.read(out, _reached(recurrent), (wide,))
    result = Tensor((x.shape[0], cell.units), (None, out))
    return result, [result for _ in states]


@rule(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def _conv_lstm(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    cell, units = layer.cell, layer.filters
    index = 1 if layer.data_format == "channels_first" else x.rank - 2  # of one step
    graph.freeze(*(axis for i, axis in enumerate(x.axes) if i != index + 1))
    source = x.axes[index + 1]
    out = graph.channels(layer, "filters", units)
    graph.resize(layer, lambda size: {"filters": size(out)})
    wide = out.tile(4)
    given = [s for s in tree.flatten(initial_state) if isinstance(s, Tensor)]
    graph.join(out, *(state.axes[index] for state in given))
    window = (None,) * len(layer.kernel_size)
    sizes = graph.output_sizes[0][1 + layer.return_sequences :]
    uses = [x.sizes[1] or 1, *(n or 1 for i, n in enumerate(sizes, 1) if i != index)]
    graph.weight(cell.kernel, (*window, source, wide), reads=(len(window),), uses=uses)
    graph.weight(cell.recurrent_kernel, (*window, out, wide), reads=(len(window),), uses=uses)
    graph.weight(cell.bias, (wide,))
    for state in tree.flatten(layer.states or ()) if layer.stateful else ():
        axes = [out if i == index else None for i in range(len(state.shape))]
        graph.weight(state, axes, state=True)
    if graph.mixes(cell.activation) or graph.mixes(cell.recurrent_activation):
        graph.freeze(out)
    kernel, recurrent = graph.value(cell.kernel), graph.value(cell.recurrent_kernel)
    if kernel is not None and recurrent is not None:
        graph.read(source, _reached(kernel), (wide,))
        if not layer.stateful:
            before = [state.axes[index] for state in given] or [out.having(0)]
            out = out.having(_silent_units(graph, cell, (kernel, recurrent), source, before))
        graph.read(out, _reached(recurrent), (wide,))
    shape: list[int | None] = [None] * (x.rank - 1)
    shape[index] = units
    step = Tensor(shape, [out if i == index else None for i in range(x.rank - 1)])
    return _results(layer, x, step, [step, step])


def _reached(kernel: np.ndarray) -> np.ndarray:
    """Which outputs of a kernel `(*window, inputs, outputs)` depend on which inputs."""
    return used_inputs(kernel.reshape(-1, *kernel.shape[-2:]))


def _silent_units(
    graph: ChannelGraph,
    cell: Any,
    kernels: tuple[np.ndarray, np.ndarray],
    source: Axis | None,
    states: Sequence[Axis | None],
) -> np.ndarray:
    """Zero for the units that start at zero and are never given anything else."""
    units = kernels[1].shape[-2]
    # The candidate is the third of the four gates of an LSTM, the last of a GRU's three.
    candidate = 0 if isinstance(cell, layers.SimpleRNNCell) else 2 * units
    part = slice(candidate, candidate + units)
    origin = float(ops.convert_to_numpy(cell.activation(ops.zeros((1, 1))))[0, 0])
    if origin != 0 or not graph.is_pointwise(cell.activation):
        return np.full(units, np.nan)
    kernel, recurrent = (_reached(values[..., part]) for values in kernels)
    driven = kernel[constants_of(source, len(kernel)) != 0].any(axis=0)
    for state in states:
        driven |= constants_of(state, units) != 0
    bias = graph.value(cell.bias)
    if bias is not None:
        driven |= (bias[..., part].reshape(-1, units) != 0).any(axis=0)
    while True:
        reached = driven | recurrent[driven].any(axis=0)
        if (reached == driven).all():
            return np.where(driven, np.nan, 0)
        driven = reached
