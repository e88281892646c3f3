"""How channels go through layers around other layers."""

from typing import Any

import numpy as np
from keras import layers

from keras_hoyer.graph.axes import Tensor
from keras_hoyer.graph.facts import title
from keras_hoyer.graph.registry import find_rule
from keras_hoyer.graph.rules.common import concatenated, rule
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.Bidirectional)
def _bidirectional(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    sides = (layer.forward_layer, layer.backward_layer)
    found = [find_rule(side)[0] for side in sides]
    rules = [one for one in found if one is not None]
    if not all(isinstance(side, layers.RNN) for side in sides) or len(rules) < len(sides):
        return graph.opaque(layer, [x], f" (around {title(layer.forward_layer)})")
    given = list(initial_state or ())
    half = len(given) // 2
    results = [
        one(graph, side, x, initial_state=states)
        for one, side, states in zip(rules, sides, (given[:half], given[half:]), strict=True)
    ]
    results = [r if isinstance(r, list) else [r] for r in results]
    forward, backward = (r[0] for r in results)
    if forward.axes[-1] is None or backward.axes[-1] is None:  # channels come first
        return graph.opaque(layer, [*results[0], *results[1]])
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
    graph.freeze(x.axes[1])
    graph.hold(layer, layer=layer.layer)
    shape, axes, sizes = ((row[0], *row[2:]) for row in (x.shape, x.axes, x.sizes))
    whole = "it is given masks" if graph.masked or kwargs.get("mask") is not None else ""
    step = Tensor(shape, axes, sizes)
    [out] = graph.inside(layer.layer, step, steps=x.sizes[1], whole=whole)
    return Tensor((out.shape[0], x.shape[1], *out.shape[1:]), (out.axes[0], None, *out.axes[1:]))


@rule(layers.SpectralNormalization)
def _spectral_normalization(
    graph: ChannelGraph, layer: Any, x: Tensor, training: Any = None
) -> Any:
    if training:  # each call then divides the kernel, which is not followed
        return graph.opaque(layer, [x])
    graph.hold(layer, layer=layer.layer)
    whole = "its kernel is normalized"
    [out] = graph.inside(layer.layer, x, whole=whole)
    known = graph.weights.get(id(layer.kernel))
    graph.weight(layer.vector_u, (None, known.axes[-1] if known else None), state=True)
    return out
