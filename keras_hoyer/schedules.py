"""When to cut, and how far.

A schedule answers two questions about a position in training, counted in epochs (2.5 is the
middle of the third): is an update due, and which part of the way to the criterion has been gone.
It holds no state, so training that stops and goes on needs nothing restored.
"""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["OneShot", "Polynomial", "Schedule"]


def __dir__() -> list[str]:
    return __all__


# Positions are sums of fractions of an epoch: those closer than this are the same.
ROUNDING = 1e-6


class Schedule:
    """Base class: `begin` and `end` are the epochs of the first and the last update."""

    begin: float
    end: float

    def due(self, previous: float, position: float) -> bool:
        """Whether an update lies in `(previous, position]`."""
        raise NotImplementedError

    def progress(self, position: float) -> float:
        """Part of the way gone at `position`, from 0 to 1."""
        raise NotImplementedError

    @property
    def within_epochs(self) -> bool:
        """Whether some update falls between the boundaries of two epochs."""
        raise NotImplementedError


@dataclass(frozen=True)
class OneShot(Schedule):
    """One cut, all the way, when `epoch` epochs are over.

    Args:
        epoch: Number of epochs before the cut; 0 cuts before the first. A fraction cuts within
            an epoch.

    Raises:
        ValueError: If `epoch` is negative or not a finite number.

    >>> schedule = OneShot(epoch=60)
    >>> schedule.due(59, 60), schedule.due(60, 61), schedule.progress(60)
    (True, False, 1.0)
    """

    epoch: float

    def __post_init__(self) -> None:
        _check_epoch("epoch", self.epoch)

    @property
    def begin(self) -> float:
        """Epoch of the cut."""
        return self.epoch

    @property
    def end(self) -> float:
        """Epoch of the cut."""
        return self.epoch

    def due(self, previous: float, position: float) -> bool:
        """Whether the cut lies in `(previous, position]`."""
        return self.progress(previous) < self.progress(position)

    def progress(self, position: float) -> float:
        """1 from the cut on, 0 before."""
        return float(position + ROUNDING >= self.epoch)

    @property
    def within_epochs(self) -> bool:
        """Whether the cut falls within an epoch."""
        return not float(self.epoch).is_integer()


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Cuts from `begin` to `end`, the first ones large, the last ones small.

    The part of the way at `t` is `1 - (1 - (t - begin) / (end - begin)) ** power`.

    Source: Zhu and Gupta, "To prune, or not to prune" (2017), equation 1.

    Args:
        begin: Epoch at which the way begins.
        end: Epoch of the last cut, which goes all the way.
        power: Positive number. 1 is linear. Defaults to 3.
        frequency: Epochs between two cuts; 0.25 cuts four times an epoch. Defaults to 1.

    Raises:
        ValueError: If `end <= begin`, or a number is out of its range.

    >>> schedule = Polynomial(begin=0, end=10)
    >>> [round(schedule.progress(epoch), 3) for epoch in (0, 1, 5, 10, 20)]
    [0.0, 0.271, 0.875, 1.0, 1.0]
    """

    begin: float
    end: float
    power: float = 3
    frequency: float = 1

    def __post_init__(self) -> None:
        _check_epoch("begin", self.begin)
        _check_epoch("end", self.end)
        if self.end <= self.begin:
            raise ValueError(
                "Invalid value for argument `end`. Expected an epoch after `begin`. "
                f"Received: begin={self.begin}, end={self.end}"
            )
        for name in ("power", "frequency"):
            value = getattr(self, name)
            if not _is_number(value) or value <= 0:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a positive number. "
                    f"Received: {name}={value!r}"
                )

    def due(self, previous: float, position: float) -> bool:
        """Whether one of `begin + k * frequency`, or `end`, lies in `(previous, position]`."""
        return self._updates_until(position) > self._updates_until(previous)

    def progress(self, position: float) -> float:
        """Part of the way gone at the last update up to `position`."""
        if position + ROUNDING >= self.end:
            return 1.0
        done = max(self._updates_until(position) - 1, 0)
        return 1.0 - (1.0 - done * self.frequency / (self.end - self.begin)) ** self.power

    @property
    def within_epochs(self) -> bool:
        """Whether cuts fall within epochs."""
        return not all(
            float(value).is_integer() for value in (self.begin, self.end, self.frequency)
        )

    def _updates_until(self, position: float) -> int:
        position += ROUNDING
        if position < self.begin:
            return 0
        done = math.floor((min(position, self.end) - self.begin) / self.frequency) + 1
        return done + (position >= self.end)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _check_epoch(name: str, value: object) -> None:
    if not _is_number(value) or value < 0:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number of epochs, 0 or more. "
            f"Received: {name}={value!r}"
        )
