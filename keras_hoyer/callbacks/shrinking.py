"""What the callbacks have in common that shrink weights by a proximal operator during `fit`."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_hoyer import pruning
from keras_hoyer._checks import check_count, check_number, warn
from keras_hoyer.callbacks.base import CuttingCallback, Logs
from keras_hoyer.callbacks.splits import Splits, find_splits
from keras_hoyer.criteria import Criterion, UnitScores
from keras_hoyer.criteria.base import FlopsLeft
from keras_hoyer.patterns import Pattern, check_pattern
from keras_hoyer.plain import LayerSelection
from keras_hoyer.proximal.choice import Chosen
from keras_hoyer.regularizers import Penalty, pull
from keras_hoyer.units import find_units


class ShrinkingCallback(CuttingCallback):
    """Base class of the callbacks that shrink weights, and hand their zeros over to masks.

    Args:
        penalty: Name of a function of `keras_hoyer.proximal`.
        strength: Positive float.
        epoch: Int, 1 or more: at its beginning the zeros are handed over.
        every: Int, 1 or more: steps of training between two proximal ones.
        pattern: What is shrunk together.
        layers: List of layer names, or a function from a layer to a bool, or `None`.
        parameters: The penalty's own.
    """

    def __init__(
        self,
        penalty: str,
        strength: float,
        epoch: int,
        every: int,
        pattern: Pattern,
        layers: LayerSelection,
        parameters: dict[str, Any],
    ) -> None:
        super().__init__(layers)
        self._chosen = Chosen(penalty, parameters)
        check_number("strength", strength, "a positive number", lambda value: value > 0)
        check_count("epoch", epoch, 1)
        check_count("every", every, 1)
        check_pattern(pattern)
        self.penalty = penalty
        self.strength = strength
        self.epoch = epoch
        self.every = every
        self.pattern = pattern
        self.parameters = self._chosen.parameters
        self._splits: Splits
        self._running = False
        self._begun = False
        self._done = False
        self._last_batch = 0
        self._epochs_trained = 0

    def begin(self, epoch: int) -> None:
        """Begins to shrink, or goes on, at the beginning of an epoch."""
        raise NotImplementedError

    def step(self, model: keras.Model) -> None:
        """A proximal step, after some steps of training.

        Args:
            model: `self.model`: on JAX, asking for it brings all variables up to date.
        """
        raise NotImplementedError

    def next_epoch(self) -> None:
        """What else is due between two epochs."""

    def alive(self) -> list[np.ndarray]:
        """For each entry of the units, which of them are not zero."""
        raise NotImplementedError

    def end(self) -> None:
        """Leaves the model as a plain `fit` would."""

    def on_train_begin(self, logs: Logs = None) -> None:
        """Checks what can be checked before time is spent."""
        super().on_train_begin(logs)
        pull.release(self.model)  # of a `fit` that was interrupted
        self._units = find_units(self.model, self.pattern, self.layers)
        self._splits = find_splits(self.model, self._units, self._chosen)
        _refuse_penalties(self._splits)
        self._running = self._begun = self._done = False
        self._epochs_trained = 0
        epochs = self.params.get("epochs")
        if epochs is not None and epochs < self.epoch:
            warn(
                f"No zeros will be kept in this call of `fit`: they are handed over after "
                f"{self.epoch} epochs, and the call ends after {epochs}. Choose a smaller `epoch`, "
                f"or go on with the same callback and `fit(..., initial_epoch={epochs})`."
            )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Begins, and hands over when it is time."""
        self._last_batch = 0
        if not self._begun:
            self._begun = True
            # After a hand-over that was before this epoch, weights alone tell of it.
            if epoch > self.epoch and pruning.adopt_zeros(self.model, self._units):
                self._done = True
            else:
                self._running = True
                self.begin(epoch)
        elif self._running:
            self.step(self.model)
            self.next_epoch()
        if self._running and epoch >= self.epoch:
            self._hand_over(epoch)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Shrinks where a multiple of `every` was crossed; the epoch's own beginning did."""
        # Here, not at a batch's end: Keras dispatches that asynchronously where no callback looks.
        if self._running and batch // self.every > self._last_batch // self.every:
            self.step(self.model)
        self._last_batch = batch

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Writes `sparsity` into the logs."""
        self._epochs_trained = epoch + 1
        self.write_sparsity(logs)

    def on_train_end(self, logs: Logs = None) -> None:
        """Hands over at the end of the last epoch, if it is time."""
        if self._running and self._epochs_trained >= self.epoch:
            self.step(self.model)
            self._hand_over(self._epochs_trained)
        elif self._running:
            self._running = False
            self.end()
        super().on_train_end(logs)

    def look_back(self, best_before_cut: list[str]) -> None:
        """Says if the zeros were never handed over, or were undone."""
        epochs = self.params.get("epochs")
        announced = epochs is not None and epochs < self.epoch
        if self._begun and not self._done and not announced:
            warn(
                f"`fit` ended after {self._epochs_trained} epochs, before the zeros were handed "
                f"over at {self.epoch}: nothing is kept at zero. If EarlyStopping ended it, let "
                f"that begin later, with `EarlyStopping(start_from_epoch={self.epoch})`."
            )
        super().look_back(best_before_cut)

    def _hand_over(self, epoch: int) -> None:
        """Makes masks of what is zero, as `Pruning` does of what it cuts."""
        alive = self.alive()
        if all(kept.all() for kept in alive):
            warn(
                f"`{type(self).__name__}` found no zeros with strength={self.strength!r}: nothing "
                "is cut. A larger strength, or more epochs before the hand-over, finds some."
            )
        self._running, self._done = False, True
        self.end()
        pruning.cut(self.model, self._units, _Alive(alive))
        self.note_cut(epoch)


class _Alive(Criterion):
    """Keeps what is not zero.

    Args:
        alive: For each entry of the units, which of them are not zero.
    """

    def __init__(self, alive: Sequence[np.ndarray]) -> None:
        self.alive = alive

    def keep(
        self,
        units: Sequence[UnitScores],
        progress: float = 1.0,
        flops: FlopsLeft | None = None,
    ) -> list[np.ndarray]:
        """Returns what stays."""
        return list(self.alive)


def _refuse_penalties(splits: Splits) -> None:
    """A second penalty of ours would act beside the operator, and one over channels lose itself."""
    found: dict[str, keras.regularizers.Regularizer] = {
        kernel.path: regularizer
        for kernel in splits.kernels
        if isinstance(regularizer := kernel.get("regularizer"), Penalty)
    }
    if found:
        path, penalty = next(iter(found.items()))
        raise ValueError(
            f"{len(found)} kernels have a penalty of this package already, such as '{path}' with "
            f"{penalty!r}: here the operator takes its place. Take it off with "
            "`keras_hoyer.strip(model)`, or choose other layers with `layers`."
        )
