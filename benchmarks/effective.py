"""How many times the effective number must a cut keep? Six nets, before any fine-tuning.

    KERAS_BACKEND=jax python benchmarks/effective.py --plan digits
    KERAS_BACKEND=jax python benchmarks/effective.py --plan mnist --data mnist.npz

A net is trained once with a penalty on its kernels, or without one, by Adam with a learning rate
that decays to 0, and is then cut by `criteria.EffectiveNumber` at several ratios, each time anew:
its weights, or with a group penalty its coupled channels. Accuracies are of images that are held
out. A line is appended to the results for each net that was trained.
"""

import argparse
import dataclasses
import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
from kit.machine import describe_machine
from kit.results import FOLDER, append, done_before
from kit.small_nets import NETS, Data, load
from scores import accuracy, compile_with

import keras_hoyer as kh


@dataclasses.dataclass(frozen=True)
class Run:
    """One net, all that its result depends on, the machine and the versions aside.

    Attributes:
        net: Name of the net.
        penalty: Name of a penalty of `keras_hoyer`, or "none".
        factor: The penalty's factor.
        seed: Of initial weights and order of images.
        plan: The plan that it belongs to.
    """

    net: str
    penalty: str
    factor: float
    seed: int
    plan: str


RATIOS = (1.0, 2.0, 3.0, 4.0, 6.0)
FACTORS = {
    "HoyerSquare": (3e-5, 1e-4, 3e-4, 1e-3),
    "none": (0.0,),
    "L1": (1e-5, 3e-5, 1e-4, 3e-4),
    "GroupHoyerSquare": (1e-3, 3e-3, 1e-2, 3e-2),
    "GroupLasso": (1e-4, 3e-4, 1e-3, 3e-3),
}
COUPLED = ("GroupHoyerSquare", "GroupLasso")
DIGITS = tuple(name for name, net in NETS.items() if net.data == "digits")
MNIST = tuple(name for name, net in NETS.items() if net.data == "mnist")


def plan(name: str, nets: Sequence[str], penalties: Sequence[str]) -> Iterator[Run]:
    """Each penalty at four factors, first of all Hoyer-Square."""
    for penalty, seed, net in itertools.product(penalties, (0, 1, 2), nets):
        for factor in FACTORS[penalty]:
            yield Run(net, penalty, factor, seed, name)


PLANS = {
    "digits": lambda: plan("digits", DIGITS, tuple(FACTORS)),
    "mnist": lambda: plan("mnist", MNIST, ("HoyerSquare", "none")),
    "mnist_others": lambda: plan("mnist_others", MNIST, ("L1", *COUPLED)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the runs of a plan that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=list(PLANS), default="digits")
    parser.add_argument("--data", type=Path, help="an mnist.npz; default: what Keras downloads")
    parser.add_argument("--out", type=Path, default=FOLDER / "effective.jsonl")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "No cut can reach")
    done = done_before(options.out, Run)
    for todo in PLANS[options.plan]():
        if todo not in done:
            result = {
                **run(todo, load(NETS[todo.net], options.data)),
                "machine": describe_machine(),
            }
            append(options.out, {**dataclasses.asdict(todo), **result})
            print(todo, result, flush=True)


def run(todo: Run, data: Data) -> dict[str, Any]:
    """Accuracy before the cut, and right after it for each ratio and scope."""
    x, y, x_val, y_val = data
    net = NETS[todo.net]
    start = time.time()
    keras.utils.set_random_seed(todo.seed)
    model = net.make()
    coupled = todo.penalty in COUPLED
    if todo.penalty != "none":
        penalty = getattr(kh, todo.penalty)(todo.factor)
        kh.regularize(model, penalty, groups="coupled" if coupled else None)
    steps = net.epochs * -(-len(x) // net.batch)
    compile_with(model, keras.optimizers.schedules.CosineDecay(2e-3, steps))
    model.fit(x, y, batch_size=net.batch, epochs=net.epochs, verbose=0)
    kh.strip(model)
    weights, before = model.get_weights(), accuracy(model, x_val, y_val)
    pattern = kh.patterns.Channel() if coupled else kh.patterns.Unstructured()
    total = kh.report(model).total
    cuts = []
    for scope, ratio in itertools.product(("global", "layer")[: 1 + coupled], RATIOS):
        model.set_weights(weights)
        left = kh.prune(model, kh.criteria.EffectiveNumber(ratio, scope), pattern).nonzero
        after = accuracy(model, x_val, y_val)
        kh.strip(model)
        cuts.append({"scope": scope, "ratio": ratio, "left": left / total, "after_cut": after})
    seconds = time.time() - start
    return {"total": total, "before": before, "cuts": cuts, "seconds": seconds}


if __name__ == "__main__":
    main()
