"""What the callbacks that cut have in common: their place in `fit`, and a look back at its end."""

import math
from typing import Any

import keras
import numpy as np

from keras_hoyer import masks
from keras_hoyer._checks import check_choice, warn
from keras_hoyer._keras import running_callbacks
from keras_hoyer.plain import LayerSelection
from keras_hoyer.reports import count_nonzero
from keras_hoyer.units import ModelUnits
from keras_hoyer.weights import Weight, find_kernels, find_weights

Logs = dict[str, Any] | None


class CuttingCallback(keras.callbacks.Callback):
    """Base class of the callbacks that cut.

    In `fit` it moves itself before the user's other callbacks, so that those find the cut weights
    and the `sparsity` of the logs, in whichever order they were given; and it looks back when all
    of them are done, since one that restores a best epoch can undo a cut.

    Args:
        layers: List of layer names, or a function from a layer to a bool, or `None`.
        verbose: 1 prints a line at each cut, 0 none.
    """

    # What is cut, known from the beginning of `fit`.
    _units: ModelUnits

    def __init__(self, layers: LayerSelection, verbose: int = 0) -> None:
        super().__init__()
        check_choice("verbose", verbose, (0, 1))
        self.layers = layers
        self.verbose = verbose
        self._kernels: list[Weight] = []
        self._last_cut: int | None = None
        self._has_witness = False

    def on_train_begin(self, logs: Logs = None) -> None:
        """Finds the kernels and takes its place among the callbacks."""
        self._kernels = find_kernels(self.model, self.layers)
        if self.layers is None:
            _warn_of_frozen(self._kernels)
        self._last_cut = None
        self._has_witness = self._take_place()

    def on_train_end(self, logs: Logs = None) -> None:
        """Looks back at once where there is nobody to wait for."""
        if not self._has_witness:
            self.look_back([])

    def look_back(self, best_before_cut: list[str]) -> None:
        """Says what `fit` should have done and did not.

        Args:
            best_before_cut: Callbacks whose best epoch lies before the last cut, as they were
                called: they keep a model that was cut less.
        """
        cut, alive = self._count_alive_again()
        if alive:
            warn(
                f"{alive:,} of the {cut:,} weights that were cut hold values again: the weights "
                "are not those that `fit` ended with. "
                f"{_blame(best_before_cut, 'restored an epoch from before the cut')} The next "
                "training step sets them to zero again, and so does `keras_hoyer.prune`; a file "
                "or a prediction made now has them. " + self._start_later()
            )
        elif best_before_cut:
            warn(
                f"{', '.join(best_before_cut)}: the best epoch is one from before the last cut, at "
                f"the beginning of epoch {self._last_cut}, so what is kept there was cut less, or "
                "not at all. " + self._start_later()
            )

    def write_sparsity(self, logs: Logs) -> None:
        """Writes into the logs what is left.

        `sparsity` is the share of zero weights; `flops`, where channels are cut, the multiply-adds
        for one example without those that are zero.
        """
        if logs is not None:
            logs["sparsity"] = 1 - self._count_nonzero() / self._count_weights()
            flops = self._units.flops_left()
            if flops is not None:
                logs["flops"] = flops

    def note_cut(self, epoch: int) -> None:
        """Remembers the epoch of the last cut, and says what is left if it is to."""
        self._last_cut = epoch
        if not self.verbose:
            return
        nonzero, weights, flops = self._count_nonzero(), self._count_weights(), ""
        left = self._units.flops_left()
        if left is not None and self._units.flops is not None:
            flops = f", {left:,} of {self._units.flops.total:,} multiply-adds"
        print(
            f"\nEpoch {epoch + 1}: {type(self).__name__} left {nonzero:,} of {weights:,} weights"
            f"{flops} ({1 - nonzero / weights:.2%} zero)."
        )

    def _count_weights(self) -> int:
        return sum(math.prod(kernel.shape) for kernel in self._kernels)

    def _count_nonzero(self) -> int:
        return sum(map(count_nonzero, self._kernels))

    def _start_later(self) -> str:
        return (
            "Let it choose among the epochs after the cut: "
            f"`start_from_epoch={self._last_cut or 0}` of EarlyStopping, or a second call of `fit`."
        )

    def _count_alive_again(self) -> tuple[int, int]:
        """How many weights are masked, and how many of those are not zero."""
        cut = alive = 0
        for weight in find_weights(self.model):
            mask = masks.known_mask(weight)
            if mask is not None and not mask.all():
                cut += int(mask.size - np.count_nonzero(mask))
                alive += int(np.count_nonzero(weight.read()[~mask]))
        return cut, alive

    def _take_place(self) -> bool:
        """Moves to the front of the running callbacks and puts a witness at their end."""
        running = running_callbacks()
        if running is None or self not in running:
            return False
        ours = [isinstance(entry, CuttingCallback) for entry in running]
        place, front = running.index(self), ours.index(False) if False in ours else len(ours)
        if place > front:
            # An entry moves forward: Keras, going through the list, neither skips nor repeats any.
            running.insert(front, running.pop(place))
        others = [entry for entry in running if not isinstance(entry, (CuttingCallback, _Witness))]
        witness = _Witness(self, others)
        witness.set_params(self.params)
        witness.set_model(self.model)
        running.append(witness)
        return True


class _Witness(keras.callbacks.Callback):
    """The last of the callbacks: knows what the others made of the epochs.

    Args:
        owner: the callback that cuts.
        others: the callbacks beside it.
    """

    def __init__(self, owner: CuttingCallback, others: list[keras.callbacks.Callback]) -> None:
        super().__init__()
        self.owner = owner
        self._best: list[tuple[keras.callbacks.Callback, Any, int | None]] = [
            (entry, None, None) for entry in others if _picks_best(entry)
        ]

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Notes which callbacks found this epoch to be the best."""
        self._best = [
            (entry, found, epoch) if (found := _best_of(entry)) != known else (entry, known, when)
            for entry, known, when in self._best
        ]

    def on_train_end(self, logs: Logs = None) -> None:
        """Has the owner look back."""
        cut = self.owner._last_cut
        self.owner.look_back(
            [
                type(entry).__name__
                for entry, _, when in self._best
                if cut is not None and when is not None and when < cut
            ]
        )


def _warn_of_frozen(kernels: list[Weight]) -> None:
    """Names kernels that are cut and not trained, where others are: a teacher may be meant."""
    frozen = [kernel.path for kernel in kernels if not kernel.variable.trainable]
    if 0 < len(frozen) < len(kernels):
        more = f" and {len(frozen) - 5} more" if len(frozen) > 5 else ""
        warn(
            "Will be cut although they are frozen, so that no training makes up for it: "
            f"{', '.join(frozen[:5])}{more}. "
            "If they are to stay as they are, such as those of a teacher or of a pretrained part, "
            "choose the others with `layers`."
        )


def _picks_best(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback keeps the weights of the best epoch, as Keras or KerasTuner name it."""
    return bool(
        getattr(callback, "save_best_only", False)
        or getattr(callback, "restore_best_weights", False)
        or hasattr(callback, "best_value")
    )


def _best_of(callback: keras.callbacks.Callback) -> Any:
    return getattr(callback, "best_value", getattr(callback, "best", None))


def _blame(names: list[str], deed: str) -> str:
    return f"{', '.join(names)} {deed}." if names else "Something set them after the cut."
