"""The search for the cut that reaches a measured share, in as few measurements as possible."""

import bisect
from collections.abc import Sequence

import numpy as np

from keras_hoyer.criteria.base import FilesLeft, FlopsLeft, UnitScores

# A measured share that is this near to the one asked for, and not above it, is taken; the search
# aims between. Each measurement narrows the bracket by a part of it, at most so many times.
NEAR, AIM = 0.94, 0.97
NARROWED = 0.1
MOST = 12

# After so many files that are all too large it is not taken for granted that nothing is left where
# nothing stays.
PATIENT = 4


class Ranking:
    """Units in the order in which they are cut.

    Args:
        units: Their scores; infinite ones stay.
        flops: For channels, the share of the multiply-adds that is left.
    """

    def __init__(self, units: Sequence[UnitScores], flops: FlopsLeft | None = None) -> None:
        scores = [entry.relative for entry in units]
        flat = np.concatenate([values.reshape(-1) for values in scores])
        self._shapes = [values.shape for values in scores]
        self._ends = np.cumsum([values.size for values in scores])[:-1]
        self._order = np.argsort(flat, kind="stable")
        self._flops = flops
        self.most = int(np.isfinite(flat).sum())

    def keep(self, cut: int) -> list[np.ndarray]:
        """What stays where so many units are cut."""
        stay = np.ones(self._order.size, bool)
        stay[self._order[:cut]] = False
        parts = zip(np.split(stay, self._ends), self._shapes, strict=True)
        return [part.reshape(shape) for part, shape in parts]

    def expected(self, cut: int) -> float:
        """A first guess of the share that is left: that of the multiply-adds, or of the units."""
        if self._flops is None:
            return 1 - cut / self._order.size
        return self._flops([int(np.count_nonzero(kept)) for kept in self.keep(cut)])

    def reach(self, expected: float, least: int, most: int) -> int:
        """The smallest cut in a range with no more than this expected."""
        cuts = range(least, most)
        return least + bisect.bisect_left(cuts, True, key=lambda n: self.expected(n) <= expected)


def find_cut(ranking: Ranking, target: float, files: FilesLeft, what: str) -> list[np.ndarray]:
    """What stays so that the measured share is just within the target.

    What is measured goes up and down with what is expected, but not in proportion: a line through
    the two nearest measurements says where to measure next.

    Args:
        ranking: The units.
        target: Share that may be left.
        files: Measures the share of what stays.
        what: Share of what, for messages.

    Raises:
        ValueError: If the target cannot be reached.
    """
    # Too large, and small enough, as pairs of what is expected and measured. Where nothing is
    # left nothing is measured, as long as nothing better is known.
    too_large, small = (1.0, 1.0), (0.0, 0.0)
    least, most, best = 0, ranking.most, None
    while files.made < MOST and least < ranking.most and (best is None or most - least > 1):
        if best is None and files.made == MOST - 1:
            expected = -1.0  # the fewest that may stay
        elif best is None and files.made >= PATIENT:
            # A part of it may be there however little is left.
            expected = _along((1.0, 1.0), too_large, AIM * target)
        else:
            expected = _between(too_large, small, AIM * target, best is not None)
        cut = ranking.reach(expected, least + 1, most if best is None else most - 1)
        keep = ranking.keep(cut)
        share = files(keep)
        point = (ranking.expected(cut), share)
        if share > target:
            least = cut
            too_large = point
        else:
            most, small, best = cut, point, keep
            if share >= NEAR * target:
                break
    if best is None:
        raise ValueError(
            f"{target:.1%} {what} cannot be reached: with the fewest units that may stay, "
            f"{too_large[1]:.1%} were measured. Raise `share`, or choose more layers or a "
            "pattern that keeps less."
        )
    return best


def _along(first: tuple[float, float], last: tuple[float, float], aim: float) -> float:
    """Where a line through two measurements, both too large, comes to the aim."""
    (x_first, y_first), (x, y) = first, last
    return x - (y - aim) * (x_first - x) / max(y_first - y, 1e-9)


def _between(
    too_large: tuple[float, float], small: tuple[float, float], aim: float, known: bool
) -> float:
    """Where a line between the two comes to the aim; at its ends only if one was not measured."""
    (x, y), (x_small, y_small) = too_large, small
    guess = x_small + (aim - y_small) * (x - x_small) / max(y - y_small, 1e-9)
    margin = NARROWED * (x - x_small)
    return min(max(guess, x_small + margin if known else x_small), x - margin)
