"""Exports a small model for every kind of layer to `.tflite` and `.onnx`: which files are right.

A cell is a file that `export` ran, compared and handed over, or the error that it gave in its
place. Weights are random, biases and moving statistics too.

    python benchmarks/export_layers.py [--only conv lstm ...]

Prints a table and writes `benchmarks/results/export_layers.json` as it goes; cells that are there
already are not made again.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from kit.results import FOLDER, read_cells, write_cells

from keras_hoyer.exporters import ExportError, export

layers, ops = keras.layers, keras.ops

# The files that are made of each model: ending, quantization, and whether the interface is int8.
FILES = (
    ("tflite", None, "float32"),
    ("tflite", "dynamic", "float32"),
    ("tflite", "int8", "float32"),
    ("tflite", "int8", "int8"),
    ("onnx", None, "float32"),
)

SAMPLES = 64

VECTOR, STEPS, IMAGE, VOLUME = (16,), (6, 8), (8, 8, 4), (4, 6, 6, 4)


class Case:
    """A model and data for it; a plain layer gets an input of the shape and a head."""

    def __init__(self, *stack: Any, shape: tuple = VECTOR, low: int = 0, high: int = 0) -> None:
        self.stack, self.shape, self.low, self.high = stack, shape, low, high

    def __call__(self) -> tuple[keras.Model, Any]:
        """The model, and samples for it."""
        rng = np.random.default_rng(0)
        if self.high:
            data = rng.integers(self.low, self.high, (SAMPLES, *self._sizes())).astype("int32")
        else:
            data = rng.standard_normal((SAMPLES, *self._sizes())).astype("float32")
        inputs = keras.Input(self.shape, dtype=data.dtype.name)
        x = inputs
        for layer in self.stack:
            x = layer(x)
        if x.dtype != "float32" or len(x.shape) == 1:
            return keras.Model(inputs, x), data
        if len(x.shape) > 2:
            x = layers.Flatten()(x) if None not in x.shape[1:] else ops.mean(x, axis=1)
        return keras.Model(inputs, layers.Dense(3)(x)), data

    def _sizes(self) -> tuple[int, ...]:
        return tuple(7 if size is None else size for size in self.shape)


def _functional(shapes: list[tuple], build: Callable, dtypes: list[str] | None = None) -> Callable:
    """A model of several inputs; integers are below 6."""

    def make() -> tuple[keras.Model, Any]:
        rng = np.random.default_rng(0)
        kinds = dtypes or ["float32"] * len(shapes)
        inputs = [keras.Input(s, dtype=d) for s, d in zip(shapes, kinds, strict=True)]
        data = [
            rng.integers(0, 2 if d == "bool" else 6, (SAMPLES, *(n or 7 for n in s))).astype(d)
            if d != "float32"
            else rng.standard_normal((SAMPLES, *(n or 7 for n in s))).astype(d)
            for s, d in zip(shapes, kinds, strict=True)
        ]
        return keras.Model(inputs, build(*inputs)), data

    return make


def _dict_model() -> tuple[keras.Model, Any]:
    rng = np.random.default_rng(0)
    inputs = {"user": keras.Input((5,), name="user"), "item": keras.Input((4,), name="item")}
    joined = layers.Concatenate()([inputs["user"], inputs["item"]])
    model = keras.Model(
        inputs, {"score": layers.Dense(1)(joined), "other": layers.Dense(2)(joined)}
    )
    data = {
        k: rng.standard_normal((SAMPLES, n)).astype("float32")
        for k, n in (("user", 5), ("item", 4))
    }
    return model, data


def _longest_length() -> tuple[keras.Model, Any]:
    """Words with a table of eight positions, called on any number of steps up to it."""

    class Positions(layers.Layer):
        def build(self, shape: tuple) -> None:
            self.table = self.add_weight(shape=(8, shape[-1]), initializer="normal")

        def call(self, x: Any) -> Any:
            return x + ops.slice(self.table, (0, 0), (ops.shape(x)[1], 8))

    inputs = keras.Input((None,), dtype="int32")
    x = Positions()(layers.Embedding(6, 8)(inputs))
    x = layers.MultiHeadAttention(2, 4)(x, x)
    model = keras.Model(inputs, layers.Dense(3)(ops.mean(x, axis=1)))
    return model, np.random.default_rng(0).integers(0, 6, (SAMPLES, 8)).astype("int32")


def _rope(x: Any) -> Any:
    half = x.shape[-1] // 2
    angles = ops.outer(ops.arange(ops.shape(x)[1], dtype="float32"), ops.ones((half,)) * 0.1)
    one, two = x[..., :half], x[..., half:]
    return ops.concatenate(
        [
            one * ops.cos(angles) - two * ops.sin(angles),
            one * ops.sin(angles) + two * ops.cos(angles),
        ],
        axis=-1,
    )


def _normalization() -> layers.Layer:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(1).normal(3, 2, (50, 16)).astype("float32"))
    return layer


def _attend(layer: layers.Layer, **arguments: Any) -> Callable:
    return lambda q, v: layers.Dense(3)(layers.Flatten()(layer(q, v, **arguments)))


L = layers
_ACTIVATIONS = [
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "silu",
    "gelu",
    "tanh",
    "sigmoid",
    "hard_sigmoid",
    "hard_silu",
    "exponential",
    "mish",
    "log_softmax",
    "softmax",
    "celu",
    "tanh_shrink",
    "hard_tanh",
    "hard_shrink",
    "soft_shrink",
    "squareplus",
    "sparse_plus",
    "log_sigmoid",
    "sparsemax",
    "sparse_sigmoid",
    "linear",
]

CASES: dict[str, Callable] = {
    "dense": Case(L.Dense(8)),
    **{f"activation {name}": Case(L.Dense(8), L.Activation(name)) for name in _ACTIVATIONS},
    "activation glu": Case(L.Dense(8), L.Lambda(keras.activations.glu)),
    "gelu approximate": Case(
        L.Dense(8), L.Lambda(lambda x: keras.activations.gelu(x, approximate=True))
    ),
    "prelu": Case(L.PReLU(alpha_initializer="normal")),
    "softmax layer": Case(L.Softmax()),
    "einsum dense": Case(L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), shape=STEPS),
    "embedding": Case(L.Embedding(20, 4), shape=(6,), high=20),
    "embedding masked": Case(L.Embedding(20, 4, mask_zero=True), L.LSTM(5), shape=(6,), high=20),
    # Convolutions
    "conv1d": Case(L.Conv1D(6, 3), shape=STEPS),
    "conv1d causal dilated": Case(L.Conv1D(6, 3, padding="causal", dilation_rate=2), shape=STEPS),
    "conv1d grouped": Case(L.Conv1D(6, 3, groups=2), shape=STEPS),
    "conv1d open": Case(L.Conv1D(6, 3, padding="same"), shape=(None, 8)),
    "conv2d": Case(L.Conv2D(6, 3, strides=2, padding="same"), shape=IMAGE),
    "conv2d dilated": Case(L.Conv2D(6, 3, dilation_rate=2), shape=IMAGE),
    "conv2d grouped": Case(L.Conv2D(8, 3, groups=2), shape=IMAGE),
    "conv2d grouped same strides": Case(
        L.Conv2D(8, 3, strides=2, padding="same", groups=4), shape=IMAGE
    ),
    "conv2d grouped open": Case(
        L.Conv2D(8, 3, groups=2), L.GlobalAveragePooling2D(), shape=(None, None, 4)
    ),
    "conv3d": Case(L.Conv3D(6, 3), shape=VOLUME),
    "conv3d grouped": Case(L.Conv3D(6, 3, groups=2), shape=VOLUME),
    "depthwise conv1d": Case(L.DepthwiseConv1D(3), shape=STEPS),
    "depthwise conv2d": Case(
        L.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same"), shape=IMAGE
    ),
    "depthwise conv2d dilated": Case(L.DepthwiseConv2D(3, dilation_rate=2), shape=IMAGE),
    "separable conv1d": Case(L.SeparableConv1D(6, 3), shape=STEPS),
    "separable conv2d": Case(L.SeparableConv2D(6, 3), shape=IMAGE),
    "conv1d transposed": Case(L.Conv1DTranspose(6, 3, strides=2), shape=STEPS),
    "conv2d transposed": Case(L.Conv2DTranspose(6, 3, strides=2, padding="same"), shape=IMAGE),
    "conv2d transposed dilated": Case(L.Conv2DTranspose(6, 3, dilation_rate=2), shape=IMAGE),
    "conv2d transposed open": Case(
        L.Conv2DTranspose(6, 3, strides=2), L.GlobalAveragePooling2D(), shape=(None, None, 4)
    ),
    "conv3d transposed": Case(L.Conv3DTranspose(6, 3, strides=2), shape=VOLUME),
    # Poolings
    "max pooling 1d": Case(L.MaxPooling1D(2, padding="same"), shape=STEPS),
    "max pooling 2d": Case(L.MaxPooling2D(3, 2, padding="same"), shape=IMAGE),
    "max pooling 3d": Case(L.MaxPooling3D(2), shape=VOLUME),
    "average pooling 1d": Case(L.AveragePooling1D(2), shape=STEPS),
    "average pooling 2d": Case(L.AveragePooling2D(3, 2, padding="same"), shape=IMAGE),
    "average pooling 3d": Case(L.AveragePooling3D(2), shape=VOLUME),
    "global max pooling 2d": Case(L.GlobalMaxPooling2D(), shape=IMAGE),
    "global average pooling 2d": Case(L.GlobalAveragePooling2D(keepdims=True), shape=IMAGE),
    "global average pooling 3d": Case(L.GlobalAveragePooling3D(), shape=VOLUME),
    # Normalisations
    "batch normalization": Case(L.Conv2D(6, 3), L.BatchNormalization(), shape=IMAGE),
    "layer normalization": Case(L.LayerNormalization(), shape=STEPS),
    "group normalization": Case(L.GroupNormalization(2), shape=IMAGE),
    "rms normalization": Case(L.RMSNormalization(), shape=STEPS),
    "unit normalization": Case(L.UnitNormalization(), shape=STEPS),
    "spectral normalization": Case(L.SpectralNormalization(L.Dense(6))),
    "normalization adapted": Case(_normalization()),
    "normalization given": Case(L.Normalization(mean=[1.0] * 16, variance=[4.0] * 16)),
    "normalization inverted": Case(L.Normalization(mean=2.0, variance=9.0, invert=True)),
    # Attention
    "multi head attention": _functional([STEPS, STEPS], _attend(L.MultiHeadAttention(2, 4))),
    "multi head attention causal": _functional(
        [STEPS, STEPS], _attend(L.MultiHeadAttention(2, 4), use_causal_mask=True)
    ),
    "grouped query attention": _functional([STEPS, STEPS], _attend(L.GroupQueryAttention(4, 4, 2))),
    "attention": _functional(
        [STEPS, STEPS], lambda q, v: L.Dense(3)(L.Flatten()(L.Attention()([q, v])))
    ),
    "additive attention": _functional(
        [STEPS, STEPS], lambda q, v: L.Dense(3)(L.Flatten()(L.AdditiveAttention()([q, v])))
    ),
    "attention open": _functional(
        [(None, 8)], lambda x: L.Dense(3)(ops.mean(L.MultiHeadAttention(2, 4)(x, x), axis=1))
    ),
    "attention mask over open steps": _functional(
        [(None, 8), (None, None)],
        lambda x, m: L.Dense(3)(
            ops.mean(L.MultiHeadAttention(2, 4)(x, x, attention_mask=m), axis=1)
        ),
        ["float32", "bool"],
    ),
    "rotary positions": Case(L.Lambda(_rope), shape=STEPS),
    "longest length": _longest_length,
    # Recurrent
    "lstm": Case(L.LSTM(5), shape=STEPS),
    "lstm sequences": Case(L.LSTM(5, return_sequences=True), shape=STEPS),
    "lstm open": Case(L.LSTM(5), shape=(None, 8)),
    "gru": Case(L.GRU(5), shape=STEPS),
    "gru not reset after": Case(L.GRU(5, reset_after=False), shape=STEPS),
    "simple rnn": Case(L.SimpleRNN(5), shape=STEPS),
    "bidirectional": Case(L.Bidirectional(L.LSTM(5)), shape=STEPS),
    "rnn of cells": Case(L.RNN([L.LSTMCell(5), L.GRUCell(4)]), shape=STEPS),
    "conv lstm 1d": Case(L.ConvLSTM1D(4, 3), shape=(4, 8, 3)),
    "conv lstm 2d": Case(L.ConvLSTM2D(4, 3), shape=(4, 6, 6, 3)),
    "time distributed": Case(L.TimeDistributed(L.Dense(5)), shape=STEPS),
    # Shapes
    "flatten": Case(L.Flatten(), shape=STEPS),
    "reshape permute": Case(L.Reshape((4, 4)), L.Permute((2, 1))),
    "repeat vector": Case(L.RepeatVector(3)),
    "cropping 1d": Case(L.Cropping1D(1), shape=STEPS),
    "cropping 2d": Case(L.Cropping2D(1), shape=IMAGE),
    "cropping 3d": Case(L.Cropping3D(1), shape=VOLUME),
    "zero padding 1d": Case(L.ZeroPadding1D(1), shape=STEPS),
    "zero padding 2d": Case(L.ZeroPadding2D(1), shape=IMAGE),
    "zero padding 3d": Case(L.ZeroPadding3D(1), shape=VOLUME),
    "upsampling 1d": Case(L.UpSampling1D(2), shape=STEPS),
    "upsampling 2d nearest": Case(L.UpSampling2D(2), shape=IMAGE),
    "upsampling 2d bilinear": Case(L.UpSampling2D(2, interpolation="bilinear"), shape=IMAGE),
    "upsampling 2d bicubic": Case(L.UpSampling2D(2, interpolation="bicubic"), shape=IMAGE),
    "upsampling 3d": Case(L.UpSampling3D(2), shape=VOLUME),
    # Merging
    "merging": _functional(
        [VECTOR, VECTOR],
        lambda a, b: L.Dense(3)(
            L.Concatenate()(
                [kind()([a, b]) for kind in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum)]
            )
        ),
    ),
    # Preprocessing
    "rescaling": Case(L.Rescaling(0.5, 1.0), shape=IMAGE),
    "resizing": Case(L.Resizing(5, 7), shape=IMAGE),
    "resizing nearest": Case(L.Resizing(5, 7, interpolation="nearest"), shape=IMAGE),
    "center crop": Case(L.CenterCrop(4, 4), shape=IMAGE),
    "random flip": Case(L.RandomFlip(), shape=(8, 8, 3)),
    "random rotation": Case(L.RandomRotation(0.2), shape=(8, 8, 3)),
    "random zoom contrast": Case(L.RandomZoom(0.2), L.RandomContrast(0.2), shape=(8, 8, 3)),
    "category encoding": Case(L.CategoryEncoding(6, "multi_hot"), shape=(4,), high=6),
    "discretization": Case(L.Discretization(bin_boundaries=[-1.0, 0.0, 1.0]), L.Rescaling(0.5)),
    "integer lookup": Case(
        L.IntegerLookup(vocabulary=[3, 5, 7]), L.Rescaling(0.5), shape=(4,), high=9
    ),
    "hashing": Case(L.Hashing(8), L.Rescaling(0.5), shape=(4,), high=9),
    "hashed crossing": _functional(
        [(1,), (1,)],
        lambda a, b: L.HashedCrossing(5, output_mode="one_hot")([a, b]),
        ["int32", "int32"],
    ),
    "mel spectrogram": Case(
        L.MelSpectrogram(
            fft_length=16, sequence_stride=8, num_mel_bins=4, max_freq=100, sampling_rate=200
        ),
        shape=(64,),
    ),
    "stft spectrogram": Case(
        L.STFTSpectrogram(frame_length=16, frame_step=8, fft_length=16), shape=(64, 1)
    ),
    # Regularisation, and what does nothing in inference
    "dropouts": Case(
        L.Dropout(0.5), L.GaussianNoise(0.1), L.GaussianDropout(0.1), L.AlphaDropout(0.1)
    ),
    "spatial dropout": Case(L.SpatialDropout2D(0.5), shape=IMAGE),
    "activity regularization": Case(L.ActivityRegularization(l2=0.1)),
    "masking": Case(L.Masking(), L.LSTM(4), shape=STEPS),
    # Operations
    "argmax": Case(L.Dense(5), L.Lambda(lambda x: ops.argmax(x, axis=-1))),
    "top k": Case(L.Dense(5), L.Lambda(lambda x: ops.top_k(x, 2)[0])),
    "one hot": Case(L.Lambda(lambda x: ops.one_hot(x, 6)), shape=(4,), high=6),
    "cumsum sort": Case(L.Lambda(lambda x: ops.cumsum(ops.sort(x), axis=-1))),
    "erf log1p expm1": Case(L.Lambda(lambda x: ops.erf(x) + ops.log1p(ops.abs(x)) + ops.expm1(x))),
    "where take norm": Case(
        L.Lambda(lambda x: ops.where(x > 0, x, ops.norm(x, axis=-1, keepdims=True))),
        L.Lambda(lambda x: ops.take(x, [0, 2, 3], axis=1)),
    ),
    "atan2 trigonometry": Case(
        L.Lambda(lambda x: ops.arctan2(x, x + 3.0) + ops.sinh(x) + ops.tan(x))
    ),
    "dict inputs and outputs": _dict_model,
}


def _give_state(model: keras.Model) -> None:
    """Random values in every weight that starts as zeros or ones."""
    rng = np.random.default_rng(1)
    for w in model.weights:
        if "seed" in w.name or not w.dtype.startswith("float"):
            continue
        if "variance" in w.name:
            w.assign(rng.uniform(0.5, 2, w.shape))
        elif len(w.shape) < 2 and w.name in ("bias", "beta", "moving_mean"):
            w.assign(0.2 * rng.standard_normal(w.shape))


def cell(model: keras.Model, data: Any, ending: str, quantize: str | None, io: str) -> dict:
    """One export."""
    arguments: dict[str, Any] = {"quantize": quantize, "representative_data": data}
    if io != "float32":
        arguments["io_dtype"] = io
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = export(model, f"{folder}/m.{ending}", **arguments)
        except ExportError as error:
            return {"outcome": "refused", "reason": str(error)}
    return {
        "outcome": "right",
        "error": result.max_error,
        "bytes": result.bytes,
        "notes": list(result.notes),
        "seconds": round(time.perf_counter() - start, 2),
    }


def main() -> None:
    """Runs the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "export_layers.json")
    parser.add_argument("--only", nargs="+", help="cases whose name holds one of these words")
    parser.add_argument("--files", nargs="+", type=int, default=list(range(len(FILES))))
    arguments = parser.parse_args()
    out = arguments.out
    cells = read_cells(out)
    for name, make in CASES.items():
        if arguments.only and not any(word in name for word in arguments.only):
            continue
        for number in arguments.files:
            ending, quantize, io = FILES[number]
            row = {"layer": name, "format": ending, "quantize": quantize, "io_dtype": io}
            if any(row.items() <= known.items() for known in cells):
                continue
            model, data = make()
            _give_state(model)
            cells.append({**row, **cell(model, data, ending, quantize, io)})
            what = cells[-1].get("reason") or f"{cells[-1]['error']:.1g}"
            print(f"{name:30} {ending:7} {quantize or '-':8} {io:8} {what}", flush=True)
            keras.backend.clear_session()
        write(out, cells)
    for file, (right, count) in write(out, cells).items():
        print(f"{file:30} {right} of {count} right")


def write(out: Path, cells: list[dict]) -> dict[str, list[int]]:
    """Writes the cells, a line each, and returns how many of each kind of file are right."""
    counts = {}
    for file in FILES:
        right = [row["outcome"] == "right" for row in cells if key(row) == file]
        counts[" ".join(word or "float32" for word in file)] = [sum(right), len(right)]
    packages = ("keras", "tensorflow", "ai-edge-litert", "tf2onnx", "onnxruntime", "numpy")
    write_cells(out, packages, {"counts": counts}, cells)
    return counts


def key(row: dict) -> tuple:
    """Which of `FILES` a cell is."""
    return row["format"], row["quantize"], row["io_dtype"]


if __name__ == "__main__":
    main()
