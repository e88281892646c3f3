"""How channels go through recurrent layers and the wrappers of single steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops, tree

from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.facts import title
from keras_hoyer.graph.rules.common import concatenated, constants_of, rule
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.LSTM, layers.GRU, layers.SimpleRNN)
def _recurrent(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    cell, units = layer.cell, layer.units
    out = graph.channels(layer, "units", units)
    gates = cell.kernel.shape[-1] // units
    wide = out.tile(gates)
    graph.freeze(*x.axes[:-1])
    source = x.axes[-1]
    states = [s for s in tree.flatten(initial_state) if isinstance(s, Tensor)]
    graph.join(out, *(s.axes[-1] for s in states))
    steps = x.places(-1)
    graph.weight(cell.kernel, (source, wide), reads=(0,), uses=steps)
    graph.weight(cell.recurrent_kernel, (out, wide), reads=(0,), uses=steps)
    if cell.bias is not None:
        graph.weight(cell.bias, (*(None,) * (len(cell.bias.shape) - 1), wide))
    for state in tree.flatten(layer.states or ()) if layer.stateful else ():
        graph.weight(state, (None, out), state=True)
    graph.resize(layer, lambda size: {"units": size(out)})
    if any(
        graph.mixes(getattr(cell, name, None)) for name in ("activation", "recurrent_activation")
    ):
        graph.freeze(out)
    kernel = graph.value(cell.kernel)
    if kernel is not None:
        graph.read(source, kernel != 0, (wide,))
        if not layer.stateful:
            out = out.having(_silent_units(graph, layer, source, states))
        graph.read(out, graph.value(cell.recurrent_kernel) != 0, (wide,))
    sequence = Tensor((*x.shape[:-1], units), (None, None, out))
    last = Tensor((x.shape[0], units), (None, out))
    result = sequence if layer.return_sequences else last
    if not layer.return_state:
        return result
    return [result] + [last] * (2 if isinstance(layer, layers.LSTM) else 1)


def _silent_units(
    graph: ChannelGraph, layer: Any, source: Axis | None, states: Sequence[Tensor]
) -> np.ndarray:
    """Zero for the units that start at zero and are never given anything else."""
    cell, units = layer.cell, layer.units
    # The candidate is the third of the four gates of an LSTM, the last of a GRU's three.
    candidate = 0 if isinstance(layer, layers.SimpleRNN) else 2 * units
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


@rule(layers.Bidirectional)
def _bidirectional(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    sides = (layer.forward_layer, layer.backward_layer)
    if not all(isinstance(s, (layers.LSTM, layers.GRU, layers.SimpleRNN)) for s in sides):
        return graph.opaque(layer, [x], f" (around {title(layer.forward_layer)})")
    given = list(initial_state or ())
    half = len(given) // 2
    results = [
        _recurrent(graph, side, x, initial_state=states)
        for side, states in zip(sides, (given[:half], given[half:]), strict=True)
    ]
    results = [r if isinstance(r, list) else [r] for r in results]
    forward, backward = (r[0] for r in results)
    # The wrapper takes both sides to be equally wide.
    graph.join(forward.axes[-1], backward.axes[-1])
    graph.resize(
        layer,
        lambda size: {
            "layer": graph.resized_object(layer.forward_layer, size),
            "backward_layer": graph.resized_object(layer.backward_layer, size),
        },
    )
    one, two = forward.axes[-1], backward.axes[-1]
    if layer.merge_mode is None:
        merged = [forward, backward]
    elif layer.merge_mode == "concat":
        merged = [forward.replace(-1, concatenated([one, two], [len(one), len(two)]))]
    else:
        if layer.merge_mode == "mul":
            constants = np.where((one.constants == 0) | (two.constants == 0), 0, np.nan)
        else:
            constants = np.where((one.constants == 0) & (two.constants == 0), 0, np.nan)
        merged = [forward.replace(-1, one.having(constants))]
    merged += [*results[0][1:], *results[1][1:]]
    return merged if len(merged) > 1 else merged[0]


@rule(layers.TimeDistributed)
def _time_distributed(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    inner = layer.layer
    if not graph.has_rule(inner) and not graph.is_pointwise(inner):
        return graph.opaque(layer, [x], f" (around {title(inner)})")
    graph.freeze(x.axes[1])
    shape, axes, sizes = ((row[0], *row[2:]) for row in (x.shape, x.axes, x.sizes))
    [out] = graph.inside(inner, Tensor(shape, axes, sizes), steps=x.sizes[1])
    graph.resize(layer, lambda size: {"layer": graph.resized_object(inner, size)})
    return Tensor((out.shape[0], x.shape[1], *out.shape[1:]), (out.axes[0], None, *out.axes[1:]))
