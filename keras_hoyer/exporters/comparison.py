"""Two models side by side: what they answer and how long they take."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_hoyer._extras import check_package
from keras_hoyer._progress import step
from keras_hoyer._tables import html_lines, html_table, text_table
from keras_hoyer.exporters import _run_file, litert, signatures
from keras_hoyer.exporters.sides import Outputs, Side


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """How far apart two models are; shown as a table.

    Attributes:
        paths: the two files.
        bytes: their sizes, without what is of no use but to train on.
        training_bytes: what was left out of them: an optimizer's slots in a `.keras` file.
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
    training_bytes: tuple[int, int]
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

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain Python values, ready for JSON."""
        values = dataclasses.asdict(self)
        return {
            **values,
            "paths": [str(path) for path in self.paths],
            "within_tolerance": self.within_tolerance,
        }

    def __repr__(self) -> str:
        return (
            f"Comparison(paths={tuple(map(str, self.paths))}, bytes={self.bytes}, "
            f"error={self.error:.3g}, tolerance={self.tolerance:.3g}, samples={self.samples})"
        )

    def __str__(self) -> str:
        sizes, figures = text_table(self._sizes(), right=[1, 2, 3]), text_table(self._figures())
        return "\n\n".join(["\n".join(self._sides()), sizes, figures])

    def _repr_html_(self) -> str:
        sizes = html_table(self._sizes(), right=[1, 2, 3])
        return f"{html_lines(*self._sides())}{sizes}{html_table([('', ''), *self._figures()])}"

    def plot(self) -> Any:
        """Draws the bytes of both, and the time of one sample if it was measured.

        Returns:
            A `matplotlib.figure.Figure`. A notebook shows it; `.savefig("both.png")` writes it.

        Raises:
            ImportError: if matplotlib is not installed (`pip install keras-hoyer[plot]`).
        """
        check_package("matplotlib", "plot", "Comparison.plot")
        from keras_hoyer.exporters import drawing  # noqa: PLC0415  (matplotlib)

        return drawing.sides(self).draw()

    def to_html(self, filepath: str | os.PathLike[str]) -> Path:
        """Writes a page with the same: one file that asks for nothing else.

        Args:
            filepath: where it goes; an older file is replaced.

        Returns:
            The path of the file.

        Raises:
            ImportError: if matplotlib is not installed (`pip install keras-hoyer[plot]`).
            ValueError: if no file can be written there.
        """
        check_package("matplotlib", "plot", "Comparison.to_html")
        from keras_hoyer.exporters import page  # noqa: PLC0415  (matplotlib)

        return page.write_comparison(self, self._sides(), self._sizes(), self._figures(), filepath)

    def _sides(self) -> list[str]:
        return [
            f"{side}: {path}"
            + (f" (without its {state:,} bytes of training state)" if state else "")
            for side, path, state in zip("AB", self.paths, self.training_bytes, strict=True)
        ]

    def _sizes(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("", "A", "B", "A / B")]
        rows.append(("bytes", *_cells(self.bytes, ",")))
        if self.milliseconds:
            rows.append(("milliseconds", *_cells(self.milliseconds, ".4f")))
        return rows

    def _figures(self) -> list[tuple[str, str]]:
        verdict = "within" if self.within_tolerance else "ABOVE"
        rows = [
            ("largest difference", f"{self.max_difference:.3g}"),
            ("mean difference", f"{self.mean_difference:.3g}"),
            (
                "relative to the largest output",
                f"{self.error:.3g}, {verdict} the tolerance of {self.tolerance:.3g}",
            ),
        ]
        if self.equal_argmax is not None:
            rows.append(("same class", f"{self.equal_argmax:.2%}"))
        return [*rows, ("samples", f"{self.samples:,}")]


def compare(
    a: Side, b: Side, data: Any = None, tolerance: float | None = None, runs: int = 100
) -> Comparison:
    """Runs two models on the same inputs.

    Inputs and outputs belong together by their names if those are the same in both, else by their
    order.

    Args:
        a: the model that the other one is measured by.
        b: the other one.
        data: samples as for `export`; by default 32 random ones, within the range that a file in
            int8 was calibrated on.
        tolerance: what `error` may be; by default what `export` allows a file that is quantized
            like the more coarsely quantized one of the two: 1e-4, float16 1e-2, dynamic 0.1, int8
            0.2.
        runs: how often each is timed, by turns; 0 for not at all.

    Returns:
        The `Comparison`.

    Raises:
        ValueError: if the two do not take the same inputs or give the same outputs, the data do
            not fit, or a model fails on them.
    """
    with step("comparing outputs"):
        both = _run(a, b, data)
    error = both.error()
    largest, mean = _differences(both.expected, both.actual)
    states = (a.training_bytes(), b.training_bytes())
    if tolerance is None:
        tolerance = max(litert.TOLERANCES[side.quantize] for side in (a, b))
    return Comparison(
        paths=(a.path, b.path),
        bytes=(a.path.stat().st_size - states[0], b.path.stat().st_size - states[1]),
        training_bytes=states,
        milliseconds=_time(both.prepare(), runs) if runs else None,
        samples=both.samples,
        max_difference=largest,
        mean_difference=mean,
        error=error,
        equal_argmax=_equal_argmax(both.expected, both.actual),
        tolerance=tolerance,
    )


def largest_error(a: Side, b: Side, data: Any = None) -> float:
    """Largest difference, relative to the largest output of `a`; by default on random inputs."""
    return _run(a, b, data).error()


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
        if error is None:
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
        arrays = _within_ranges(arrays, a, range(len(order)))
        arrays = _within_ranges(arrays, b, order)
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


def _within_ranges(arrays: list[np.ndarray], side: Side, order: Sequence[int]) -> list[np.ndarray]:
    """Random inputs that a file in integers can tell apart."""
    limited = list(arrays)
    for i, spec in zip(order, side.signature.inputs, strict=True):
        if spec.name in side.ranges:
            limited[i] = np.clip(arrays[i], *side.ranges[spec.name]).astype(arrays[i].dtype)
    return limited


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
    with step("timing"):
        first, second = _run_file.time_by_turns(calls, runs)
    return first, second


def _cells(pair: tuple[float, float], spec: str) -> tuple[str, str, str]:
    return format(pair[0], spec), format(pair[1], spec), f"{pair[0] / pair[1]:.2f}"
