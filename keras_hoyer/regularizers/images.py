"""Penalties on what layers put out as images or signals."""

from typing import Any

import keras
from keras import ops

from keras_hoyer._checks import check_choice
from keras_hoyer.regularizers.base import (
    TINY,
    Penalty,
    checked_flag,
    serializable,
    with_gradient,
)


@serializable
class TotalVariation(Penalty):
    """Total variation of a layer's outputs, as an `activity_regularizer`.

    Sum over entries and channels of how much the next entries differ: noise goes, edges stay. On
    outputs with one spatial axis (signals), two (images) or three (volumes), between a batch axis
    and channels. Keras divides the penalty by the size of the batch.

    Source: Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms"
    (1992); beside an untrained network, Liu, Sun, Xu and Kamilov, "Image restoration using total
    variation regularized deep image prior" (2019).

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        isotropic: Whether the differences of an entry along the axes are taken together as an L2
            norm, as in the source; if not, their magnitudes add. Defaults to `True`.
        normalize: Whether the sum is divided by the number of entries. Defaults to `False`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to `None`, that of the Keras
            config.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the outputs have no
            spatial axes.

    >>> image = np.array([[0.0, 0.0], [3.0, 4.0]], "float32").reshape(1, 2, 2, 1)
    >>> float(TotalVariation(1.0)(image)), float(TotalVariation(1.0, isotropic=False)(image))
    (8.0, 8.0)
    >>> layer = keras.layers.Conv2D(3, 3, activity_regularizer=TotalVariation(1e-3))
    """

    def __init__(
        self,
        factor: float = 1e-4,
        isotropic: bool = True,
        normalize: bool = False,
        data_format: str | None = None,
    ) -> None:
        super().__init__(factor)
        self.isotropic = checked_flag("isotropic", isotropic)
        self.normalize = checked_flag("normalize", normalize)
        check_choice("data_format", data_format, (None, "channels_last", "channels_first"))
        self.data_format = data_format

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises a `ValueError`: a kernel is no image."""
        raise ValueError(
            "TotalVariation is a penalty on what a layer puts out. Give it to the layer, as "
            "`activity_regularizer=TotalVariation(1e-3)`."
        )

    def measure(self, x: Any) -> Any:
        """The total variation, a scalar; 0 for constant outputs."""
        rank = len(x.shape)
        if rank not in (3, 4, 5):
            raise ValueError(
                "TotalVariation is a penalty on outputs: expected a batch axis, one to three "
                f"spatial axes, and channels. Received: outputs of shape {tuple(x.shape)}"
            )
        first = (self.data_format or keras.config.image_data_format()) == "channels_first"
        axes = tuple(range(2, rank)) if first else tuple(range(1, rank - 1))

        def evaluate(outputs: Any) -> tuple[Any, Any]:
            steps = [_differences(outputs, axis) for axis in axes]
            if not self.isotropic:
                return sum(ops.sum(ops.abs(step)) for step in steps), [ops.sign(s) for s in steps]
            squares = sum(ops.square(step) for step in steps)
            alive = squares > TINY
            # The root of 1 in place of 0, whose gradient is infinite.
            roots = ops.sqrt(ops.where(alive, squares, ops.ones_like(squares)))
            value = ops.sum(ops.where(alive, roots, ops.zeros_like(roots)))
            inverse = ops.where(alive, 1 / roots, ops.zeros_like(roots))
            return value, [step * inverse for step in steps]

        def differentiate(outputs: Any, slopes: Any, upstream: Any) -> Any:
            pairs = zip(slopes, axes, strict=True)
            return upstream * sum(_adjoint(slope, axis) for slope, axis in pairs)

        value = with_gradient(x, evaluate, differentiate)
        return value / ops.cast(ops.size(x), value.dtype) if self.normalize else value

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {
            **super().get_config(),
            "isotropic": self.isotropic,
            "normalize": self.normalize,
            "data_format": self.data_format,
        }


def _differences(x: Any, axis: int) -> Any:
    """The next entry along an axis less each; 0 for the last."""
    return _padded(_part(x, axis, 1, None) - _part(x, axis, 0, -1), axis, (0, 1))


def _adjoint(slopes: Any, axis: int) -> Any:
    """The gradient of a sum of differences times slopes."""
    inner = _part(slopes, axis, 0, -1)
    return _padded(inner, axis, (1, 0)) - _padded(inner, axis, (0, 1))


def _part(x: Any, axis: int, begin: int, end: int | None) -> Any:
    return x[(slice(None),) * axis + (slice(begin, end),)]


def _padded(x: Any, axis: int, width: tuple[int, int]) -> Any:
    return ops.pad(x, [width if other == axis else (0, 0) for other in range(len(x.shape))])
