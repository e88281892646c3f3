"""The criterion that cuts until a share of the multiply-adds is left."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from keras_hoyer._checks import check_choice, check_number
from keras_hoyer._literals import Scope
from keras_hoyer._values import serializable
from keras_hoyer.criteria.base import Criterion, FlopsLeft, UnitScores
from keras_hoyer.criteria.ranking import places


@serializable
@dataclass(frozen=True)
class TargetFlops(Criterion):
    """Cuts the channels of the smallest scores until a share of the multiply-adds is left.

    Of the channels in the order of their scores, as few are cut as reach the target; those among
    them that still fit within it come back, the best first. Equal scores are cut as
    `TargetSparsity` cuts them. The multiply-adds are those of the whole model, as `count_flops`
    counts them. Goes with `patterns.Channel`.

    Args:
        fraction: Float in `(0, 1)`: share of the model's multiply-adds that is left.
        scope: `"global"` ranks all channels together; `"layer"` takes the same share of each set
            of coupled channels, which is the safer choice for a small share. Defaults to
            `"global"`.

    Raises:
        ValueError: If an argument is out of its range, or the pattern is not `Channel`; when
            cutting, if the target cannot be reached without emptying a layer.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(64), keras.layers.Dense(64),
    ...      keras.layers.Dense(4)])
    >>> report = kh.prune(model, kh.criteria.TargetFlops(0.5), kh.patterns.Channel())
    >>> small = kh.shrink(model)
    >>> 0.45 < sum(kh.count_flops(small).values()) / sum(kh.count_flops(model).values()) <= 0.5
    True
    """

    fraction: float
    scope: Scope = "global"

    counts_flops = True

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, get_args(Scope))
        check_number(
            "fraction", self.fraction, "a number between 0 and 1", lambda value: 0 < value < 1
        )

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        """Returns what stays when `progress` of the way to the target has been gone."""
        if flops is None:
            raise ValueError("`TargetFlops` needs the multiply-adds: argument `flops` is missing.")
        scores = [entry.relative for entry in units]
        target = 1 - (1 - self.fraction) * progress
        ranks = scores if self.scope == "global" else [places(values) for values in scores]
        order = np.argsort(np.concatenate(ranks), kind="stable")
        sizes = [values.size for values in scores]
        layer = np.repeat(np.arange(len(sizes)), sizes)

        def counts(cut: int) -> np.ndarray:
            return np.bincount(layer[order[cut:]], minlength=len(sizes))

        _check_reachable(target, flops(counts(order.size)), flops)
        cut = bisect.bisect_left(range(order.size), True, key=lambda n: flops(counts(n)) <= target)
        stay = np.ones(order.size, bool)
        stay[order[:cut]] = False
        kept, full = counts(cut), np.zeros(len(sizes), bool)
        alive = np.concatenate(scores) > 0
        for unit in order[:cut][::-1]:
            # One channel of a layer takes as much as any other of it.
            if alive[unit] and not full[layer[unit]]:
                kept[layer[unit]] += 1
                stay[unit] = flops(kept) <= target
                if not stay[unit]:
                    kept[layer[unit]] -= 1
                    full[layer[unit]] = True
        return np.split(stay, np.cumsum(sizes)[:-1])


def _check_reachable(target: float, fewest: float, flops: FlopsLeft) -> None:
    if fewest > target:
        fixed = getattr(flops, "fixed", "")
        reason = f" No cut can reach: {fixed}." if fixed else ""
        raise ValueError(
            f"{target:.1%} of the multiply-adds cannot be reached: with the fewest channels "
            f"that may stay, {fewest:.1%} are left.{reason} Raise `fraction`, or choose more "
            "layers or a smaller `min_channels`."
        )
