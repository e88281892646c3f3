"""`export`: one way in for every file format, with one promise about the file."""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any, get_args

import keras

from keras_hoyer import _destination
from keras_hoyer._checks import check_choice
from keras_hoyer._data import samples_of, shapes_of
from keras_hoyer._literals import FormatName, Goal, InterfaceDtype, Quantization, Sparse
from keras_hoyer._progress import step
from keras_hoyer.exporters import signatures
from keras_hoyer.exporters.adapted import check_layers
from keras_hoyer.exporters.formats import FORMATS, Format, Job, Options
from keras_hoyer.exporters.results import ExportError, ExportResult
from keras_hoyer.exporters.signatures import NO_INPUTS, Signature

# What each format can be quantized to.
QUANTIZATIONS = {name: format.quantizations for name, format in FORMATS.items()}


def export(
    model: keras.Model,
    filepath: str | os.PathLike[str],
    format: FormatName | None = None,
    quantize: Quantization | None = None,
    representative_data: Any = None,
    sparse: Sparse = "auto",
    tolerance: float | None = None,
    optimize_for: Goal = "size",
    io_dtype: InterfaceDtype = "float32",
) -> ExportResult:
    """Writes a model to a file that is run and compared before it is called good.

    The file is made in a temporary folder beside `filepath`, checked there and moved into place
    only when it is right. If anything fails, an older file at `filepath` is untouched; if all goes
    well, its mode is kept, and a symbolic link still points to it.

    Args:
        model: a built `keras.Model`: Sequential, functional or subclassed. Penalties and masks that
            are still attached have no bearing on the file.
        filepath: where the file goes; its folder must exist.
        format: by default what the ending of `filepath` says: `"tflite"` for LiteRT, `"onnx"`,
            `"keras"` for Keras' own file, deflated, or `"npz"` and `"safetensors"` for sparse
            weights.
        quantize: `None` keeps the weights as they are. `"float16"` stores them in half precision.
            For `tflite` also `"dynamic"`, weights in int8, and `"int8"`, weights and computations.
        representative_data: samples that the file is checked on instead of on random ones, and
            that `"int8"` is calibrated with: an array, or a list or dict of arrays for several
            inputs; a pair `(x, y)`, whose labels are not looked at; or batches of these, of which
            500 samples are read: a `tf.data.Dataset`, a `PyDataset`, a `DataLoader`, or a
            function that returns a generator, as TFLite takes it.
        sparse: `"auto"` tries a sparse file beside the dense one, in which each tensor is encoded
            sparsely if that makes it smaller; `True` hands over nothing but the sparse file,
            `False` nothing but the dense one.
        tolerance: largest error that is allowed, relative to the largest output; for weight files
            relative to the largest weight. Default: for `tflite` 1e-4, `"float16"` 1e-2,
            `"dynamic"` 0.1, `"int8"` 0.2; for weight files 0, `"float16"` 1e-3.
        optimize_for: `"size"` keeps the smallest file that is right; `"latency"`, for `tflite`,
            times them on this machine, on one thread and one sample, and keeps the fastest.
        io_dtype: what a `tflite` file with `quantize="int8"` takes and returns for floats.
            `"float32"` converts inside the file; `"int8"` and `"uint8"` leave it to the caller, as
            microcontrollers want it: the result's notes give scales and zero points. Inputs that
            are integers in the model stay as they are.

    Returns:
        An `ExportResult`: `path`, `bytes`, `dense_bytes`, `max_error` and what was tried; `print`
        shows a table.

    Raises:
        ValueError: if an argument is wrong, at once.
        ImportError: if the format needs a package that is not installed.
        ExportError: if no file was right; it says at which step and what was tried.

    Example:
    >>> import keras, tempfile
    >>> from keras_hoyer.exporters import export
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = export(model, f"{folder}/weights.npz")
    >>> result.max_error
    0.0
    """
    _check_model(model)
    path = Path(filepath)
    name = check_arguments(
        path, format, quantize, representative_data, sparse, tolerance, optimize_for, io_dtype
    )
    kind = FORMATS[name]
    check_layers(model, name)
    signature, data = NO_INPUTS, None
    if kind.computes:
        samples = representative_data
        if samples is not None:
            # Once, since a generator cannot be read again.
            shapes, most = shapes_of(model), signatures.CALIBRATION_SAMPLES
            samples = samples_of(samples, shapes, signatures.ARGUMENT, most)
        signature = signatures.signature_of(model, samples)
        _check_dtypes(model, signature)
        if samples is not None:
            data = signatures.arrays_of(signature, samples)
    check_packages(kind)
    options = Options(quantize, sparse, tolerance, optimize_for, io_dtype)
    with _destination.replacing(path) as place, step(f"exporting {path.name}"):
        try:
            result = kind.write(Job(model, place.folder, options, signature, data))
            place.fill(result.path)
        except OSError as error:
            raise ExportError("write", f"{error}. Nothing was left at {path}.") from error
    return dataclasses.replace(result, path=path)


def _check_model(model: keras.Model) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Invalid value for argument `model`. Expected a `keras.Model`. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that is built. "
            f"Received: model={model!r}. Call it on data, or `build` it with an input shape."
        )


def _format_of(path: Path, format: str | None) -> str:
    known = list(FORMATS)
    ending = path.suffix[1:].lower()
    if format is None and ending not in known:
        raise ValueError(
            "Invalid value for argument `filepath`. Expected a file that ends in one of "
            f"{['.' + name for name in known]}, or a `format`. Received: filepath={str(path)!r}"
        )
    if format is not None and format not in known:
        raise ValueError(
            f"Invalid value for argument `format`. Expected one of {known}. "
            f"Received: format={format!r}"
        )
    if format is not None and ending in known and ending != format:
        raise ValueError(
            f"Invalid value for argument `format`. Expected {ending!r}, which is what the ending "
            f"of `filepath` says, or another ending. Received: format={format!r}, "
            f"filepath={str(path)!r}"
        )
    return format or ending


def check_arguments(
    path: Path,
    format: str | None,
    quantize: str | None,
    representative_data: Any,
    sparse: bool | str,
    tolerance: float | None,
    optimize_for: str,
    io_dtype: str = "float32",
) -> str:
    """The format of an export; a `ValueError` if its arguments do not go together."""
    format = _format_of(path, format)
    kind = FORMATS[format]
    if quantize not in kind.quantizations:
        raise ValueError(
            "Invalid value for argument `quantize`. Expected one of "
            f"{list(kind.quantizations)} for the format {format!r}. "
            f"Received: quantize={quantize!r}"
        )
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            "Invalid value for argument `representative_data`. Expected some 100 samples of "
            "typical inputs, which `quantize='int8'` is calibrated with. "
            "Received: representative_data=None"
        )
    _check_settings(sparse, tolerance)
    if optimize_for not in kind.goals:
        raise ValueError(
            "Invalid value for argument `optimize_for`. Expected 'size', or for the format "
            f"'tflite' also 'latency'. Received: optimize_for={optimize_for!r}, format={format!r}"
        )
    check_choice("io_dtype", io_dtype, get_args(InterfaceDtype))
    if io_dtype not in kind.io_dtypes.get(quantize, ("float32",)):
        raise ValueError(
            "Invalid value for argument `io_dtype`. Expected 'float32', or for the format 'tflite' "
            "with `quantize='int8'` also 'int8' and 'uint8'. "
            f"Received: io_dtype={io_dtype!r}, format={format!r}, quantize={quantize!r}"
        )
    return format


def _check_settings(sparse: Any, tolerance: Any) -> None:
    if sparse not in (True, False, "auto"):
        raise ValueError(
            "Invalid value for argument `sparse`. Expected True, False or 'auto'. "
            f"Received: sparse={sparse!r}"
        )
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if tolerance is not None and not (number and tolerance >= 0):
        raise ValueError(
            "Invalid value for argument `tolerance`. Expected None or a number that is not "
            f"negative. Received: tolerance={tolerance!r}"
        )


def _check_dtypes(model: keras.Model, signature: Signature) -> None:
    strings = [spec.name for spec in signature.inputs if spec.dtype == "string"]
    if strings:
        raise ValueError(
            "Invalid value for argument `model`. Expected numbers as inputs. "
            f"Received: model={model!r} with strings in {strings}. Export the part of the model "
            "that comes after the strings."
        )


def check_packages(kind: Format) -> None:
    """Raises an `ImportError` if a package that a format needs is not installed."""
    missing = [name for name in kind.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"The export to {kind.name!r} needs {', '.join(missing)}: "
            f"pip install keras-hoyer[{kind.extra}]"
        )
