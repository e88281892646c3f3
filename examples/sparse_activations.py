"""Which penalty on activations leaves the most zeros? L1, Hoyer and Hoyer-Square, on digits.

    python examples/sparse_activations.py [--out DIR] [--seeds N]

A small convolutional network with ReLUs is trained on scikit-learn's digits with a penalty on what
its ReLUs give, at several factors each. Prints, and draws into `sparse_activations.png`, the
accuracy on images it has not seen against the share of its activations that are zero there, and
the most zeros of each penalty that cost at most a point of accuracy on validation images.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import keras_hoyer as kh
from keras_hoyer.reports.activations import share_of_zeros

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Keras divides what a penalty gives by the batch size; these do so by the number of outputs, too.
PENALTIES: dict[str, tuple[Callable[[float], keras.regularizers.Regularizer], tuple[float, ...]]]
PENALTIES = {
    "L1": (keras.regularizers.L1, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "Hoyer": (lambda f: kh.Hoyer(f, normalize=True), (30.0, 100.0, 300.0, 1e3, 3e3, 1e4)),
    "Hoyer-Square": (
        lambda f: kh.HoyerSquare(f, normalize=True),
        (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    ),
}
EPOCHS, BATCH = 25, 32
BUDGET = 1.0  # points of validation accuracy


class Result(NamedTuple):
    """Accuracies in percent, and the share of the activations on test images that are zero."""

    validation: float
    test: float
    zeros: float


def load_data() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits in an order of chance: the first 897 train, 450 validate, 450 test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order].reshape(-1, 8, 8, 1).astype("float32") / 16, labels[order]


def build(penalty: Callable[[], keras.regularizers.Regularizer | None]) -> keras.Model:
    """Two convolutions and a dense layer, each with a ReLU."""

    def relu(name: str) -> keras.layers.Layer:
        return keras.layers.Activation("relu", name=name, activity_regularizer=penalty())

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            relu("relu_1"),
            layers.Conv2D(32, 3, padding="same"),
            relu("relu_2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64),
            relu("relu_3"),
            layers.Dense(10),
        ]
    )


def train(
    penalty: Callable[[], keras.regularizers.Regularizer | None], seed: int, epochs: int = EPOCHS
) -> Result:
    """Trains with a penalty on the activations, and looks at what comes out."""
    x, y = load_data()
    keras.utils.set_random_seed(seed)
    model = build(penalty)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-897 // BATCH))
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    # Beside the loss, the logs of each epoch have the zeros on some validation images.
    watch = kh.callbacks.ActivationSparsity(x[897:1347], batches=1)
    model.fit(x[:897], y[:897], batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[watch])
    labels = model.predict(x[897:], batch_size=450, verbose=0).argmax(axis=-1)
    right = 100 * (labels == y[897:])
    zeros = share_of_zeros(kh.report(model, data=x[1347:]).activations)
    return Result(float(right[:450].mean()), float(right[450:].mean()), zeros)


def mean(results: Iterable[Result]) -> Result:
    """The mean over seeds."""
    return Result(*np.mean(list(results), axis=0).tolist())


def sweep(seeds: range) -> tuple[Result, dict[str, dict[float, Result]]]:
    """What comes out without a penalty, and for each penalty and factor; prints it."""
    bare = mean(train(lambda: None, seed) for seed in seeds)
    line = "{:13} {:>8}  {:10.2f}  {:6.2f}  {:5.1%}"
    print(f"{'penalty':13} {'factor':>8}  validation    test  zeros", flush=True)
    print(line.format("none", "", *bare), flush=True)
    found: dict[str, dict[float, Result]] = {name: {} for name in PENALTIES}
    for name, (make, factors) in PENALTIES.items():
        for factor in factors:
            result = mean(train(lambda f=factor, m=make: m(f), seed) for seed in seeds)
            found[name][factor] = result
            print(line.format(name, f"{factor:g}", *result), flush=True)
    return bare, found


def draw(bare: Result, found: dict[str, dict[float, Result]], file: Path) -> None:
    """Draws accuracy against zeros."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, results), marker in zip(found.items(), "os^", strict=True):
        points = sorted((100 * result.zeros, result.test) for result in results.values())
        axes.plot(*zip(*points, strict=True), f"{marker}-", label=name)
    axes.plot(100 * bare.zeros, bare.test, "k*", markersize=10, label="no penalty")
    axes.set(
        xlabel="activations that are zero on the test images, %",
        ylabel="test accuracy, %",
        ylim=(bare.test - 8, bare.test + 1),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    """Trains, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bare, found = sweep(range(options.seeds))
    print(f"\nthe most zeros for {BUDGET:g} point of validation accuracy:")
    for name, results in found.items():
        good = [
            (r.zeros, f, r) for f, r in results.items() if r.validation >= bare.validation - BUDGET
        ]
        for zeros, factor, result in itertools.islice(sorted(good, reverse=True), 1):
            print(f"{name:13} {zeros:.1%} at {factor:g}, test accuracy {result.test:.2f}%")
    draw(bare, found, options.out / "sparse_activations.png")
    print(f"\n{options.out / 'sparse_activations.png'}")


if __name__ == "__main__":
    main()
