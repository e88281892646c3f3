"""Letting a model compute in another precision for a while."""

import contextlib
from collections.abc import Iterator, Sequence

import keras

from keras_hoyer._keras import all_of, dtype_policy

HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32", "float64")


@contextlib.contextmanager
def computing_in(dtype: str, model: keras.Model, only: Sequence[str] = FLOATS) -> Iterator[None]:
    """Lets all layers compute in a dtype for a while; the weights stay as they are.

    Args:
        dtype: `"float32"` or `"float64"`; JAX then allows float64 within the scope.
        model: The model.
        only: The compute dtypes of the layers that are changed.
    """
    changed = [
        (layer, layer.dtype_policy)
        for layer in all_of(model)
        if layer.compute_dtype in only and layer.compute_dtype != dtype
    ]
    with _wide_numbers() if dtype == "float64" else contextlib.nullcontext():
        try:
            for layer, policy in changed:
                layer.dtype_policy = dtype_policy(dtype, policy.variable_dtype)
            yield
        finally:
            for layer, policy in changed:
                layer.dtype_policy = policy


def _wide_numbers() -> contextlib.AbstractContextManager[None]:
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax  # noqa: PLC0415  (only where it is the backend)

    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    scope: contextlib.AbstractContextManager[None] = enable(True)
    return scope
