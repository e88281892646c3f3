"""The paper's MNIST tables: LeNet-300-100 and LeNet-5, a line of JSON for each run.

    KERAS_BACKEND=jax python benchmarks/mnist.py
    KERAS_BACKEND=jax python benchmarks/mnist.py --plan tables --net 300-100 --data mnist.npz

A run trains densely, then with a penalty, cuts, and fine-tunes with the zeros kept. Its line is
appended to the results as soon as it is done, and a run that has a line is not done again: stop and
start as you like. `python benchmarks/make_results.py` makes the tables from the lines.

Two protocols, never mixed. `ours`: 5,000 training images are held out to choose by, and test
accuracy is read once, at the last epoch. `paper` (Yang, Wen and Li, "DeepHoyer", ICLR 2020): no
images are held out, and the best test accuracy of all fine-tuning epochs counts.

Methods. `paper`: one cut below a share of each kernel's standard deviation, fine-tuning at 1e-4.
`once`: the learning rate of sparse training decays to 0 before the one cut, which takes the
smallest weights of all kernels, and fine-tuning learns the dense model's outputs as `gradual` does.
`threshold`: as `once`, but cut by the paper's rule. `gradual`: the smallest weights of all kernels
go little by little while the penalty is on; then fine-tuning with cosine decay. All of it learns
the dense model's softened outputs, for the images and for copies shifted by a pixel. `budget`: the
same with `callbacks.BudgetPruning`, which finds out itself how far it can go. `channels` (LeNet-5)
cuts the same share of the channels of each layer, little by little until a share of the
multiply-adds is left, with weight decay and with the penalty over what is removed together, and
shrinks the model after each cut, so that it trains faster and faster. `structured` (LeNet-300-100)
does so with input features as well, as the paper does; the zeros stay in the model. `blocks`, which
`benchmarks/blocks.py` runs: as `gradual`, in blocks of four inputs of one unit.
"""

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

import keras
import numpy as np
from machine import describe_machine
from plans import PLANS, Run
from runs import append, done_before

import keras_hoyer as kh

BATCH = 100
KERNELS = {"300-100": 266_200, "lenet-5": 430_500}
# Inputs of each layer; of a convolution its filters.
WIDTHS = {"300-100": [784, 300, 100], "lenet-5": [20, 50, 800, 500]}
HOLDOUT = 5000
TEMPERATURE = 2.0
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
BLOCK = kh.patterns.Block((4, 1))
# Sparse training of these ends with small steps.
DECAYED = ("once", "threshold")
# What group penalties take for a group, by method.
GROUPS = {"structured": {"axis": (-2, -1)}, "blocks": {"pattern": BLOCK}, "channels": {}}


def load_data(file: Path | None, net: str, protocol: str) -> tuple:
    """Images in [0, 1] and labels: for training, to look at during training, and for the test."""
    if file is None:
        (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        with np.load(file) as data:
            x, y, x_test, y_test = (
                data[name] for name in ("x_train", "y_train", "x_test", "y_test")
            )
    shape = (-1, 784) if net == "300-100" else (-1, 28, 28, 1)
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


def build_model(net: str, dropout: bool = False) -> keras.Model:
    """LeNet-300-100 (266,200 kernel weights) or LeNet-5, 20-50-500 (430,500)."""
    layers = keras.layers
    if net == "300-100":
        body = [keras.Input((784,)), layers.Dense(300, "relu"), layers.Dense(100, "relu")]
        drop = {1: 0.2, 2: 0.3, 3: 0.3}
    else:
        body = [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, "relu"),
        ]
        drop = {6: 0.3, 7: 0.3}
    body = [*body, layers.Dense(10)]
    if dropout:
        for index, rate in sorted(drop.items(), reverse=True):
            body.insert(index, layers.Dropout(rate))
    return keras.Sequential(body)


def penalty_of(name: str, factor: float, method: str) -> keras.regularizers.Regularizer:
    """The penalty of that name; group penalties over what the method cuts together."""
    if name == "L1":
        # What transformed L1 tends to; unlike Keras' own it goes when `Pruning` is done.
        return kh.TransformedL1(factor, a=1e6)
    return getattr(kh, name)(factor, **GROUPS.get(method, {}))


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
        self.train, self.watch, self.test = load_data(data, run.net, run.protocol)
        self.steps = len(self.train[0]) // BATCH
        self.cut_epochs = 0
        self.decay = 0.0
        keras.utils.set_random_seed(run.seed)
        self.model = build_model(run.net)

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
            plain, self.model = self.model, build_model(self.run.net, dropout)
            history = self.fit(epochs, 1e-3, decay=True).history["val_accuracy"]
            plain.set_weights([keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights])
            self.model = plain
            self.model.save_weights(file)
            best.write_text(json.dumps(max(history)))
        self.model.load_weights(file)
        return json.loads(best.read_text())

    def sparse(self) -> None:
        """Trains with the penalty, if there is one, or loads what was trained."""
        run = self.run
        decay = run.method in DECAYED
        self.penalize()
        file = self.trained_before(
            run.penalty,
            run.factor,
            run.method if run.method in GROUPS else "weights",
            run.teacher,
            run.shifts,
            run.dropout,
            *([run.weight_decay] if run.weight_decay else []),
            *(["decayed"] if decay else []),
            *run.epochs[:2],
        )
        if not file.exists():
            self.fit(run.epochs[1], 1e-3, decay, validation_data=None)
            self.model.save_weights(file)
        self.model.load_weights(file)

    def penalize(self) -> None:
        """Puts the penalty on the model, if there is one."""
        run = self.run
        if run.penalty != "none":
            penalty = penalty_of(run.penalty, run.factor, run.method)
            coupled = "coupled" if run.method == "channels" else None
            kh.regularize(self.model, penalty, groups=coupled)

    def soften(self) -> None:
        """Puts the model's softened outputs in the place of the labels."""
        images = self.train[0]
        if self.run.shifts:
            images = np.concatenate([shifted(images, *by) for by in SHIFTS])
        logits = self.model.predict(images, batch_size=1000, verbose=0) / TEMPERATURE
        self.train = (images, np.array(keras.ops.softmax(logits)))

    def cut_and_tune(self) -> list[float]:
        """Cuts by the run's method and fine-tunes; returns the watched accuracy of each epoch."""
        run = self.run
        criteria, one_shot = kh.criteria, kh.schedules.OneShot(0)
        if run.method == "budget":
            begin = min(5, run.epochs[2] // 3)
            cut = kh.callbacks.BudgetPruning(run.amount, begin=begin)
            self.cut_epochs = len(self.fit(run.epochs[2], 1e-3, decay=False, callbacks=[cut]).epoch)
            return self.fit(run.epochs[3], 1e-3, decay=True).history["val_accuracy"]
        if run.method in DECAYED:
            criterion = (
                criteria.TargetSparsity(1 - run.amount / KERNELS[run.net])
                if run.method == "once"
                else criteria.StdThreshold(std_ratio(self.model, int(run.amount)))
            )
            cut = kh.callbacks.Pruning(criterion, one_shot)
            return self.fit(run.epochs[3], 1e-3, True, callbacks=[cut]).history["val_accuracy"]
        if run.method in ("gradual", "blocks"):
            curve = kh.schedules.Polynomial(
                0, run.epochs[2] - -(-run.epochs[2] // 20), frequency=-(-run.epochs[2] // 10)
            )
            criterion = criteria.TargetSparsity(1 - run.amount / KERNELS[run.net])
            pattern = BLOCK if run.method == "blocks" else kh.patterns.Unstructured()
            cut = kh.callbacks.Pruning(criterion, curve, pattern)
            self.fit(run.epochs[2], 1e-3, decay=False, callbacks=[cut], validation_data=None)
            self.cut_epochs = run.epochs[2]
            return self.fit(run.epochs[3], 1e-3, decay=True).history["val_accuracy"]
        if run.method in ("channels", "structured"):
            keep_zeros = criteria.Threshold(1e-30)  # far below any weight
            steps = min(10, run.epochs[2])
            for step in range(1, steps + 1):
                share = 1 - (1 - run.amount) * (1 - (1 - step / steps) ** 3)
                if run.method == "channels":
                    self.shrink(share)
                else:
                    zero_units(self.model, share)
                    kh.prune(self.model, keep_zeros)
                self.fit(run.epochs[2] // steps, 1e-3, decay=False, validation_data=None)
            self.cut_epochs = run.epochs[2] // steps * steps
            # Takes the penalty off.
            cut = kh.callbacks.Pruning(keep_zeros, one_shot)
            return self.fit(run.epochs[3], 1e-3, True, callbacks=[cut]).history["val_accuracy"]
        cut = kh.callbacks.Pruning(criteria.StdThreshold(run.amount), one_shot)
        return self.fit(run.epochs[3], 1e-4, False, callbacks=[cut]).history["val_accuracy"]

    def shrink(self, share: float) -> None:
        """Removes channels until this share of the net's multiply-adds is left."""
        left = flops(self.run.net, live_widths(self.model))
        relative = share * flops(self.run.net, WIDTHS[self.run.net]) / left
        if relative < 1:
            kh.prune(
                self.model, kh.criteria.TargetFlops(relative, scope="layer"), kh.patterns.Channel()
            )
            self.model = kh.shrink(kh.strip(self.model))
            self.penalize()

    def train_all(self) -> tuple[float, float, float]:
        """Runs all the training.

        Returns:
            The best watched accuracy of an epoch of the dense model and of what it became, and
            that of the dense model at its last epoch.
        """
        run = self.run
        best = dense_best = self.dense()
        dense_last = self.accuracy(self.watch)
        if run.method != "dense":
            labels = self.train
            self.decay = run.weight_decay
            if run.teacher == "dense":
                self.soften()
            self.sparse()
            best = max(self.cut_and_tune())
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


def kernels_of(model: keras.Model) -> list[keras.Variable]:
    """The kernels, in order."""
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


def std_ratio(model: keras.Model, keep: int) -> float:
    """The share of each kernel's standard deviation above which so many weights are."""
    kernels = [keras.ops.convert_to_numpy(kernel) for kernel in kernels_of(model)]
    relative = np.concatenate([np.abs(kernel / kernel.std()).ravel() for kernel in kernels])
    return float(np.sort(relative)[-keep - 1 : -keep + 1].mean())


def zero_units(model: keras.Model, share: float) -> None:
    """Sets input features and units of LeNet-300-100 to zero until so few multiply-adds are left.

    The same share of each layer goes. A unit's score is the norm of the weights before it times
    that of the weights after it.
    """
    kernels = kernels_of(model)
    values = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    scores = [np.linalg.norm(value, axis=1) for value in values]
    for score, before in zip(scores[1:], values, strict=False):
        score *= np.linalg.norm(before, axis=0)
    sizes = [score.size for score in scores]
    target = share * flops("300-100", sizes)
    counts = (
        [int(np.ceil(part * n)) for n in sizes] for part in np.linspace(1, 0, 2000, endpoint=False)
    )
    kept = next(widths for widths in counts if flops("300-100", widths) <= target)
    alive = [np.zeros(n, bool) for n in sizes] + [np.ones(10, bool)]
    for score, count, stay in zip(scores, kept, alive, strict=False):
        stay[np.argsort(score)[-count:]] = True
    for kernel, value, rows, columns in zip(kernels, values, alive, alive[1:], strict=False):
        kernel.assign(value * rows[:, np.newaxis] * columns)


def live_widths(model: keras.Model) -> list[int]:
    """Filters left of each convolution and inputs left of each dense layer."""
    widths = []
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            alive = keras.ops.convert_to_numpy(layer.kernel) != 0
            widths.append(
                int(alive.any((0, 1, 2)).sum() if alive.ndim == 4 else alive.any(1).sum())
            )
    return widths


def flops(net: str, widths: list[int]) -> int:
    """Multiplications of a net with these widths for one image, biases not counted."""
    if net == "300-100":
        return sum(a * b for a, b in itertools.pairwise([*widths, 10]))
    first, second, flat, hidden = widths
    return 24**2 * 25 * first + 8**2 * 25 * first * second + flat * hidden + hidden * 10


def main() -> None:
    """Makes the runs of a plan that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plan", choices=list(PLANS), default="quick")
    parser.add_argument("--net", choices=sorted(KERNELS), help="only this net; default: both")
    parser.add_argument("--data", type=Path, help="an mnist.npz; default: keras.datasets.mnist")
    folder = Path(__file__).parent
    parser.add_argument(
        "--results", type=Path, help="default: results/mnist.jsonl, or out/ (quick)"
    )
    parser.add_argument("--cache", type=Path, default=folder.parent / "out" / "mnist")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    # Quick runs show that all works, and have no place among the figures.
    quick = arguments.plan == "quick"
    place = arguments.cache.parent / "quick.jsonl" if quick else folder / "results" / "mnist.jsonl"
    results = arguments.results or place
    for run in PLANS[arguments.plan].runs:
        if arguments.net in (None, run.net) and run not in done_before(results, Run):
            line = Pipeline(run, arguments.data, arguments.cache).result()
            append(results, {"plan": arguments.plan, **line})
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
