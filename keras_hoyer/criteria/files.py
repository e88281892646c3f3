"""The criteria that go by the file: cut until what was exported and measured is small enough."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from keras_hoyer._checks import check_choice, check_number
from keras_hoyer._literals import FormatName, Quantization
from keras_hoyer._values import serializable
from keras_hoyer.criteria.base import Criterion, FileKind, FilesLeft, FlopsLeft, UnitScores
from keras_hoyer.criteria.search import Ranking, find_cut
from keras_hoyer.patterns import Pattern

# The formats that have a runtime to time them with, and those that hold nothing to train on.
TIMED = ("tflite", "onnx")
WEIGHED = (*TIMED, "npz", "safetensors")


@dataclass(frozen=True)
class _FileTarget(Criterion):
    """A share of what the file of the model takes that was not cut.

    Args:
        share: Float in `(0, 1)`.
        format: Of the file, as `export` names it.
        quantize: Of the file, as `export` takes it.
        data: Samples, or `None` for random ones.
    """

    share: float
    format: FormatName = "tflite"
    quantize: Quantization | None = None
    data: Any = field(default=None, compare=False, repr=False)

    # How many units that leaves is known only when files have been made.
    fixes_amount = False
    unit: ClassVar[Literal["milliseconds", "bytes"]]

    def __post_init__(self) -> None:
        check_number("share", self.share, "a number between 0 and 1", lambda value: 0 < value < 1)
        check_choice("quantize", self.quantize, (None, *get_args(Quantization)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; refuses if there are data among them."""
        if self.data is not None:
            raise NotImplementedError(
                f"`{type(self).__name__}` holds data, which no config can hold. Make it again "
                "where it is needed."
            )
        return super().get_config()

    @property
    def file(self) -> FileKind:  # type: ignore[override]
        """What is made and measured."""
        return FileKind(self.unit, self.share, self.format, self.quantize, self.data)

    def keep_by_files(
        self,
        units: Sequence[UnitScores],
        files: FilesLeft,
        progress: float = 1.0,
        flops: FlopsLeft | None = None,
    ) -> list[np.ndarray]:
        """Returns what stays when `progress` of the way to the share has been gone."""
        target = 1 - (1 - self.share) * progress
        return find_cut(Ranking(units, flops), target, files, f"of the {self.unit}")


@serializable
@dataclass(frozen=True)
class TargetLatency(_FileTarget):
    """Cuts channels until the exported file, timed here, takes a share of the dense one's time.

    The smaller model is built, exported and timed beside the file of the model as it is: by turns,
    on one thread, one sample a call. A few such files are made, at most twelve, in search of the
    point in the order of the channels' scores where the share is reached; a line on stderr tells
    of each. If the pattern leaves the widths open (`multiple_of=1`), the first of them is timed
    also with widths that are multiples of 8, and the search goes on with these if they take less
    time for each multiply-add. The report of `prune`, and `Pruning.measured`, say what was
    measured, and how much it varied.

    Times are those of the machine that this runs on, of its processor, which other work on it
    hardly changes. A measured share between 94% and 100% of the one asked for ends the search. On
    JAX and PyTorch each file is made by TensorFlow in a process of its own, from a saved model.

    Goes with `patterns.Channel`. In `callbacks.Pruning` each cut of the schedule is such a search:
    `schedules.OneShot` makes one.

    Args:
        share: Float in `(0, 1)`: share of the time of the model's file as it is.
        format: `"tflite"` for LiteRT, `"onnx"` for ONNX Runtime. Defaults to `"tflite"`.
        quantize: What is timed: `None` for float32, or for `tflite` `"float16"`, `"dynamic"` or
            `"int8"`. Defaults to `None`.
        data: Samples as `export` takes for `representative_data`: the first is what is timed, and
            `"int8"` is calibrated with them. Defaults to `None`: random ones, of 32 steps where
            the model leaves a size open.

    Raises:
        ValueError: If an argument is out of its range, or the pattern is not `Channel`; when
            cutting, if the share cannot be reached without emptying a layer.
        ImportError: If the format needs a package that is not installed.
        ExportError: When cutting, if the model cannot be exported.
    """

    unit = "milliseconds"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("format", self.format, TIMED)

    def check(self, pattern: Pattern) -> None:
        """Refuses patterns that leave the file as large as it was."""
        super().check(pattern)
        if not pattern.whole_channels:
            raise ValueError(
                "`TargetLatency` times files of smaller models, and only whole channels make a "
                "model smaller. Expected pattern=Channel(). For weights and blocks take "
                f"`TargetSparsity` or `TargetBytes`. Received: pattern={pattern!r}"
            )


@serializable
@dataclass(frozen=True)
class TargetBytes(_FileTarget):
    """Cuts until the exported file has a share of the dense one's bytes.

    With `patterns.Channel` the smaller model is built and exported; with patterns that divide
    kernels, the model with its zeros, of which formats with a sparse or deflated encoding make a
    smaller file. It is weighed against the `dense_bytes` of the model as it is. A few files are
    made, at most twelve, in search of the point in the order of the scores where the share is
    reached; a line on stderr tells of each, and the report of `prune`, and `Pruning.measured`, of
    the last. A share between 94% and 100% of the one asked for ends the search.

    On JAX and PyTorch files of `tflite` and `onnx` are made by TensorFlow in a process of its own,
    from a saved model.

    Args:
        share: Float in `(0, 1)`: share of the bytes of the dense file.
        format: `"tflite"`, `"onnx"` (with `patterns.Channel` only: it stores zeros as they are),
            `"npz"` or `"safetensors"`. Defaults to `"tflite"`.
        quantize: What is weighed, as `export` takes it. Defaults to `None`.
        data: Samples to calibrate `"int8"` with. Defaults to `None`: random ones.

    Raises:
        ValueError: If an argument is out of its range, or format and pattern do not go together;
            when cutting, if the share cannot be reached.
        ImportError: If the format needs a package that is not installed.
        ExportError: When cutting, if the model cannot be exported.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential(
    ...     [keras.Input((64,)), keras.layers.Dense(256), keras.layers.Dense(8)])
    >>> report = kh.prune(model, kh.criteria.TargetBytes(0.4, format="npz"))
    >>> 0.37 < report.measured.reached <= 0.4
    True
    """

    unit = "bytes"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("format", self.format, WEIGHED)

    def check(self, pattern: Pattern) -> None:
        """Refuses a format that has no use for the zeros of a pattern."""
        super().check(pattern)
        if self.format == "onnx" and not pattern.whole_channels:
            raise ValueError(
                "Invalid value for argument `format`. Files of 'onnx' store zeros like any other "
                "value, so no cut of single weights or blocks makes them smaller. Expected "
                f"pattern=Channel() or another format. Received: format='onnx', pattern={pattern!r}"
            )


@dataclass(frozen=True)
class Measured:
    """What was measured of the file of a cut model; `print` says it in a sentence.

    Attributes:
        unit: `"milliseconds"` or `"bytes"`.
        format: Of the file.
        quantize: Of the file.
        asked: The share that the cut was to come to.
        reached: The share that was measured: of times the median over turns of both files.
        dense: Milliseconds, the median, or bytes of the model as it was.
        left: Those of the cut model.
        quartiles: Between what half of the shares lie, turn by turn; `None` of bytes.
        turns: How often both files were timed; 0 of bytes.
        files: How many files of cut models were made.
        widths: How the widths were chosen.
    """

    unit: str
    format: str
    quantize: str | None
    asked: float
    reached: float
    dense: float
    left: float
    quartiles: tuple[float, float] | None
    turns: int
    files: int
    widths: str

    def to_dict(self) -> dict[str, Any]:
        """Returns it as a dictionary of JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        spec = ",.0f" if self.unit == "bytes" else ".4g"
        kind = f"{self.format}{f' in {self.quantize}' if self.quantize else ''}"
        text = (
            f"Asked for {self.asked:.1%} of the {self.unit} of the dense file, {self.reached:.1%} "
            f"measured ({kind}: {self.left:{spec}} of {self.dense:{spec}} {self.unit}; files of "
            f"cut models made: {self.files})."
        )
        if self.quartiles is not None:
            low, high = self.quartiles
            text += f" Half of {self.turns} turns gave {low:.1%} to {high:.1%}."
        return f"{text} {self.widths}".rstrip()
