"""The paper's MNIST tables: LeNet-300-100 and LeNet-5, a line of JSON for each run.

    KERAS_BACKEND=jax python benchmarks/mnist.py
    KERAS_BACKEND=jax python benchmarks/mnist.py --plan tables --net 300-100 --data mnist.npz

A run trains densely, then with a penalty, cuts, and fine-tunes with the zeros kept. Its line is
appended to the results as soon as it is done, and a run that has a line is not done again: stop and
start as you like. `python benchmarks/make_results.py` makes the tables from the lines.

Two protocols, never mixed. `ours`: 5,000 training images are held out to choose by, and test
accuracy is read once, at the last epoch. `paper` (Yang, Wen and Li, "DeepHoyer", ICLR 2020): no
images are held out, and the best test accuracy of all fine-tuning epochs counts.

The methods are values of `methods.py`; `--help` says what each does.
"""

import argparse
import dataclasses
import json
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
from kit.machine import describe_machine
from kit.nets import KERNELS, MLP, flops, lenet, live_widths
from kit.results import FOLDER, append, done_before
from methods import METHODS, Method
from plans import PLANS, Run

import keras_hoyer as kh

BATCH = 100
HOLDOUT = 5000
TEMPERATURE = 2.0
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def load_data(file: Path | None, net: str, protocol: str) -> tuple:
    """Images in [0, 1] and labels: for training, to look at during training, and for the test."""
    if file is None:
        (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        with np.load(file) as data:
            x, y, x_test, y_test = (
                data[name] for name in ("x_train", "y_train", "x_test", "y_test")
            )
    shape = (-1, 784) if net == MLP else (-1, 28, 28, 1)
    x, x_test = (images.reshape(shape).astype("float32") / 255 for images in (x, x_test))
    y, y_test = (np.eye(10, dtype="float32")[labels] for labels in (y, y_test))
    if protocol == "paper":
        return (x, y), (x_test, y_test), (x_test, y_test)
    return (x[:-HOLDOUT], y[:-HOLDOUT]), (x[-HOLDOUT:], y[-HOLDOUT:]), (x_test, y_test)


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images moved by whole pixels, with zeros where nothing moves in."""
    square = np.pad(images.reshape(-1, 28, 28), ((0, 0), (1, 1), (1, 1)))
    moved = square[:, 1 - down : 29 - down, 1 - right : 29 - right]
    return np.ascontiguousarray(moved).reshape(images.shape)


def penalty_of(name: str, factor: float, method: Method) -> keras.regularizers.Regularizer:
    """The penalty of that name; group penalties over what the method cuts together."""
    if name == "L1":
        # What transformed L1 tends to; unlike Keras' own it goes when `Pruning` is done.
        return kh.TransformedL1(factor, a=1e6)
    return getattr(kh, name)(factor, **(method.groups or {}))


class AdamL2(keras.optimizers.Adam):
    """Adam with weight decay as a part of the gradient, as the paper's code has it.

    That of Keras' own is decoupled from the gradient, and none of its strengths did as well here.
    """

    def __init__(self, learning_rate: float, decay: float) -> None:
        super().__init__(learning_rate)
        self.decay = decay

    def apply(self, grads: list, trainable_variables: list | None = None) -> None:
        """Adds the share of each kernel to its gradient."""
        variables = trainable_variables or self._trainable_variables
        grads = [
            grad + self.decay * variable if variable.path.endswith("kernel") else grad
            for grad, variable in zip(grads, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)


class Pipeline:
    """Trains one run, from the dense model to the line of results."""

    def __init__(self, run: Run, data: Path | None, cache: Path) -> None:
        self.run, self.cache = run, cache
        self.method = METHODS[run.method]
        self.train, self.watch, self.test = load_data(data, run.net, run.protocol)
        self.steps = len(self.train[0]) // BATCH
        self.cut_epochs = 0
        self.decay = 0.0
        keras.utils.set_random_seed(run.seed)
        self.model = lenet(run.net)

    def fit(
        self, epochs: int, rate: float, decay: bool, **options: object
    ) -> keras.callbacks.History:
        """Trains with a fresh Adam."""
        if decay:
            rate = keras.optimizers.schedules.CosineDecay(rate, max(1, epochs * self.steps))
        self.model.compile(
            AdamL2(rate, self.decay) if self.decay else keras.optimizers.Adam(rate),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            # PyTorch knows one step at a time only.
            steps_per_execution=1 if keras.backend.backend() == "torch" else self.steps,
        )
        # As many steps with the shifted images as without.
        size = {"batch_size": BATCH, "steps_per_epoch": self.steps}
        options = {"validation_data": self.watch, "verbose": 0, **size, **options}
        return self.model.fit(*self.train, epochs=epochs, **options)

    def trained_before(self, *key: object) -> Path:
        """Where weights that several runs start from are kept."""
        run = self.run
        name = "-".join(map(str, (run.net, run.protocol, run.seed, *key)))
        return self.cache / f"{keras.backend.backend()}-{name}.weights.h5"

    def accuracy(self, data: tuple) -> float:
        """Accuracy of the model as it is."""
        images, labels = data
        outputs = self.model.predict(images, batch_size=1000, verbose=0)
        return float(np.mean(outputs.argmax(-1) == labels.argmax(-1)))

    def dense(self) -> float:
        """Trains densely, or loads what was trained; returns the best accuracy of an epoch."""
        epochs, dropout = self.run.epochs[0], self.run.dropout
        file = self.trained_before("dense", epochs, dropout)
        best = file.with_suffix(".json")
        if not best.exists():
            plain, self.model = self.model, lenet(self.run.net, dropout)
            history = self.fit(epochs, 1e-3, decay=True).history["val_accuracy"]
            plain.set_weights([keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights])
            self.model = plain
            self.model.save_weights(file)
            best.write_text(json.dumps(max(history)))
        self.model.load_weights(file)
        return json.loads(best.read_text())

    def sparse(self) -> None:
        """Trains with the penalty, if there is one, or loads what was trained."""
        run, method = self.run, self.method
        self.penalize()
        file = self.trained_before(
            run.penalty,
            run.factor,
            "weights" if method.groups is None else method.name,
            run.teacher,
            run.shifts,
            run.dropout,
            *([run.weight_decay] if run.weight_decay else []),
            *(["decayed"] if method.decays else []),
            *run.epochs[:2],
        )
        if not file.exists():
            self.fit(run.epochs[1], 1e-3, method.decays, validation_data=None)
            self.model.save_weights(file)
        self.model.load_weights(file)

    def penalize(self) -> None:
        """Puts the penalty on the model, if there is one."""
        run = self.run
        if run.penalty != "none":
            penalty = penalty_of(run.penalty, run.factor, self.method)
            kh.regularize(self.model, penalty, groups="coupled" if self.method.coupled else None)

    def soften(self) -> None:
        """Puts the model's softened outputs in the place of the labels."""
        images = self.train[0]
        if self.run.shifts:
            images = np.concatenate([shifted(images, *by) for by in SHIFTS])
        logits = self.model.predict(images, batch_size=1000, verbose=0) / TEMPERATURE
        self.train = (images, np.array(keras.ops.softmax(logits)))

    def tune(self, rate: float = 1e-3, decay: bool = True, **options: object) -> list[float]:
        """Trains for the last epochs; returns the watched accuracy of each."""
        return self.fit(self.run.epochs[3], rate, decay, **options).history["val_accuracy"]

    def train_all(self) -> tuple[float, float, float]:
        """Runs all the training.

        Returns:
            The best watched accuracy of an epoch of the dense model and of what it became, and
            that of the dense model at its last epoch.
        """
        run = self.run
        best = dense_best = self.dense()
        dense_last = self.accuracy(self.watch)
        if self.method.cut:
            labels = self.train
            self.decay = run.weight_decay
            if run.teacher == "dense":
                self.soften()
            self.sparse()
            best = max(self.method.cut(self))
            self.train = labels
        return dense_best, best, dense_last

    def result(self) -> dict:
        """Runs it all; returns the line of results."""
        run = self.run
        start = time.time()
        dense_best, best, dense_last = self.train_all()
        report = kh.report(self.model)
        widths = live_widths(self.model)
        line = {
            **dataclasses.asdict(run),
            "nonzero": report.nonzero,
            "compression": KERNELS[run.net] / report.nonzero,
            "layers": [layer.nonzero for layer in report.layers],
            "widths": widths,
            "flops": flops(run.net, widths),
            "cut_epochs": self.cut_epochs,
            "seconds": round(time.time() - start, 1),
            "machine": describe_machine(),
        }
        if run.protocol == "paper":
            return {**line, "dense_best_test": dense_best, "best_test": best}
        return {
            **line,
            "dense_validation": dense_last,
            "validation": self.accuracy(self.watch),
            "train": self.accuracy(self.train),
            "test": self.accuracy(self.test),
        }


def help_on(method: Method) -> str:
    """A method's lines of `--help`."""
    return textwrap.fill(f"{method.name:11} {method.does}", 79, subsequent_indent=" " * 12)


def main() -> None:
    """Makes the runs of a plan that have no line yet."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="\n".join(["methods:", *map(help_on, METHODS.values())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", choices=list(PLANS), default="quick")
    parser.add_argument("--net", choices=sorted(KERNELS), help="only this net; default: both")
    parser.add_argument("--data", type=Path, help="an mnist.npz; default: keras.datasets.mnist")
    parser.add_argument(
        "--results", type=Path, help="default: results/mnist.jsonl, or out/ (quick)"
    )
    parser.add_argument("--cache", type=Path, default=FOLDER.parents[1] / "out" / "mnist")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    # Quick runs show that all works, and have no place among the figures.
    quick = arguments.plan == "quick"
    place = arguments.cache.parent / "quick.jsonl" if quick else FOLDER / "mnist.jsonl"
    results = arguments.results or place
    for run in PLANS[arguments.plan].runs:
        if arguments.net in (None, run.net) and run not in done_before(results, Run):
            line = Pipeline(run, arguments.data, arguments.cache).result()
            append(results, {"plan": arguments.plan, **line})
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
