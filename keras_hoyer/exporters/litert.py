"""Makes `.tflite` files, runs each in a process of its own and keeps the best that is right."""

import contextlib
import dataclasses
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer.exporters import (
    litert_encoding,
    litert_file,
    processes,
    signatures,
    sparse_inference,
)
from keras_hoyer.exporters.results import Candidate, ExportError, ExportResult

# Largest error that is allowed, relative to the largest output.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.2}

# A sparse file computes with the dense one's weights. An error that is this many times larger is a
# sign that it does not, however wide the tolerance of the quantization; the second number is the
# share of the tolerance below which errors are noise.
SPARSE_ERROR = 1.5, 0.05

# Blocks that keep more than this share of a kernel are slower than the dense kernel.
FAST_SHARE = 0.25

# How much slower than the fastest file a smaller one may be, within the noise of the measurement.
SAME_SPEED = 1.1

# More steps than this make an unrolled graph too slow to convert.
UNROLLED_STEPS = 64


def write(
    model: keras.Model,
    folder: Path,
    signature: signatures.Signature,
    *,
    quantize: str | None,
    data: list[np.ndarray] | None,
    sparse: bool | str,
    tolerance: float | None,
    optimize_for: str,
) -> ExportResult:
    """Writes the best `.tflite` file that is right into `folder`.

    Args:
        model: a built model.
        folder: an empty folder for the candidates.
        signature: what the model takes.
        quantize: `None`, `"float16"`, `"dynamic"` or `"int8"`.
        data: representative inputs as `signatures.arrays_of` gives them, or `None`.
        sparse: `True`, `False` or `"auto"`.
        tolerance: largest relative error, or `None` for the default of the quantization.
        optimize_for: `"size"` or `"latency"`.

    Returns:
        The result; its `path` lies in `folder`.

    Raises:
        ExportError: if the model cannot be called or converted, or no candidate is right.
    """
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
    signature, unroll, notes = _prepare(model, signature)
    if data is None:
        data = signatures.random_arrays(model, signature, signatures.CHECK_SAMPLES)
        notes.append(
            "checked on random inputs; give `representative_data` for a check on real ones"
        )
    calls = signatures.calls_of(signature, data)
    expected = signatures.outputs_of(model, signature, calls)
    processes.store_calls(folder / "calls.npz", signature, calls)

    label = quantize or "float32"
    job = {"quantize": quantize, "unroll": unroll}
    failure = _convert(model, signature, folder, data if quantize == "int8" else None, job)
    if failure is not None:
        candidate = Candidate(f"{label} dense", f"not converted: {failure}")
        raise ExportError("convert", "nothing was written.", (candidate,))
    dense = folder / DENSE
    candidates = {dense: processes.check(f"{label} dense", dense, expected, tolerance)}
    if sparse:
        path, name = folder / "sparse.tflite", f"{label} sparse"
        largest_share = FAST_SHARE if optimize_for == "latency" else 1
        content = litert_encoding.encode(dense.read_bytes(), largest_share)
        if content is None:
            candidates[path] = Candidate(name, "not tried: no tensor gets smaller")
        else:
            path.write_bytes(content)
            candidates[path] = _check_sparse(
                name, path, expected, tolerance, dense=candidates[dense], quantize=quantize
            )
    if optimize_for == "latency":
        candidates = _timed(candidates, folder / "calls.npz")
    asked_for = [path for path in candidates if sparse is not True or path != dense]
    best = _best([path for path in asked_for if candidates[path].right], candidates)
    tried = {p: _outcome(c, p == best, p in asked_for) for p, c in candidates.items()}
    if best is None:
        raise ExportError(
            "check", "no candidate is right, nothing was written.", tuple(tried.values())
        )
    return ExportResult(
        path=best,
        format="tflite",
        bytes=candidates[best].bytes,
        dense_bytes=candidates[dense].bytes,
        max_error=candidates[best].max_error,
        tolerance=tolerance,
        candidates=tuple(tried.values()),
        tensors=litert_file.tensors_of(best.read_bytes()),
        notes=tuple(notes),
    )


def _best(right: list[Path], candidates: dict[Path, Candidate]) -> Path | None:
    """The smallest file; of those that were timed, the smallest that is as good as the fastest."""
    times = [candidates[path].milliseconds for path in right]
    if right and None not in times:
        limit = SAME_SPEED * min(times)
        right = [path for path, time in zip(right, times, strict=True) if time <= limit]
    return min(right, key=lambda path: candidates[path].bytes, default=None)


def _outcome(candidate: Candidate, kept: bool, asked_for: bool) -> Candidate:
    outcome = candidate.outcome
    if kept:
        outcome = "kept"
    elif candidate.right and not asked_for:
        outcome = "right, but not asked for"
    elif candidate.right:
        outcome = "right, but " + ("slower or larger" if candidate.milliseconds else "not smaller")
    return dataclasses.replace(candidate, outcome=outcome)


def _prepare(
    model: keras.Model, signature: signatures.Signature
) -> tuple[signatures.Signature, bool, list[str]]:
    """How recurrent layers are converted, and what there is to say about the file."""
    notes = []
    layers, unroll = _recurrent_layers(model)
    if layers and unroll:
        notes.append("recurrent layers are unrolled, for their fixed number of steps")
    elif layers:
        signature = signature.with_batch(1)
        notes.append("recurrent layers run as a loop, for which the batch is fixed at one sample")
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model._flatten_layers()):
        notes.append("the model computes in half precision, the file and its check in float32")
    traps = sparse_inference.keepdims_traps(model)
    if traps:
        notes.append(
            f"{', '.join(traps)}: GlobalAveragePooling2D(keepdims=True) before a 1x1 convolution "
            "gives zeros on ARM64 where that convolution is sparse; use keepdims=False and Dense"
        )
        warnings.warn(notes[-1], stacklevel=4)
    return signature, unroll, notes


def _recurrent_layers(model: keras.Model) -> tuple[list[keras.Layer], bool]:
    """The recurrent layers, and whether all of them can be unrolled."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]
    steps = [
        ((layer.get_build_config() or {}).get("input_shape") or (0, None))[1] for layer in layers
    ]
    return layers, all(count is not None and count <= UNROLLED_STEPS for count in steps)


# --- converting ---------------------------------------------------------------------------------

DENSE = "dense.tflite"


def _convert(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    calibration: list[np.ndarray] | None,
    job: dict[str, Any],
) -> str | None:
    """Writes `DENSE` into the folder; returns why it could not be made, or `None`."""
    if keras.backend.backend() == "tensorflow":
        return convert_here(model, signature, folder, calibration, **job)
    job = {"format": "tflite", **job}
    return processes.convert_on_tensorflow(model, signature, folder, calibration, job)


def convert_here(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    calibration: list[np.ndarray] | None,
    *,
    quantize: str | None,
    unroll: bool,
) -> str | None:
    """`_convert` where Keras runs on TensorFlow."""
    import tensorflow as tf  # noqa: PLC0415

    saved = folder / "saved_model"
    try:
        with signatures.in_float32(model), _unrolled(model, unroll):
            _save(tf, model, signature, saved)
        content = bytearray(_converted(tf, saved, quantize, signature, calibration))
    except Exception as error:  # the converter raises anything
        return _reason(error)
    litert_file.make_zeros_positive(content)
    (folder / DENSE).write_bytes(content)
    shutil.rmtree(saved)
    return None


def _save(tf: Any, model: keras.Model, signature: signatures.Signature, path: Path) -> None:
    """Writes a SavedModel that takes and returns named flat tensors."""
    specs = [tf.TensorSpec(i.shape, i.dtype, name=i.name) for i in signature.inputs]

    @tf.function(input_signature=specs, autograph=False)
    def serve(*tensors: Any) -> dict:
        names, outputs = signature.call(model, tensors)
        return dict(zip(names, outputs, strict=True))

    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def _converted(
    tf: Any,
    saved: Path,
    quantize: str | None,
    signature: signatures.Signature,
    calibration: list[np.ndarray] | None,
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]

        def samples() -> Iterator[dict]:
            batch = signature.inputs[0].shape[0] or 1
            count = min(signatures.CALIBRATION_SAMPLES, len(calibration[0]))
            for start in range(0, count - batch + 1, batch):
                yield {
                    spec.name: array[start : start + batch]
                    for spec, array in zip(signature.inputs, calibration, strict=True)
                }

        converter.representative_dataset = samples
    return converter.convert()


@contextlib.contextmanager
def _unrolled(model: keras.Model, unroll: bool) -> Iterator[None]:
    layers = [layer for layer in _recurrent_layers(model)[0] if unroll and not layer.unroll]
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer in layers:
            layer.unroll = False


def _reason(error: Exception) -> str:
    """The most telling line of an error, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for telling in ("TF Select ops: ", "Custom ops: "):
        for line in lines:
            if line.startswith(telling):
                return f"LiteRT has no builtin operation for {line.removeprefix(telling)}"[:300]
    telling = [line.split("error: ")[-1] for line in lines if "error: " in line] or lines or [""]
    return f"{type(error).__name__}: {telling[-1]}"[:300]


# --- running ------------------------------------------------------------------------------------


def _check_sparse(
    name: str,
    path: Path,
    expected: list[dict[str, np.ndarray]],
    tolerance: float,
    *,
    dense: Candidate,
    quantize: str | None,
) -> Candidate:
    """Runs a sparse file; it must be about as right as the dense one that it was made from."""
    candidate = processes.check(name, path, expected, tolerance)
    if candidate.right and dense.max_error is not None:
        times, noise = SPARSE_ERROR
        if candidate.max_error > max(times * dense.max_error, noise * TOLERANCES[quantize]):
            outcome = f"wrong: its error is above {times} times that of the dense file"
            candidate = dataclasses.replace(candidate, outcome=outcome, right=False)
    return candidate


def _timed(candidates: dict[Path, Candidate], calls: Path) -> dict[Path, Candidate]:
    """The candidates with the time of one sample, measured by turns."""
    right = [path for path, candidate in candidates.items() if candidate.right]
    out = calls.with_name("times.json")
    arguments = [processes.SCRIPT, "time", str(calls), str(out), *map(str, right)]
    if not right or processes.run_process(arguments, processes.RUN_TIMEOUT):
        return candidates
    times = json.loads(out.read_text())
    return {
        path: dataclasses.replace(candidate, milliseconds=times.get(str(path)))
        for path, candidate in candidates.items()
    }
