"""Does the factor that follows from the target do as well as the best of five? LeNet-300-100.

    KERAS_BACKEND=jax python benchmarks/factors.py --data mnist.npz

A net is trained densely, then with Hoyer-Square on its kernels, and cut once, over all kernels, to
a number of weights: with `factor="auto"`, which is told of that number, and with five factors that
are not. All learning rates decay to 0; all of it learns labels. Accuracies are those of 5,000
training images that are held out. A line is appended to the results for each cut, and a cut that
has a line is not made again.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from kit.nets import KERNELS, MLP, lenet
from kit.plan_loop import make_runs, plan_options
from kit.training import Data, accuracy, compile_with, load_mnist, train

import keras_hoyer as kh


@dataclasses.dataclass(frozen=True)
class Cut:
    """One cut: all that its result depends on, the machine and the versions aside.

    Attributes:
        factor: The penalty's factor, a number or "auto".
        epochs: Epochs of dense training, of sparse training and of fine-tuning.
        keep: Number of weights that stay.
        seed: Of initial weights and order of images.
        plan: The plan that it belongs to.
    """

    factor: float | str
    epochs: tuple[int, int, int]
    keep: int
    seed: int
    plan: str


FACTORS = (1e-4, 3e-4, 5e-4, 1e-3, 3e-3)
KEPT = (4_630, 2_315, 1_160)


def plan_automatic() -> Iterator[Cut]:
    """Thirty epochs with a factor that follows from the target, and with five that do not."""
    for factors in (("auto",), FACTORS):
        for seed, factor, keep in itertools.product((0, 1, 2), factors, KEPT):
            yield Cut(factor, (10, 30, 15), keep, seed, "automatic")


def plan_automatic_short() -> Iterator[Cut]:
    """A phase of ten epochs, and one that is too short."""
    for seed, sparse, keep in itertools.product((0, 1, 2), (10, 6), KEPT):
        yield Cut("auto", (10, sparse, 15), keep, seed, "automatic_short")


PLANS = {"automatic": plan_automatic, "automatic_short": plan_automatic_short}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the cuts of a plan that have no line yet."""
    options = plan_options(__doc__, PLANS, "factors.jsonl", arguments)
    data = load_mnist(options.data)
    trained: dict[tuple, Any] = {}
    make_runs(PLANS[options.plan](), options.out, lambda cut: run(cut, data, trained))


def run(cut: Cut, data: Data, trained: dict[tuple, Any]) -> dict[str, Any]:
    """Accuracies before the cut, right after it and after fine-tuning."""
    x, y, x_val, y_val = data
    dense, sparse, fine = cut.epochs
    start = time.time()
    keras.utils.set_random_seed(cut.seed)
    model = lenet()
    if cut.seed not in trained:
        train(model, x, y, dense)
        trained[cut.seed] = model.get_weights()
    model.set_weights(trained[cut.seed])
    target = kh.criteria.TargetSparsity(1 - cut.keep / KERNELS[MLP])
    # A fixed factor knows no target, so its sparse training serves for all.
    key = (cut.seed, cut.factor, sparse, cut.keep if cut.factor == "auto" else 0)
    if key not in trained:
        kh.regularize(model, kh.HoyerSquare(cut.factor))
        # Cut when the phase is over, by hand: to see the accuracy before.
        steer = [kh.callbacks.Pruning(target, kh.schedules.OneShot(sparse), keep_penalty=True)]
        logs = train(model, x, y, sparse, callbacks=steer if cut.factor == "auto" else [])
        trained[key] = model.get_weights(), logs.get("factor", [])
        kh.strip(model)
    weights, factors = trained[key]
    model.set_weights(weights)
    compile_with(model, 1e-3)
    before, effective = accuracy(model, x_val, y_val), kh.report(model).effective
    nonzero = kh.prune(model, target).nonzero
    after = accuracy(model, x_val, y_val)
    train(model, x, y, fine)
    return {
        "nonzero": nonzero,
        "effective": effective,
        "factors": [float(f"{factor:.3g}") for factor in factors],
        "before": before,
        "after_cut": after,
        "validation": accuracy(model, x_val, y_val),
        "seconds": time.time() - start,
    }


if __name__ == "__main__":
    main()
