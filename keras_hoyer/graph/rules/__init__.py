"""Rules: how channels go through the layers and operations of Keras, a family a module.

A rule is called like its layer and returns the labelled outputs; see `graph.register_rule`.
Importing this package registers them.
"""

from keras_hoyer.graph.rules import (
    attention,
    convolution,
    embedding,
    gathering,
    linear,
    merging,
    normalization,
    pointwise,
    pooling,
    recurrent,
    shaping,
    wrappers,
)

__all__ = [
    "attention",
    "convolution",
    "embedding",
    "gathering",
    "linear",
    "merging",
    "normalization",
    "pointwise",
    "pooling",
    "recurrent",
    "shaping",
    "wrappers",
]
