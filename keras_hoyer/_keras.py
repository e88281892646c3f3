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
