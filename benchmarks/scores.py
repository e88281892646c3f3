"""One cut right after a short sparse phase, by each score: LeNet-300-100 on MNIST.

    KERAS_BACKEND=jax python benchmarks/scores.py --data mnist.npz
    KERAS_BACKEND=jax python benchmarks/scores.py --plan short --data mnist.npz

A net is trained densely, then with a penalty on its kernels, both with a learning rate that decays
to 0; it is cut once, over all kernels, to a number of weights, and fine-tuned with the zeros kept.
All of it learns labels. Accuracies are those of 5,000 training images that are held out. A line is
appended to the results for each cut, and a cut that has a line is not made again.
"""

import argparse
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from kit.machine import describe_machine
from kit.nets import KERNELS, MLP, lenet
from kit.results import FOLDER, append, done_before

import keras_hoyer as kh

HOLDOUT = 5000
LOOKED_AT = 5000  # samples that a score sees


@dataclasses.dataclass(frozen=True)
class Cut:
    """One cut: all that its result depends on, the machine and the versions aside.

    Attributes:
        penalty: Name of a penalty of `keras_hoyer`.
        factor: The penalty's factor.
        epochs: Epochs of dense training, of sparse training and of fine-tuning.
        keep: Number of weights that stay.
        score: Name of a score of `keras_hoyer.scores`.
        seed: Of initial weights and order of images.
        plan: The plan that it belongs to.
    """

    penalty: str
    factor: float
    epochs: tuple[int, int, int]
    keep: int
    score: str
    seed: int
    plan: str


SCORES = ("Activation", "Magnitude", "Taylor", "Fisher")


def plan_short(dense: int, plan: str) -> Iterator[Cut]:
    """Does a score that sees data make up for a sparse phase that was too short?"""
    for seed, score, keep in itertools.product((1, 0, 2), SCORES, (2_315, 4_630)):
        yield Cut("HoyerSquare", 1e-4, (dense, 6, 15), keep, score, seed, plan)


# After 30 epochs the dense net fits all images, and more is left to undo for the penalty.
PLANS = {
    "short": functools.partial(plan_short, 30, "short"),
    "short_dense": functools.partial(plan_short, 10, "short_dense"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the cuts of a plan that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=list(PLANS), default="short")
    parser.add_argument("--data", type=Path, help="default: what Keras downloads")
    parser.add_argument("--out", type=Path, default=FOLDER / "scores.jsonl")
    options = parser.parse_args(arguments)
    data = load_data(options.data)
    trained: dict[tuple, list[np.ndarray]] = {}
    done = done_before(options.out, Cut)
    for cut in PLANS[options.plan]():
        if cut not in done:
            result = run(cut, data, trained)
            machine = {"backend": keras.backend.backend(), "machine": describe_machine()}
            append(options.out, {**dataclasses.asdict(cut), **result, **machine})
            print(cut, result, flush=True)


def load_data(file: Path | None) -> tuple[np.ndarray, ...]:
    """Images in [0, 1] and labels to train on, and those that are held out."""
    if file is None:
        (x, y), _ = keras.datasets.mnist.load_data()
    else:
        with np.load(file) as stored:
            x, y = stored["x_train"], stored["y_train"]
    x = x.reshape(-1, 784).astype("float32") / 255
    return x[:-HOLDOUT], y[:-HOLDOUT], x[-HOLDOUT:], y[-HOLDOUT:]


def run(cut: Cut, data: tuple[np.ndarray, ...], trained: dict[tuple, Any]) -> dict[str, Any]:
    """Accuracies before the cut, right after it and after fine-tuning."""
    x, y, x_val, y_val = data
    dense, sparse, fine = cut.epochs
    key = (cut.penalty, cut.factor, cut.epochs, cut.seed)
    start = time.time()
    keras.utils.set_random_seed(cut.seed)
    model = lenet()
    if key not in trained:
        train(model, x, y, dense)
        kh.regularize(model, getattr(kh, cut.penalty)(cut.factor))
        train(model, x, y, sparse)
        trained[key] = model.get_weights()
        kh.strip(model)
    model.set_weights(trained[key])
    compile_with(model, 1e-3)
    before = accuracy(model, x_val, y_val)
    effective = kh.measures.effective_count_of([layer.kernel for layer in model.layers])
    target = kh.criteria.TargetSparsity(1 - cut.keep / KERNELS[MLP])
    report = kh.prune(model, target, score=score_of(cut.score, x, y))
    after = accuracy(model, x_val, y_val)
    train(model, x, y, fine)
    return {
        "nonzero": report.nonzero,
        "effective": effective,
        "before": before,
        "after_cut": after,
        "validation": accuracy(model, x_val, y_val),
        "seconds": time.time() - start,
    }


def score_of(name: str, x: np.ndarray, y: np.ndarray) -> kh.scores.Score:
    """A score by its name, that sees some of the training images if it wants any."""
    seen = {
        "Activation": (x[:LOOKED_AT],),
        "Taylor": ((x[:LOOKED_AT], y[:LOOKED_AT]),),
        "Fisher": ((x[:LOOKED_AT], y[:LOOKED_AT]),),
    }
    return getattr(kh.scores, name)(*seen.get(name, ()))


def compile_with(model: keras.Model, rate: Any) -> None:
    """Adam, and the loss of labels."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])


def train(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list[float]]:
    """Epochs of Adam with a learning rate that decays to 0; returns the logs."""
    steps = epochs * -(-len(x) // 100)
    compile_with(model, keras.optimizers.schedules.CosineDecay(1e-3, steps))
    options = {"batch_size": 100, "epochs": epochs, "callbacks": list(callbacks)}
    return model.fit(x, y, verbose=0, **options).history


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the images whose label is right, in percent."""
    outputs = model.predict(x, batch_size=1000, verbose=0)
    return float(100 * np.mean(outputs.argmax(axis=1) == y))


if __name__ == "__main__":
    main()
