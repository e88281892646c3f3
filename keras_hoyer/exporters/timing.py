"""How long two models take by turns, and how much that varies."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_hoyer.exporters import _run_file

Quartiles = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Two models that were run by turns, so that both see the same machine.

    Attributes:
        milliseconds: Median time of a call of each.
        quartiles: For each the times between which half of its calls lie.
        ratio: Median, over the turns, of the second one's time over the first one's.
        ratio_quartiles: Between what half of these ratios lie.
        turns: How often each was run.
    """

    milliseconds: tuple[float, float]
    quartiles: tuple[Quartiles, Quartiles]
    ratio: float
    ratio_quartiles: Quartiles
    turns: int


def time_by_turns(
    calls: Sequence[Callable[[], Any]],
    turns: int,
    seconds: float = float("inf"),
    on_one_thread: bool = False,
) -> Timing:
    """Times two calls by turns.

    Args:
        calls: The two, each called once before.
        turns: How often each has its turn at most.
        seconds: For about how long each is run at most.
        on_one_thread: Whether both compute on the thread that calls them. Then it is the
            processor's time that counts, which other work on the machine hardly changes.
    """
    clock = _run_file.processor_clock() if on_one_thread else time.perf_counter
    return summarized(_run_file.time_by_turns(list(calls), turns, seconds, clock))


def summarized(times: Sequence[Sequence[float]]) -> Timing:
    """The medians and quartiles of the milliseconds of two models, turn by turn.

    >>> summarized([[2.0, 4.0, 2.0], [1.0, 2.0, 1.5]]).ratio
    0.5
    """
    first, second = (np.asarray(each, "float64") for each in times)
    ratios = second / first
    return Timing(
        milliseconds=(float(np.median(first)), float(np.median(second))),
        quartiles=(_quartiles(first), _quartiles(second)),
        ratio=float(np.median(ratios)),
        ratio_quartiles=_quartiles(ratios),
        turns=len(ratios),
    )


def _quartiles(values: np.ndarray) -> Quartiles:
    low, high = np.percentile(values, [25, 75])
    return float(low), float(high)
