"""Building a layer whose weights are overwritten: nothing is drawn for them at random."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import initializers, ops

from keras_hoyer import _keras

_RANDOM = (
    initializers.RandomNormal,
    initializers.RandomUniform,
    initializers.TruncatedNormal,
    initializers.VarianceScaling,
    initializers.Orthogonal,
)


class _Undrawn(initializers.Initializer):
    """Gives zeros in place of what an initializer would draw."""

    def __init__(self, drawn: initializers.Initializer) -> None:
        self.drawn = drawn

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return ops.zeros(shape, dtype=dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"drawn": self.drawn}  # a layer may hand a copy to the layers it is made of


@contextlib.contextmanager
def without_drawing(operation: Any) -> Iterator[None]:
    """A scope in which a layer that is built gets zeros where it would get random weights.

    On JAX each shape that is drawn is compiled, which takes longer than all else of building a
    layer. The initializers of the layer and of those in it are as before at the end.

    Args:
        operation: a layer that is not built yet; a built one or an operation is left alone.
    """
    if not isinstance(operation, keras.Layer) or operation.built:
        yield
        return
    _replace(operation, _RANDOM, _Undrawn)
    try:
        yield
    finally:
        _replace(operation, _Undrawn, lambda undrawn: undrawn.drawn)


def _replace(layer: keras.Layer, kinds: Any, new: Callable[[Any], Any]) -> None:
    for part in (layer, *_keras.flatten_layers(layer)):
        for name, value in _keras.attributes_of(part).items():
            if isinstance(value, kinds):
                setattr(part, name, new(value))
