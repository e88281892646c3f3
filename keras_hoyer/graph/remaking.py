"""Layers and operations made again from their configs, or from the arguments they still have."""

import functools
import inspect
import json
import types
from typing import Any

import keras
from keras import ops, tree

from keras_hoyer import _keras
from keras_hoyer.graph.undrawn import without_drawing

# Packages whose layers keep the arguments of `__init__` as attributes of the same names, which
# helps where the config of one of them does not make it again.
_KEEP_ARGUMENTS = ("keras_hub",)

_UNKNOWN = object()


def config_of(layer: Any) -> dict[str, Any] | None:
    """The config of a layer, or the arguments that it was made with; None if neither is known."""
    try:
        config: dict[str, Any] = _without_own(_without_variables(layer.get_config()))
        return config
    except Exception:  # whatever a class makes of its own attributes
        return _arguments_of(layer)


def comes_from_config(layer: Any, classes: dict[str, type]) -> bool:
    """Whether the config of a layer makes it again, as loading a saved model has to."""
    try:
        made_from_config(layer, {}, classes)
    except Exception:  # whatever a class makes of its own config
        return False
    return True


def keep_loadable(layer: Any, classes: dict[str, type]) -> None:
    """Sees to it that loading a saved model can build a layer, as its first call can.

    A copy whose config does not make it again says its arguments instead. A file holds the shapes
    that a layer was built with as lists, which not every class takes for tuples. Without them it is
    built when the loaded model calls it.
    """
    if type(layer).__module__.startswith("keras."):
        return
    try:
        new = made_from_config(layer, {}, classes)
        said = vars(new).get("get_config")
        if said is not None:
            object.__setattr__(layer, "get_config", functools.partial(said.func, layer))
        saved = keras.saving.serialize_keras_object(layer.get_build_config())
        with without_drawing(new):
            new.build_from_config(json.loads(json.dumps(saved)))
    except Exception:  # whatever a class makes of them
        object.__setattr__(layer, "get_build_config", _nothing)


def _nothing() -> None:
    """The shapes of a layer that is to be built by its first call."""


def made_from_config(
    old: Any, updates: dict[str, Any], classes: dict[str, type], noted: bool = True
) -> Any:
    """A layer or operation from the config of another, with some entries replaced.

    Args:
        old: the layer or operation.
        updates: the entries; a layer among them becomes a part of the new one.
        classes: classes by name, for the layers inside.
        noted: whether the arguments that Keras noted will do where the config fails.
    """
    own = vars(old).get("get_config")  # what was set here before
    said = own.func if isinstance(own, functools.partial) else None
    try:
        new = _made_from_config(old, updates, classes)
    except Exception:
        arguments = _arguments_of(old, noted)
        if arguments is None or not updates.keys() <= arguments.keys():
            raise
        new, said = type(old)(**{**arguments, **updates}), _arguments_of
    if said is None and _holds_variables(old):
        said = _saved_config
    if said is not None:
        # So that a model that holds it can be saved and loaded, which its class would prevent.
        object.__setattr__(new, "get_config", functools.partial(said, new))
    return new


def _arguments_of(layer: Any, noted: bool = True) -> dict[str, Any] | None:
    """What a layer was made with, as far as it is kept; None if an argument is unknown."""
    keeps = type(layer).__module__.partition(".")[0] in _KEEP_ARGUMENTS
    given = _keras.made_with(layer) if noted else {}
    known: dict[str, Any] = {
        "name": layer.name,
        # One that came from a name can be saved again where a class has no config of its own.
        "dtype": _keras.policy_name(layer.dtype_policy) or layer.dtype_policy,
        "trainable": layer.trainable,
    }
    by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = dict(list(inspect.signature(type(layer).__init__).parameters.items())[1:])
    if all(parameter.kind in by_name for parameter in parameters.values()):
        known = {name: value for name, value in known.items() if name in parameters}
    for name, parameter in parameters.items():
        if parameter.kind in by_name and name not in known:
            value = given.get(name, _UNKNOWN)
            value = getattr(layer, name, value) if keeps else value
            if value is _UNKNOWN or any(isinstance(x, keras.Layer) for x in tree.flatten(value)):
                return None  # a layer that is held by both would be trained by both
            known[name] = value
    return known


def _holds_variables(layer: Any) -> bool:
    """Whether the config of a layer has variables in it, which nothing can save."""
    leaves = tree.flatten(type(layer).get_config(layer)) if isinstance(layer, keras.Layer) else ()
    return any(isinstance(leaf, keras.Variable) for leaf in leaves)


def _without_variables(config: dict[str, Any]) -> dict[str, Any]:
    """The config with numbers in place of variables."""
    return {name: _number(value) for name, value in config.items()}


def _number(value: Any) -> Any:
    if not isinstance(value, keras.Variable):
        return value
    numbers = ops.convert_to_numpy(value)
    return numbers.item() if numbers.size == 1 else numbers.tolist()


def _saved_config(layer: Any) -> dict[str, Any]:
    return _without_variables(type(layer).get_config(layer))


def _made_from_config(old: Any, updates: dict[str, Any], classes: dict[str, type]) -> Any:
    config = {**_without_variables(old.get_config()), **updates}
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
