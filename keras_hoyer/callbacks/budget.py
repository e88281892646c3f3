"""Cutting as far as a budget of accuracy allows: no factor, threshold or target to search for."""

import math
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_hoyer import masks, pruning
from keras_hoyer.attach import remove_penalties
from keras_hoyer.criteria import Criterion, FlopsLeft, TargetSparsity, UnitScores
from keras_hoyer.patterns import NByM, Pattern, Unstructured
from keras_hoyer.reports import count_nonzero
from keras_hoyer.units import find_units
from keras_hoyer.weights import LayerSelection, find_kernels, find_weights, refresh_compiled


class BudgetPruning(keras.callbacks.Callback):
    """Cuts during `fit` for as long as a watched metric stays within a budget.

    Round by round the smallest units of all kernels are cut, a share of those that are left. A
    round is over as soon as the metric is within the budget again. If it is not after `patience`
    epochs, the weights and masks of before the round come back and the share is halved; when it
    falls below `min_step`, this package's penalties are taken off and `fit` stops. So `epochs` is
    only a limit, and the model ends with the last weights that were within the budget. Fine-tune
    them with a further call of `fit`, with a learning rate that decays to 0.

    Penalties stay on while there is something to cut, which leaves better weights than cutting
    without. Epoch logs get `sparsity`, the share of zero weights.

    Args:
        budget: Float, 0 or more: how much worse than `baseline` the metric may be, in its own unit.
            0.002 of an accuracy is 0.2 points.
        baseline: Float: value of the metric to compare with. Defaults to `None`: the best value
            before the first cut, which measures what the cuts cost. A dense model's value asks for
            more: penalties, and a learning rate that has not decayed yet, cost accuracy as well,
            and only fine-tuning gives that back.
        monitor: Name of the metric in the epoch logs. Defaults to `"val_accuracy"`. Choose one of
            validation data: what is measured on training data says little of what cuts cost. A
            loss counts the penalties in.
        mode: `"max"` if more is better, `"min"` if less is. Defaults to `"auto"`: `"min"` for names
            that contain "loss" or "error".
        begin: Number of epochs before the first cut, for sparse training. Defaults to 0.
        step: Float in `(0, 1)`: share of the units left that the first round cuts. Defaults to 0.3.
        min_step: Positive float, at most `step`. Defaults to 0.05.
        patience: Number of epochs a round may take. Defaults to 3.
        pattern: What is cut together: a pattern of `keras_hoyer.patterns`. Defaults to
            `Unstructured()`.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.

    Raises:
        ValueError: If an argument is of the wrong kind or out of its range; at the start of `fit`,
            if a layer name does not exist or the pattern does not divide a kernel; after the first
            epoch, if there is no metric of that name.

    >>> import keras_hoyer as kh
    >>> x = np.random.default_rng(0).normal(size=(256, 20)).astype("float32")
    >>> y = x[:, :1]  # one weight of the twenty would do
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(keras.optimizers.Adam(0.05), "mse")
    >>> data = {"x": x, "y": y, "validation_data": (x, y)}
    >>> cut = kh.callbacks.BudgetPruning(
    ...     budget=0.01, baseline=0.0, monitor="val_loss", begin=20, step=0.5, min_step=0.4
    ... )
    >>> history = model.fit(**data, epochs=60, verbose=0, callbacks=[cut])
    >>> kh.report(model).nonzero
    1
    """

    def __init__(
        self,
        budget: float,
        baseline: float | None = None,
        monitor: str = "val_accuracy",
        *,
        mode: str = "auto",
        begin: int = 0,
        step: float = 0.3,
        min_step: float = 0.05,
        patience: int = 3,
        pattern: Pattern = Unstructured(),  # noqa: B008  (immutable)
        layers: LayerSelection = None,
    ) -> None:
        super().__init__()
        _check_number("budget", budget, "a number, 0 or more", lambda value: value >= 0)
        if baseline is not None:
            _check_number("baseline", baseline, "a finite number, or `None`", np.isfinite)
        if mode not in ("auto", "max", "min"):
            raise ValueError(
                'Invalid value for argument `mode`. Expected "auto", "max" or "min". '
                f"Received: mode={mode!r}"
            )
        _check_count("begin", begin, 0)
        if begin == 0 and baseline is None:
            raise ValueError(
                "Invalid value for argument `baseline`. Expected a number: with `begin=0` there is "
                "no epoch before the first cut to compare with. Received: baseline=None"
            )
        _check_number("step", step, "a number between 0 and 1", lambda value: 0 < value < 1)
        _check_number(
            "min_step", min_step, f"a number above 0, at most {step}", lambda v: 0 < v <= step
        )
        _check_count("patience", patience, 1)
        pruning.check_choices(TargetSparsity(0.0), pattern)
        if isinstance(pattern, NByM):
            raise ValueError(
                "Invalid value for argument `pattern`. Expected one whose share of zeros can be "
                f"chosen: N:M patterns fix it. Received: pattern={pattern!r}"
            )
        self.budget = budget
        self.baseline = baseline
        self.monitor = monitor
        self.mode = ("min" if _smaller_is_better(monitor) else "max") if mode == "auto" else mode
        self.begin = begin
        self.step = step
        self.min_step = min_step
        self.patience = patience
        self.pattern = pattern
        self.layers = layers

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks what can be checked before time is spent."""
        self._kernels = find_kernels(self.model, self.layers)
        self._units = find_units(self.model, self.pattern, self.layers)
        self._best = self.baseline
        self._step = self.step
        self._accepted = None
        self._left = self._count()
        self._epochs_in_round = 0
        self._rounds = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Cuts if a round begins with this epoch."""
        if epoch >= self.begin and self._epochs_in_round == 0:
            if self._best is None:
                raise ValueError(
                    f"There is nothing to compare with: this call of `fit` starts at epoch {epoch} "
                    f"and the first cut is due after {self.begin}. Give `baseline` a number."
                )
            self._accepted = self._accepted or _State(self.model)
            pruning.cut(self.model, self._units, _ShareOfRest(self._step))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Judges the round, and writes `sparsity` into the logs."""
        logs = {} if logs is None else logs
        value = self._metric(logs)
        if epoch < self.begin:
            if self.baseline is None and (self._best is None or self._excess(value) < 0):
                self._best = value
        else:
            self._epochs_in_round += 1
            if self._excess(value) <= self.budget:
                self._accepted = _State(self.model)
                self._epochs_in_round = 0
                self._rounds += 1
                # A last unit is not cut: then there is nothing left to do.
                before, self._left = self._left, self._count()
                self.model.stop_training |= self._left == before
            elif self._epochs_in_round >= self.patience:
                self._restore()
                self._step /= 2
                self.model.stop_training |= self._step < self.min_step
        total = sum(math.prod(kernel.shape) for kernel in self._kernels)
        logs["sparsity"] = 1 - self._count() / total

    def on_train_end(self, logs: dict | None = None) -> None:
        """Ends with the last weights within the budget, and takes penalties off."""
        if self._accepted is None:
            return
        if self._epochs_in_round:
            self._restore()
        if self._rounds == 0:
            warnings.warn(
                f"Nothing was pruned: `{self.monitor}` was not within {self.budget} of "
                f"{self._best:.6g} after any cut. Allow a larger budget or more patience, or train "
                "with a smaller penalty before.",
                stacklevel=2,
            )
        if remove_penalties(self._kernels):
            refresh_compiled(self.model)

    def _count(self) -> int:
        return sum(map(count_nonzero, self._kernels))

    def _metric(self, logs: dict) -> float:
        if self.monitor not in logs:
            raise ValueError(
                f"Invalid value for argument `monitor`. Expected one of {sorted(logs)}; names that "
                'begin with "val_" need `validation_data` in every epoch of `fit`. Received: '
                f"monitor={self.monitor!r}"
            )
        return float(logs[self.monitor])

    def _excess(self, value: float) -> float:
        """How much worse a value is than the best; positive is worse."""
        return self._best - value if self.mode == "max" else value - self._best

    def _restore(self) -> None:
        self._accepted.restore(self.model)
        self._epochs_in_round = 0


class _ShareOfRest(Criterion):
    """Cuts a share of the units that are left."""

    def __init__(self, share: float) -> None:
        self.share = share

    def keep(
        self,
        units: Sequence[UnitScores],
        progress: float = 1.0,
        flops: FlopsLeft | None = None,
    ) -> list[np.ndarray]:
        """Returns what stays."""
        total = sum(entry.values.size for entry in units)
        left = sum(int(np.count_nonzero(entry.values)) for entry in units)
        # At least one goes, or a round on a few units would change nothing; and one stays.
        stay = max(1, left - max(1, round(self.share * left)))
        return TargetSparsity(1 - stay / total).keep(units)


class _State:
    """Weights and masks of a model, to go back to."""

    def __init__(self, model: keras.Model) -> None:
        self.values = model.get_weights()
        self.masks = {id(w.variable): masks.known_mask(w) for w in find_weights(model)}

    def restore(self, model: keras.Model) -> None:
        """Puts them back."""
        model.set_weights(self.values)
        masked = {}
        for weight in find_weights(model):
            mask = self.masks[id(weight.variable)]
            if masks.known_mask(weight) is not None:
                masked[weight] = np.ones(weight.shape, bool) if mask is None else mask
        masks.apply_masks(model, masked)


def _smaller_is_better(monitor: str) -> bool:
    return "loss" in monitor or "error" in monitor


def _check_number(name: str, value: object, expected: str, valid: Callable) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or not valid(value):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={value!r}"
        )


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an integer, {least} or more. "
            f"Received: {name}={value!r}"
        )
