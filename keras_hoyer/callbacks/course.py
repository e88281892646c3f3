"""How strong a penalty has to be for its effective number to come to an aim in time: numbers alone.

While a net trains with the factor `f` of Hoyer-Square at a learning rate `r`, the inverse `1 / E`
of the effective number grows by about `sqrt(f * r)` an epoch, times a number that depends on the
net and its task. That is measured on the way, and tells the factor for the epochs that are left.
"""

import math
from collections.abc import Sequence

import numpy as np

# `E * sqrt(f) * steps` came to 160 to 300 times the root of the number of units, with MLPs, CNNs
# and an LSTM of 11,000 to 266,000 weights that were trained with Adam, and to 470 times with a
# transformer; the steps of an epoch count as the root of its learning rate does.
_DRIVE = 200.0

# The factor begins no higher than the first, and rises to no more than so many times what it began
# with: more would only spoil what cannot be made in time.
_HIGHEST, _RISE = 2e-2, 30.0

# What the factor is at most multiplied or divided with in so many steps at the highest learning
# rate, or in an epoch. At low rates it could change the net no more.
_MOST, _STEPS = 1.4, 250

# What is left of an epoch's measurement after the next one.
_MEMORY = 0.8


def first_factor(aim: float, units: int, steps: int, rates: Sequence[float]) -> float:
    """The factor to begin with.

    Args:
        aim: What the effective number should come to.
        units: Number of all units.
        steps: Number of steps of an epoch.
        rates: Learning rates of the epochs that are left, the highest being 1.
    """
    root = _DRIVE * math.sqrt(units) / (max(aim, 1.0) * max(steps * _drive(rates), 1.0))
    return float(min(_HIGHEST, root**2))


class Course:
    """The factor from epoch to epoch.

    Args:
        factor: The factor to begin with, a positive float.
        effective: The effective number at the beginning.
        steps: Number of steps of an epoch.
    """

    def __init__(self, factor: float, effective: float, steps: int) -> None:
        self.factor = factor
        self._ceiling = _RISE * factor
        self._most: float = _MOST ** min(1.0, steps / _STEPS)
        self._inverse = _inverse(effective)
        self._driven = self._gained = 0.0
        self._first = True

    def follow(self, effective: float, aim: float, rates: Sequence[float]) -> float:
        """The factor for the next epoch.

        Args:
            effective: The effective number after the epoch that is over.
            aim: What it should come to.
            rates: Learning rates of that epoch and of those that are left, the highest being 1.
        """
        rate, *left = rates
        if self._first:  # a net that was dense, or is new, goes at another pace
            self._first, self._inverse = False, _inverse(effective)
            return self.factor
        self._driven = _MEMORY * self._driven + math.sqrt(self.factor * rate)
        self._gained = _MEMORY * self._gained + _inverse(effective) - self._inverse
        self._inverse = _inverse(effective)
        if left:
            changed = self.factor * self._change(_inverse(aim) - self._inverse, left)
            self.factor = min(changed, self._ceiling)
        return self.factor

    def _change(self, need: float, left: Sequence[float]) -> float:
        """What to multiply the factor with, to gain `need` in the epochs that are left."""
        most: float = self._most ** left[0]
        if need <= 0:
            return 1 / most
        if self._gained <= 0 or sum(left) <= 0:
            return most
        root = self._driven / self._gained * need / _drive(left)
        return float(np.clip(root**2 / self.factor, 1 / most, most))


def _drive(rates: Sequence[float]) -> float:
    """How far epochs at these learning rates go, at a factor of 1."""
    return sum(map(math.sqrt, rates))


def _inverse(effective: float) -> float:
    return 1 / max(effective, 1.0)
