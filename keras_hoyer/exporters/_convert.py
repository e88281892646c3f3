"""Converts a stored `.keras` model on TensorFlow, for callers on another backend.

Usage: python -m keras_hoyer.exporters._convert FOLDER. FOLDER holds what the `processes` module put
there: `model.keras`, `job.json` and, for int8, `calibration.npz`.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_hoyer.exporters import litert_convert, onnx_file, signatures

CONVERTERS: dict[str, Callable[..., str | None]] = {
    "tflite": litert_convert.convert_here,
    "onnx": onnx_file.convert_here,
}


def main(folder: Path) -> None:
    """Writes the file, or `failure.txt`."""
    job = json.loads((folder / "job.json").read_text())
    model = keras.models.load_model(folder / "model.keras", compile=False)
    inputs = tuple(
        signatures.ModelInput(spec["name"], tuple(spec["shape"]), spec["dtype"])
        for spec in job.pop("inputs")
    )
    signature = dataclasses.replace(signatures.signature_of(model), inputs=inputs)
    calibration = None
    if (folder / "calibration.npz").exists():
        with np.load(folder / "calibration.npz") as stored:
            calibration = [stored[name] for name in stored.files]
    convert = CONVERTERS[job.pop("format")]
    failure = convert(model, signature, folder, calibration, **job)
    if failure is not None:
        (folder / "failure.txt").write_text(failure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
