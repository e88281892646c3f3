"""What a criterion is given, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from keras_hoyer._literals import FormatName, Quantization
from keras_hoyer._values import Value
from keras_hoyer.patterns import Pattern


class FlopsLeft(Protocol):
    """For channels, the share of the model's multiply-adds that is left.

    Attributes:
        fixed: What no cut can reach, in words; empty if there is nothing.
    """

    fixed: str

    def __call__(self, counts: Sequence[int] | np.ndarray) -> float:
        """The share where so many channels of each entry are left."""


@dataclass(frozen=True)
class FileKind:
    """A file that is made of a model to be measured.

    Attributes:
        unit: What is measured: `"milliseconds"` of one sample, or `"bytes"`.
        share: The share of it that is to be left.
        format: As `export` names it.
        quantize: As `export` takes it.
        data: Samples as `export` takes for `representative_data`, or `None` for random ones.
    """

    unit: Literal["milliseconds", "bytes"]
    share: float
    format: FormatName
    quantize: Quantization | None = None
    data: Any = None


class FilesLeft(Protocol):
    """The share of what a model's exported file takes that is left when units go.

    Attributes:
        made: How many files were made of cut models.
    """

    made: int

    def __call__(self, keep: Sequence[np.ndarray]) -> float:
        """The share where just these units stay, true in a boolean array for each entry.

        Makes the file of the cut model and measures it, unless that was done before.
        """


@dataclass(frozen=True)
class UnitScores:
    """Scores of the units of one kernel, or of one group of coupled channels.

    Attributes:
        name: The kernel's name, for messages.
        values: Float32 array, at least 0; infinite where a unit must stay.
        std: Standard deviation of the kernel's weights, as the score sees them.
        reference: What the values are divided by before those of different layers are compared.
            Defaults to 1: weights compare by their magnitudes.
    """

    name: str
    values: np.ndarray
    std: float
    reference: float = 1.0

    @property
    def relative(self) -> np.ndarray:
        """The values as they compare with those of other layers."""
        if self.reference == 1:
            return self.values
        return self.values / np.float32(self.reference)


class Criterion(Value):
    """Base class of the criteria.

    Writing your own: say which units stay. What was cut before scores zero.

    >>> @dataclass(frozen=True)
    ... class Best(keras_hoyer.criteria.Criterion):
    ...     "A number of units stays in each kernel."
    ...     count: int
    ...
    ...     def keep(self, units, progress=1.0, flops=None):
    ...         kept = []
    ...         for entry in units:
    ...             count = round(entry.values.size + progress * (self.count - entry.values.size))
    ...             kept.append(entry.values >= np.sort(entry.values, axis=None)[-count])
    ...         return kept
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
    >>> keras_hoyer.prune(model, Best(30)).nonzero
    30

    Attributes:
        counts_flops: Whether it goes by the multiply-adds that are left, and so needs a pattern of
            whole channels. Defaults to `False`.
        file: What file it goes by, which is made and measured of cut models; then it answers
            `keep_by_files` in place of `keep`. Defaults to `None`: by none.
        fixes_amount: Whether how much stays is asked for, and does not follow from the scores: so
            a penalty can be steered to it. Defaults to `True`.
    """

    counts_flops: bool = False
    file: FileKind | None = None
    fixes_amount: bool = True

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        """Returns a boolean array for each entry of `units`, true where a unit stays.

        Args:
            units: Scores of the units.
            progress: Part of the way to go, from 0 to 1.
            flops: For channels, a function from how many of each entry are left to the share of
                the multiply-adds that is left.
        """
        raise NotImplementedError

    def keep_by_files(
        self,
        units: Sequence[UnitScores],
        files: FilesLeft,
        progress: float = 1.0,
        flops: FlopsLeft | None = None,
    ) -> list[np.ndarray]:
        """What `keep` returns, for a criterion that goes by files.

        Args:
            units: Scores of the units.
            files: A function from what stays to the share of the file that is left.
            progress: Part of the way to go, from 0 to 1.
            flops: As for `keep`.
        """
        raise NotImplementedError

    def target(self, progress: float) -> float | None:
        """The share of the units that is to be cut, or `None` where that follows from the scores.

        Args:
            progress: Part of the way to go, from 0 to 1.
        """
        return None

    def check(self, pattern: Pattern) -> None:
        """Raises a `ValueError` if the criterion cannot be met with `pattern`."""
        if self.counts_flops and not pattern.whole_channels:
            raise ValueError(
                f"`{type(self).__name__}` counts the multiply-adds that go with whole channels. "
                f"Expected pattern=Channel(). Received: pattern={pattern!r}"
            )


def check_criterion(criterion: Any) -> None:
    """Raises a `ValueError` if `criterion` is none."""
    if not isinstance(criterion, Criterion):
        raise ValueError(
            "Invalid value for argument `criterion`. Expected a criterion of "
            "`keras_hoyer.criteria`, such as `TargetSparsity(0.9)`. "
            f"Received: criterion={criterion!r}"
        )
