"""When to cut, and how far.

A schedule answers two questions about a position in training, counted in epochs (2.5 is the
middle of the third): is an update due, and which part of the way to the criterion has been gone.
It holds no state, so training that stops and goes on needs nothing restored.
"""

import math
from dataclasses import dataclass
from typing import Any

from keras_hoyer._checks import check_number
from keras_hoyer._values import Value, serializable

__all__ = ["OneShot", "Polynomial", "Schedule"]


def __dir__() -> list[str]:
    return __all__


# Positions are sums of fractions of an epoch: those closer than this are the same.
ROUNDING = 1e-6


class Schedule(Value):
    """Base class of the schedules: `begin` and `end` are the epochs of the first and the last cut.

    Writing your own: say how far the way has been gone at a position in training, counted in
    epochs. A cut is due where that changes.

    >>> @dataclass(frozen=True)
    ... class Steps(keras_hoyer.schedules.Schedule):
    ...     "Equal steps at the given epochs."
    ...     epochs: tuple
    ...
    ...     begin = property(lambda self: self.epochs[0])
    ...     end = property(lambda self: self.epochs[-1])
    ...
    ...     def progress(self, position):
    ...         return sum(epoch <= position for epoch in self.epochs) / len(self.epochs)
    >>> schedule = Steps((2, 5))
    >>> [epoch for epoch in range(1, 9) if schedule.due(epoch - 1, epoch)]
    [2, 5]
    """

    begin: float
    end: float

    def progress(self, position: float) -> float:
        """Part of the way gone at `position`, from 0 to 1."""
        raise NotImplementedError

    def due(self, previous: float, position: float) -> bool:
        """Whether a cut lies in `(previous, position]`. Defaults to where `progress` grows."""
        return self.progress(previous) < self.progress(position)

    @property
    def within_epochs(self) -> bool:
        """Whether some cut falls between the boundaries of two epochs.

        Defaults to whether the first or the last one does.
        """
        return not all(float(epoch).is_integer() for epoch in (self.begin, self.end))


def check_schedule(schedule: Any) -> None:
    """Raises a `ValueError` if `schedule` is none."""
    if not isinstance(schedule, Schedule):
        raise ValueError(
            "Invalid value for argument `schedule`. Expected a schedule of "
            "`keras_hoyer.schedules`, such as `OneShot(epoch=60)`. "
            f"Received: schedule={schedule!r}"
        )


@serializable
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
    def begin(self) -> float:  # type: ignore[override]
        """Epoch of the cut."""
        return self.epoch

    @property
    def end(self) -> float:  # type: ignore[override]
        """Epoch of the cut."""
        return self.epoch

    def progress(self, position: float) -> float:
        """1 from the cut on, 0 before."""
        return float(position + ROUNDING >= self.epoch)


@serializable
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
            check_number(name, getattr(self, name), "a positive number", lambda value: value > 0)

    def due(self, previous: float, position: float) -> bool:
        """Whether one of `begin + k * frequency`, or `end`, lies in `(previous, position]`."""
        return self._updates_until(position) > self._updates_until(previous)

    def progress(self, position: float) -> float:
        """Part of the way gone at the last update up to `position`."""
        if position + ROUNDING >= self.end:
            return 1.0
        done = max(self._updates_until(position) - 1, 0)
        return float(1.0 - (1.0 - done * self.frequency / (self.end - self.begin)) ** self.power)

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


def _check_epoch(name: str, value: float) -> None:
    check_number(name, value, "a number of epochs, 0 or more", lambda epoch: epoch >= 0)
