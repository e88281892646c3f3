"""What an export hands back, and the error that says which step of it broke."""

import dataclasses
from pathlib import Path


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
            lines.append(_candidate_table(candidates))
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


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """A file that was written, run and found right; `print` shows it as a table.

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

    def to_dict(self) -> dict:
        """The result as plain Python values, ready for JSON."""
        return {**dataclasses.asdict(self), "path": str(self.path), "ratio": self.ratio}

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {self.ratio:.2f} times smaller than dense "
            f"({self.dense_bytes:,})",
            f"largest error {self.max_error:.2g}, allowed {self.tolerance:.2g}",
            "",
            _candidate_table(self.candidates),
        ]
        kernels = [tensor for tensor in self.tensors if len(tensor.shape) > 1]
        if kernels:
            rows = [("tensor", "shape", "stored as", "zeros")]
            rows += [
                (t.name, str(t.shape), f"{t.dtype} {t.storage}", f"{t.sparsity:.1%}")
                for t in kernels
            ]
            lines += ["", table(rows)]
        lines += ["", *(f"Note: {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines)


def _candidate_table(candidates: tuple[Candidate, ...]) -> str:
    timed = any(c.milliseconds is not None for c in candidates)
    rows = [("candidate", "bytes", "error", *(["ms"] if timed else []), "outcome")]
    for c in candidates:
        cells = [c.name, _cell(c.bytes, ","), _cell(c.max_error, ".2g")]
        cells += [_cell(c.milliseconds, ".3f")] if timed else []
        rows.append((*cells, c.outcome))
    return table(rows)


def _cell(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
