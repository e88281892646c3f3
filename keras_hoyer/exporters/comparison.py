"""Two models side by side, each in Keras or in a file: what they answer and how long they take."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer.exporters import _run_file, processes, signatures
from keras_hoyer.exporters.results import table

Outputs = list[dict[str, np.ndarray]]


class KerasSide:
    """A Keras model.

    Args:
        path: the file that it came from.
        model: a built model.
        data: representative data or `None`, as for `export`.
    """

    def __init__(self, path: Path, model: keras.Model, data: Any = None) -> None:
        self.path = path
        self.model = model
        self.signature = signatures.signature_of(model, data)

    def outputs(self, calls: list[list[np.ndarray]]) -> Outputs:
        """What it answers to each call."""
        try:
            return signatures.call_all(self.model, self.signature, calls)
        except Exception as error:  # a model raises anything
            raise ValueError(
                f"{self.path} cannot be called on these inputs: {type(error).__name__}: {error}"
            ) from error

    def prepare(self, arrays: list[np.ndarray]) -> Callable[[], Any]:
        """A function that runs it once, as `predict_on_batch` does."""
        inputs = keras.tree.pack_sequence_as(self.signature.structure, arrays)
        predict = partial(self.model.predict_on_batch, inputs)
        predict()  # compiles
        return predict


class FileSide:
    """A `.tflite` or `.onnx` file.

    Args:
        path: the file.

    Raises:
        ValueError: if it cannot be read.
    """

    model = None

    def __init__(self, path: Path) -> None:
        self.path = path
        with tempfile.TemporaryDirectory() as folder:
            inputs = processes.describe(path, Path(folder))
        self.signature = signatures.Signature(inputs, list(range(len(inputs))))

    def outputs(self, calls: list[list[np.ndarray]]) -> Outputs:
        """What it answers to each call."""
        with tempfile.TemporaryDirectory() as folder:
            stored = Path(folder) / "calls.npz"
            processes.store_calls(stored, self.signature, calls)
            results, failure = processes.run(self.path, stored, [])
        if failure:
            raise ValueError(f"{self.path} cannot be run: it {failure}")
        return results

    def prepare(self, arrays: list[np.ndarray]) -> Callable[[], Any]:
        """A function that runs it once; what `outputs` has run does not end the process."""
        names = [spec.name for spec in self.signature.inputs]
        return _run_file.prepare(str(self.path), dict(zip(names, arrays, strict=True)))


Side = KerasSide | FileSide


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far apart two models are; `print` shows it as a table.

    Attributes:
        paths: the two files.
        bytes: their sizes.
        milliseconds: median time of one sample, or of one batch where its size is fixed; `None` if
            it was not measured.
        samples: number of samples that both were run on.
        max_difference: largest difference of an output.
        mean_difference: mean of the differences' magnitudes.
        error: largest difference relative to the largest value of that output in the first model;
            of an output of integers, the share that differs.
        equal_argmax: share of the rows of outputs of shape `(samples, classes)` whose largest
            entry is at the same place; `None` without such an output.
        tolerance: what `error` may be.
    """

    paths: tuple[Path, Path]
    bytes: tuple[int, int]
    milliseconds: tuple[float, float] | None
    samples: int
    max_difference: float
    mean_difference: float
    error: float
    equal_argmax: float | None
    tolerance: float

    @property
    def within_tolerance(self) -> bool:
        """Whether the two count as the same."""
        return self.error <= self.tolerance

    def to_dict(self) -> dict:
        """The comparison as plain Python values, ready for JSON."""
        values = dataclasses.asdict(self)
        return {
            **values,
            "paths": [str(path) for path in self.paths],
            "within_tolerance": self.within_tolerance,
        }

    def __str__(self) -> str:
        rows = [("", "A", "B", "A / B"), ("bytes", *_cells(self.bytes, ",")), *self._times()]
        lines = [f"A: {self.paths[0]}", f"B: {self.paths[1]}", "", table(rows), ""]
        figures = [
            ("largest difference", f"{self.max_difference:.3g}"),
            ("mean difference", f"{self.mean_difference:.3g}"),
            (
                "relative to the largest output",
                f"{self.error:.3g}, {'within' if self.within_tolerance else 'ABOVE'} the "
                f"tolerance of {self.tolerance:.3g}",
            ),
        ]
        if self.equal_argmax is not None:
            figures.append(("same class", f"{self.equal_argmax:.2%}"))
        return "\n".join([*lines, table([*figures, ("samples", f"{self.samples:,}")])])

    def _times(self) -> list[tuple[str, ...]]:
        return [("milliseconds", *_cells(self.milliseconds, ".4f"))] if self.milliseconds else []


def compare(
    a: Side, b: Side, data: Any = None, tolerance: float = 1e-4, runs: int = 100
) -> Comparison:
    """Runs two models on the same inputs.

    Inputs and outputs belong together by their names if those are the same in both, else by their
    order.

    Args:
        a: the model that the other one is measured by.
        b: the other one.
        data: samples as for `export`; by default 32 random ones.
        tolerance: what `error` may be.
        runs: how often each is timed, by turns; 0 for not at all.

    Returns:
        The `Comparison`.

    Raises:
        ValueError: if the two do not take the same inputs or give the same outputs, the data do
            not fit, or a model fails on them.
    """
    both = _run(a, b, data)
    error = both.error()
    largest, mean = _differences(both.expected, both.actual)
    return Comparison(
        paths=(a.path, b.path),
        bytes=(a.path.stat().st_size, b.path.stat().st_size),
        milliseconds=_time(both.prepare(), runs) if runs else None,
        samples=both.samples,
        max_difference=largest,
        mean_difference=mean,
        error=error,
        equal_argmax=_equal_argmax(both.expected, both.actual),
        tolerance=tolerance,
    )


def largest_error(a: Side, b: Side) -> float:
    """Largest difference on random inputs, relative to the largest output of `a`."""
    return _run(a, b, None).error()


def use_one_thread() -> None:
    """Lets Keras compute on one thread, as files do; to be called before it computes anything."""
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415

        torch.set_num_threads(1)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        with contextlib.suppress(RuntimeError):  # it has computed already
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)


@dataclasses.dataclass(frozen=True)
class _Both:
    """Two models, the inputs of a single call of each, and what they answered to all calls."""

    sides: tuple[Side, Side]
    first: tuple[list[np.ndarray], list[np.ndarray]]
    samples: int
    expected: Outputs
    actual: Outputs

    def error(self) -> float:
        """The largest error, as `signatures.compare` defines it."""
        a, b = self.sides
        if not all(np.isfinite(array).all() for call in self.expected for array in call.values()):
            raise ValueError(f"{a.path} gives NaN or infinite values on these inputs")
        error, failure = signatures.compare(self.expected, self.actual)
        if failure:
            raise ValueError(f"{b.path} cannot be compared with {a.path}: {failure}")
        return error

    def prepare(self) -> list[Callable[[], Any]]:
        """Functions that run either once."""
        return [side.prepare(x) for side, x in zip(self.sides, self.first, strict=True)]


def _run(a: Side, b: Side, data: Any) -> _Both:
    signature, order = _join(a, b)
    if data is None:
        samples = signatures.CHECK_SAMPLES
        arrays = signatures.random_arrays(a.model or b.model, signature, samples)
    else:
        arrays = signatures.arrays_of(signature, data)
    batch = signature.inputs[0].shape[0]
    samples = len(arrays[0]) // (batch or 1) * (batch or 1)
    size = batch or signatures.CHECK_SAMPLES
    calls = [
        [array[i : min(i + size, samples)] for array in arrays] for i in range(0, samples, size)
    ]
    first = [array[: batch or 1] for array in arrays]
    expected = a.outputs(calls)
    actual = b.outputs([_for(b, order, call) for call in calls])
    return _Both(
        sides=(a, b),
        first=(first, _for(b, order, first)),
        samples=samples,
        expected=expected,
        actual=_named_like(expected, actual),
    )


def _join(a: Side, b: Side) -> tuple[signatures.Signature, list[int]]:
    """The inputs of `a` with the sizes that either fixes, and where those of `b` are in them."""
    ours, theirs = a.signature.inputs, b.signature.inputs
    names = [spec.name for spec in ours]
    same = sorted(names) == sorted(spec.name for spec in theirs)
    order = [names.index(spec.name) if same else i for i, spec in enumerate(theirs)]
    joined = list(ours)
    fits = len(ours) == len(theirs)
    for i, their in zip(order, theirs, strict=True) if fits else ():
        our = ours[i]
        pairs = list(zip(our.shape, their.shape, strict=False))
        fits &= len(our.shape) == len(their.shape) and _kind(our) == _kind(their)
        fits &= all(None in pair or len(set(pair)) == 1 for pair in pairs)
        shape = tuple(m if n is None else n for n, m in pairs)
        joined[i] = dataclasses.replace(our, shape=shape)
    if not fits:
        raise ValueError(
            f"Expected two models with the same inputs. Received: {a.path} with "
            f"{_described(ours)} and {b.path} with {_described(theirs)}"
        )
    return dataclasses.replace(a.signature, inputs=tuple(joined)), order


def _kind(spec: signatures.ModelInput) -> str:
    """Floats of all sizes are the same numbers; an int8 stands for something else."""
    return "float" if "float" in spec.dtype else spec.dtype


def _described(inputs: tuple[signatures.ModelInput, ...]) -> str:
    return ", ".join(f"{spec.name}: {spec.shape} {spec.dtype}" for spec in inputs)


def _for(side: Side, order: list[int], arrays: list[np.ndarray]) -> list[np.ndarray]:
    inputs = side.signature.inputs
    return [arrays[i].astype(spec.dtype) for i, spec in zip(order, inputs, strict=True)]


def _named_like(expected: Outputs, actual: Outputs) -> Outputs:
    ours, theirs = list(expected[0]), list(actual[0])
    if len(ours) != len(theirs):
        raise ValueError(
            f"Expected two models with the same outputs. Received: {ours} and {theirs}"
        )
    if sorted(ours) == sorted(theirs):
        return actual
    return [dict(zip(ours, call.values(), strict=True)) for call in actual]


def _pairs(expected: Outputs, actual: Outputs) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (ours[name], theirs[name])
        for ours, theirs in zip(expected, actual, strict=True)
        for name in ours
    ]


def _differences(expected: Outputs, actual: Outputs) -> tuple[float, float]:
    """Largest and mean magnitude over all elements of all outputs."""
    each = [
        np.abs(want.astype("float64") - got.astype("float64"))
        for want, got in _pairs(expected, actual)
    ]
    total = sum(array.size for array in each) or 1
    return max(float(x.max(initial=0)) for x in each), float(sum(x.sum() for x in each) / total)


def _equal_argmax(expected: Outputs, actual: Outputs) -> float | None:
    equal = [
        want.argmax(axis=1) == got.argmax(axis=1)
        for want, got in _pairs(expected, actual)
        if want.ndim == 2 and want.shape[1] > 1 and want.dtype.kind not in "biu"
    ]
    return float(np.concatenate(equal).mean()) if equal else None


def _time(calls: list[Callable[[], Any]], runs: int) -> tuple[float, float]:
    first, second = _run_file.time_by_turns(calls, runs)
    return first, second


def _cells(pair: tuple[float, float], spec: str) -> tuple[str, str, str]:
    return format(pair[0], spec), format(pair[1], spec), f"{pair[0] / pair[1]:.2f}"
