"""A model that is compared with another: in Keras, or in a file."""

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from keras_hoyer.exporters import (
    _run_file,
    litert_quantization,
    processes,
    signatures,
    training_state,
)

Outputs = list[dict[str, np.ndarray]]


class KerasSide:
    """A Keras model.

    Args:
        path: the file that it came from; `None` for a model in memory.
        model: a built model.
        data: representative data or `None`, as for `export`.
        quantize: `"float16"` if its weights were rounded so on their way, else `None`.
    """

    ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})
    on_one_thread = False

    def __init__(
        self, path: Path | None, model: keras.Model, data: Any = None, quantize: str | None = None
    ) -> None:
        self.path = path
        self.name = str(path) if path else f"model '{model.name}'"
        self.model = model
        self.quantize = quantize
        self.signature = signatures.signature_of(model, data)

    def bytes(self) -> int:
        """The size of its file, or of its weights in memory, without what it holds to train on."""
        if self.path is None:
            return round(sum(map(_bytes_of, self.model.weights)))
        return self.path.stat().st_size - self.training_bytes()

    def training_bytes(self) -> int:
        """How many bytes of the file are of no use but to train on."""
        if self.path is None or self.path.suffix != ".keras":
            return 0
        return training_state.bytes_of(self.path)

    def outputs(self, calls: list[list[np.ndarray]]) -> Outputs:
        """What it answers to each call."""
        try:
            return signatures.call_all(self.model, self.signature, calls)
        except Exception as error:  # a model raises anything
            raise ValueError(
                f"{self.name} cannot be called on these inputs: {type(error).__name__}: {error}"
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
    on_one_thread = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        with tempfile.TemporaryDirectory() as folder:
            inputs = processes.describe(path, Path(folder))
        self.signature = signatures.Signature(inputs, list(range(len(inputs))))
        # The file could be read above, so it is whole.
        self.quantize, self.ranges = None, {}
        if path.suffix == ".tflite":
            content = path.read_bytes()
            self.quantize = litert_quantization.quantization_of(content)
            self.ranges = litert_quantization.input_ranges(content)

    def bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size

    def training_bytes(self) -> int:
        """None: a file that is run holds a model only."""
        return 0

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


def side_of(one: Any, data: Any = None) -> Side:
    """A side from what a user has: a model, or the path of a file that holds one.

    Raises:
        ValueError: if it is neither, or the file cannot be read.
    """
    if isinstance(one, KerasSide | FileSide):
        return one
    if isinstance(one, keras.Model):
        if not one.built:
            raise ValueError(f"Expected a model that is built. Received: {one!r}")
        return KerasSide(None, one, data)
    path = Path(one) if isinstance(one, str | os.PathLike) else None
    if path is None or path.suffix not in (".keras", ".tflite", ".onnx"):
        raise ValueError(
            "Expected a Keras model, or the path of a .keras, .tflite or .onnx file; weights of "
            "other files go into a model with `load_sparse_weights`. Received: "
            f"{one!r} of type {type(one).__name__}"
        )
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.suffix == ".keras":
        return KerasSide(path, keras.models.load_model(path, compile=False), data)
    return FileSide(path)


def _bytes_of(variable: keras.Variable) -> float:
    bits = re.search(r"\d+", variable.dtype)  # "bool" has no number
    elements: int = math.prod(variable.shape)
    return elements * (int(bits[0]) / 8 if bits else 1)


def check_data(side: Side, data: Any) -> None:
    """Raises a `ValueError` if samples do not fit what a model takes."""
    if data is not None:
        signatures.arrays_of(side.signature, data)


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
