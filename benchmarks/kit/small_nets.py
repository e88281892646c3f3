"""Six nets of different kinds that are trained in seconds or minutes on a processor."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from kit.nets import CNN, MLP, lenet

layers = keras.layers

# Images in [0, 1] and labels to train on, and those that are held out.
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SmallNet:
    """A net, and what it is trained on.

    Attributes:
        make: Builds it.
        data: `"digits"`, the 8 x 8 digits of scikit-learn, or `"mnist"`.
        shape: Shape of an image as it takes it.
        epochs: Number of epochs of training.
        batch: Number of images of a step.
    """

    make: Callable[[], keras.Model]
    data: str
    shape: tuple[int, ...]
    epochs: int
    batch: int


def mlp() -> keras.Model:
    """64-128-64-10."""
    body = [layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *body])


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


NETS = {
    "mlp": SmallNet(mlp, "digits", (64,), 60, 32),
    "residual": SmallNet(residual, "digits", (8, 8, 1), 40, 32),
    "lstm": SmallNet(lstm, "digits", (8, 8), 60, 32),
    "transformer": SmallNet(transformer, "digits", (8, 8), 60, 32),
    "lenet-300-100": SmallNet(lambda: lenet(MLP), "mnist", (784,), 30, 100),
    "lenet-5": SmallNet(lambda: lenet(CNN), "mnist", (28, 28, 1), 14, 100),
}


def load(net: SmallNet, mnist: Path | None) -> Data:
    """What a net is trained on: 1,347 digits or 12,000 images of MNIST, and others to validate."""
    if net.data == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x, y, held = x[order] / 16, y[order], 450
    else:
        if mnist is None:
            (x, y), _ = keras.datasets.mnist.load_data()
        else:
            with np.load(mnist) as stored:
                x, y = stored["x_train"], stored["y_train"]
        x, y, held = x[-17_000:] / 255, y[-17_000:], 5_000
    x = x.reshape(-1, *net.shape).astype("float32")
    return x[:-held], y[:-held], x[-held:], y[-held:]
