"""What of a `.keras` file belongs to training: an optimizer takes up to twice the model's bytes."""

import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py

WEIGHTS = "model.weights.h5"
OPTIMIZER = "optimizer"


def bytes_of(path: Path) -> int:
    """By how much a `.keras` file would be smaller without its optimizer's slots.

    Args:
        path: a file that Keras, or `export`, wrote.

    Returns:
        Bytes; 0 if the model was saved without slots.
    """
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        if WEIGHTS not in archive.namelist():
            return 0
        info = archive.getinfo(WEIGHTS)
        whole, rest = Path(folder, "whole.h5"), Path(folder, "rest.h5")
        with archive.open(info) as stored, open(whole, "wb") as file:
            shutil.copyfileobj(stored, file)
        if not _copy_without_slots(whole, rest):
            return 0
        with zipfile.ZipFile(Path(folder, "rest.zip"), "w", info.compress_type) as smaller:
            smaller.write(rest, WEIGHTS)
            return max(0, info.compress_size - smaller.getinfo(WEIGHTS).compress_size)


def _copy_without_slots(source: Path, target: Path) -> bool:
    """Copies a weight file but for its optimizer; returns whether that has arrays."""
    arrays = []
    with h5py.File(source) as whole, h5py.File(target, "w") as rest:
        if OPTIMIZER not in whole:
            return False
        # The step and the learning rate are numbers, which no file is larger for.
        whole[OPTIMIZER].visititems(
            lambda _, item: arrays.append(item) if getattr(item, "shape", ()) else None
        )
        for name in whole:
            if name != OPTIMIZER:
                whole.copy(name, rest)
        return bool(arrays)
