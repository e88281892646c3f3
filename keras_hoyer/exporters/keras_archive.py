"""The `.keras` file that Keras itself loads, deflated: Keras writes the zip without compression."""

import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_hoyer._keras import all_of
from keras_hoyer.exporters import sparse_weights
from keras_hoyer.exporters.results import Candidate, ExportError, ExportResult

WEIGHTS = "model.weights.h5"


def write(model: keras.Model, folder: Path) -> ExportResult:
    """Writes a deflated `.keras` file into `folder`, loads it and compares the weights.

    Args:
        model: a built model.
        folder: an empty folder.

    Returns:
        The result; its `path` lies in `folder`.

    Raises:
        ExportError: if Keras cannot save the model, or load the file, or weights differ.
        OSError: if the disk is full.
    """
    stored, path = folder / "stored.keras", folder / "model.keras"
    try:
        model.save(stored)
    except OSError:
        raise
    except Exception as error:  # custom layers raise anything
        raise ExportError("convert", f"Keras cannot save the model: {error}") from error
    _deflate(stored, path, folder / "members")
    _check(model, path)
    sizes = stored.stat().st_size, path.stat().st_size
    candidates = (
        Candidate("stored, as by Keras", "right, but not smaller", sizes[0], 0.0, right=True),
        Candidate("deflated", "kept", sizes[1], 0.0, right=True),
    )
    return ExportResult(
        path=path,
        format="keras",
        bytes=sizes[1],
        dense_bytes=sizes[0],
        max_error=0.0,
        tolerance=0.0,
        candidates=candidates,
        tensors=sparse_weights.tensors_of(model),
    )


def _deflate(stored: Path, path: Path, members: Path) -> None:
    """Writes a `.keras` file anew, deflated and without -0.0."""
    with zipfile.ZipFile(stored) as archive:
        archive.extractall(members)
        names = archive.namelist()
    _make_zeros_positive(members / WEIGHTS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in names:
            archive.write(members / name, name)


def _check(model: keras.Model, path: Path) -> None:
    """Raises an `ExportError` unless a file gives back the weights of a model."""
    classes = {type(layer).__name__: type(layer) for layer in all_of(model)}
    try:
        loaded = keras.models.load_model(path, custom_objects=classes, compile=False)
    except Exception as error:  # custom layers raise anything
        raise ExportError("check", f"Keras cannot load the file: {error}") from error
    if len(loaded.weights) != len(model.weights):
        raise ExportError(
            "check",
            f"the file gives back {len(loaded.weights)} of {len(model.weights)} weights: a layer "
            "that is built on its first call needs `build` or `get_build_config`",
        )
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        pair = [sparse_weights.values_of(weight) for weight in (ours, theirs)]
        if pair[0].dtype != pair[1].dtype or pair[0].tobytes() != pair[1].tobytes():
            raise ExportError("check", f"the file does not give back the weights of {ours.path}")


def _make_zeros_positive(path: Path) -> None:
    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            values = item[()]
            if np.signbit(values[values == 0]).any():
                item[...] = np.where(values == 0, np.zeros((), values.dtype), values)

    with h5py.File(path, "r+") as file:
        file.visititems(visit)
