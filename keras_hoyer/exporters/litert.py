"""Makes `.tflite` files, runs each in a process of its own and keeps the best that is right."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer.exporters import litert_file, signatures
from keras_hoyer.exporters.results import Candidate, ExportError, ExportResult

# Seconds after which a file that is still running counts as hung, and a conversion in a process of
# its own as stuck.
RUN_TIMEOUT = 120
CONVERT_TIMEOUT = 3600

# Largest error that is allowed, relative to the largest output.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.2}

# The converter encodes nothing sparsely below 30% zeros.
LEAST_SPARSITY = 0.25

# More steps than this make an unrolled graph too slow to convert.
UNROLLED_STEPS = 64


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to make the file."""

    quantize: str | None
    sparse: bool

    @property
    def name(self) -> str:
        """What the result calls it."""
        return f"{self.quantize or 'float32'} {'sparse' if self.sparse else 'dense'}"

    def file(self, folder: Path) -> Path:
        """Where it is written."""
        return folder / f"{self.name.replace(' ', '-')}.tflite"


def write(
    model: keras.Model,
    folder: Path,
    signature: signatures.Signature,
    *,
    quantize: str | None,
    data: list[np.ndarray] | None,
    sparse: bool | str,
    tolerance: float | None,
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

    Returns:
        The result; its `path` lies in `folder`.

    Raises:
        ExportError: if the model cannot be called, or no candidate is right.
    """
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
    notes = []
    recurrent, unroll = _recurrent_layers(model)
    if recurrent and unroll:
        notes.append("recurrent layers are unrolled, for their fixed number of steps")
    elif recurrent:
        signature = signature.with_batch(1)
        notes.append("recurrent layers run as a loop, for which the batch is fixed at one sample")
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model._flatten_layers()):
        notes.append("the model computes in half precision, the file and its check in float32")
    if data is None:
        data = signatures.random_arrays(model, signature, signatures.CHECK_SAMPLES)
        notes.append(
            "checked on random inputs; give `representative_data` for a check on real ones"
        )

    calls = signatures.calls_of(signature, data)
    expected = signatures.outputs_of(model, signature, calls)
    _store_calls(folder / "calls.npz", signature, calls)

    variants = [Variant(quantize, sparse=False)]
    candidates = []
    if sparse is True or (sparse == "auto" and _has_zeros(model)):
        variants.append(Variant(quantize, sparse=True))
    elif sparse == "auto":
        reason = f"not tried: no kernel has {LEAST_SPARSITY:.0%} zeros"
        candidates.append(Candidate(Variant(quantize, sparse=True).name, reason))
    calibration = data if quantize == "int8" else None
    failures = _convert(
        model, signature, folder, variants=variants, calibration=calibration, unroll=unroll
    )
    for variant in variants:
        if variant in failures:
            candidates.append(Candidate(variant.name, f"not converted: {failures[variant]}"))
        else:
            candidates.append(_check(variant, folder, expected, tolerance))
    return _choose(candidates, variants, folder, sparse=sparse, tolerance=tolerance, notes=notes)


def _choose(
    candidates: list[Candidate],
    variants: list[Variant],
    folder: Path,
    *,
    sparse: bool | str,
    tolerance: float,
    notes: list[str],
) -> ExportResult:
    by_name = {candidate.name: candidate for candidate in candidates}
    dense = variants[0]
    right = [
        variant
        for variant in variants
        if by_name[variant.name].right and (variant.sparse or sparse is not True)
    ]
    if not right:
        step = "check" if any(c.bytes is not None for c in candidates) else "convert"
        raise ExportError(step, "no candidate is right, nothing was written.", tuple(candidates))
    best = min(right, key=lambda variant: by_name[variant.name].bytes)
    outcomes = []
    for candidate in candidates:
        outcome = candidate.outcome
        if candidate.name == best.name:
            outcome = "kept"
        elif candidate.right and sparse is True:
            outcome = "right, but not asked for"
        elif candidate.right:
            outcome = "right, but not smaller"
        outcomes.append(dataclasses.replace(candidate, outcome=outcome))
    kept = by_name[best.name]
    dense_bytes = by_name[dense.name].bytes
    return ExportResult(
        path=best.file(folder),
        format="tflite",
        bytes=kept.bytes,
        dense_bytes=kept.bytes if dense_bytes is None else dense_bytes,
        max_error=kept.max_error,
        tolerance=tolerance,
        candidates=tuple(outcomes),
        tensors=litert_file.tensors_of(best.file(folder).read_bytes()),
        notes=tuple(notes),
    )


def _has_zeros(model: keras.Model) -> bool:
    kernels = (w for w in model.weights if len(w.shape) > 1)
    arrays = (keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(k)) for k in kernels)
    return any(np.mean(array == 0) >= LEAST_SPARSITY for array in arrays if array.size)


def _recurrent_layers(model: keras.Model) -> tuple[list[keras.Layer], bool]:
    """The recurrent layers, and whether all of them can be unrolled."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]
    steps = [
        ((layer.get_build_config() or {}).get("input_shape") or (0, None))[1] for layer in layers
    ]
    return layers, all(count is not None and count <= UNROLLED_STEPS for count in steps)


# --- converting ---------------------------------------------------------------------------------


def _convert(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    *,
    variants: list[Variant],
    calibration: list[np.ndarray] | None,
    unroll: bool,
) -> dict[Variant, str]:
    """Writes each variant's file; returns the reasons of those that could not be made."""
    if keras.backend.backend() == "tensorflow":
        return convert_here(
            model, signature, folder, variants=variants, calibration=calibration, unroll=unroll
        )
    model.save(folder / "model.keras")
    inputs = [dataclasses.asdict(spec) for spec in signature.inputs]
    job = {
        "inputs": inputs,
        "variants": [dataclasses.asdict(variant) for variant in variants],
        "unroll": unroll,
    }
    (folder / "job.json").write_text(json.dumps(job))
    if calibration is not None:
        np.savez(folder / "calibration.npz", *calibration)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    failure = _run_process(
        ["-m", "keras_hoyer.exporters._convert_litert", str(folder)], CONVERT_TIMEOUT, environment
    )
    if failure:
        raise ExportError(
            "convert",
            f"on the {keras.backend.backend()} backend the model is saved as `.keras` and "
            f"converted by TensorFlow in a process of its own, which failed: {failure}",
        )
    reasons = json.loads((folder / "failures.json").read_text())
    return {v: reasons[v.name] for v in variants if v.name in reasons}


def convert_here(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    *,
    variants: list[Variant],
    calibration: list[np.ndarray] | None,
    unroll: bool,
) -> dict[Variant, str]:
    """`_convert` where Keras runs on TensorFlow."""
    import tensorflow as tf  # noqa: PLC0415

    saved = folder / "saved_model"
    try:
        with signatures.in_float32(model), _unrolled(model, unroll):
            _save(tf, model, signature, saved)
    except Exception as error:
        raise ExportError("convert", f"the model cannot be traced: {_reason(error)}") from error
    failures = {}
    for variant in variants:
        try:
            content = bytearray(_converted(tf, saved, variant, signature, calibration))
        except Exception as error:  # the converter raises anything
            failures[variant] = _reason(error)
            continue
        litert_file.make_zeros_positive(content)
        variant.file(folder).write_bytes(content)
    shutil.rmtree(saved)
    return failures


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
    variant: Variant,
    signature: signatures.Signature,
    calibration: list[np.ndarray] | None,
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if variant.quantize else []
    if variant.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if variant.quantize == "int8":
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
    if variant.sparse:
        converter.optimizations += [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
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


def _check(
    variant: Variant, folder: Path, expected: list[dict[str, np.ndarray]], tolerance: float
) -> Candidate:
    path = variant.file(folder)
    size = path.stat().st_size
    actual, failure = run(path, folder / "calls.npz")
    error = None
    if failure is None:
        error, failure = signatures.compare(expected, actual)
    if failure is None and error > tolerance:
        failure = f"wrong: its error is above the tolerance of {tolerance:.2g}"
    return Candidate(variant.name, failure or "right", size, error, right=failure is None)


def run(path: Path, calls: Path) -> tuple[list[dict[str, np.ndarray]], str | None]:
    """Runs a `.tflite` file in a process of its own.

    Args:
        path: the file.
        calls: the inputs, as `_run_litert.py` describes them.

    Returns:
        The outputs of each call by name, and why there are none if the file failed.
    """
    script = Path(__file__).with_name("_run_litert.py")
    out = path.with_suffix(".outputs.npz")
    failure = _run_process([str(script), str(path), str(calls), str(out)], RUN_TIMEOUT)
    if failure:
        return [], failure
    with np.load(calls) as stored:
        results: list[dict] = [{} for _ in range(int(stored["count"]))]
    with np.load(out) as stored:
        for key in stored.files:
            call, name = key.split("/", 1)
            results[int(call)][name] = stored[key]
    return results, None


def _store_calls(
    path: Path, signature: signatures.Signature, calls: list[list[np.ndarray]]
) -> None:
    arrays = {f"{c}_{i}": array for c, call in enumerate(calls) for i, array in enumerate(call)}
    names = np.array([spec.name for spec in signature.inputs])
    np.savez(path, names=names, count=np.array(len(calls)), **arrays)


def _run_process(
    arguments: list[str], timeout: float, environment: dict[str, str] | None = None
) -> str | None:
    """Runs Python in a process of its own; returns what went wrong, or `None`."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"hung: stopped after {timeout:g} s"
    if done.returncode < 0:
        return f"crashed with {signal.Signals(-done.returncode).name}"
    if done.returncode > 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return f"failed: {lines[-1] if lines else f'exit code {done.returncode}'}"[:300]
    return None


def installed() -> bool:
    """Whether the interpreter that checks the files is there."""
    return importlib.util.find_spec("ai_edge_litert") is not None
