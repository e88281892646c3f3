"""How the nets of the plans are trained, and on what: Adam, labels, a rate that decays to 0."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Images in [0, 1] and labels to train on, and those that are held out.
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load_mnist(
    file: Path | None, images: int = 60_000, held: int = 5_000, shape: tuple[int, ...] = (784,)
) -> Data:
    """The last images for training of MNIST.

    Args:
        file: An `mnist.npz`; `None` for what Keras downloads.
        images: How many images, those that are held out among them.
        held: How many are held out.
        shape: Shape of an image.
    """
    if file is None:
        (x, y), _ = keras.datasets.mnist.load_data()
    else:
        with np.load(file) as stored:
            x, y = stored["x_train"], stored["y_train"]
    x, y = x[-images:].reshape(-1, *shape).astype("float32") / 255, y[-images:]
    return x[:-held], y[:-held], x[-held:], y[-held:]


def compile_with(model: keras.Model, rate: Any) -> None:
    """Adam, and the loss of labels."""
    model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])


def train(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    rate: float = 1e-3,
    batch: int = 100,
) -> dict[str, list[float]]:
    """Epochs of Adam with a learning rate that decays to 0; returns the logs."""
    steps = epochs * -(-len(x) // batch)
    compile_with(model, keras.optimizers.schedules.CosineDecay(rate, steps))
    options = {"batch_size": batch, "epochs": epochs, "callbacks": list(callbacks)}
    return model.fit(x, y, verbose=0, **options).history


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the images whose label is right, in percent."""
    outputs = model.predict(x, batch_size=1000, verbose=0)
    return float(100 * np.mean(outputs.argmax(axis=1) == y))
