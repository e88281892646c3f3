"""Converts a SavedModel with loops to int8; started in a process of its own, which may crash.

Usage: python -m keras_hoyer.exporters._calibrate FOLDER. FOLDER holds what `litert_convert` put
there: `saved_model`, `apart.json` and `apart.npz`.
"""

import json
import sys
from pathlib import Path

import numpy as np

from keras_hoyer.exporters import litert_convert, signatures


def main(folder: Path) -> None:
    """Writes `apart.tflite`."""
    job = json.loads((folder / "apart.json").read_text())
    inputs = tuple(
        signatures.ModelInput(spec["name"], tuple(spec["shape"]), spec["dtype"])
        for spec in job["inputs"]
    )
    with np.load(folder / "apart.npz") as stored:
        calibration = [stored[name] for name in stored.files]
    signature = signatures.Signature(inputs, None)
    saved = folder / "saved_model"
    content = litert_convert.converted(saved, "int8", signature, calibration, job["io_dtype"])
    (folder / "apart.tflite").write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
