"""What is cut together: value objects that divide a kernel into units.

A pattern turns the importance of weights into that of units, and a decision about the units into a
mask. The score of a unit is the root mean square over its weights, so that one threshold means the
same for every pattern.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keras_hoyer._values import Value, serializable

__all__ = ["Block", "Channel", "KernelPattern", "NByM", "Pattern", "Unstructured"]


def __dir__() -> list[str]:
    return __all__


class Pattern(Value):
    """Base class of the patterns; all of them are immutable and comparable by value.

    A pattern of your own extends `KernelPattern` if it divides each kernel by itself, or `Channel`
    if whole channels go with all that depends on them. What a pattern can do is said by its
    attributes, which criteria, penalties and callbacks ask for.

    Attributes:
        max_sparsity: Largest share of the units that it lets go. Defaults to 1.
        whole_channels: Whether its units are the channels of the model, of which multiply-adds
            can be counted. Defaults to `False`.
        has_groups: Whether group penalties can take the norms of its units; then it has
            `split_shape`, as `Block` does. Defaults to `False`.
        uniform: For channels, whether as many are to stay in each of a stack of equal layers.
            Defaults to `False`.
    """

    max_sparsity: float = 1.0
    whole_channels: bool = False
    has_groups: bool = False
    uniform: bool = False


class KernelPattern(Pattern):
    """Base class of the patterns that divide each kernel by itself.

    Writing your own: say which kernels it divides, what each unit scores, and how a decision about
    the units becomes one about the weights. As a frozen dataclass it is a value with a config.

    >>> @keras.saving.register_keras_serializable(package="my_package")
    ... @dataclass(frozen=True)
    ... class Row(KernelPattern):
    ...     "All weights of one input."
    ...
    ...     def fits(self, shape):
    ...         return len(shape) > 1
    ...
    ...     def scores(self, importance):
    ...         return np.sqrt(np.square(importance).mean(axis=-1))
    ...
    ...     def expand(self, keep, shape):
    ...         return np.broadcast_to(keep[..., None], shape)
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
    >>> keras_hoyer.prune(model, keras_hoyer.criteria.TargetSparsity(0.9), Row()).nonzero
    20
    """

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a kernel of this shape divides into whole units."""
        raise NotImplementedError

    def scores(self, importance: np.ndarray) -> np.ndarray:
        """What each unit matters: an array of 0 or more; infinite where a unit must stay.

        Args:
            importance: Float array of the kernel's shape: what each weight matters, by its
                magnitude. By default that is the weight itself. It may be overwritten.
        """
        raise NotImplementedError

    def expand(self, keep: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Turns a boolean per unit (shaped like `scores`) into a boolean per weight."""
        raise NotImplementedError

    def split_shape(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape that separates units from their insides, and the axes of the insides.

        Asked for where `has_groups` is true.
        """
        raise NotImplementedError


@serializable
@dataclass(frozen=True)
class Unstructured(KernelPattern):
    """Every weight is cut by itself.

    >>> Unstructured().scores(np.array([[0.5, -2.0]], "float32"))
    array([[0.5, 2. ]], dtype=float32)
    """

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Always: a weight is a unit."""
        return True

    def scores(self, importance: np.ndarray) -> np.ndarray:
        """Magnitudes."""
        return np.asarray(np.abs(importance, out=importance), "float32")

    def expand(self, keep: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The decision itself: a weight is a unit."""
        return keep


@serializable
@dataclass(frozen=True)
class Block(KernelPattern):
    """Blocks of weights are cut whole, along the last axes of the kernel.

    `Block((4, 1))` is four inputs of one output: on a Dense kernel, what a sparse CPU kernel skips.

    Args:
        shape: Tuple of positive ints: the block's extent along the last `len(shape)` axes.

    Raises:
        ValueError: If `shape` is not a tuple of positive integers.

    >>> Block((2, 1)).scores(np.array([[3.0, 1.0], [4.0, 1.0]], "float32"))
    array([[3.535534, 1.      ]], dtype=float32)
    """

    shape: tuple[int, ...]

    has_groups = True

    def __post_init__(self) -> None:
        shape = self.shape
        valid = isinstance(shape, (tuple, list)) and len(shape) > 0
        if not (valid and all(_is_positive_int(extent) for extent in shape)):
            raise ValueError(
                "Invalid value for argument `shape`. Expected a tuple of positive integers, such "
                f"as `(4, 1)`. Received: shape={shape!r}"
            )
        object.__setattr__(self, "shape", tuple(int(extent) for extent in shape))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether every block extent divides its axis; none divides one of unknown size."""
        last = shape[-len(self.shape) :]
        return len(shape) >= len(self.shape) and all(
            size is not None and size % extent == 0
            for size, extent in zip(last, self.shape, strict=True)
        )

    def split_shape(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape that separates blocks from their insides, and the axes of the insides.

        >>> Block((4, 1)).split_shape((8, 3))
        ((2, 4, 3, 1), (1, 3))
        """
        lead = len(shape) - len(self.shape)
        split = list(shape[:lead])
        for size, extent in zip(shape[lead:], self.shape, strict=True):
            split += [size // extent, extent]
        return tuple(split), tuple(range(lead + 1, len(split), 2))

    def scores(self, importance: np.ndarray) -> np.ndarray:
        """Root mean square of each block; the last axes count blocks."""
        split, inner = self.split_shape(importance.shape)
        largest = np.abs(importance).max(initial=0.0)
        # Scaled, because the squares of tiny or huge numbers leave the range of float32.
        scaled = np.divide(importance, largest or 1.0, out=importance).reshape(split)
        squares = np.square(scaled, out=scaled).mean(axis=inner)
        return np.asarray(np.sqrt(squares) * largest, "float32")

    def expand(self, keep: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Every weight of a block takes the block's decision."""
        split, inner = self.split_shape(shape)
        return np.broadcast_to(np.expand_dims(keep, inner), split).reshape(shape)


@serializable
@dataclass(frozen=True)
class NByM(KernelPattern):
    """At most `n` nonzero weights among every `m` that follow each other along an axis.

    The `n` largest of each `m` are never cut; the units are the others, so
    `TargetSparsity(1 - n / m)` gives the full pattern and lower targets a part of the way to it.

    Args:
        n: Positive int: weights that stay.
        m: Int larger than `n`: weights of a group.
        axis: Int, the kernel's axis along which groups lie. Defaults to -2, the inputs of a
            Dense or Conv kernel.

    Raises:
        ValueError: If not `0 < n < m`, or if `axis` is not an integer.

    >>> NByM(2, 4, axis=-1).scores(np.array([1.0, -4.0, 3.0, 2.0], "float32"))
    array([ 1., inf, inf,  2.], dtype=float32)
    """

    n: int
    m: int
    axis: int = -2

    @property
    def max_sparsity(self) -> float:  # type: ignore[override]
        """Share of the weights that is zero when the pattern is complete."""
        return 1 - self.n / self.m

    def __post_init__(self) -> None:
        if not (_is_positive_int(self.n) and _is_positive_int(self.m) and self.n < self.m):
            raise ValueError(
                "Invalid value for arguments `n`, `m`. Expected integers with 0 < n < m. "
                f"Received: n={self.n!r}, m={self.m!r}"
            )
        if isinstance(self.axis, bool) or not isinstance(self.axis, (int, np.integer)):
            raise ValueError(
                "Invalid value for argument `axis`. Expected an integer. "
                f"Received: axis={self.axis!r}"
            )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether `m` divides the axis."""
        return -len(shape) <= self.axis < len(shape) and shape[self.axis] % self.m == 0

    def scores(self, importance: np.ndarray) -> np.ndarray:
        """Magnitudes, infinite for the `n` largest of each group; the first wins a tie."""
        scores = np.asarray(np.abs(importance, dtype="float32"))
        moved = np.moveaxis(scores, self.axis, -1)
        # A view where the axis is the last one, else a copy: `reshape` of what was moved.
        groups = moved.reshape(-1, self.m)
        for start in range(0, len(groups), 1 << 18):
            piece = groups[start : start + (1 << 18)]
            # A stable sort of the negated magnitudes makes ties deterministic.
            largest = np.argsort(-piece, axis=-1, kind="stable")[:, : self.n]
            np.put_along_axis(piece, largest, np.inf, axis=-1)
        moved[...] = groups.reshape(moved.shape)
        return scores

    def expand(self, keep: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The decision itself: scores have the kernel's shape."""
        return keep


@serializable
@dataclass(frozen=True)
class Channel(Pattern):
    """Output channels are cut, with everything that lives and dies with them.

    A channel of a residual stream, for instance, is made and read by many layers: all their slices
    of kernels, biases and normalisation are one unit, and `shrink` removes it from all of them.
    Thresholds take the scores as they are; a target over the whole model compares them relative to
    the mean score of the channels beside them.

    Args:
        score: `"l2"` scores a channel by the root mean square of its kernel weights, `"mean"` by
            the mean and `"max"` by the largest of their magnitudes; with a score of
            `keras_hoyer.scores`, of what that says of the weights. Defaults to `"l2"`.
        min_channels: Positive int: channels that stay in each group at least. Defaults to 1.
        multiple_of: Positive int: the number of channels that stay is rounded up to a multiple of
            it; hardware likes 8. Defaults to 1.
        uniform: Whether as many channels stay in each of a stack of equal layers, such as the
            blocks of a transformer: layers whose names differ in their numbers only. Of a model of
            a class of its own, such as a backbone, only channels are cut of which its config can
            say how many are left, so that `shrink` can keep the class. Defaults to `False`.

    Raises:
        ValueError: If an argument is out of its range.

    >>> Channel(multiple_of=8)
    Channel(score='l2', min_channels=1, multiple_of=8, uniform=False)
    """

    score: Literal["l2", "mean", "max"] = "l2"
    min_channels: int = 1
    multiple_of: int = 1
    uniform: bool = False

    whole_channels = True

    def __post_init__(self) -> None:
        if self.score not in ("l2", "mean", "max"):
            raise ValueError(
                'Invalid value for argument `score`. Expected "l2", "mean" or "max". '
                f"Received: score={self.score!r}"
            )
        for name in ("min_channels", "multiple_of"):
            if not _is_positive_int(getattr(self, name)):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a positive integer. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        if not isinstance(self.uniform, bool):
            raise ValueError(
                "Invalid value for argument `uniform`. Expected a bool. "
                f"Received: uniform={self.uniform!r}"
            )

    def strength(self, importance: np.ndarray, axis: int) -> np.ndarray:
        """What the weights of each index along an axis add to a channel's score."""
        others = tuple(i for i in range(importance.ndim) if i != axis)
        if self.score == "l2":
            return np.asarray(np.square(importance, dtype="float64").sum(axis=others))
        magnitudes = np.abs(importance, dtype="float64")
        return np.asarray(
            magnitudes.sum(axis=others) if self.score == "mean" else magnitudes.max(axis=others)
        )

    def join(self, total: np.ndarray, strength: np.ndarray) -> np.ndarray:
        """Adds the strengths of a kernel, of shape `(channels, k)`, to those of the others."""
        if self.score == "max":
            return np.asarray(np.maximum(total, strength.max(axis=1)))
        return np.asarray(total + strength.sum(axis=1))

    def finish(self, total: np.ndarray, count: int) -> np.ndarray:
        """Scores of channels of `count` weights each."""
        if self.score == "max":
            return total
        mean = total / count
        return np.asarray(np.sqrt(mean) if self.score == "l2" else mean)

    def count_kept(self, wanted: int, channels: int) -> int:
        """How many of a group's channels stay where so many are wanted."""
        wanted = max(wanted, self.min_channels)
        return min(self.multiple_of * -(-wanted // self.multiple_of), channels)


def check_pattern(pattern: Any) -> None:
    """Raises a `ValueError` that lists the patterns, if `pattern` is none of them."""
    if not isinstance(pattern, Pattern):
        raise ValueError(
            "Invalid value for argument `pattern`. Expected a pattern of `keras_hoyer.patterns`: "
            "`Unstructured()`, `Channel()`, `Block(shape)` or `NByM(n, m, axis)`. "
            f"Received: pattern={pattern!r}"
        )


def _is_positive_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) > 0
