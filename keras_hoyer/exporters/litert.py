"""Makes `.tflite` files, runs each in a process of its own and keeps the best that is right."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer._checks import warn
from keras_hoyer._keras import all_of
from keras_hoyer._progress import step
from keras_hoyer.exporters import (
    litert_convert,
    litert_encoding,
    litert_file,
    litert_notes,
    open_sizes,
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

Outputs = list[dict[str, np.ndarray]]

# How much slower than the fastest file a smaller one may be, within the noise of the measurement.
SAME_SPEED = 1.1


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
    io_dtype: str = "float32",
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
        io_dtype: `"float32"`, or for `"int8"` also `"int8"` and `"uint8"`: what the file takes and
            returns in place of floats.

    Returns:
        The result; its `path` lies in `folder`.

    Raises:
        ExportError: if the model cannot be called or converted, or no candidate is right.
    """
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance

    def attempt(sizes: signatures.Signature) -> ExportResult:
        steps = [size for spec in sizes.inputs for size in spec.shape[1:2] if size is not None]
        fixed = sizes is not signature and steps
        layers, unroll = litert_convert.recurrent_layers(model, max(steps) if fixed else None)
        job = {"quantize": quantize, "unroll": unroll, "io_dtype": io_dtype}
        if layers and not unroll:
            sizes = sizes.with_batch(1)
        return _write(model, folder, sizes, data, layers, job, sparse, tolerance, optimize_for)

    return open_sizes.write(signature, data, attempt)


def _write(
    model: keras.Model,
    folder: Path,
    signature: signatures.Signature,
    data: list[np.ndarray] | None,
    recurrent: list[keras.Layer],
    job: dict[str, Any],
    sparse: bool | str,
    tolerance: float,
    optimize_for: str,
) -> ExportResult:
    quantize = job["quantize"]
    notes = _notes(model, data)
    expected = _expected(model, folder, signature, data)
    _convert(model, signature, folder, data if quantize == "int8" else None, recurrent, job)
    candidates = _tried(folder, expected, quantize, bool(sparse), tolerance, optimize_for)
    dense = folder / litert_convert.DENSE
    asked_for = [path for path in candidates if sparse is not True or path != dense]
    best = _best([path for path in asked_for if candidates[path].right], candidates)
    tried = tuple(_outcome(c, p == best, p in asked_for) for p, c in candidates.items())
    if best is None:
        way_out = _way_out("check", quantize, recurrent)
        raise ExportError("check", f"no candidate is right, nothing was written.{way_out}", tried)
    content = best.read_bytes()
    tensors = litert_file.tensors_of(content)
    if recurrent:
        notes.append(litert_notes.of_recurrent_layers(job["unroll"], content))
    notes += litert_notes.of_weighing(folder, quantize, sparse, content, tensors)
    notes += litert_notes.of_interface(content, job["io_dtype"])
    return ExportResult(
        path=best,
        format="tflite",
        bytes=len(content),
        dense_bytes=dense.stat().st_size,
        max_error=candidates[best].error,
        tolerance=tolerance,
        candidates=tried,
        tensors=tensors,
        notes=tuple(notes),
    )


def _expected(
    model: keras.Model,
    folder: Path,
    signature: signatures.Signature,
    data: list[np.ndarray] | None,
) -> Outputs:
    """What the model answers to the calls that files are checked with, which are stored."""
    if data is None:
        data = signatures.random_arrays(model, signature, signatures.CHECK_SAMPLES)
    calls = signatures.calls_of(signature, data)
    expected = signatures.outputs_of(model, signature, calls)
    processes.store_calls(folder / processes.CALLS, signature, calls)
    return expected


def _tried(
    folder: Path,
    expected: Outputs,
    quantize: str | None,
    sparse: bool,
    tolerance: float,
    optimize_for: str,
) -> dict[Path, Candidate]:
    """The dense file, and the sparse one that is made from it, each run and compared."""
    label, dense = quantize or "float32", folder / litert_convert.DENSE
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
    return _timed(candidates, folder / processes.CALLS) if optimize_for == "latency" else candidates


def _way_out(step: str, quantize: str | None, recurrent: list[keras.Layer]) -> str:
    """What to do about a file that is not right, where that is known."""
    if quantize != "int8" or (step == "convert" and not recurrent):
        return ""
    names = ", ".join(layer.name for layer in recurrent)
    if step == "convert":
        steps = litert_convert.UNROLLED_STEPS
        cause = (
            f"Loops of recurrent layers ({names}) may be what TensorFlow cannot calibrate; up to "
            f"{steps} fixed steps are unrolled instead"
        )
    elif names:
        cause = f"In int8 recurrent layers ({names}) add up what is rounded from step to step"
    else:
        cause = "In int8 one scale serves all values of a tensor, however far apart they are"
    return f" {cause}. `quantize='dynamic'` keeps the weights in int8 and computes in floats."


def _best(right: list[Path], candidates: dict[Path, Candidate]) -> Path | None:
    """The smallest file; of those that were timed, the smallest that is as good as the fastest."""
    times = {path: ms for path in right if (ms := candidates[path].milliseconds) is not None}
    if right and len(times) == len(right):
        limit = SAME_SPEED * min(times.values())
        right = [path for path, time in times.items() if time <= limit]
    return min(right, key=lambda path: path.stat().st_size, default=None)


def _outcome(candidate: Candidate, kept: bool, asked_for: bool) -> Candidate:
    outcome = candidate.outcome
    if kept:
        outcome = "kept"
    elif candidate.right and not asked_for:
        outcome = "right, but not asked for"
    elif candidate.right:
        outcome = "right, but " + ("slower or larger" if candidate.milliseconds else "not smaller")
    return dataclasses.replace(candidate, outcome=outcome)


def _notes(model: keras.Model, data: list[np.ndarray] | None) -> list[str]:
    """What there is to say before anything is converted."""
    notes = []
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in all_of(model)):
        notes.append("the model computes in half precision, the file and its check in float32")
    traps = sparse_inference.keepdims_traps(model)
    if traps:
        notes.append(
            f"{', '.join(traps)}: GlobalAveragePooling2D(keepdims=True) before a 1x1 convolution "
            "gives zeros on ARM64 where that convolution is sparse; use keepdims=False and Dense"
        )
        warn(notes[-1])
    if data is None:
        notes.append(
            "checked on random inputs; give `representative_data` for a check on real ones"
        )
    return notes


def _convert(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    calibration: list[np.ndarray] | None,
    recurrent: list[keras.Layer],
    job: dict[str, Any],
) -> None:
    """Writes the dense file into the folder; raises an `ExportError` if it cannot be made."""
    with step("converting"):
        if keras.backend.backend() == "tensorflow":
            failure = litert_convert.convert_here(model, signature, folder, calibration, **job)
        else:
            remote = {"format": "tflite", **job}
            failure = processes.convert_on_tensorflow(model, signature, folder, calibration, remote)
    if failure is not None:
        quantize = job["quantize"]
        candidate = Candidate(f"{quantize or 'float32'} dense", f"not converted: {failure}")
        reason = f"nothing was written.{_way_out('convert', quantize, recurrent)}"
        raise ExportError("convert", reason, (candidate,))


def _check_sparse(
    name: str,
    path: Path,
    expected: Outputs,
    tolerance: float,
    *,
    dense: Candidate,
    quantize: str | None,
) -> Candidate:
    """Runs a sparse file; it must be about as right as the dense one that it was made from."""
    candidate = processes.check(name, path, expected, tolerance)
    if candidate.right and dense.max_error is not None:
        times, noise = SPARSE_ERROR
        if candidate.error > max(times * dense.max_error, noise * TOLERANCES[quantize]):
            outcome = f"wrong: its error is above {times} times that of the dense file"
            candidate = dataclasses.replace(candidate, outcome=outcome, right=False)
    return candidate


def _timed(candidates: dict[Path, Candidate], calls: Path) -> dict[Path, Candidate]:
    """The candidates with the time of one sample, measured by turns."""
    right = [path for path, candidate in candidates.items() if candidate.right]
    out = calls.with_name("times.json")
    arguments = [processes.SCRIPT, "time", str(calls), str(out), *map(str, right)]
    with step("timing"):
        if not right or processes.run_process(arguments, processes.RUN_TIMEOUT):
            return candidates
    times = json.loads(out.read_text())
    return {
        path: dataclasses.replace(candidate, milliseconds=times.get(str(path)))
        for path, candidate in candidates.items()
    }
