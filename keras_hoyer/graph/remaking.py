"""Layers and operations made again from their configs, or from the arguments they still have."""

import functools
import inspect
import types
from typing import Any

import keras
from keras import tree

from keras_hoyer import _keras

# Packages whose layers keep the arguments of `__init__` as attributes of the same names, which
# helps where the config of one of them does not make it again.
_KEEP_ARGUMENTS = ("keras_hub",)

_UNKNOWN = object()


def config_of(layer: Any) -> dict[str, Any] | None:
    """The config of a layer, or the arguments that it was made with; None if neither is known."""
    try:
        config: dict[str, Any] = layer.get_config()
        return config
    except Exception:  # whatever a class makes of its own attributes
        return _arguments_of(layer)


def comes_from_config(layer: Any, classes: dict[str, type]) -> bool:
    """Whether the config of a layer makes it again, as loading a saved model has to."""
    try:
        _made_from_config(layer, {}, classes)
    except Exception:  # whatever a class makes of its own config
        return _arguments_of(layer) is not None
    return True


def made_from_config(old: Any, updates: dict[str, Any], classes: dict[str, type]) -> Any:
    """A layer or operation from the config of another, with some entries replaced.

    Args:
        old: the layer or operation.
        updates: the entries; a layer among them becomes a part of the new one.
        classes: classes by name, for the layers inside.
    """
    try:
        return _made_from_config(old, updates, classes)
    except Exception:
        arguments = _arguments_of(old)
        if arguments is None or not updates.keys() <= arguments.keys():
            raise
        new = type(old)(**{**arguments, **updates})
        # So that a model that holds it can be saved and loaded, which its class would prevent.
        object.__setattr__(new, "get_config", functools.partial(_arguments_of, new))
        return new


def _arguments_of(layer: Any) -> dict[str, Any] | None:
    """What a layer of a package that keeps them was made with; None if an argument is unknown."""
    if type(layer).__module__.partition(".")[0] not in _KEEP_ARGUMENTS:
        return None
    known: dict[str, Any] = {
        "name": layer.name,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
    }
    by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    for name, parameter in list(inspect.signature(type(layer).__init__).parameters.items())[1:]:
        if parameter.kind in by_name and name not in known:
            value = getattr(layer, name, _UNKNOWN)
            if value is _UNKNOWN or any(isinstance(x, keras.Layer) for x in tree.flatten(value)):
                return None  # a layer that is held by both would be trained by both
            known[name] = value
    return known


def _made_from_config(old: Any, updates: dict[str, Any], classes: dict[str, type]) -> Any:
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
