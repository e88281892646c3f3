"""The operators of penalties that are concave in the magnitude: large entries shrink less.

Below the strength at which the quadratic outweighs the concavity they are continuous; above it
they jump from zero to a value that is not small.
"""

import math
from typing import Any

from keras import ops

from keras_hoyer._checks import check_number
from keras_hoyer.patterns import Block
from keras_hoyer.proximal.division import apply, positive, smallest_normal, weighted, within


def mcp(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
    threshold: float = 1.0,
    gamma: float = 3.0,
) -> Any:
    """Firm thresholding, for the minimax concave penalty.

    `p(t)` is `threshold * t - t**2 / (2 * gamma)` up to `gamma * threshold`, and constant from
    there. With `s` for the strength, for `|x| <= gamma * threshold` the result is
    `max(|x| - s * threshold, 0) / (1 - s / gamma)`, above that `|x|`; for `s >= gamma` it is `|x|`
    above `threshold * sqrt(s * gamma)` and zero below.

    Source: Zhang, "Nearly unbiased variable selection under minimax concave penalty" (2010).

    Args:
        x: Tensor; with a list of axes, a list of tensors.
        strength: Number, 0 or more, or a scalar tensor.
        axis: Int that numbers groups. Defaults to `None`: single entries.
        pattern: `patterns.Block` instead of an axis.
        weights: Positive numbers, one for each entry or group. Defaults to 1.
        threshold: Positive float: the slope of `p` at zero. Defaults to 1.
        gamma: Positive float: `p` is constant from `gamma * threshold` on. Defaults to 3.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: If an argument is out of its range or does not fit `x`.

    >>> keras.ops.convert_to_numpy(mcp([0.5, 2.0, -4.0], 1.0)).round(3)
    array([ 0. ,  1.5, -4. ], dtype=float32)
    >>> keras.ops.convert_to_numpy(mcp([3.5, 4.0], 5.0)).tolist()  # jumps at sqrt(15)
    [0.0, 4.0]
    """
    _check_positive("threshold", threshold)
    _check_positive("gamma", gamma)

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return mcp_of(size, weighted(strength, weights), threshold, gamma)

    return apply(operator, x, strength, axis, pattern, weights)


def mcp_of(size: Any, s: Any, threshold: Any, gamma: float, xp: Any = ops) -> Any:
    """`mcp` of magnitudes and their strengths, by `keras.ops` or NumPy."""
    convex = s < gamma
    slope = xp.where(convex, 1 - s / gamma, xp.ones_like(s))
    firm = within(xp, positive(xp, size - s * threshold) / slope, 0, size)
    kept = xp.where(convex, size > gamma * threshold, size > threshold * xp.sqrt(s * gamma))
    return xp.where(kept, size, xp.where(convex, firm, xp.zeros_like(size)))


def scad(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
    threshold: float = 1.0,
    a: float = 3.7,
) -> Any:
    """The operator of the smoothly clipped absolute deviation.

    The slope of `p` is `threshold` up to there, falls to 0 at `a * threshold`, and stays 0. With
    `s` for the strength: soft thresholding for `|x| <= (1 + s) * threshold`, the identity above
    `a * threshold`, and `((a - 1) |x| - s * a * threshold) / (a - 1 - s)` between them. For
    `s >= a - 1` there is no between: soft thresholding jumps to the identity, at
    `threshold * (a + 1 + s) / 2` or, for `s >= a + 1`, at `threshold * sqrt(s * (a + 1))`.

    Source: Fan and Li, "Variable selection via nonconcave penalized likelihood" (2001).

    Args:
        x: Tensor; with a list of axes, a list of tensors.
        strength: Number, 0 or more, or a scalar tensor.
        axis: Int that numbers groups. Defaults to `None`: single entries.
        pattern: `patterns.Block` instead of an axis.
        weights: Positive numbers, one for each entry or group. Defaults to 1.
        threshold: Positive float: the slope of `p` at zero. Defaults to 1.
        a: Float above 1 (above 2 in the source): `p` is constant from `a * threshold` on. Defaults
            to 3.7.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: If an argument is out of its range or does not fit `x`.

    >>> keras.ops.convert_to_numpy(scad([0.5, 2.0, -4.0], 1.0)).tolist()
    [0.0, 1.0, -4.0]
    """
    _check_positive("threshold", threshold)
    check_number("a", a, "a number above 1", lambda value: value > 1)

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return scad_of(size, weighted(strength, weights), threshold, a)

    return apply(operator, x, strength, axis, pattern, weights)


def scad_of(size: Any, s: Any, threshold: Any, a: float, xp: Any = ops) -> Any:
    """`scad` of magnitudes and their strengths, by `keras.ops` or NumPy."""
    soft = positive(xp, size - s * threshold)
    convex = s < a - 1
    # As a step from `|x|`, since the two products of the formula cancel.
    steep = xp.where(convex, (a - 1) - s, xp.ones_like(s))
    between = size - s * (a * threshold - size) / steep
    jump = xp.where(s < a + 1, threshold * (a + 1 + s) / 2, threshold * xp.sqrt(s * (a + 1)))
    end = xp.where(convex, a * threshold, jump)
    low = xp.where(convex & (size > (1 + s) * threshold), between, soft)
    return xp.where(size > end, size, within(xp, low, 0, size))


def transformed_l1(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
    a: float = 1.0,
) -> Any:
    """The operator of `p(t) = sum((a + 1) |t| / (a + |t|))`.

    With `s` for the strength it is zero up to `s * (a + 1) / a` or, for `s > a**2 / (2 (a + 1))`,
    up to `sqrt(2 * s * (a + 1)) - a / 2`; above that it is the largest root of the cubic
    `(t - |x|) * (a + t)**2 + s * a * (a + 1)`.

    Source: Zhang and Xin, "Minimization of transformed L1 penalty" (2018), theorem 3.1.

    Args:
        x: Tensor; with a list of axes, a list of tensors.
        strength: Number, 0 or more, or a scalar tensor.
        axis: Int that numbers groups. Defaults to `None`: single entries.
        pattern: `patterns.Block` instead of an axis.
        weights: Positive numbers, one for each entry or group. Defaults to 1.
        a: Positive float, in the unit of `x`. Defaults to 1.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: If an argument is out of its range or does not fit `x`.

    >>> keras.ops.convert_to_numpy(transformed_l1([1.0, 3.0], 1.0)).round(3)
    array([0.   , 2.866], dtype=float32)
    """
    _check_positive("a", a)

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return transformed_l1_of(size, weighted(strength, weights), a)

    return apply(operator, x, strength, axis, pattern, weights)


def transformed_l1_of(size: Any, s: Any, a: float, xp: Any = ops) -> Any:
    """`transformed_l1` of magnitudes and their strengths, by `keras.ops` or NumPy."""
    # In units of `a`: (t - y) (1 + t)**2 + pull = 0.
    y, pull = size / a, s * ((a + 1) / a / a)
    jump = xp.sqrt(2 * pull) - 0.5
    kept = y > xp.where(pull > 0.5, jump, pull)
    y = xp.where(kept, y, xp.ones_like(y))
    pull = xp.where(kept, pull + xp.zeros_like(y), xp.zeros_like(y))
    cosine = within(xp, 1 - 13.5 * pull / (1 + y) / (1 + y) / (1 + y), -1, 1)
    root = (2 * (1 + y) * xp.cos(xp.arccos(cosine) / 3) + y - 2) / 3
    # The angle loses digits of small roots: Newton's steps bring them back.
    for _ in range(3):
        root = within(xp, root, 0, y)
        base = pull / ((1 + root) * (1 + root))
        slope = 1 - 2 * base / (1 + root)
        step = (root - y + base) / xp.where(slope > 0, slope, xp.ones_like(slope))
        root = root - xp.where(slope > 0, step, xp.zeros_like(step))
    root = within(xp, root, 0, y)
    return xp.where(kept, within(xp, a * root, 0, size), xp.zeros_like(size))


def log_sum(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
    epsilon: float = 0.1,
) -> Any:
    """The operator of `p(t) = sum(log(1 + |t| / epsilon))`.

    With `s` for the strength it is zero, or `(|x| - epsilon + sqrt((|x| + epsilon)**2 - 4 s)) / 2`
    where that is the better one of the two.

    Source: Candes, Wakin and Boyd, "Enhancing sparsity by reweighted l1 minimization" (2008); the
    operator: Gong et al., "A general iterative shrinkage and thresholding algorithm" (2013).

    Args:
        x: Tensor; with a list of axes, a list of tensors.
        strength: Number, 0 or more, or a scalar tensor.
        axis: Int that numbers groups. Defaults to `None`: single entries.
        pattern: `patterns.Block` instead of an axis.
        weights: Positive numbers, one for each entry or group. Defaults to 1.
        epsilon: Positive float, in the unit of `x`. Defaults to 0.1.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: If an argument is out of its range or does not fit `x`.

    >>> keras.ops.convert_to_numpy(log_sum([1.0, 3.0], 1.0, epsilon=0.5)).round(3)
    array([0.   , 2.686], dtype=float32)
    """
    _check_positive("epsilon", epsilon)

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return log_sum_of(size, weighted(strength, weights), epsilon)

    return apply(operator, x, strength, axis, pattern, weights)


def log_sum_of(size: Any, s: Any, epsilon: float, xp: Any = ops) -> Any:
    """`log_sum` of magnitudes and their strengths, by `keras.ops` or NumPy."""
    half = xp.sqrt(s)
    inside = (size + epsilon - 2 * half) * (size + epsilon + 2 * half)
    exists = inside >= 0
    root = xp.sqrt(xp.where(exists, inside, xp.zeros_like(inside)))
    # Of the two forms that one in which nothing cancels.
    apart = xp.where(size < epsilon, epsilon - size + root, xp.ones_like(root))
    small = 2 * (epsilon * size - s) / xp.where(apart > 0, apart, xp.ones_like(apart))
    large = (size - epsilon + root) / 2
    found = within(xp, xp.where(size < epsilon, small, large), 0, size)
    some = xp.where(found > 0, found, xp.ones_like(found))
    # What it gains on zero, per unit of the result: products of tiny numbers would vanish.
    gain = size - found / 2 - s * (xp.log1p(some / epsilon) / some)
    return xp.where(exists & (gain > 0), found, xp.zeros_like(size))


def l_half(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
) -> Any:
    """Half thresholding, for `p(t) = sum(sqrt(|t|))`.

    It is zero up to `1.5 * strength**(2 / 3)`. With `r` for `|x|` in that unit it is
    `2 / 3 * |x| * (1 + cos(2 pi / 3 - 2 / 3 * arccos(r**-1.5 / sqrt(2))))` above.

    Source: Xu, Chang, Xu and Zhang, "L1/2 regularization: a thresholding representation theory and
    a fast solver" (2012).

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

    >>> keras.ops.convert_to_numpy(l_half([1.5, 3.0], 1.0)).round(3)
    array([0.   , 2.695], dtype=float32)
    """

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return l_half_of(size, weighted(strength, weights))

    return apply(operator, x, strength, axis, pattern, weights)


def l_half_of(size: Any, s: Any, xp: Any = ops) -> Any:
    """`l_half` of magnitudes and their strengths, by `keras.ops` or NumPy."""
    edge = 1.5 * s ** (2 / 3)
    kept = size > edge
    some = size >= smallest_normal(size)
    share = edge / xp.where(kept & some, size, xp.ones_like(size))
    angle = xp.arccos(within(xp, share * xp.sqrt(share) * math.sqrt(0.5), 0, 1))
    found = 2 / 3 * size * (1 + xp.cos(2 * math.pi / 3 - 2 / 3 * angle))
    return xp.where(kept, within(xp, found, 0, size), xp.zeros_like(size))


def _check_positive(name: str, value: Any) -> None:
    check_number(name, value, "a positive number", lambda number: number > 0)
