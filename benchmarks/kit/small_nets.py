"""Nets of different kinds that are trained in seconds or minutes on a processor."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from kit.nets import CNN, MLP, lenet
from kit.training import Data, load_mnist

layers = keras.layers


@dataclasses.dataclass(frozen=True)
class SmallNet:
    """A net, and what it is trained on.

    Attributes:
        title: What it is, in words.
        make: Builds it.
        data: `"digits"`, the 8 x 8 digits of scikit-learn, or `"mnist"`.
        shape: Shape of an image as it takes it.
        epochs: Number of epochs of training.
        batch: Number of images of a step.
    """

    title: str
    make: Callable[[], keras.Model]
    data: str
    shape: tuple[int, ...]
    epochs: int
    batch: int


def mlp() -> keras.Model:
    """64-128-64-10."""
    body = [layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *body])


def cnn() -> keras.Model:
    """Two convolutions with strides, of 16 and 32 filters, and two dense layers."""
    body = [layers.Conv2D(width, 3, 2, "same", activation="relu") for width in (16, 32)]
    body += [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *body])


def residual() -> keras.Model:
    """Two residual blocks of 16 and 32 channels with BatchNormalization."""
    images = keras.Input((8, 8, 1))
    x = _convolved(images, 16)
    for width, strides in ((16, 1), (32, 2)):
        y = _convolved(_convolved(x, width, strides), width, activation=None)
        if strides > 1:
            x = layers.Conv2D(width, 1, strides)(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def residual_mlp() -> keras.Model:
    """Three residual blocks of two dense layers with BatchNormalization, 64 wide."""
    images = keras.Input((64,))
    x = images
    for _ in range(3):
        y = layers.Dense(64, "relu")(layers.BatchNormalization()(x))
        x = layers.Add()([x, layers.Dense(64)(y)])
    return keras.Model(images, layers.Dense(10)(layers.BatchNormalization()(x)))


def lstm() -> keras.Model:
    """An LSTM of 48 units over the rows."""
    return keras.Sequential([keras.Input((8, 8)), layers.LSTM(48), layers.Dense(10)])


def transformer() -> keras.Model:
    """A block of attention and dense layers over the rows."""
    rows = keras.Input((8, 8))
    x = layers.Dense(32)(rows)
    places = layers.Embedding(8, 32)(keras.ops.arange(8))
    x = layers.Add()([x, keras.ops.broadcast_to(places, (1, 8, 32))])
    x = layers.Add()([x, _attended(layers.LayerNormalization()(x))])
    y = layers.Dense(64, "gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(32)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(rows, layers.Dense(10)(x))


def _attended(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.MultiHeadAttention(4, 8)(x, x)


def _convolved(
    x: keras.KerasTensor, width: int, strides: int = 1, activation: str | None = "relu"
) -> keras.KerasTensor:
    x = layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def _digits(
    title: str, make: Callable[[], keras.Model], shape: tuple[int, ...], epochs: int
) -> SmallNet:
    return SmallNet(title, make, "digits", shape, epochs, 32)


NETS = {
    "mlp": _digits("MLP 64-128-64-10, digits", mlp, (64,), 60),
    "cnn": _digits("CNN 16-32-64, digits", cnn, (8, 8, 1), 40),
    "residual": _digits("residual CNN, digits", residual, (8, 8, 1), 40),
    "residual_mlp": _digits("residual MLP, digits", residual_mlp, (64,), 40),
    "lstm": _digits("LSTM 48, rows of digits", lstm, (8, 8), 60),
    "transformer": _digits("transformer block, rows of digits", transformer, (8, 8), 60),
    "lenet-300-100": SmallNet(
        "LeNet-300-100, 12,000 images", lambda: lenet(MLP), "mnist", (784,), 30, 100
    ),
    "lenet-5": SmallNet(
        "LeNet-5, 12,000 images", lambda: lenet(CNN), "mnist", (28, 28, 1), 14, 100
    ),
}


def load(net: SmallNet, mnist: Path | None) -> Data:
    """What a net is trained on: 1,347 digits or 12,000 images of MNIST, and others to validate."""
    if net.data == "mnist":
        return load_mnist(mnist, 17_000, 5_000, net.shape)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y, held = x[order].reshape(-1, *net.shape).astype("float32") / 16, y[order], 450
    return x[:-held], y[:-held], x[-held:], y[-held:]
