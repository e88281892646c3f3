"""Two models side by side: what they answer and how long they take."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer._checks import check_count, check_number
from keras_hoyer._data import samples_of
from keras_hoyer._extras import check_package
from keras_hoyer._progress import step
from keras_hoyer._tables import html_lines, html_table, text_table
from keras_hoyer.exporters import litert, signatures
from keras_hoyer.exporters.pairs import Pair, pair_of
from keras_hoyer.exporters.sides import Outputs, Side, side_of
from keras_hoyer.exporters.timing import Quartiles


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """How far apart two models are; shown as a table.

    Attributes:
        names: the two: the path of a file, or the name of a model.
        paths: the two files; `None` for a model in memory.
        bytes: their sizes, without what is of no use but to train on; of a model in memory that of
            its weights.
        training_bytes: what was left out of them: an optimizer's slots in a `.keras` file.
        milliseconds: median time of one sample, or of one batch where its size is fixed; of two
            files the processor's time, which other work on the machine hardly changes. `None` if
            it was not measured.
        quartiles: between what half of these times lie, for each of the two.
        samples: number of samples that both were run on.
        max_difference: largest difference of an output.
        mean_difference: mean of the differences' magnitudes.
        error: largest difference relative to the largest value of that output in the first model;
            of an output of integers, the share that differs.
        equal_argmax: share of the rows of outputs of shape `(samples, classes)` whose largest
            entry is at the same place; `None` without such an output.
        tolerance: what `error` may be.
    """

    names: tuple[str, str]
    paths: tuple[Path | None, Path | None]
    bytes: tuple[int, int]
    training_bytes: tuple[int, int]
    milliseconds: tuple[float, float] | None
    samples: int
    max_difference: float
    mean_difference: float
    error: float
    equal_argmax: float | None
    tolerance: float
    quartiles: tuple[Quartiles, Quartiles] | None = None

    @property
    def within_tolerance(self) -> bool:
        """Whether the two count as the same."""
        return self.error <= self.tolerance

    @property
    def short_names(self) -> tuple[str, str]:
        """The names without the folders of files."""
        both = zip(self.names, self.paths, strict=True)
        one, two = (name if path is None else path.name for name, path in both)
        return one, two

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain Python values, ready for JSON."""
        values = dataclasses.asdict(self)
        return {
            **values,
            "paths": [None if path is None else str(path) for path in self.paths],
            "within_tolerance": self.within_tolerance,
        }

    def __repr__(self) -> str:
        return (
            f"Comparison(names={self.names}, bytes={self.bytes}, "
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
            f"{side}: {name}"
            + (f" (without its {state:,} bytes of training state)" if state else "")
            for side, name, state in zip("AB", self.names, self.training_bytes, strict=True)
        ]

    def _sizes(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("", "A", "B", "A / B")]
        rows.append(("bytes", *_cells(self.bytes, ",")))
        if self.milliseconds:
            rows.append(("milliseconds", *_cells(self.milliseconds, ".4f")))
        if self.quartiles:
            ranges = [f"{low:.4f} to {high:.4f}" for low, high in self.quartiles]
            rows.append(("half of them", *ranges, ""))
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
    one: keras.Model | str | os.PathLike[str] | Side,
    other: keras.Model | str | os.PathLike[str] | Side,
    data: Any = None,
    tolerance: float | None = None,
    runs: int = 100,
) -> Comparison:
    """Puts two models, or files, side by side: what they answer, their bytes and their times.

    Both are run on the same inputs; these and outputs belong together by their names if those are
    the same in both, else by their order. Then both are timed by turns on one sample: a file on
    one thread, a model in Keras as `predict_on_batch`, on as many threads as Keras takes.

    Args:
        one: the model that the other one is measured by: a built Keras model, or the path of a
            `.keras`, `.tflite` or `.onnx` file.
        other: the other one.
        data: samples as for `export`. Defaults to `None`: 32 random ones, within the range that a
            file in int8 was calibrated on.
        tolerance: what the error, relative to the largest output, may be. Defaults to `None`: what
            `export` allows a file that is quantized like the more coarsely quantized one of the
            two: 1e-4, float16 1e-2, dynamic 0.1, int8 0.2.
        runs: how many turns each has, of 2 milliseconds or one call at least; 0 for none. Defaults
            to 100.

    Returns:
        A `Comparison`: `max_difference`, `error`, `within_tolerance`, `equal_argmax`, `bytes`,
        `milliseconds` and their `quartiles`. Print it for a table.

    Raises:
        ValueError: if one of them is neither a model nor a file that can be read, the two do not
            take the same inputs or give the same outputs, the data do not fit, or a model fails on
            them.

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> other = keras.models.clone_model(model)
    >>> other.set_weights([model.get_weights()[0], np.full(4, 0.5)])
    >>> result = compare(model, other, runs=3)
    >>> round(result.max_difference, 3), result.within_tolerance, result.bytes
    (0.5, False, (144, 144))
    """
    check_count("runs", runs, 0)
    if tolerance is not None:
        check_number("tolerance", tolerance, "a number, 0 or more", lambda value: value >= 0)
    if data is not None:  # once, since a generator cannot be read again
        data = samples_of(data, (), "data", signatures.CALIBRATION_SAMPLES)
    a, b = side_of(one, data), side_of(other, data)
    with step("comparing outputs"):
        pair = pair_of(a, b, data)
        expected, actual = _run(pair)
    error = _error(pair, expected, actual)
    largest, mean = _differences(expected, actual)
    if tolerance is None:
        tolerance = max(litert.TOLERANCES[side.quantize] for side in (a, b))
    with step("timing"):
        timing = pair.time(runs) if runs else None
    return Comparison(
        names=(a.name, b.name),
        paths=(a.path, b.path),
        bytes=(a.bytes(), b.bytes()),
        training_bytes=(a.training_bytes(), b.training_bytes()),
        milliseconds=timing.milliseconds if timing else None,
        samples=pair.samples,
        max_difference=largest,
        mean_difference=mean,
        error=error,
        equal_argmax=_equal_argmax(expected, actual),
        tolerance=tolerance,
        quartiles=timing.quartiles if timing else None,
    )


def largest_error(a: Side, b: Side, data: Any = None) -> float:
    """Largest difference, relative to the largest output of `a`; by default on random inputs."""
    pair = pair_of(a, b, data)
    return _error(pair, *_run(pair))


def _error(pair: Pair, expected: Outputs, actual: Outputs) -> float:
    """The largest error, as `signatures.compare` defines it."""
    a, b = pair.sides
    if not all(np.isfinite(array).all() for call in expected for array in call.values()):
        raise ValueError(f"{a.name} gives NaN or infinite values on these inputs")
    error, failure = signatures.compare(expected, actual)
    if error is None:
        raise ValueError(f"{b.name} cannot be compared with {a.name}: {failure}")
    return error


def _run(pair: Pair) -> tuple[Outputs, Outputs]:
    """What both answer, the outputs of the second one named like those of the first."""
    expected, actual = (
        side.outputs(calls) for side, calls in zip(pair.sides, pair.calls, strict=True)
    )
    return expected, _named_like(expected, actual)


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


def _cells(pair: tuple[float, float], spec: str) -> tuple[str, str, str]:
    return format(pair[0], spec), format(pair[1], spec), f"{pair[0] / pair[1]:.2f}"
