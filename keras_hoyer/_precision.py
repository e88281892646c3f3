"""Letting a model compute in another precision for a while."""

import contextlib
from collections.abc import Iterator, Sequence

import keras

HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32", "float64")


class _Policy(keras.dtype_policies.DTypePolicy):
    """Computes in one dtype whatever the dtype of the variables, and casts them."""

    def __init__(self, compute_dtype: str, variable_dtype: str) -> None:
        super().__init__(compute_dtype)
        self._variable_dtype = variable_dtype


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
        for layer in model._flatten_layers()
        if layer.compute_dtype in only and layer.compute_dtype != dtype
    ]
    with _wide_numbers() if dtype == "float64" else contextlib.nullcontext():
        try:
            for layer, policy in changed:
                layer.dtype_policy = _Policy(dtype, policy.variable_dtype)
            yield
        finally:
            for layer, policy in changed:
                layer.dtype_policy = policy


def _wide_numbers() -> contextlib.AbstractContextManager:
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax  # noqa: PLC0415  (only where it is the backend)

    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()
