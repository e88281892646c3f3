"""The operators of Hoyer's ratios, which are of all entries together, exact from one sort.

A minimizer is a multiple of `v = max(|x| - tau * weights, 0)` for some `tau`, so it keeps the
entries of largest `|x| / weights`: the candidates are the prefixes of that order. A candidate
whose `tau` would turn an entry of its prefix negative is none.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_hoyer.patterns import Block
from keras_hoyer.proximal.division import apply, positive, rounding, smallest_normal, within

# Of sums over prefixes, and a strength, all broadcasting: the gain of the best point (negative
# where there is one), and its `tau`.
Solver = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]]


def hoyer_square(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
) -> Any:
    """The operator of Hoyer-Square, `p(t) = sum(weights * |t|)**2 / sum(t**2)`, 0 at 0.

    For a prefix of the order by `|x| / weights` with the sums `S = sum(weights * |x|)`,
    `Q = sum(x**2)`, `W = sum(weights**2)`, and `s` for the strength:
    `tau = 4 s S / (B + sqrt(B**2 - 8 s S**2))` with `B = Q + 2 s W`; the prefix of least
    `-(Q - tau * S) / 2` wins. With `v = max(|x| - tau * weights, 0)` the result is
    `v * sum(v * |x|) / sum(v**2)`, and all is 0 where `max(|x| / weights) <= sqrt(2 s)`. Large
    entries grow, the norm does not.

    Source: arXiv 2601.16128 and 2404.00713 on (L1/L2)^2; for nonnegative vectors, 2108.01269.

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

    >>> keras.ops.convert_to_numpy(hoyer_square([3.0, -2.0, 0.1], 0.5)).round(3)
    array([ 3.065, -1.894,  0.   ], dtype=float32)
    """

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return hoyer_square_of(size, strength, weights)

    return apply(operator, x, strength, axis, pattern, weights)


def hoyer(
    x: Any,
    strength: Any,
    axis: int | list[int] | None = None,
    pattern: Block | None = None,
    weights: Any = None,
) -> Any:
    """The operator of Hoyer's `p(t) = sum(weights * |t|) / sqrt(sum(t**2))`, 0 at 0.

    With `n` for the norm of the result and `s` for the strength, the objective of a prefix of the
    order by `|x| / weights` is `n**2 / 2 - sqrt(n**2 Q - 2 n s S + s**2 W)`, with the sums of
    `hoyer_square`. Its derivative is convex where it matters, so Newton's steps from `sqrt(Q)` find
    the minimum. The result is `v * sum(v * |x|) / sum(v**2)`, `v = max(|x| - s / n * weights, 0)`.
    All prefixes take these steps at once, so this one is meant for groups: for the entries of a
    large kernel it costs tens of passes.

    Source: arXiv 2601.16128 and 2404.00713 on L1/L2, where the minimum is the root of a quartic.

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

    >>> keras.ops.convert_to_numpy(hoyer([3.0, -2.0, 0.1], 0.5)).round(3)
    array([ 3.022, -1.966,  0.   ], dtype=float32)
    """

    def operator(size: Any, strength: Any, weights: Any) -> Any:
        return hoyer_of(size, strength, weights)

    return apply(operator, x, strength, axis, pattern, weights)


def hoyer_square_of(size: Any, strength: Any, weights: Any, xp: Any = ops) -> Any:
    """`hoyer_square` of magnitudes, by `keras.ops` or NumPy."""
    scaled, w, unit, heaviest = _scaled(xp, size, weights)
    # As a root: its square leaves the range of float32 sooner.
    root = xp.sqrt(2 * strength) * heaviest / unit
    zero = xp.max(scaled / w, initial=0.0) <= root
    root = xp.where(zero, xp.zeros_like(root), root)
    new = _minimize(xp, scaled, w, root * root / 2, _solve_square)
    return xp.reshape(xp.where(zero, xp.zeros_like(new), new * unit), xp.shape(size))


def hoyer_of(size: Any, strength: Any, weights: Any, xp: Any = ops) -> Any:
    """`hoyer` of magnitudes, by `keras.ops` or NumPy."""
    scaled, w, unit, heaviest = _scaled(xp, size, weights)
    # Nothing but zero is left long before this bound.
    pull = within(xp, strength * heaviest / unit / unit, 0, 1e15)
    new = _minimize(xp, scaled, w, pull, _solve_ratio)
    return xp.reshape(new * unit, xp.shape(size))


def _scaled(xp: Any, size: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
    """Magnitudes and weights as vectors whose largest entry is 1, and what they were divided by."""
    size = xp.reshape(size, (-1,))
    w = xp.ones_like(size) if weights is None else xp.reshape(weights, (-1,))
    unit, heaviest = xp.max(size, initial=0.0), xp.max(w, initial=0.0)
    alive = unit >= smallest_normal(size)
    unit = xp.where(alive, unit, xp.ones_like(unit))
    return xp.where(alive, size / unit, xp.zeros_like(size)), w / heaviest, unit, heaviest


def _minimize(xp: Any, y: Any, w: Any, strength: Any, solve: Solver) -> Any:
    """The minimizer for magnitudes `y`, a vector; all zero where nothing is better than that."""
    order = xp.argsort(-(y / w))
    sorted_y, sorted_w = xp.take(y, order), xp.take(w, order)
    terms = (sorted_w * sorted_y, sorted_y * sorted_y, sorted_w * sorted_w)
    dtype = keras.backend.standardize_dtype(y.dtype)  # which Keras loses on PyTorch
    s_sums, q_sums, w_sums = (xp.cumsum(term, dtype=dtype) for term in terms)
    gains, taus = solve(xp, s_sums, q_sums, w_sums, strength)
    gains = xp.where(taus * sorted_w < sorted_y, gains, xp.zeros_like(gains))
    # Candidates that are alike but for rounding: the first of them, which has the fewest entries.
    best = xp.min(gains, initial=0.0)
    first = xp.argmax(
        xp.where(gains <= best * (1 - 8 * rounding(y)), xp.ones_like(y), xp.zeros_like(y))
    )
    tau = xp.take(taus, first)
    # Long running sums have lost digits: the sums over what is left are taken anew.
    for _ in range(2):
        left = xp.where(y > tau * w, y, xp.zeros_like(y))
        kept = xp.where(y > tau * w, w, xp.zeros_like(w))
        gain, again = solve(xp, xp.sum(kept * left), xp.sum(left**2), xp.sum(kept**2), strength)
        tau = xp.where(gain < 0, again, tau)
    v = positive(xp, y - tau * w)
    squares = xp.sum(v * v)
    some = (best < 0) & (squares > 0)
    scale = xp.sum(v * y) / xp.where(some, squares, xp.ones_like(squares))
    return xp.where(some, v * scale, xp.zeros_like(v))


def _solve_square(xp: Any, s_sum: Any, q_sum: Any, w_sum: Any, strength: Any) -> tuple[Any, Any]:
    base = q_sum + 2 * strength * w_sum
    safe = xp.where(base > 0, base, xp.ones_like(base))
    share = within(xp, xp.sqrt(8 * strength) * s_sum / safe, 0, 1)
    root = xp.sqrt((1 - share) * (1 + share))
    tau = 4 * strength * s_sum / (safe * (1 + root))
    return -(q_sum - tau * s_sum) / 2, tau


def _solve_ratio(xp: Any, s_sum: Any, q_sum: Any, w_sum: Any, strength: Any) -> tuple[Any, Any]:
    safe = xp.where(q_sum > 0, q_sum, xp.ones_like(q_sum))
    centre = strength * s_sum / safe
    # Cauchy's inequality, but for rounding.
    rest = strength**2 * positive(xp, w_sum - s_sum / safe * s_sum)
    norm = xp.sqrt(safe)
    for _ in range(20):
        ahead = norm - centre
        root = xp.sqrt(safe * ahead * ahead + rest)
        real = (root > 0) & (ahead > 0)
        root = xp.where(real, root, xp.ones_like(root))
        slope = 1 - safe * rest / (root * root * root)
        step = (norm - safe * ahead / root) / xp.where(slope > 0, slope, xp.ones_like(slope))
        step = xp.where(real & (slope > 0), positive(xp, step), xp.zeros_like(step))
        norm = xp.where(step < norm - centre, norm - step, norm)
    ahead = norm - centre
    value = norm * norm / 2 - xp.sqrt(safe * ahead * ahead + rest)
    valid = (norm > 0) & (ahead > 0)
    norm = xp.where(valid, norm, xp.ones_like(norm))
    return xp.where(valid, value, xp.zeros_like(value)), strength / norm
