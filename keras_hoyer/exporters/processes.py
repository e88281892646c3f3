"""Converts and runs files in processes of their own, whose end or hang is an outcome."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np

from keras_hoyer._progress import step
from keras_hoyer.exporters import signatures
from keras_hoyer.exporters.results import Candidate, ExportError

# Seconds after which a file that is still running counts as hung, and a conversion in a process of
# its own as stuck.
RUN_TIMEOUT = 120
CONVERT_TIMEOUT = 3600

# How much of what a process says is searched for its last line.
LAST_BYTES = 65536

# Where the inputs that a file is checked with stand, beside it.
CALLS = "calls.npz"

SCRIPT = str(Path(__file__).with_name("_run_file.py"))


def convert_on_tensorflow(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    calibration: list[np.ndarray] | None,
    job: dict[str, Any],
) -> str | None:
    """Has a model of another backend converted: saved as `.keras`, read by Keras on TensorFlow.

    Args:
        model: a built model.
        signature: what the model takes.
        folder: where the file goes, and everything that the process needs.
        calibration: representative inputs, or `None`.
        job: `format`, and the arguments of that format's `convert_here`.

    Returns:
        Why there is no file, or `None`.

    Raises:
        ExportError: if the process cannot load the model.
        OSError: if the disk is full.
    """
    try:
        model.save(folder / "model.keras")
    except OSError:
        raise
    except Exception as error:  # custom layers raise anything
        raise ExportError("convert", f"Keras cannot save the model: {error}") from error
    job = {**job, "inputs": [dataclasses.asdict(spec) for spec in signature.inputs]}
    (folder / "job.json").write_text(json.dumps(job))
    if calibration is not None:
        np.savez(folder / "calibration.npz", *calibration)
    failure = run_process(
        ["-m", "keras_hoyer.exporters._convert", str(folder)], CONVERT_TIMEOUT, on_tensorflow()
    )
    if failure:
        raise ExportError(
            "convert",
            f"on the {keras.backend.backend()} backend the model is saved as `.keras` and "
            f"converted by TensorFlow in a process of its own, which failed: {failure}",
        )
    reason = folder / "failure.txt"
    return reason.read_text() if reason.exists() else None


def on_tensorflow() -> dict[str, str]:
    """The environment of a process in which Keras runs on TensorFlow, and imports what we can."""
    return {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }


def check(
    name: str, path: Path, expected: list[dict[str, np.ndarray]], tolerance: float
) -> Candidate:
    """Runs a file on the stored calls and compares its outputs with the model's."""
    with step(f"running {name}"):
        actual, failure = run(path, path.with_name(CALLS), list(expected[0]))
    error = None
    if failure is None:
        error, failure = signatures.compare(expected, actual)
    if error is not None and error > tolerance:
        failure = f"wrong: its error is above the tolerance of {tolerance:.2g}"
    return Candidate(name, failure or "right", path.stat().st_size, error, right=failure is None)


def run(
    path: Path, calls: Path, names: list[str]
) -> tuple[list[dict[str, np.ndarray]], str | None]:
    """Runs a file in a process of its own.

    Args:
        path: the file.
        calls: the inputs, as `_run_file.py` describes them.
        names: names for outputs that have numbers only.

    Returns:
        The outputs of each call by name, and why there are none if the file failed.
    """
    out = calls.with_name("outputs.npz")
    failure = run_process([SCRIPT, "run", str(calls), str(out), str(path)], RUN_TIMEOUT)
    if failure:
        return [], failure
    with np.load(calls) as stored:
        results: list[dict[str, np.ndarray]] = [{} for _ in range(int(stored["count"]))]
    with np.load(out) as stored:
        for key in stored.files:
            call, name = key.split("/", 1)
            name = names[int(name)] if name.isdigit() and int(name) < len(names) else name
            results[int(call)][name] = stored[key]
    return results, None


def describe(path: Path, folder: Path) -> tuple[signatures.ModelInput, ...]:
    """Reads what a `.tflite` or `.onnx` file takes, in a process of its own.

    Args:
        path: the file.
        folder: where the process leaves its answer.

    Returns:
        The inputs, in the file's order.

    Raises:
        ValueError: if the file cannot be read.
    """
    out = folder / "inputs.json"
    failure = run_process([SCRIPT, "describe", str(out), str(path)], RUN_TIMEOUT)
    if failure:
        raise ValueError(f"{path} cannot be read: it {failure}")
    return tuple(
        signatures.ModelInput(name, tuple(shape), dtype)
        for name, shape, dtype in json.loads(out.read_text())
    )


def store_calls(path: Path, signature: signatures.Signature, calls: list[list[np.ndarray]]) -> None:
    """Writes the inputs that files are run on."""
    arrays: dict[str, Any] = {
        f"{c}_{i}": array for c, call in enumerate(calls) for i, array in enumerate(call)
    }
    arrays["names"] = np.array([spec.name for spec in signature.inputs])
    arrays["count"] = np.array(len(calls))
    np.savez(path, **arrays)


def run_process(
    arguments: list[str], timeout: float, environment: dict[str, str] | None = None
) -> str | None:
    """Runs Python in a process of its own; returns what went wrong, or `None`."""
    # A file, not a pipe: it takes any amount, and a grandchild that lives on does not hold it up.
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                timeout=timeout,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return f"hung: stopped after {timeout:g} s"
        except OSError as error:
            return f"could not be started: {error}"
        if done.returncode < 0:
            return f"crashed with {_signal_name(-done.returncode)}"
        if done.returncode > 0:
            return shortened(f"failed: {_last_line(errors) or f'exit code {done.returncode}'}")
    return None


def _signal_name(number: int) -> str:
    """The name of a signal; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" + (f" ({text})" if (text := signal.strsignal(number)) else "")


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - LAST_BYTES))
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def shortened(text: str, limit: int = 1000) -> str:
    """A message without its middle where it is too long: a cause stands at either end."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} [...] {text[-limit // 2 :]}"
