"""Which channels live and die together, and what a layer costs."""

import keras_hoyer.graph.rules  # noqa: F401  its import registers the rules of Keras' layers
from keras_hoyer.graph.channels import channel_groups
from keras_hoyer.graph.groups import Group, Slice
from keras_hoyer.graph.registry import register_rule

__all__ = ["Group", "Slice", "channel_groups", "register_rule"]
