"""Channels of a trained net cut once: which score keeps the most? Four nets, before fine-tuning.

    KERAS_BACKEND=jax python benchmarks/channel_scores.py

A net is trained on scikit-learn's digits by Adam with a learning rate that decays to 0, without a
penalty; channels go until a share of the multiply-adds is left, each time anew. Scores that see
data see the training images. Accuracies are of images that are held out. A line is appended to
`benchmarks/results/channel_scores.jsonl` for each net that was trained.
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

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
        seed: Of initial weights, order of images and random scores.
    """

    net: str
    seed: int


SHARES = (0.8, 0.6, 0.5, 0.3)
SCORES = ("Magnitude", "Taylor", "Fisher", "Activation", "Random")


def plan() -> Iterator[Run]:
    """The nets for digits, three seeds."""
    for seed, net in itertools.product((0, 1, 2), ("mlp", "residual", "lstm", "transformer")):
        yield Run(net, seed)


def score_of(name: str, data: Data, seed: int) -> kh.scores.Score:
    """A score by its name."""
    x, y = data[:2]
    arguments = {"Taylor": ((x, y),), "Fisher": ((x, y),), "Activation": (x,), "Random": (seed,)}
    return getattr(kh.scores, name)(*arguments.get(name, ()))


def result(run: Run, data: Data) -> dict[str, object]:
    """Accuracy before the cut, and right after it for each score and share."""
    x, y, x_val, y_val = data
    net = NETS[run.net]
    start = time.time()
    keras.utils.set_random_seed(run.seed)
    model = net.make()
    steps = net.epochs * -(-len(x) // net.batch)
    compile_with(model, keras.optimizers.schedules.CosineDecay(2e-3, steps))
    model.fit(x, y, batch_size=net.batch, epochs=net.epochs, verbose=0)
    weights, before = model.get_weights(), accuracy(model, x_val, y_val)
    cuts = []
    for name in SCORES:
        score = score_of(name, data, run.seed)
        for share in SHARES:
            model.set_weights(weights)
            kh.prune(model, kh.criteria.TargetFlops(share), kh.patterns.Channel(), score=score)
            cuts.append({"score": name, "share": share, "after": accuracy(model, x_val, y_val)})
            kh.strip(model)
    return {"before": before, "cuts": cuts, "seconds": time.time() - start}


def main() -> None:
    """Makes the runs that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "channel_scores.jsonl")
    options = parser.parse_args()
    done = done_before(options.out, Run)
    for run in plan():
        if run not in done:
            line = {**dataclasses.asdict(run), **result(run, load(NETS[run.net], None))}
            append(options.out, {**line, "machine": describe_machine()})
            print(line, flush=True)


if __name__ == "__main__":
    main()
