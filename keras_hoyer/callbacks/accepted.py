"""What a search within a budget knows, in memory and beside Keras' own backup."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer import masks
from keras_hoyer._keras import running_callbacks
from keras_hoyer.weights import find_weights

_NAME = "keras_hoyer_budget.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class AcceptedState:
    """Weights and masks of a model, to go back to.

    Attributes:
        values: The weights, in the order of `model.get_weights()`.
        masks: A boolean array, or None, for each weight that can carry a mask.
    """

    values: list[np.ndarray]
    masks: list[np.ndarray | None]

    @classmethod
    def of(cls, model: keras.Model) -> "AcceptedState":
        """The state that a model is in."""
        return cls(
            model.get_weights(), [masks.known_mask(weight) for weight in find_weights(model)]
        )

    def restore(self, model: keras.Model) -> None:
        """Puts it back."""
        model.set_weights(self.values)
        masked = {}
        for weight, mask in zip(find_weights(model), self.masks, strict=True):
            if mask is not None or masks.known_mask(weight) is not None:
                masked[weight] = np.ones(weight.shape, bool) if mask is None else mask
        masks.apply_masks(model, masked)


@dataclasses.dataclass
class Progress:
    """How far a search has come.

    Attributes:
        begin: Number of epochs before the first cut; None while that is open.
        best: The value of the metric to compare with; None before the first epoch.
        step: Share of the units that the next round cuts.
        seen: Best value of the sparse phase, found in epoch `seen_epoch`.
        epochs_in_round: Epochs of the round that is on; 0 between two rounds.
        rounds: Number of rounds that were within the budget.
        left: Number of weights that are left between two rounds; None where it is not known.
    """

    begin: int | None
    best: float | None
    step: float
    seen: float | None = None
    seen_epoch: int = 0
    epochs_in_round: int = 0
    rounds: int = 0
    left: int | None = None

    def save(self, path: Path, epoch: int, accepted: AcceptedState | None) -> None:
        """Writes the state after `epoch` epochs, beside and then into place."""
        if not path.parent.is_dir():  # Keras makes its folder with the first backup
            path.parent.mkdir(parents=True, exist_ok=True)
        header = {**dataclasses.asdict(self), "epoch": epoch, "accepted": accepted is not None}
        arrays: dict[str, Any] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
        if accepted is not None:
            arrays.update({f"value{i}": value for i, value in enumerate(accepted.values)})
            arrays.update(
                {f"mask{i}": mask for i, mask in enumerate(accepted.masks) if mask is not None}
            )
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **arrays)
        os.replace(temporary, path)

    @classmethod
    def load(
        cls, path: Path, epoch: int, model: keras.Model
    ) -> tuple["Progress", AcceptedState | None] | None:
        """Reads the state that a training which goes on at `epoch` left behind.

        Returns:
            The progress and the weights to go back to; `None` if there is no such file, or it
            belongs to another training.
        """
        if epoch == 0 or not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            after, has_accepted = header.pop("epoch"), header.pop("accepted")
            # A kill may come between this file and Keras' own.
            if abs(after - epoch) > 1:
                return None
            accepted = None
            if has_accepted:
                accepted = AcceptedState(
                    [stored[f"value{i}"] for i in range(len(model.weights))],
                    [
                        stored[name] if (name := f"mask{i}") in stored else None
                        for i in range(len(find_weights(model)))
                    ],
                )
        progress = cls(**header)
        if progress.epochs_in_round:
            progress.epochs_in_round = max(0, progress.epochs_in_round - max(0, after - epoch))
        return progress, accepted


def file_beside_backup(name: str = _NAME) -> Path | None:
    """Where a callback keeps its state in the running `fit`; `None` if that keeps no backup.

    Args:
        name: Name of the file. Defaults to that of `Progress`.

    Returns:
        A path in the folder of Keras' own backup; `None` also if that is not on this disk.
    """
    for callback in running_callbacks() or ():
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            folder = str(callback.backup_dir)
            return None if "://" in folder else Path(folder) / name
    return None
