"""Every private name of Keras that this package needs, one small function each.

Nothing else touches a private name, so that a new Keras breaks this file with a clear message.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def current_optimizer() -> keras.optimizers.Optimizer | None:
    """The optimizer whose step is being computed; `None` outside of one.

    A constraint is not told who calls it, but optimizers open a name scope for each step.
    """
    from keras.src.backend.common import global_state  # noqa: PLC0415

    scopes = global_state.get_global_attribute("name_scope_stack", default=[])
    caller = scopes[-1].caller if scopes else None
    return caller if isinstance(caller, keras.optimizers.Optimizer) else None


def trusting() -> contextlib.AbstractContextManager[Any]:
    """A scope in which layers may be built from configs that hold Python code."""
    from keras.src.saving.serialization_lib import SafeModeScope  # noqa: PLC0415

    return SafeModeScope(safe_mode=False)


# Where TensorFlow and torch keep what a layer's own attributes tell them.
_TRACKING = (
    "_torch_params",
    "_self_name_based_restores",
    "_self_saveable_object_factories",
    "_self_setattr_tracking",
    "_self_unconditional_",
    "_self_update_uid",
)


def attributes_of(layer: keras.Layer) -> dict[str, Any]:
    """The attributes that a layer's own code has set, by name; not those of `keras.Layer`."""
    found = {**vars(layer), **vars(layer).get("_modules", {})}  # where torch puts sublayers
    base = _base_attributes(isinstance(layer, keras.Model))
    return {
        name: value
        for name, value in found.items()
        if name not in base and not name.startswith(_TRACKING)
    }


def settings_of(layer: keras.Layer) -> dict[str, Any]:
    """What `keras.Layer` keeps of a layer and its config does not hold."""
    names = ("_supports_masking", "supports_jit", "autocast")
    return {name: vars(layer)[name] for name in names if name in vars(layer)}


@functools.cache
def _base_attributes(model: bool) -> frozenset[str]:
    base = keras.Model() if model else keras.Layer()
    # Made by Keras when a layer is called, built or quantized, or held as a torch module.
    later = ("_input_shape_arg", "_is_quantized", "_dtype_policy", "quantization_mode")
    return frozenset(vars(base)) | frozenset(later)


def empty_like(layer: keras.Layer) -> keras.Layer:
    """A layer of the same class as it is before the class's own `__init__` runs."""
    empty = type(layer).__new__(type(layer))
    base = keras.Model if isinstance(layer, keras.Model) else keras.Layer
    base.__init__(empty, name=layer.name, dtype=layer.dtype_policy)
    for name in ("_auto_config", "_input_spec", "_build_shapes_dict", "_trainable", "_path"):
        setattr(empty, name, getattr(layer, name, None))
    for name, value in settings_of(layer).items():
        setattr(empty, name, value)
    empty.activity_regularizer = layer.activity_regularizer
    return empty


def finish_like(layer: keras.Layer, new: keras.Layer, twin: Callable[[Any], Any]) -> None:
    """Completes a layer made by `empty_like` that has its attributes.

    Args:
        layer: the layer that it is a copy of.
        new: the copy.
        twin: the variable, layer, metric or seed generator that stands for one of `layer`.
    """
    for name, (_, known) in layer._tracker.config.items():
        store = new._tracker.config[name][1]
        store[:] = [twin(item) for item in known]
        new._tracker.stored_ids[name] = {id(item) for item in store}
    new.built = layer.built
    if layer.built:
        new._post_build()
    if layer._tracker.locked:
        new._lock_state()


def copy_variable(variable: keras.Variable) -> keras.Variable:
    """A variable with the value, name, path and settings of another, without penalty or mask."""
    layout = getattr(variable, "_layout", None)
    new = keras.Variable(
        np.array(keras.ops.convert_to_numpy(variable)),
        dtype=variable.dtype,
        trainable=variable.trainable,
        autocast=variable._autocast,
        aggregation=variable.aggregation,
        name=variable.name,
        **({} if layout is None else {"layout": layout}),
    )
    new._path = variable.path
    return new


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What `compile` was called with, as it was given."""
    return dict(model._compile_config.config)
