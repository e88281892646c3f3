"""How channels go through KerasHub's layers.

Imported when the first of them is met, and never before KerasHub is: what is looked up here is
what its modules hold already, and what a version of it lacks has no rule.
"""

import sys
from collections.abc import Iterator
from typing import Any

from keras_hoyer.graph.axes import Tensor, along
from keras_hoyer.graph.rules.attention import multi_head_attention
from keras_hoyer.graph.rules.common import forgetting, only_zeros, rule
from keras_hoyer.graph.rules.normalization import rms_normalized
from keras_hoyer.graph.walk import ChannelGraph

# RMS norms that multiply with their scale as it is: module, class, attribute.
_NORMS = (
    ("models.llama.llama_layernorm", "LlamaLayerNorm", "scale"),
    ("models.mistral.mistral_layer_norm", "MistralLayerNormalization", "scale"),
    ("models.mixtral.mixtral_layer_norm", "MixtralLayerNormalization", "scale"),
    ("models.phi3.phi3_layernorm", "Phi3LayerNorm", "scale"),
    ("models.qwen.qwen_layernorm", "QwenLayerNorm", "scale"),
    ("models.qwen_moe.qwen_moe_layernorm", "QwenMoeLayerNorm", "scale"),
    ("models.qwen3.qwen3_layernorm", "Qwen3LayerNorm", "scale"),
    ("models.qwen3_moe.qwen3_moe_layernorm", "Qwen3MoeLayerNorm", "scale"),
    ("models.gpt_oss.gpt_oss_layer_norm", "GptOssLayerNormalization", "scale"),
    ("models.t5.t5_layer_norm", "T5LayerNorm", "weight"),
)

# Those that multiply with one more than their scale, which no factor on the scale can express.
_SHIFTED_NORMS = (
    ("models.gemma.rms_normalization", "RMSNormalization", "scale"),
    ("models.gemma3.gemma3_layers", "RMSNormalization", "scale"),
    ("models.qwen3_5.qwen3_5_layers", "Qwen3_5LayerNorm", "scale"),
)

_IMAGE_NORMS = (("models.mobilenetv5.mobilenetv5_layers", "RmsNorm2d"),)

_ROTARY = (
    ("layers.modeling.rotary_embedding", "RotaryEmbedding"),
    ("models.llama.llama_rotary_embedding", "LlamaRotaryEmbedding"),
    ("models.phi3.phi3_rotary_embedding", "Phi3SuScaledRotaryEmbedding"),
)

_ATTENTION = (("layers.modeling.cached_multi_head_attention", "CachedMultiHeadAttention"),)

_POSITIONS = (("layers.modeling.position_embedding", "PositionEmbedding"),)


def _found(*entries: tuple[str, ...]) -> Iterator[type]:
    """The classes that this version of KerasHub has."""
    for module, name, *_ in entries:
        cls = getattr(sys.modules.get(f"keras_hub.src.{module}"), name, None)
        if cls is not None:
            yield cls


def _scale_of(layer: Any) -> Any:
    """The scale of an RMS norm, by the class that the layer's is or comes from."""
    for entry in (*_NORMS, *_SHIFTED_NORMS):
        if isinstance(layer, tuple(_found(entry))):
            return getattr(layer, entry[2])
    raise TypeError(f"no RMS norm of KerasHub: {layer}")


@rule(*_found(*_NORMS))
def _rms_norm(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    scale = _scale_of(layer)
    if x.axes[-1] is None:  # what is normalized stays, and the other axes play no part
        graph.weight(scale, (None,))
        return Tensor(x.shape, [only_zeros(axis) for axis in x.axes])
    return rms_normalized(graph, layer, x, scale)


@rule(*_found(*_SHIFTED_NORMS))
def _shifted_rms_norm(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    graph.freeze(x.axes[-1])
    graph.weight(_scale_of(layer), (x.axes[-1],))
    return Tensor(x.shape, [only_zeros(axis) for axis in x.axes])


@rule(*_found(*_IMAGE_NORMS))
def _image_rms_norm(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index = 1 if layer.data_format == "channels_first" else x.rank - 1
    return rms_normalized(graph, layer, x, layer.gamma, index, epsilon="eps", width="dim")


@rule(*_found(*_POSITIONS))
def _position_embedding(
    graph: ChannelGraph, layer: Any, x: Tensor, start_index: Any = 0, positions: Any = None
) -> Tensor:
    table = layer.position_embeddings
    for other in (start_index, positions):
        graph.freeze(*(other.axes if isinstance(other, Tensor) else ()))
    graph.freeze(*x.axes[:-1])
    # Of its inputs it takes no more than the shape, which says how wide its rows are.
    width = graph.join(graph.channels(layer, "width", table.shape[-1]), x.axes[-1])
    graph.weight(table, (None, width))
    values = graph.value(table)
    if width is not None and values is not None:
        width = width.having(along(values, 1))
    return Tensor(x.shape, [*(None for _ in x.shape[:-1]), width])


@rule(*_found(*_ROTARY))
def _rotary_embedding(
    graph: ChannelGraph, layer: Any, x: Tensor, start_index: Any = 0, positions: Any = None
) -> Tensor:
    # Each pair of channels turns at a speed that the width and its place say.
    graph.freeze(x.axes[layer.feature_axis], x.axes[layer.sequence_axis])
    for other in (start_index, positions):
        graph.freeze(*(other.axes if isinstance(other, Tensor) else ()))
    return forgetting(x)


@rule(*_found(*_ATTENTION))
def _cached_attention(
    graph: ChannelGraph,
    layer: Any,
    query: Tensor,
    value: Tensor,
    key: Tensor | None = None,
    cache: Any = None,
    cache_update_index: Any = None,
    **kwargs: Any,
) -> Any:
    if cache is not None:
        given = [x for x in (query, value, key, cache) if isinstance(x, Tensor)]
        return graph.opaque(layer, given, " (with a cache)")
    return multi_head_attention(graph, layer, query, value, key, **kwargs)
