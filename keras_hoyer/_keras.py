"""Every private name of Keras that this package needs, one small function each.

Nothing else touches a private name, so that a new Keras breaks this file with a clear message.
"""

import contextlib
import sys
from typing import Any

import keras


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


def patch_tf2onnx() -> None:
    """Lets `tf2onnx` run with NumPy 2, as Keras' own export to ONNX does."""
    from keras.src.export import tf2onnx_lib  # noqa: PLC0415

    tf2onnx_lib.patch_tf2onnx()


def tensorflow_operations() -> tuple[Any, Any]:
    """The modules in which `keras.ops` looks up what it computes on TensorFlow, at each call.

    Returns:
        The module of the NumPy-like operations, and that of the neural ones.
    """
    from keras.src.backend.tensorflow import nn, numpy  # noqa: PLC0415

    return numpy, nn


def running_callbacks() -> list[keras.callbacks.Callback] | None:
    """The callbacks of the `fit` that is calling, in their order; `None` outside of one.

    A callback is not told of the others, but the list that calls it stands further up the stack.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller.callbacks
        frame = frame.f_back
    return None


def variables_whose_losses_are_read() -> tuple[list[keras.Variable], keras.Variable | None]:
    """The variables of the model whose `losses` are being read, and the one it has come to.

    A regularizer is handed a tensor, and on JAX not even a variable. What it belongs to stands in
    the caller.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner, variable = frame.f_locals.get("self"), frame.f_locals.get("variable")
        if isinstance(owner, keras.Layer) and isinstance(variable, keras.Variable):
            return list(owner.variables), variable
        frame = frame.f_back
    return [], None


def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """All layers inside of a model, at any depth, without the model itself."""
    return list(model._flatten_layers(include_self=False, recursive=True))
