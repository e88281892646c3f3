"""How channels come out of tables."""

from typing import Any

from keras import layers

from keras_hoyer.graph.axes import Tensor, along
from keras_hoyer.graph.rules.common import rule
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.Embedding)
def _embedding(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    graph.freeze(*x.axes)
    out = graph.channels(layer, "output_dim", layer.output_dim)
    graph.weight(layer._embeddings, (None, out))
    graph.resize(layer, lambda size: {"output_dim": size(out)})
    table = graph.value(layer._embeddings)
    if table is not None:
        out = out.having(along(table, 1))
    return Tensor((*x.shape, layer.output_dim), (*(None for _ in x.shape), out))
