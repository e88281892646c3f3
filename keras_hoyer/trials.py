"""Files of cut models that are made to be measured, before the cut itself is made."""

import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer._data import samples_of, shapes_of
from keras_hoyer._progress import say, silent
from keras_hoyer.criteria import Criterion, Measured, UnitScores
from keras_hoyer.criteria.base import FileKind
from keras_hoyer.exporters import ExportResult, export, exporting, signatures
from keras_hoyer.exporters.formats import FORMATS
from keras_hoyer.exporters.pairs import pair_of
from keras_hoyer.exporters.sides import FileSide
from keras_hoyer.graph.shrink import shrink
from keras_hoyer.units import ModelUnits
from keras_hoyer.weights import Weight

# How often two files are timed by turns at most, and for how many seconds each.
TURNS, SECONDS = 200, 6.0

# Widths that most processors like are multiples of it.
LIKED = 8


def check_file(kind: FileKind) -> None:
    """Raises an error if files of a kind cannot be made."""
    exporting.check_arguments(
        Path(f"model.{kind.format}"),
        format=kind.format,
        quantize=kind.quantize,
        representative_data="random ones will do",
        sparse="auto",
        tolerance=None,
        optimize_for="size",
    )
    exporting.check_packages(FORMATS[kind.format])


def keep_by_files(
    model: keras.Model,
    units: ModelUnits,
    criterion: Criterion,
    kind: FileKind,
    scores: Sequence[UnitScores],
    progress: float,
) -> tuple[list[np.ndarray], Measured]:
    """What stays by a criterion that goes by files, and what was measured of it."""
    with silent(), tempfile.TemporaryDirectory(prefix="keras_hoyer_") as folder:
        trials = _Trials(model, units, scores, kind, Path(folder))
        keep = criterion.keep_by_files(scores, trials, progress, units.flops)
        return trials.restrict(keep), trials.measured(keep, 1 - (1 - kind.share) * progress)


@dataclass(frozen=True)
class _Trial:
    """One file of a cut model beside that of the model as it is, in the unit that is measured."""

    share: float
    dense: float
    left: float
    quartiles: tuple[float, float] | None = None
    turns: int = 0


class _Trials:
    """Makes files of cut models and measures them; each cut once.

    Args:
        model: The model. It is as it was after each trial.
        units: The units of a pattern in it.
        scores: What each scores.
        kind: What is made and measured.
        folder: An empty folder.

    Attributes:
        made: How many files were made of cut models.
    """

    def __init__(
        self,
        model: keras.Model,
        units: ModelUnits,
        scores: Sequence[UnitScores],
        kind: FileKind,
        folder: Path,
    ) -> None:
        self.made = 0
        self._model = model
        self._units = units
        self._scores = scores
        self._kind = kind
        self._data = kind.data
        if kind.data is not None:  # once, since a generator cannot be read again
            most = signatures.CALIBRATION_SAMPLES
            self._data = samples_of(kind.data, shapes_of(model), "data", most)
        self._folder = folder
        self._known: dict[tuple[int, ...], _Trial] = {}
        self._multiple, self._widths = 1, ""
        say(f"making the file of the model as it is, in {kind.format}")
        self._dense = self._export(model, "dense")

    def __call__(self, keep: Sequence[np.ndarray]) -> float:
        """The share that is measured where just these units stay."""
        if not self._known and self._are_widths_open():
            self._choose_widths(keep)
        return self._trial(self.restrict(keep)).share

    def restrict(self, keep: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The units that stay as the pattern, and the choice of widths, allow it."""
        return self._units.restrict(keep, self._scores, self._multiple)

    def measured(self, keep: Sequence[np.ndarray], asked: float) -> Measured:
        """What was measured where just these units stay."""
        trial = self._trial(self.restrict(keep))
        return Measured(
            unit=self._kind.unit,
            format=self._kind.format,
            quantize=self._kind.quantize,
            asked=asked,
            reached=trial.share,
            dense=trial.dense,
            left=trial.left,
            quartiles=trial.quartiles,
            turns=trial.turns,
            files=self.made,
            widths=self._widths,
        )

    def _are_widths_open(self) -> bool:
        pattern: Any = self._units.pattern
        timed = self._kind.unit == "milliseconds"
        return timed and pattern.multiple_of == 1 and not pattern.uniform

    def _choose_widths(self, keep: Sequence[np.ndarray]) -> None:
        """Asks the timer which widths take less time for each multiply-add."""
        costs = {}
        for multiple in (1, LIKED):
            self._multiple = multiple
            kept = self.restrict(keep)
            costs[multiple] = self._trial(kept).share / self._flops(kept)
        best = min(costs, key=costs.__getitem__)
        other = 1 if best == LIKED else LIKED
        self._multiple = best
        names = {1: "as the scores give them", LIKED: f"rounded up to multiples of {LIKED}"}
        self._widths = (
            f"Widths are {names[best]}: for each multiply-add they took "
            f"{1 - costs[best] / costs[other]:.1%} less time than {names[other]}."
        )

    def _flops(self, keep: Sequence[np.ndarray]) -> float:
        assert self._units.flops is not None  # as of all channels
        return self._units.flops([int(np.count_nonzero(kept)) for kept in keep])

    def _trial(self, keep: Sequence[np.ndarray]) -> _Trial:
        key = tuple(int(np.count_nonzero(kept)) for kept in keep)
        if key not in self._known:
            self.made += 1
            with _cut(self._units.masks(keep)), _quiet():
                whole = self._units.pattern.whole_channels
                model = shrink(self._model, check=False) if whole else self._model
                file = self._export(model, f"cut{self.made}")
            trial = self._known[key] = self._measure(file)
            file.path.unlink()
            flops = f", {self._flops(keep):.1%} of the multiply-adds" if whole else ""
            say(
                f"file {self.made}: {trial.share:.1%} of the {self._kind.unit} "
                f"({trial.left:,.4g} of {trial.dense:,.4g}){flops}"
            )
        return self._known[key]

    def _export(self, model: keras.Model, name: str) -> ExportResult:
        data = self._data
        if data is None and self._kind.quantize == "int8":
            signature = signatures.signature_of(model)
            data = signatures.random_arrays(model, signature, signatures.CHECK_SAMPLES)
        with _quiet():
            return export(
                model,
                self._folder / f"{name}.{self._kind.format}",
                quantize=self._kind.quantize,
                representative_data=data,
                sparse=False if self._kind.unit == "milliseconds" else "auto",
                # Random inputs, or a model that is not fine-tuned yet, say nothing of the file.
                tolerance=sys.float_info.max if FORMATS[self._kind.format].computes else None,
            )

    def _measure(self, file: ExportResult) -> _Trial:
        if self._kind.unit == "bytes":
            return _Trial(file.bytes / self._dense.dense_bytes, self._dense.dense_bytes, file.bytes)
        sides = FileSide(self._dense.path), FileSide(file.path)
        timing = pair_of(*sides, self._data).time(TURNS, SECONDS)
        return _Trial(timing.ratio, *timing.milliseconds, timing.ratio_quartiles, timing.turns)


@contextmanager
def _cut(masks: Mapping[Weight, np.ndarray]) -> Iterator[None]:
    """A scope in which weights are zero where their masks are false."""
    before = {weight: weight.read() for weight in masks}
    try:
        for weight, mask in masks.items():
            weight.variable.assign(np.where(mask, before[weight], 0))
        yield
    finally:
        for weight, values in before.items():
            weight.variable.assign(values)


@contextmanager
def _quiet() -> Iterator[None]:
    """A scope without warnings: `shrink` and `export` say them of the model that is shipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
