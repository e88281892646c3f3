"""One cut right after a short sparse phase, by each score: LeNet-300-100 on MNIST.

    KERAS_BACKEND=jax python benchmarks/scores.py --data mnist.npz
    KERAS_BACKEND=jax python benchmarks/scores.py --plan short --data mnist.npz

A net is trained densely, then with a penalty on its kernels, both with a learning rate that decays
to 0; it is cut once, over all kernels, to a number of weights, and fine-tuned with the zeros kept.
All of it learns labels. Accuracies are those of 5,000 training images that are held out. A line is
appended to the results for each cut, and a cut that has a line is not made again.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from kit.nets import KERNELS, MLP, lenet
from kit.plan_loop import make_runs, plan_options
from kit.training import Data, accuracy, compile_with, load_mnist, train

import keras_hoyer as kh

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
    options = plan_options(__doc__, PLANS, "scores.jsonl", arguments)
    data = load_mnist(options.data)
    trained: dict[tuple, Any] = {}
    make_runs(PLANS[options.plan](), options.out, lambda cut: run(cut, data, trained))


def run(cut: Cut, data: Data, trained: dict[tuple, Any]) -> dict[str, Any]:
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


if __name__ == "__main__":
    main()
