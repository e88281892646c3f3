"""How channels go through recurrent layers: those of a kind, and those around cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops, tree

from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.facts import title
from keras_hoyer.graph.registry import find_rule
from keras_hoyer.graph.rules.common import as_list, constants_of, forgetting, only_zeros, rule
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
    result = out
    if layer.return_sequences:
        result = Tensor((*x.shape[:-1], out.shape[-1]), (None, None, out.axes[-1]))
    if not layer.return_state:
        return result
    return [result, *tree.flatten(states)]


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
    states = [forgetting(state) for state in states]
    whole = "it is the cell of a recurrent layer"
    outputs = graph.inside(cell, x, states, steps=steps, whole=whole)
    for one, two in zip(states, outputs[1:], strict=True):
        graph.join(one.axes[-1], two.axes[-1])
    # Where the first steps are masked, zeros come out.
    out, *after = (Tensor(y.shape, [only_zeros(axis) for axis in y.axes]) for y in outputs)
    return out, after


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
    kernel = graph.value(cell.kernel)
    if kernel is not None:
        graph.read(source, kernel != 0, (wide,))
        out = out.having(_silent_units(graph, cell, source, states))
        graph.read(out, graph.value(cell.recurrent_kernel) != 0, (wide,))
    result = Tensor((x.shape[0], cell.units), (None, out))
    return result, [result for _ in states]


def _silent_units(
    graph: ChannelGraph, cell: Any, source: Axis | None, states: Sequence[Tensor]
) -> np.ndarray:
    """Zero for the units that start at zero and are never given anything else."""
    units = cell.units
    # The candidate is the third of the four gates of an LSTM, the last of a GRU's three.
    candidate = 0 if isinstance(cell, layers.SimpleRNNCell) else 2 * units
    part = slice(candidate, candidate + units)
    origin = float(ops.convert_to_numpy(cell.activation(ops.zeros((1, 1))))[0, 0])
    if origin != 0 or not graph.is_pointwise(cell.activation):
        return np.full(units, np.nan)
    kernel = graph.value(cell.kernel)[:, part]
    recurrent = graph.value(cell.recurrent_kernel)[:, part]
    driven = (kernel[constants_of(source, len(kernel)) != 0] != 0).any(axis=0)
    for state in states:
        driven |= constants_of(state.axes[-1], units) != 0
    if cell.bias is not None:
        bias = graph.value(cell.bias)[..., part].reshape(-1, units)
        driven |= (bias != 0).any(axis=0)
    while True:
        reached = driven | (recurrent[driven] != 0).any(axis=0)
        if (reached == driven).all():
            return np.where(driven, np.nan, 0)
        driven = reached
