"""What an export hands back, and the error that says which step of it broke."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_hoyer._extras import check_package
from keras_hoyer._tables import GAP, Rows, html_lines, html_table, shorten, text_table, wrap

# What a line of the tables is no longer than, and how many kernels have a line each.
WIDTH, MOST_KERNELS = 100, 20

# Formats that deflate what they store, so that zeros make the files of dense tensors small as well.
COMPRESSED = ("keras", "npz")


class ExportError(RuntimeError):
    """An export that was started and could not be finished; no file was left behind.

    Attributes:
        step: the step that broke: `"outputs of the model"`, `"convert"`, `"check"` or `"write"`.
        reason: what broke there, and what to do.
        candidates: tuple of `Candidate`, what was tried before giving up.
    """

    def __init__(self, step: str, reason: str, candidates: tuple["Candidate", ...] = ()) -> None:
        lines = [f"The export failed at the step '{step}': {reason}"]
        if candidates:
            lines.append(text_table(_candidate_rows(candidates), right=[1, 2]))
        super().__init__("\n".join(lines))
        self.step = step
        self.reason = reason
        self.candidates = candidates

    def extended(self, advice: str) -> "ExportError":
        """The same error with a sentence more."""
        return ExportError(self.step, f"{self.reason} {advice}", self.candidates)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One file that was tried.

    Attributes:
        name: how it was made, such as `"float32 sparse"`.
        outcome: `"kept"`, or why it was not.
        bytes: its size, or `None` if it could not be written.
        max_error: largest output error, relative to the largest output; `None` if not measured.
        milliseconds: median time of one inference, or `None` if not measured.
        right: whether it ran and its outputs are within the tolerance.
    """

    name: str
    outcome: str
    bytes: int | None = None
    max_error: float | None = None
    milliseconds: float | None = None
    right: bool = False

    @property
    def error(self) -> float:
        """Its `max_error`, which each file has that is right."""
        if self.max_error is None:
            raise ValueError(f"The file '{self.name}' gave no outputs to measure: {self.outcome}")
        return self.max_error


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One weight tensor as it stands in the written file.

    Attributes:
        name: the tensor's name in the file.
        shape: its dense shape.
        dtype: how its values are stored, such as `"float32"` or `"int8"`.
        storage: `"dense"`, `"csr"`, `"block (1, 4)"` or `"bitmask"`.
        sparsity: share of its elements that are zero, from 0 to 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    storage: str
    sparsity: float


@dataclasses.dataclass(frozen=True, repr=False)
class ExportResult:
    """A file that was written, run and found right; shown as a table.

    Attributes:
        path: where the file is.
        format: `"tflite"`, `"npz"`, ...
        bytes: its size.
        dense_bytes: size of the same export without anything sparse.
        max_error: largest difference from the model: of the outputs, relative to the largest
            output, or of the weights, relative to the largest weight, where no output is computed.
        tolerance: what `max_error` was allowed to be.
        candidates: all files that were tried, the kept one included.
        tensors: the weight tensors of the file.
        notes: what a user of the file should know.
    """

    path: Path
    format: str
    bytes: int
    dense_bytes: int
    max_error: float
    tolerance: float
    candidates: tuple[Candidate, ...] = ()
    tensors: tuple[StoredTensor, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the dense one."""
        return self.dense_bytes / self.bytes

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python values, ready for JSON."""
        return {**dataclasses.asdict(self), "path": str(self.path), "ratio": self.ratio}

    def __repr__(self) -> str:
        return (
            f"ExportResult(path={str(self.path)!r}, bytes={self.bytes}, "
            f"dense_bytes={self.dense_bytes}, max_error={self.max_error:.2g}, "
            f"candidates: {len(self.candidates)}, tensors: {len(self.tensors)}, "
            f"notes: {len(self.notes)})"
        )

    def __str__(self) -> str:
        candidates = text_table(_candidate_rows(self.candidates), right=[1, 2], width=WIDTH)
        parts = ["\n".join(self._summary()), candidates]
        if self._kernels():
            rows, figures = self._kernel_rows()
            parts.append(text_table(rows, figures))
        if self.notes:
            parts.append("\n".join(wrap(f"Note: {note}", WIDTH, " " * 6) for note in self.notes))
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        return "".join(
            [
                html_lines(*self._summary()),
                html_table(_candidate_rows(self.candidates), right=[1, 2]),
                html_table(*self._kernel_rows()) if self._kernels() else "",
                html_lines(*(f"Note: {note}" for note in self.notes)),
            ]
        )

    def plot(self) -> Any:
        """Draws the bytes of what was tried, and its times if they were measured.

        Returns:
            A `matplotlib.figure.Figure`. A notebook shows it; `.savefig("sizes.png")` writes it.

        Raises:
            ImportError: if matplotlib is not installed (`pip install keras-hoyer[plot]`).
        """
        check_package("matplotlib", "plot", "ExportResult.plot")
        from keras_hoyer.exporters import drawing  # noqa: PLC0415  (matplotlib)

        return drawing.candidates(self).draw()

    def to_html(self, filepath: str | os.PathLike[str]) -> Path:
        """Writes a page with what was tried and each tensor: one file that asks for nothing else.

        Args:
            filepath: where it goes; an older file is replaced.

        Returns:
            The path of the file.

        Raises:
            ImportError: if matplotlib is not installed (`pip install keras-hoyer[plot]`).
            ValueError: if no file can be written there.
        """
        check_package("matplotlib", "plot", "ExportResult.to_html")
        from keras_hoyer.exporters import page  # noqa: PLC0415  (matplotlib)

        return page.write_result(
            self, _candidate_rows(self.candidates), self._tensor_rows(), filepath
        )

    def _tensor_rows(self) -> Rows:
        header = ("tensor", "shape", "stored as", "elements", "zeros")
        rows = [
            (
                t.name,
                " x ".join(map(str, t.shape)),
                f"{t.dtype} {t.storage}",
                f"{math.prod(t.shape):,}",
                f"{t.sparsity:.1%}",
            )
            for t in self.tensors
        ]
        return [header, *rows]

    def _summary(self) -> tuple[str, str]:
        return (
            f"{self.path}: {self.bytes:,} bytes{self._against_dense()}",
            f"largest error {self.max_error:.2g}, allowed {self.tolerance:.2g}",
        )

    def _against_dense(self) -> str:
        """How the size compares with the dense file's; nothing if it is that file's."""
        if any(tensor.storage != "dense" for tensor in self.tensors):
            other = "dense"
        elif self.format in COMPRESSED:
            other = "uncompressed"
        else:
            return ""
        change = compare_sizes(self.bytes, self.dense_bytes)
        return f", {change} {other} ({self.dense_bytes:,})"

    def _kernels(self) -> list[StoredTensor]:
        return [tensor for tensor in self.tensors if len(tensor.shape) > 1]

    def _kernel_rows(self) -> tuple[Rows, Sequence[int]]:
        """A row for each kernel, or for those that are stored alike if there are many.

        With them the columns that hold figures.
        """
        kernels = self._kernels()
        if len(kernels) > MOST_KERNELS:
            return _grouped(kernels), (1, 2, 3)
        rows = [
            (t.name, " x ".join(map(str, t.shape)), f"{t.dtype} {t.storage}", f"{t.sparsity:.1%}")
            for t in kernels
        ]
        rows = [("tensor", "shape", "stored as", "zeros"), *rows]
        others = sum(max(len(row[i]) for row in rows) for i in (1, 2, 3)) + 3 * len(GAP)
        return [(shorten(name, WIDTH - others), *rest) for name, *rest in rows], (3,)


def _grouped(kernels: Iterable[StoredTensor]) -> Rows:
    groups: dict[str, list[StoredTensor]] = {}
    for tensor in kernels:
        groups.setdefault(f"{tensor.dtype} {tensor.storage}", []).append(tensor)
    rows = [("stored as", "tensors", "elements", "zeros")]
    for stored, tensors in groups.items():
        sizes = [math.prod(tensor.shape) for tensor in tensors]
        zeros = sum(size * t.sparsity for size, t in zip(sizes, tensors, strict=True))
        share = zeros / max(1, sum(sizes))
        rows.append((stored, f"{len(tensors):,}", f"{sum(sizes):,}", f"{share:.1%}"))
    return rows


def _candidate_rows(candidates: tuple[Candidate, ...]) -> Rows:
    timed = any(c.milliseconds is not None for c in candidates)
    rows = [("candidate", "bytes", "error", *(["ms"] if timed else []), "outcome")]
    for c in candidates:
        cells = [c.name, _cell(c.bytes, ","), _cell(c.max_error, ".2g")]
        cells += [_cell(c.milliseconds, ".3f")] if timed else []
        rows.append((*cells, c.outcome))
    return rows


def _cell(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def compare_sizes(size: int, other: int) -> str:
    """How much smaller or larger a size is than another one.

    >>> compare_sizes(500, 1200), compare_sizes(1300, 1000)
    ('2.40 times smaller than', '1.30 times larger than')
    >>> compare_sizes(990, 1000), compare_sizes(70001, 70000)
    ('1.0% smaller than', 'as large as')
    """
    times = max(size, other) / min(size, other)
    share = f"{times - 1:.1%}" if size > other else f"{1 - 1 / times:.1%}"
    if share == "0.0%":
        return "as large as"
    change = f"{times:.2f} times" if times >= 1.1 else share
    return f"{change} {'smaller' if size < other else 'larger'} than"
