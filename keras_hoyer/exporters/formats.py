"""The file formats of `export`: what each can do, and who writes it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import keras
import numpy as np

from keras_hoyer._literals import (
    FormatName,
    Goal,
    InterfaceDtype,
    Quantization,
    Sparse,
)
from keras_hoyer.exporters import keras_archive, litert, onnx_file, sparse_weights
from keras_hoyer.exporters.results import ExportResult
from keras_hoyer.exporters.signatures import NO_INPUTS, Signature


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user asks of a file; `export` describes each."""

    quantize: Quantization | None = None
    sparse: Sparse = "auto"
    tolerance: float | None = None
    optimize_for: Goal = "size"
    io_dtype: InterfaceDtype = "float32"


@dataclasses.dataclass(frozen=True)
class Job:
    """One export, its arguments checked.

    Attributes:
        model: a built model.
        folder: an empty folder, in which the file is made.
        options: what was asked for.
        signature: what the model takes; of no inputs for a format that does not compute.
        data: representative inputs, one array for each of the signature's, or `None`.
    """

    model: keras.Model
    folder: Path
    options: Options
    signature: Signature = NO_INPUTS
    data: list[np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: ending of its files, without the dot.
        write: makes a file and checks it.
        quantizations: what `quantize` may be.
        goals: what `optimize_for` may be.
        io_dtypes: what `io_dtype` may be, for the quantizations that leave a choice.
        computes: whether the file is run, rather than read back.
        extra: the extra of `keras-hoyer` that installs `packages`.
        packages: what must be importable.
    """

    name: FormatName
    write: Callable[[Job], ExportResult]
    quantizations: tuple[Quantization | None, ...] = (None,)
    goals: tuple[Goal, ...] = ("size",)
    io_dtypes: Mapping[str | None, tuple[InterfaceDtype, ...]] = dataclasses.field(
        default_factory=dict
    )
    computes: bool = False
    extra: str = ""
    packages: tuple[str, ...] = ()


def _litert(job: Job) -> ExportResult:
    return litert.write(
        job.model, job.folder, job.signature, data=job.data, **dataclasses.asdict(job.options)
    )


def _onnx(job: Job) -> ExportResult:
    tolerance = job.options.tolerance
    return onnx_file.write(job.model, job.folder, job.signature, data=job.data, tolerance=tolerance)


def _archive(job: Job) -> ExportResult:
    return keras_archive.write(job.model, job.folder)


def _weights(ending: FormatName) -> Callable[[Job], ExportResult]:
    def write(job: Job) -> ExportResult:
        path, asked = job.folder / f"weights.{ending}", job.options
        return sparse_weights.write(job.model, path, asked.quantize, asked.sparse, asked.tolerance)

    return write


_ALL = (
    Format(
        "tflite",
        _litert,
        quantizations=(None, *get_args(Quantization)),
        goals=get_args(Goal),
        io_dtypes={"int8": get_args(InterfaceDtype)},
        computes=True,
        extra="litert",
        packages=("ai_edge_litert",),
    ),
    Format(
        "onnx",
        _onnx,
        computes=True,
        extra="onnx",
        packages=("onnx", "onnxruntime", "tf2onnx"),
    ),
    Format("keras", _archive),
    Format("npz", _weights("npz"), quantizations=(None, "float16")),
    Format(
        "safetensors",
        _weights("safetensors"),
        quantizations=(None, "float16"),
        extra="safetensors",
        packages=("safetensors",),
    ),
)

FORMATS: dict[str, Format] = {format.name: format for format in _ALL}
