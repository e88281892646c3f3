"""The factor that follows from the target: penalties with `factor="auto"` while `fit` runs.

Hoyer-Square's value is the effective number of weights, and a cut is nearly free where a few times
that many stay. So the factor is set such that the number comes to a share of what the criterion
will keep, by the time of the cut.
"""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_hoyer._checks import warn
from keras_hoyer._keras import (
    all_of,
    hold_beside_weights,
    learning_rate_now,
    planned_rates,
    release_beside_weights,
)
from keras_hoyer._literals import Scope
from keras_hoyer.callbacks.accepted import file_beside_backup
from keras_hoyer.callbacks.course import Course, first_factor
from keras_hoyer.criteria import Criterion
from keras_hoyer.criteria.effective import effective_number
from keras_hoyer.units import ModelUnits
from keras_hoyer.weights import Weight, refresh_compiled

# How many times the effective number of units a cut should keep: as `EffectiveNumber` does. What
# the penalty itself costs grows as fewer units stay, and fine-tuning brings less of that back than
# of what the cut costs: where they are less than `_FEW` of all, the cut comes nearer to the number.
_RATIO, _RATIO_OF_FEW, _FEW = 6.0, 4.0, 0.01

# Under what share of that ratio the cut comes too early.
_EARLY = 2 / 3

# Steps of an epoch, where nobody knows.
_STEPS = 500

_FILE = "keras_hoyer_factor.json"
_OWNER = "factor"


@dataclasses.dataclass(frozen=True)
class Amount:
    """How many units there are, those left out that must stay.

    Attributes:
        effective: The effective number, by magnitude.
        kept: How many of them the criterion would keep.
        units: How many there are.
    """

    effective: float
    kept: int
    units: int

    @property
    def ratio(self) -> float:
        """How many times the effective number should be kept."""
        return _RATIO_OF_FEW if self.kept < _FEW * self.units else _RATIO

    @property
    def aim(self) -> float:
        """What the effective number should come to."""
        return self.kept / self.ratio


class Steering:
    """Sets the factors of the penalties with `factor="auto"` on the kernels that are to be cut.

    Args:
        model: The model in training.
        units: What is to be cut.
        criterion: How much of it.
        due: Epoch of the last cut.

    Raises:
        ValueError: If the criterion does not say how much is to stay.
    """

    def __init__(
        self, model: keras.Model, units: ModelUnits, criterion: Criterion, due: float
    ) -> None:
        if not criterion.fixes_amount:
            raise ValueError(
                "Invalid value for argument `criterion`. With a penalty whose factor is 'auto', "
                "expected a criterion that says how much is to stay, such as `TargetSparsity(0.9)`,"
                " from which the factor follows; or give the penalty a number. "
                f"Received: criterion={criterion!r}"
            )
        self.model = model
        self.units = units
        self.criterion = criterion
        self.due = due
        self.kernels = [kernel for kernel in units.kernels if is_steered(kernel.variable)]
        self._course: Course
        self._begun = 0.0
        self._first = 0
        self._planned: list[float] = []
        self._highest = 0.0

    def amount(self) -> Amount:
        """The units now: by magnitude, as the penalty sees them, whatever score is to cut them."""
        scores = [entry.score() for entry in self.units]
        keep = self.criterion.keep(scores, 1.0, self.units.flops)
        keep = self.units.restrict(keep, scores)
        free = [np.isfinite(entry.values) for entry in scores]
        kept = sum(int((stay & may).sum()) for stay, may in zip(keep, free, strict=True))
        scope: Scope = getattr(self.criterion, "scope", "global")
        units = sum(int(may.sum()) for may in free)
        return Amount(effective_number(scores, scope), max(kept, 1), units)

    def begin(self, epoch: int, steps: int | None) -> None:
        """Sets the factor before the first epoch, or as it was when training stopped."""
        steps = steps or _STEPS
        amount = self.amount()
        self._first = epoch
        epochs = max(math.ceil(self.due) - epoch, 0)
        self._planned = planned_rates(self.model.optimizer, steps, epochs)
        factor = self._resumed(epoch, amount) if epoch else None
        if factor is None:
            factor = first_factor(amount.aim, amount.units, steps, self._rates(epoch))
        self._begun = factor
        self._course = Course(factor, amount.effective, steps)
        self._set(amount)

    def adjust(self, epoch: int, logs: dict[str, Any]) -> None:
        """Sets the factor for the epochs that are left when `epoch` are over, and logs it."""
        amount = self.amount()
        logs["effective_number"] = amount.effective
        logs["factor"] = self._factors(amount)[0]
        self._course.follow(amount.effective, amount.aim, self._rates(epoch - 1))
        self._set(amount)
        self._save(epoch)

    def judge(self) -> None:
        """Warns where the cut that is due comes before the effective number has fallen."""
        amount = self.amount()
        if amount.kept >= _EARLY * amount.ratio * amount.effective:
            return
        warn(
            f"The sparse phase was too short for this cut: it keeps {amount.kept:,} of "
            f"{amount.units:,} units, {amount.kept / amount.effective:.1f} times their effective "
            f"number of {amount.effective:,.0f}, though the factor went from {self._begun:.2g} to "
            f"{self._course.factor:.2g}. A cut that costs little keeps about {amount.ratio:g} "
            "times that number. Train for more epochs before the cut, at a learning rate that "
            "decays late; cut little by little, with `schedules.Polynomial`; or keep more, about "
            f"{min(_RATIO * amount.effective, amount.units):,.0f}."
        )

    def _rates(self, epoch: int) -> list[float]:
        """The learning rate of the epochs from `epoch` to the cut, the highest being 1."""
        if self._planned:
            rates = self._planned[epoch - self._first :]
        else:  # a callback may change it: nobody knows what is to come
            rates = [learning_rate_now(self.model.optimizer)] * max(math.ceil(self.due) - epoch, 0)
        self._highest = max([self._highest, *rates])
        return [rate / self._highest if self._highest else 1.0 for rate in rates]

    def _set(self, amount: Amount) -> None:
        stale = False
        for kernel, value in zip(self.kernels, self._factors(amount), strict=True):
            stale |= kernel.variable.regularizer.steered.set(value)
        if stale:
            refresh_compiled(self.model)

    def _factors(self, amount: Amount) -> list[float]:
        """The factor of each kernel's penalty."""
        return [self._scale(kernel, amount) * self._course.factor for kernel in self.kernels]

    def _scale(self, kernel: Weight, amount: Amount) -> float:
        """What the factor of a kernel's penalty is in proportion to."""
        scale: float = kernel.variable.regularizer.steering_scale(amount.aim / len(self.kernels))
        return scale

    def _resumed(self, epoch: int, amount: Amount) -> float | None:
        """The factor that training had come to before `epoch`."""
        kernel = self.kernels[0]
        known = kernel.variable.regularizer.steered.value
        file = file_beside_backup(_FILE)
        if known is None and file is not None and file.is_file():
            stored = json.loads(file.read_text())
            known = (
                stored["factors"].get(kernel.path) if abs(stored["epoch"] - epoch) <= 1 else None
            )
        if known is None:
            warn(
                f"Training goes on at epoch {epoch}, but weights alone do not tell what the factor "
                "of the penalty had come to: it is set anew. Go on with "
                "`keras.callbacks.BackupAndRestore`, or with the whole model from a file."
            )
            return None
        return float(known) / self._scale(kernel, amount)

    def _save(self, epoch: int) -> None:
        """Keeps the factors beside Keras' own backup."""
        file = file_beside_backup(_FILE)
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        factors = {k.path: k.variable.regularizer.steered.value for k in self.kernels}
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"epoch": epoch, "factors": factors}))
        os.replace(part, file)


def is_steered(variable: keras.Variable) -> bool:
    """Whether a weight has a penalty whose factor is set by a callback."""
    return getattr(getattr(variable, "regularizer", None), "steered", None) is not None


def hold_factors(model: keras.Model) -> None:
    """Has the compiled step of a model read the factors that are set while it runs."""
    if keras.backend.backend() == "jax":
        factors = [v.regularizer.steered.variable for v in model.variables if is_steered(v)]
        hold_beside_weights(model, list({id(f): f for f in factors}.values()), _OWNER)


def release_factors(model: keras.Model) -> None:
    """Lets go of what `hold_factors` held."""
    release_beside_weights(model, _OWNER)


def steering_of(
    model: keras.Model, units: ModelUnits, criterion: Criterion, due: float
) -> Steering | None:
    """What steers the penalties of a model; `None` if there is nothing to steer.

    Raises:
        ValueError: If a penalty cannot be steered.
    """
    for layer in all_of(model):
        penalty = getattr(layer, "activity_regularizer", None)
        if getattr(penalty, "steered", None) is not None:
            raise ValueError(
                "Invalid value for argument `factor`. Expected a number for a penalty on outputs: "
                "'auto' follows from how many weights or channels are to stay. Received: "
                f"activity_regularizer={penalty!r} for layer '{layer.name}'"
            )
    if not any(is_steered(kernel.variable) for kernel in units.kernels):
        return None
    return Steering(model, units, criterion, due)


def check_covered(model: keras.Model, kernels: Sequence[Weight]) -> None:
    """Raises a `ValueError` if a penalty is to be steered whose kernel nothing cuts.

    Args:
        model: The model in training.
        kernels: Those that the callbacks of `fit` are about to cut.
    """
    known = {id(kernel.variable) for kernel in kernels}
    left = [v.path for v in model.variables if is_steered(v) and id(v) not in known]
    if left:
        raise ValueError(
            f"The penalties of {', '.join(left)} have factor='auto', but no callback cuts these "
            "weights, so nothing says how many are to stay. Choose them with `layers` of "
            "`callbacks.Pruning`, or give their penalty a number."
        )
