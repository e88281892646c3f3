"""Layers and operations made again from their configs."""

import types
from typing import Any

import keras
from keras import tree

from keras_hoyer import _keras


def made_from_config(old: Any, updates: dict[str, Any], classes: dict[str, type]) -> Any:
    """A layer or operation from the config of another, with some entries replaced.

    Args:
        old: the layer or operation.
        updates: the entries; a layer among them becomes a part of the new one.
        classes: classes by name, for the layers inside.
    """
    config = {**old.get_config(), **updates}
    for name in config:
        if _is_foreign_function(getattr(old, name, None)):
            config[name] = getattr(old, name)  # what a config holds of it may not be all
    if isinstance(old, keras.layers.Lambda):
        # Its config loses what the function refers to.
        return type(old)(**{**config, **_keras.lambda_arguments(old)})
    if any(isinstance(value, keras.Layer) for value in tree.flatten(updates)):
        return type(old)(**_without_own(config))
    # The layer is here already, so nothing untrusted is loaded.
    with _keras.trusting(), keras.saving.custom_object_scope(classes):
        return type(old).from_config(_without_own(config))


def _is_foreign_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and not value.__module__.startswith("keras.")


def _without_own(config: Any) -> Any:
    """The config without what only keras_hoyer could load."""
    if isinstance(config, dict):
        if config.get("registered_name") == "keras_hoyer>KeepZeros":
            return config["config"]["constraint"]
        if str(config.get("registered_name")).startswith("keras_hoyer>"):
            return None
        return {key: _without_own(value) for key, value in config.items()}
    return config
