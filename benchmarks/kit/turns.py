"""Timing by turns: what is compared sees the same machine at the same time."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

CLOCK, PROCESSOR = 0, 1


def turns(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """The number of each round and whose turn it is; every second round in reverse."""
    names = list(names)
    for number in range(rounds):
        for name in names[:: 1 if number % 2 == 0 else -1]:
            yield number, name


@dataclasses.dataclass(frozen=True)
class Times:
    """What each turn took.

    Attributes:
        seconds: By name, an array with a row for each round: seconds by the clock, and of the time
            of the processor, which other work on the machine hardly changes.
        load_average: Of the machine, before and after; it widens the quartiles.
    """

    seconds: Mapping[str, np.ndarray]
    load_average: tuple[float, float]

    def median(self, name: str) -> float:
        """Seconds by the clock."""
        return float(np.median(self.seconds[name][:, CLOCK]))

    def ratio(self, name: str, to: str, kind: int = CLOCK) -> float:
        """The median of the ratios within the rounds."""
        return float(np.median(self._ratios(name, to, kind)))

    def quartiles(self, name: str, to: str) -> list[float]:
        """The quartiles of these ratios, by the clock."""
        return np.percentile(self._ratios(name, to, CLOCK), [25, 75]).tolist()

    def added(self, name: str, to: str) -> np.ndarray:
        """The quartiles and the median between them of what is added in a round, in seconds."""
        added = self.seconds[name][:, CLOCK] - self.seconds[to][:, CLOCK]
        return np.percentile(added, [25, 50, 75])

    def _ratios(self, name: str, to: str, kind: int) -> np.ndarray:
        return self.seconds[name][:, kind] / self.seconds[to][:, kind]


def by_turns(
    actions: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, stretch: float = 0.0
) -> Times:
    """Runs each action in each round.

    Args:
        actions: What to time, by name.
        rounds: How often each one has its turn.
        warmup: Rounds before these that do not count: they compile, and load what is loaded late.
        stretch: Seconds that an action runs at least in each turn, over and over, after a call that
            does not count and brings what it needs back into the caches. 0 for a single call.
    """
    load = os.getloadavg()[0]
    for _ in range(warmup):
        for action in actions.values():
            action()
    calls = {name: _calls(action, stretch) for name, action in actions.items()}
    seconds = {name: np.empty((rounds, 2)) for name in actions}
    for number, name in turns(actions, rounds):
        if stretch:
            actions[name]()
        seconds[name][number] = _timed(actions[name], calls[name])
    loads = round(load, 2), round(os.getloadavg()[0], 2)
    return Times(seconds, loads)


def _calls(action: Callable[[], object], stretch: float) -> int:
    """How many calls fill the stretch."""
    return math.ceil(stretch / _timed(action, 1)[CLOCK]) if stretch else 1


def _timed(action: Callable[[], object], calls: int) -> np.ndarray:
    """Seconds of one of the calls, by the clock and of the processor."""
    start = time.perf_counter(), time.process_time()
    for _ in range(calls):
        action()
    return np.subtract((time.perf_counter(), time.process_time()), start) / calls
