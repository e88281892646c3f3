"""ADMM and proximal steps beside `Pruning` at the same zeros, and what they cost a step.

    KERAS_BACKEND=jax python benchmarks/admm.py runs --net digits
    KERAS_BACKEND=jax python benchmarks/admm.py runs --net residual
    KERAS_BACKEND=jax python benchmarks/admm.py runs --net 300-100 --data mnist.npz
    KERAS_BACKEND=jax python benchmarks/admm.py cost
    python benchmarks/admm.py show

A run trains densely, then sparsely, and fine-tunes with the zeros kept; the phases are as long for
all methods. `admm` and `steps` find as many zeros as their strength gives. `pruning` has the same
penalty in the loss and is cut by magnitude over all kernels to as many weights as ADMM left with
the same penalty and seed; `magnitude` has no penalty. Of the images a part is held out as
validation, on which strengths were compared; test accuracy is read once, at the last epoch. Each
run is a line of `results/admm.jsonl`, and a run that has a line is not done again.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from kit.machine import describe_machine
from kit.nets import CNN, MLP, lenet
from kit.results import FOLDER, append, done_before, read_lines, rounded, write
from kit.small_nets import residual
from kit.tables import table
from kit.turns import PROCESSOR, by_turns

import keras_hoyer as kh
from keras_hoyer.callbacks.splits import find_splits
from keras_hoyer.proximal.choice import Chosen
from keras_hoyer.regularizers.pull import Pulls
from keras_hoyer.units import find_units

LINES = FOLDER / "admm.jsonl"
DIGITS, RESIDUAL = "digits", "residual"
# Dense, sparse and fine-tuning epochs, and the batch.
PHASES = {
    DIGITS: (15, 30, 15, 32),
    RESIDUAL: (15, 30, 15, 32),
    MLP: (3, 6, 3, 100),
    CNN: (2, 4, 2, 100),
}
SEEDS = {DIGITS: (0, 1, 2), RESIDUAL: (0, 1, 2), MLP: (0,), CNN: (0, 1, 2)}
PENALTIES = {"l1": kh.L1, "hoyer_square": kh.HoyerSquare}
# Of the penalty in the loss, and of decoupled steps.
STRENGTHS = {
    DIGITS: {"l1": ((1e-2,), (0.3,)), "hoyer_square": ((3e-3,), ()), "mcp": ((3e-2,), ())},
    RESIDUAL: {"l1": ((3e-3,), ())},
    MLP: {"l1": ((2e-4,), (0.1,)), "hoyer_square": ((3e-4,), ())},
    CNN: {"l1": ((1e-4,), ()), "hoyer_square": ((3e-4,), ())},
}
# MCP is to end at the size that weights keep, not at 3.
MCP = {"threshold": 0.3, "gamma": 1.0}
EVERY = 50
OPERATORS = ("l1", "mcp", "hoyer_square")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: all that its result depends on, machine and versions aside.

    Attributes:
        net: `"300-100"`, `"lenet-5"`, `"digits"` or `"residual"`.
        method: `"admm"`, `"steps"`, `"pruning"` or `"magnitude"`.
        penalty: Its name, or `"none"`.
        strength: What it is multiplied with.
        kept: For `"pruning"` and `"magnitude"`, how many weights stay; else 0.
        seed: Of the initial weights and the order of the images.
    """

    net: str
    method: str
    penalty: str
    strength: float
    kept: int
    seed: int


def load(net: str, file: Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1] and labels for training, validation and test."""
    if net in (MLP, CNN):
        from mnist import load_data

        return [(x, y.argmax(-1)) for x, y in load_data(file, net, "ours")]
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return [(x[:1100], y[:1100]), (x[1100:1400], y[1100:1400]), (x[1400:], y[1400:])]


def build(net: str) -> keras.Model:
    """The net; its outputs have no softmax."""
    if net in (MLP, CNN):
        return lenet(net)
    if net == RESIDUAL:
        return residual()
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10),
        ]
    )


def callback_of(run: Run, model: keras.Model, sparse: int) -> keras.callbacks.Callback:
    """What makes the zeros of a run, after `sparse` epochs."""
    extra = MCP if run.penalty == "mcp" else {}
    if run.method == "admm":
        return kh.callbacks.ADMM(run.penalty, run.strength, sparse, every=EVERY, **extra)
    if run.method == "steps":
        return kh.callbacks.ProximalStep(run.penalty, run.strength, sparse)
    if run.method == "pruning":
        kh.regularize(model, PENALTIES[run.penalty](run.strength))
    share = 1 - run.kept / kh.report(model).total
    return kh.callbacks.Pruning(kh.criteria.TargetSparsity(share), kh.schedules.OneShot(sparse))


class Cut(keras.callbacks.Callback):
    """Writes down validation accuracy right after the zeros are kept.

    Args:
        epoch: At whose beginning that is.
        data: Images and labels.
    """

    def __init__(self, epoch: int, data: tuple[np.ndarray, np.ndarray]) -> None:
        super().__init__()
        self.epoch, self.data, self.found = epoch, data, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Looks once."""
        if epoch == self.epoch:
            self.found = accuracy(self.model, self.data)


def accuracy(model: keras.Model, data: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of the images that a model classifies as they are labelled."""
    outputs = model.predict(data[0], batch_size=500, verbose=0)
    return float(np.mean(outputs.argmax(-1) == data[1]))


def train(model: keras.Model, data: tuple, batch: int, epochs: int, **options: object) -> dict:
    """Trains with a fresh Adam."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model.fit(*data, batch_size=batch, epochs=epochs, verbose=0, **options).history


def result(run: Run, file: Path | None) -> dict:
    """Runs it all; returns the line of results."""
    training, validation, test = load(run.net, file)
    dense, sparse, tune, batch = PHASES[run.net]
    started = time.time()
    keras.utils.set_random_seed(run.seed)
    model = build(run.net)
    train(model, training, batch, dense)
    before = accuracy(model, validation)
    callback, cut = callback_of(run, model, sparse), Cut(sparse, validation)
    schedule = keras.callbacks.LearningRateScheduler(
        # Both phases end with a rate that has decayed.
        lambda epoch: (
            1e-3 * (1 - epoch / sparse) ** 0.5
            if epoch < sparse
            else 1e-3 * (1 - (epoch - sparse) / tune)
        )
    )
    history = train(model, training, batch, sparse + tune, callbacks=[callback, cut, schedule])
    report = kh.report(model)
    return {
        **dataclasses.asdict(run),
        "phases": PHASES[run.net],
        "nonzero": report.nonzero,
        "compression": report.total / report.nonzero,
        "layers": [layer.nonzero for layer in report.layers],
        "residual": history.get("residual", [None])[-1],
        "dense_validation": before,
        "after_cut": cut.found,
        "validation": accuracy(model, validation),
        "test": accuracy(model, test),
        "seconds": round(time.time() - started, 1),
        "machine": describe_machine(),
    }


def plan(net: str) -> Iterator[Run]:
    """The runs of a net; those of `Pruning` follow from what ADMM has left by then."""
    for seed in SEEDS[net]:
        for penalty, (in_loss, decoupled) in STRENGTHS[net].items():
            for strength in in_loss:
                admm = Run(net, "admm", penalty, strength, 0, seed)
                yield admm
                kept = next(
                    line["nonzero"]
                    for line in read_lines(LINES)
                    if Run(**{k: line[k] for k in dataclasses.asdict(admm)}) == admm
                )
                if penalty in PENALTIES:
                    yield Run(net, "pruning", penalty, strength, kept, seed)
                if penalty == "l1":
                    yield Run(net, "magnitude", "none", 0.0, kept, seed)
            for strength in decoupled:
                yield Run(net, "steps", penalty, strength, 0, seed)


def cost(rounds: int) -> dict:
    """Steps of LeNet-300-100 with and without the pull of ADMM, by turns, and proximal steps.

    A turn is an epoch of `fit` of 40 steps of 100 random images. The cost of a step is that of the
    pull, and its share of a proximal step.
    """
    random = np.random.default_rng(0)
    steps = 40
    x, y = random.random((100 * steps, 784), "float32"), random.integers(0, 10, 100 * steps)
    plain, pulled = lenet(), lenet()
    for model in (plain, pulled):
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.train_on_batch(x[:100], y[:100])
    units = find_units(pulled, kh.patterns.Unstructured())
    splits = {name: find_splits(pulled, units, Chosen(name, {})) for name in OPERATORS}
    kernels = splits["l1"]
    pulls = Pulls(pulled, kernels.kernels, kernels.counts)
    pulls.set(1e-2, [0.9 * each for each in kernels.read()])

    def epoch(model: keras.Model) -> Callable[[], object]:
        return lambda: model.fit(x, y, batch_size=100, epochs=1, verbose=0)

    times = by_turns({"plain": epoch(plain), "pulled": epoch(pulled)}, rounds)
    operators = by_turns(
        {name: lambda each=each: each.step(1e-5) for name, each in splits.items()},
        10,
    )
    step = times.median("plain") / steps
    return {
        "net": MLP,
        "rounds": rounds,
        "plain_step_ms": rounded(1e3 * step, 3),
        "ratio_of_pull": rounded(times.ratio("pulled", "plain"), 3),
        "ratio_of_pull_quartiles": rounded(times.quartiles("pulled", "plain"), 3),
        "ratio_of_pull_cpu": rounded(times.ratio("pulled", "plain", PROCESSOR), 3),
        "proximal_step_ms": {k: rounded(1e3 * operators.median(k), 2) for k in OPERATORS},
        "in_steps": {k: rounded(operators.median(k) / step, 1) for k in OPERATORS},
        "load_average": times.load_average,
        "machine": describe_machine(),
    }


def show() -> list[str]:
    """The table of all runs, a row for each setting."""
    rows: dict[tuple, list[dict]] = {}
    for line in read_lines(LINES):
        setting = (line["net"], line["method"], line["penalty"], line["strength"])
        if line["method"] in ("pruning", "magnitude"):
            # With the ADMM run of as many weights.
            setting += (pair_of(line),)
        rows.setdefault(setting, []).append(line)
    header = ["net", "method", "penalty", "strength", "seeds", "weights left", "times smaller"]
    return table(
        [*header, "after the cut", "validation", "test"],
        [
            (
                *key[:3],
                f"{key[3]:g}" if key[3] else f"as l1 {key[4]:g}",
                len(lines),
                f"{np.mean([line['nonzero'] for line in lines]):,.0f}",
                f"{np.mean([line['compression'] for line in lines]):.1f}",
                *(
                    spread([line[name] for line in lines])
                    for name in ("after_cut", "validation", "test")
                ),
            )
            for key, lines in rows.items()
        ],
    )


def pair_of(line: dict) -> float:
    """The strength of the ADMM run that left as many weights."""
    return next(
        other["strength"]
        for other in read_lines(LINES)
        if other["method"] == "admm"
        and (other["net"], other["seed"], other["nonzero"])
        == (line["net"], line["seed"], line["kept"])
    )


def spread(values: list[float]) -> str:
    """Mean and deviation, in points."""
    mean = f"{100 * np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * np.std(values, ddof=1):.2f}"


def main() -> None:
    """Makes the runs that have no line yet, measures the cost, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("runs", "cost", "show"))
    parser.add_argument("--net", choices=list(PHASES), default=DIGITS)
    parser.add_argument("--data", type=Path, help="an mnist.npz; default: keras.datasets.mnist")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    if arguments.what == "show":
        print("\n".join(show()))
    elif arguments.what == "cost":
        measured = cost(arguments.rounds)
        print(json.dumps(measured, indent=1))
        write(FOLDER / f"admm_cost_{keras.backend.backend()}.json", measured)
    else:
        for run in plan(arguments.net):
            if run not in done_before(LINES, Run):
                line = result(run, arguments.data)
                append(LINES, line)
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
