"""How channels come out of tables, and go back through them."""

from typing import Any

from keras import layers

from keras_hoyer.graph.axes import Axis, Tensor, along
from keras_hoyer.graph.rules.common import existing, forgetting, rule
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.Embedding)
def _embedding(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    return looked_up(graph, layer, x, _width(graph, layer))


@rule(*existing(layers, "ReversibleEmbedding"))
def reversible_embedding(
    graph: ChannelGraph, layer: Any, x: Tensor, reverse: bool = False
) -> Tensor:
    """A table that is read both ways; `tie_weights=False` has a second one for the way back."""
    width = _width(graph, layer)
    if not reverse:
        return looked_up(graph, layer, x, width)
    source = x.axes[-1]
    graph.join(width, source)  # the config has one number for both
    tied = layer.tie_weights
    table = layer.embeddings if tied else layer.reverse_embeddings
    axes = (None, width) if tied else (width, None)
    known = graph.weights.get(id(table))  # what is made by looking it up is not only read
    reads = known.reads if known else (axes.index(width),)
    graph.weight(table, axes, reads=reads, uses=x.places(-1))
    values = graph.value(table)
    if values is not None:
        graph.read(source, (values.T if tied else values) != 0, (None,))
    places = forgetting(x).axes[:-1]
    return Tensor((*x.shape[:-1], layer.input_dim), (*places, None))


def looked_up(graph: ChannelGraph, layer: Any, x: Tensor, width: Axis) -> Tensor:
    """The rows of a layer's table that the numbers in `x` stand for."""
    graph.freeze(*x.axes)
    graph.weight(layer.embeddings, (None, width))
    table = graph.value(layer.embeddings)
    if table is not None:
        width = width.having(along(table, 1))
    return Tensor((*x.shape, layer.output_dim), (*(None for _ in x.shape), width))


def _width(graph: ChannelGraph, layer: Any) -> Axis:
    """The columns of a layer's table."""
    width = graph.channels(layer, "output_dim", layer.output_dim)
    graph.resize(layer, lambda size: {"output_dim": size(width)})
    return width
