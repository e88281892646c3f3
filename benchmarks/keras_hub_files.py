"""Writes tiny models of KerasHub, pruned and shrunk, to `.tflite` and `.onnx` files and runs them.

    pip install "keras-hoyer[keras-hub,litert,onnx]"
    python benchmarks/keras_hub_files.py

Of each backbone 40% of the channels are cut, it is shrunk and exported in float32. Then the file is
run by another program than the exporter's own check, its inputs given by name, on data that it has
not seen, and its outputs are compared with those of the masked model that was never shrunk. A
line is written for each model and format, so that a run can be stopped and resumed; the summary
goes to `benchmarks/results/keras_hub_files.json`.
"""

import argparse
import gc
import os
import tempfile
import time
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
from keras_hub_models import ROOT, SPARSITY
from kit.hub import BACKBONES
from kit.machine import describe_machine
from kit.random_models import make_inputs, outputs_of, patience, randomize
from kit.results import FOLDER, append, read_lines, told, write

import keras_hoyer as kh

FORMATS = ("tflite", "onnx")
LENGTH, SIDE = 6, 64  # of what a model leaves open: sequences, images


def main() -> None:
    """Makes the files that have no line yet, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", help="names; all by default")
    parser.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, default=ROOT / "out" / "keras_hub_files.jsonl")
    parser.add_argument("--results", type=Path, default=FOLDER / "keras_hub_files.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    done = {(line["model"], line["format"]) for line in read_lines(args.lines)}
    for name, make in BACKBONES.items():
        formats = [x for x in args.formats if (name, x) not in done]
        if not formats or (args.models and name not in args.models):
            continue
        for line in examine(make, formats, args.seed):
            append(args.lines, {"model": name, "seed": args.seed, **line})
            print(name, told(line), flush=True)
        keras.backend.clear_session()
        gc.collect()
    packages = ("keras-hub", "ai-edge-litert", "onnxruntime", "tf2onnx")
    write(
        args.results,
        {
            "machine": describe_machine(),
            "versions": {package: version(package) for package in packages},
            "keras_hoyer": kh.__version__,
            "sparsity": SPARSITY,
            "files": [told(line) for line in read_lines(args.lines)],
        },
    )


def examine(make: Any, formats: list[str], seed: int) -> list[dict]:
    """What became of a model's files, a line for each format."""
    found: dict[str, Any] = {}
    try:
        with patience():
            keras.utils.set_random_seed(seed)
            model = make()
            randomize(model, seed)
            data = make_inputs(model, seed, 8, LENGTH, SIDE)
            unseen = make_inputs(model, seed + 1, 3, LENGTH, SIDE)
            criterion = kh.criteria.TargetSparsity(SPARSITY, scope="layer")
            kh.prune(model, criterion, kh.patterns.Channel())
            expected = outputs_of(model, unseen)
            small = kh.shrink(model)
    except Exception as error:
        return [{"format": x, "stage": "shrink", **_told(error)} for x in formats]
    found |= {"parameters": model.count_params(), "smaller": small.count_params()}
    return [{"format": x, **found, **_file(small, x, data, unseen, expected)} for x in formats]


def _file(model: keras.Model, format: str, data: Any, unseen: Any, expected: list) -> dict:
    """Exports a model and runs the file."""
    started = time.perf_counter()
    line: dict[str, Any] = {"stage": "export"}
    try:
        with patience(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model.{format}"
            result = kh.export(model, path, representative_data=data, sparse=False)
            line |= {"bytes": result.bytes, "checked": result.max_error, "stage": "run"}
            line["notes"] = [note for note in result.notes if "fixed to those" in note]
            arrays = keras.tree.flatten(unseen)
            names = [x.name for x in model.inputs]
            actual = RUNNERS[format](path, dict(zip(names, arrays, strict=True)))
            line["error_of_unseen"] = _difference(expected, actual)
            del line["stage"]
    except Exception as error:
        line |= _told(error)
    return {**line, "seconds": round(time.perf_counter() - started, 1)}


def _told(error: Exception) -> dict[str, str]:
    text = str(error).strip()[:1000]
    return {"error": f"{type(error).__name__}: {text}", "traceback": traceback.format_exc(limit=-6)}


def _run_tflite(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
    shapes = runner.get_output_details()
    outputs = runner(**inputs)
    return [outputs[name] for name in shapes]


def _run_onnx(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path)).run(None, inputs)


RUNNERS = {"tflite": _run_tflite, "onnx": _run_onnx}


def _difference(expected: list[np.ndarray], actual: list[np.ndarray]) -> float:
    """The largest difference, as a share of the largest output where that is more than one.

    A file may number its outputs in another order: each is compared with the nearest of its shape.
    """
    return max(
        min(
            float(np.max(np.abs(x.astype("float64") - y)) / max(1.0, float(np.max(np.abs(x)))))
            for y in actual
            if y.shape == x.shape
        )
        for x in expected
        if x.size
    )


if __name__ == "__main__":
    main()
