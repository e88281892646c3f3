"""Pruning inside `model.fit`."""

import math

import keras

from keras_hoyer import pruning
from keras_hoyer._checks import warn
from keras_hoyer._keras import running_callbacks
from keras_hoyer.attach import remove_penalties
from keras_hoyer.callbacks.base import CuttingCallback, Logs
from keras_hoyer.callbacks.steering import (
    Steering,
    check_covered,
    hold_factors,
    release_factors,
    steering_of,
)
from keras_hoyer.criteria import Criterion
from keras_hoyer.patterns import Pattern, Unstructured
from keras_hoyer.plain import LayerSelection
from keras_hoyer.schedules import ROUNDING, Schedule, check_schedule
from keras_hoyer.scores import Magnitude, Score
from keras_hoyer.units import find_units
from keras_hoyer.weights import refresh_compiled


class Pruning(CuttingCallback):
    """Cuts a model during `fit`, and keeps the zeros from then on.

    At the epochs of the schedule the smallest units are cut; after the last cut this package's
    penalties are taken off, and what is left of `fit` is fine-tuning. Epoch logs get `sparsity`,
    the share of zero weights, and where channels are cut `flops`, the multiply-adds that `shrink`
    would leave, so that the progress bar, `CSVLogger` and `TensorBoard` show them; wherever it
    stands in the list, this callback is called before the others.

    It sets the factor of the Hoyer penalties that were made with `factor="auto"`: such that their
    effective number comes to a sixth of what the criterion keeps by the last cut, or to a quarter
    where that is less than 1% of all. The first epochs show how far a factor brings it, and each
    further one sets it anew, the learning rates that a schedule plans counted in; a warning says if
    the cut came too early all the same. Epoch logs get `effective_number` and `factor` until then.

    Training that stops and goes on needs nothing more than the weights: give `fit` the same
    callback and `initial_epoch`, or use `keras.callbacks.BackupAndRestore`. From weights without
    masks, every zero of a kernel is taken for a cut one.

    A callback that picks the best epoch, such as `EarlyStopping(restore_best_weights=True)` or
    `ModelCheckpoint(save_best_only=True)`, may pick one from before the cut: start it after that,
    with `EarlyStopping(start_from_epoch=...)` or in a second call of `fit`. If one did, or training
    ended before a cut that was due, a warning says so when `fit` is over.

    Args:
        criterion: How much: a criterion of `keras_hoyer.criteria`.
        schedule: When: a schedule of `keras_hoyer.schedules`.
        pattern: What is cut together: a pattern of `keras_hoyer.patterns`. Defaults to
            `Unstructured()`.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.
        keep_penalty: Whether penalties stay on after the last cut. Defaults to `False`.
        score: How much a weight matters: a score of `keras_hoyer.scores`, taken anew for each cut.
            Defaults to `Magnitude()`.
        verbose: 1 prints a line at each cut, as Keras' own callbacks do. Defaults to 0.

    Raises:
        ValueError: If an argument is of the wrong kind, or criterion and pattern do not go
            together; at the start of `fit`, if a layer name does not exist or the pattern does not
            divide a kernel.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 20)), np.ones((8, 10))
    >>> callback = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.9), kh.schedules.OneShot(1))
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    >>> history.history["sparsity"]
    [0.0, 0.9]
    """

    # What penalties with factor="auto" look for among the callbacks.
    sets_factors = True

    def __init__(
        self,
        criterion: Criterion,
        schedule: Schedule,
        pattern: Pattern = Unstructured(),  # noqa: B008  (immutable)
        layers: LayerSelection = None,
        keep_penalty: bool = False,
        score: Score = Magnitude(),  # noqa: B008  (immutable)
        verbose: int = 0,
    ) -> None:
        super().__init__(layers, verbose)
        pruning.check_choices(criterion, pattern, score)
        check_schedule(schedule)
        self.criterion = criterion
        self.schedule = schedule
        self.pattern = pattern
        self.score = score
        self.keep_penalty = keep_penalty
        self._steering: Steering | None = None
        self._position: float | None = None
        self._announced = False
        self._epoch = 0
        self._steps: int | None = None
        self._seen: int | None = None
        if schedule.within_epochs:
            # Set only here: Keras dispatches batches asynchronously where no callback listens.
            self.on_train_batch_end = self._advance_within_epoch

    def set_model(self, model: keras.Model) -> None:
        """Has the step that is compiled next read the factors that are set while it runs."""
        super().set_model(model)
        hold_factors(model)

    def on_train_begin(self, logs: Logs = None) -> None:
        """Checks what can be checked before time is spent."""
        super().on_train_begin(logs)
        self._units = find_units(self.model, self.pattern, self.layers, self.score)
        self._steering = steering_of(self.model, self._units, self.criterion, self.schedule.end)
        self._position = None
        self._steps = self.params.get("steps")
        epochs = self.params.get("epochs")
        self._announced = epochs is not None and self.schedule.end >= epochs
        if self._announced:
            nothing = self.schedule.begin >= epochs
            warn(
                f"{'Nothing' if nothing else 'Not all'} will be pruned in this call of `fit`: the "
                f"last cut is due after {self.schedule.end:g} epochs, at the beginning of the next "
                f"one, and the call ends after {epochs}. Choose an earlier schedule, or go on with "
                f"`fit(..., initial_epoch={epochs})`."
            )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Cuts if the schedule says so."""
        self._epoch = epoch
        if self._position is None:
            self._resume(epoch)
            self._begin_steering(epoch)
        self._advance(epoch)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Writes what is left into the logs."""
        self._steps = self.params.get("steps") or self._seen
        self.write_sparsity(logs)
        if self._steering is not None:
            self._steering.adjust(epoch + 1, {} if logs is None else logs)

    def on_train_end(self, logs: Logs = None) -> None:
        """Lets go of the factors, and looks back."""
        release_factors(self.model)
        super().on_train_end(logs)

    def look_back(self, best_before_cut: list[str]) -> None:
        """Says if a cut that was due never came, or was undone."""
        position = -math.inf if self._position is None else self._position
        if not self._announced and position + ROUNDING < self.schedule.end:
            done = f"{self.schedule.progress(position):.0%} of the way was gone."
            warn(
                f"`fit` ended in epoch {self._epoch}, before the last cut that was due at the "
                f"beginning of epoch {self.schedule.end:g}: "
                f"{'nothing was pruned.' if position < self.schedule.begin else done} If "
                "EarlyStopping ended it, let that begin after the cut, with `EarlyStopping("
                f"start_from_epoch={math.ceil(self.schedule.end)})`; or cut now with "
                "`keras_hoyer.prune`."
            )
        super().look_back(best_before_cut)

    def _resume(self, epoch: int) -> None:
        """Finds out what was done before this epoch, from masks and weights alone."""
        # Just before the epoch, since an update that is due at its very beginning is still to come.
        self._position = -math.inf
        if epoch > self.schedule.begin and pruning.adopt_zeros(self.model, self._units):
            self._position = epoch - 2 * ROUNDING
            if epoch > self.schedule.end:
                self._finish()

    def _begin_steering(self, epoch: int) -> None:
        """Sets the factors to begin with, and says which penalties nobody would steer."""
        beside = [c for c in running_callbacks() or () if isinstance(c, Pruning)]
        check_covered(self.model, [k for c in {self, *beside} for k in c._kernels])
        if self._steering is not None:
            self._steering.begin(epoch, self._steps)

    def _advance_within_epoch(self, batch: int, logs: Logs = None) -> None:
        self._seen = batch + 1
        # The end of an epoch waits for the next one, and so does an epoch of unknown length.
        if self._steps is not None and self._seen < self._steps:
            self._advance(self._epoch + self._seen / self._steps)

    def _advance(self, position: float) -> None:
        previous, self._position = self._position, position
        assert previous is not None  # since the first epoch began
        if not self.schedule.due(previous, position):
            return
        progress = self.schedule.progress(position)
        if self._steering is not None and position >= self.schedule.end:
            self._steering.judge()
            self._steering = None
        if progress > 0:
            self.measured = pruning.cut(self.model, self._units, self.criterion, progress)
            self.note_cut(self._epoch)
        if position >= self.schedule.end:
            self._finish()

    def _finish(self) -> None:
        if not self.keep_penalty and remove_penalties(self._kernels):
            refresh_compiled(self.model)
