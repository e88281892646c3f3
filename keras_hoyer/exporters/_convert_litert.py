"""Converts a stored `.keras` model on TensorFlow, for callers on another backend.

Usage: python -m keras_hoyer.exporters._convert_litert FOLDER. FOLDER holds what the `litert` module
put there: `model.keras`, `job.json` and, for int8, `calibration.npz`.
"""

import dataclasses
import json
import sys
from pathlib import Path

import keras
import numpy as np

from keras_hoyer.exporters import litert, signatures


def main(folder: Path) -> None:
    """Writes the file, or `failure.txt`."""
    job = json.loads((folder / "job.json").read_text())
    model = keras.models.load_model(folder / "model.keras", compile=False)
    inputs = tuple(
        signatures.ModelInput(spec["name"], tuple(spec["shape"]), spec["dtype"])
        for spec in job["inputs"]
    )
    signature = dataclasses.replace(signatures.signature_of(model), inputs=inputs)
    calibration = None
    if (folder / "calibration.npz").exists():
        with np.load(folder / "calibration.npz") as stored:
            calibration = [stored[name] for name in stored.files]
    failure = litert.convert_here(
        model, signature, folder, calibration, quantize=job["quantize"], unroll=job["unroll"]
    )
    if failure is not None:
        (folder / "failure.txt").write_text(failure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
