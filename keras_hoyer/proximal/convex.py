"""The operator of L1, and of the group lasso."""

from typing import Any

from keras import ops

from keras_hoyer.patterns import Block
from keras_hoyer.proximal.division import apply, weighted


def l1(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
) -> Any:
    """Soft thresholding, for `p(t) = sum(weights * |t|)`: `sign(x) * max(|x| - strength, 0)`.

    With `axis` or `pattern` it is the group lasso's: norms shrink, directions stay.

    Source: Donoho, "De-noising by soft-thresholding" (1995); for groups, Yuan and Lin, "Model
    selection and estimation in regression with grouped variables" (2006).

    Args:
        x: Tensor; with a list of axes, a list of tensors.
        strength: Number, 0 or more, or a scalar tensor.
        axis: Int that numbers groups. Defaults to `None`: single entries.
        pattern: `patterns.Block` instead of an axis.
        weights: Positive numbers, one for each entry or group. Defaults to 1.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: If an argument is out of its range or does not fit `x`.

    >>> keras.ops.convert_to_numpy(l1([3.0, -0.5, -2.0], 1.0)).tolist()
    [2.0, 0.0, -1.0]
    >>> kernel = np.array([[3.0, 0.3], [4.0, 0.4]], "float32")
    >>> keras.ops.convert_to_numpy(l1(kernel, 1.0, axis=-1)).round(2)
    array([[2.4, 0. ],
           [3.2, 0. ]], dtype=float32)
    """

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return ops.relu(size - weighted(strength, weights))

    return apply(operator, x, strength, axis, pattern, weights)
