"""Cutting as far as a budget of accuracy allows: no factor, threshold or target to search for."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from keras_hoyer import pruning
from keras_hoyer._checks import check_choice, check_count, check_number, warn
from keras_hoyer.attach import remove_penalties
from keras_hoyer.callbacks.accepted import AcceptedState, Progress, file_beside_backup
from keras_hoyer.callbacks.base import CuttingCallback, Logs
from keras_hoyer.criteria import Criterion, TargetSparsity, UnitScores
from keras_hoyer.criteria.base import FlopsLeft
from keras_hoyer.patterns import Pattern, Unstructured
from keras_hoyer.plain import LayerSelection
from keras_hoyer.scores import Magnitude, Score
from keras_hoyer.units import find_units
from keras_hoyer.weights import refresh_compiled

# Parts of the names of metrics of which more is better, and of which less is.
_LARGER: tuple[str, ...] = (
    *("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "dice", "score", "r2"),
    *("similarity", "bleu", "specificity", "sensitivity", "map"),
)
_SMALLER: tuple[str, ...] = (
    *("loss", "error", "mse", "mae", "mape", "msle", "perplexity", "crossentropy"),
    *("hinge", "divergence", "poisson", "deviation"),
)

# Shares, not percentages: a budget above this of one of them is hardly meant.
_LARGE_BUDGET = 0.05


class BudgetPruning(CuttingCallback):
    """Cuts during `fit` for as long as a watched metric stays within a budget.

    Round by round the smallest units of all kernels are cut, a share of those that are left. A
    round is over as soon as the metric is within the budget again. If it is not after `patience`
    epochs, the weights and masks of before the round come back and the share is halved; when it
    falls below `min_step`, this package's penalties are taken off and `fit` stops. So `epochs` is
    only a limit, and the model ends with the last weights that were within the budget. Fine-tune
    them with a further call of `fit`, with a learning rate that decays to 0.

    Penalties stay on while there is something to cut, which leaves better weights than cutting
    without. Epoch logs get `sparsity`, the share of zero weights, and where channels are cut
    `flops`, the multiply-adds that `shrink` would leave.

    Training that stops and goes on: with `keras.callbacks.BackupAndRestore` beside this callback,
    its state is kept in the same folder, and the model ends within the budget as if nothing had
    been. Resumed from weights alone, nothing more is cut until the metric is within the budget.

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
        mode: `"max"` if more is better, `"min"` if less is. Defaults to `"auto"`: by the name, as
            far as it is one that Keras uses.
        begin: Number of epochs before the first cut, for sparse training. Defaults to `None`: until
            the metric has not become better for `patience` epochs; 0 if `baseline` is given.
        step: Float in `(0, 1)`: share of the units left that the first round cuts. Defaults to 0.3.
        min_step: Positive float, at most `step`. Defaults to 0.05.
        patience: Number of epochs a round may take. Defaults to 3.
        pattern: What is cut together: a pattern of `keras_hoyer.patterns`. Defaults to
            `Unstructured()`.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.
        score: How much a weight matters: a score of `keras_hoyer.scores`, taken anew for each cut.
            Defaults to `Magnitude()`.
        verbose: 1 prints a line at each cut, as Keras' own callbacks do. Defaults to 0.

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
        mode: Literal["auto", "max", "min"] = "auto",
        begin: int | None = None,
        step: float = 0.3,
        min_step: float = 0.05,
        patience: int = 3,
        pattern: Pattern = Unstructured(),  # noqa: B008  (immutable)
        layers: LayerSelection = None,
        score: Score = Magnitude(),  # noqa: B008  (immutable)
        verbose: int = 0,
    ) -> None:
        super().__init__(layers, verbose)
        check_choice("mode", mode, ("auto", "max", "min"))
        mode = _direction(monitor) if mode == "auto" else mode
        _check_budget(budget, baseline, monitor)
        _check_begin(begin, baseline)
        check_number("step", step, "a number between 0 and 1", lambda value: 0 < value < 1)
        check_number(
            "min_step", min_step, f"a number above 0, at most {step}", lambda v: 0 < v <= step
        )
        check_count("patience", patience, 1)
        pruning.check_choices(TargetSparsity(0.0), pattern, score)
        _check_share_is_free(pattern)
        self.budget = budget
        self.baseline = baseline
        self.monitor = monitor
        self.mode = mode
        self.begin = 0 if begin is None and baseline is not None else begin
        self.step = step
        self.min_step = min_step
        self.patience = patience
        self.pattern = pattern
        self.score = score

    def on_train_begin(self, logs: Logs = None) -> None:
        """Checks what can be checked before time is spent."""
        super().on_train_begin(logs)
        self._units = find_units(self.model, self.pattern, self.layers, self.score)
        self._file = file_beside_backup()
        self._accepted: AcceptedState | None = None
        self._first_epoch: int | None = None
        self._progress = Progress(
            begin=self.begin, best=self.baseline, step=self.step, left=self._count_nonzero()
        )
        epochs = (self.params or {}).get("epochs")
        self._announced = not (self.begin is None or epochs is None or self.begin < epochs)
        if self._announced:
            warn(
                f"Nothing will be pruned in this call of `fit`: the first cut is due after "
                f"{self.begin} epochs, and the call ends after {epochs}. Choose a smaller `begin`."
            )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Cuts if a round begins with this epoch."""
        if self._first_epoch is None:
            self._first_epoch = epoch
            self._resume(epoch)
        state = self._progress
        if state.begin is None or epoch < state.begin or state.epochs_in_round:
            return
        if state.best is None:
            raise ValueError(
                f"There is nothing to compare with: this call of `fit` starts at epoch {epoch} "
                f"and the first cut is due after {state.begin}. Give `baseline` a number."
            )
        self._accepted = self._accepted or AcceptedState.of(self.model)
        pruning.cut(self.model, self._units, _ShareOfRest(state.step), tentative=True)
        self.note_cut(epoch)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Judges the round, and writes what is left into the logs."""
        logs = {} if logs is None else logs
        value = self._metric(logs)
        state = self._progress
        if state.begin is None or epoch < state.begin:
            self._train_sparsely(epoch, value)
        else:
            state.epochs_in_round += 1
            if self._excess(value) <= self.budget:
                self._accept()
            elif state.epochs_in_round >= self.patience and self._accepted is not None:
                self._restore()
                state.step /= 2
                self.model.stop_training |= state.step < self.min_step
        if self._file is not None:
            state.save(self._file, epoch + 1, self._accepted)
        self.write_sparsity(logs)

    def on_train_end(self, logs: Logs = None) -> None:
        """Ends with the last weights within the budget, and takes penalties off."""
        state = self._progress
        if self._accepted is not None:
            if state.epochs_in_round:
                self._restore()
            if remove_penalties(self._kernels):
                refresh_compiled(self.model)
        super().on_train_end(logs)

    def look_back(self, best_before_cut: list[str]) -> None:
        """Says what was not pruned, or not within the budget, or was undone."""
        state = self._progress
        if self._accepted is None and state.epochs_in_round:
            warn(
                f"`{self.monitor}` was not within {self.budget} of {state.best:.6g} after training "
                "had been resumed, and there are no earlier weights to go back to: the model is "
                "outside the budget. Train on, or resume with `keras.callbacks.BackupAndRestore`, "
                "beside which this callback keeps its state."
            )
        elif self._accepted is None and not self._announced:
            due = "the metric still became better" if state.begin is None else f"due: {state.begin}"
            warn(
                f"Nothing was pruned: `fit` ended before the first cut ({due}). Train for more "
                "epochs, or choose `begin`."
            )
        elif self._accepted is not None and state.rounds == 0:
            warn(
                f"Nothing was pruned: `{self.monitor}` was not within {self.budget} of "
                f"{state.best:.6g} after any cut. Allow a larger budget or more patience, or train "
                "with a smaller penalty before."
            )
        super().look_back(best_before_cut)

    def _resume(self, epoch: int) -> None:
        """Goes on with what was kept beside a backup, or carefully without."""
        kept = None if self._file is None else Progress.load(self._file, epoch, self.model)
        if kept is not None:
            self._progress, self._accepted = kept
            if self._progress.epochs_in_round:
                pruning.adopt_zeros(self.model, self._units)
            elif self._accepted is not None:
                self._restore()
            return
        begun = epoch > (self.begin or 0) and pruning.adopt_zeros(self.model, self._units)
        if begun and self._progress.best is not None:
            # Nobody knows whether these weights are within the budget: as if a round had begun.
            self._progress.begin = min(epoch, epoch if self.begin is None else self.begin)
            self._progress.epochs_in_round = 1
            self._progress.left = None

    def _train_sparsely(self, epoch: int, value: float) -> None:
        """An epoch before the first cut: the best value, and whether it still becomes better."""
        state = self._progress
        worse = state.seen is not None and (
            value <= state.seen if self.mode == "max" else value >= state.seen
        )
        if not worse:
            state.seen, state.seen_epoch = value, epoch
            if self.baseline is None:
                state.best = value
        if state.begin is None and epoch - state.seen_epoch >= self.patience:
            state.begin = epoch + 1

    def _accept(self) -> None:
        state = self._progress
        self._accepted = AcceptedState.of(self.model)
        state.epochs_in_round = 0
        state.rounds += 1
        # A last unit is not cut: then there is nothing left to do.
        before, state.left = state.left, self._count_nonzero()
        self.model.stop_training |= state.left == before

    def _restore(self) -> None:
        assert self._accepted is not None  # before the first cut
        self._accepted.restore(self.model)
        self._progress.epochs_in_round = 0

    def _metric(self, logs: dict[str, Any]) -> float:
        if self.monitor not in logs:
            raise ValueError(
                f"Invalid value for argument `monitor`. Expected one of {sorted(logs)}; names that "
                'begin with "val_" need `validation_data` in every epoch of `fit`. Received: '
                f"monitor={self.monitor!r}"
            )
        return float(logs[self.monitor])

    def _excess(self, value: float) -> float:
        """How much worse a value is than the best; positive is worse."""
        best = self._progress.best
        assert best is not None  # since the first cut
        return best - value if self.mode == "max" else value - best


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


def _direction(monitor: str) -> Literal["max", "min"]:
    """Whether more or less of a metric is better, by its name."""
    if any(part in monitor for part in _SMALLER):
        return "min"
    if any(part in monitor for part in _LARGER):
        return "max"
    raise ValueError(
        'Invalid value for argument `mode`. Expected "max" or "min": whether more or less of '
        f"`{monitor}` is better cannot be told by its name. Received: mode='auto'"
    )


def _check_begin(begin: int | None, baseline: float | None) -> None:
    if begin is not None:
        check_count("begin", begin, 0)
    if begin == 0 and baseline is None:
        raise ValueError(
            "Invalid value for argument `baseline`. Expected a number: with `begin=0` there is no "
            "epoch before the first cut to compare with. Received: baseline=None"
        )


def _check_share_is_free(pattern: Pattern) -> None:
    if pattern.max_sparsity < 1:
        raise ValueError(
            "Invalid value for argument `pattern`. Expected one whose share of zeros can be "
            f"chosen: N:M patterns fix it. Received: pattern={pattern!r}"
        )


def _check_budget(budget: float, baseline: float | None, monitor: str) -> None:
    check_number("budget", budget, "a number, 0 or more", lambda value: value >= 0)
    if baseline is not None:
        check_number("baseline", baseline, "a finite number, or `None`")
    # Points in place of shares are the slip that a budget invites.
    share = any(part in monitor for part in _LARGER) and (baseline is None or abs(baseline) <= 1)
    if share and budget >= 1:
        raise ValueError(
            f"Invalid value for argument `budget`. Expected it in the unit of `{monitor}`, a share "
            f"between 0 and 1: {budget:g} points are {budget / 100:g}. Received: budget={budget!r}"
        )
    if share and budget > _LARGE_BUDGET:
        warn(
            f"`budget={budget:g}` lets `{monitor}` fall by {100 * budget:g} points: it counts in "
            f"the metric's own unit. If {budget:g} points were meant, that is "
            f"`budget={budget / 100:g}`."
        )
