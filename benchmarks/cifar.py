"""ResNet-20 and ResNet-56 on CIFAR-10, channels cut: a line of JSON for each run.

    KERAS_BACKEND=torch python benchmarks/cifar.py --plan cpu --data cifar10_jpeg.npz
    KERAS_BACKEND=jax python benchmarks/cifar.py --plan gpu

On two cores an epoch of ResNet-20 takes minutes, so runs go on from the epoch where they were
stopped: stop and start as you like. `--plan quick` runs the whole way on few images, which shows
that it works and says nothing of accuracy.

A run trains densely by one cycle of the learning rate, then with the penalty over channels that are
removed together, cuts them little by little until a share of the multiply-adds is left and shrinks
the network after each cut, and fine-tunes the small one. Each epoch begins with an optimizer that
knows nothing of the one before, so that a run that was stopped ends as one that was not. 5,000
training images are held out, and test accuracy is read once, at the last epoch. A re-encoded copy
of the images (`--data`, JPEG files end to end) compares with the dense network of the same copy
only. A run that has a line is not done again, and dense networks are kept.
"""

import argparse
import dataclasses
import io
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from kit.machine import describe_machine
from kit.results import FOLDER, append, done_before

import keras_hoyer as kh

BATCH = 128
HOLDOUT = 5000
MOMENTUM = 0.9
# Keras' weight decay does not go through the momentum: ten times the usual 5e-4.
WEIGHT_DECAY = 5e-3
PHASES = ("dense", "sparse", "cut", "fine")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: all that its result depends on, the machine and the versions aside.

    Attributes:
        depth: Number of layers with weights: 6n + 2, such as 20 or 56.
        images: `"keras"`, or the name of the file they come from.
        penalty: `"GroupHoyerSquare"`, `"GroupLasso"` or `"none"`.
        factor: The penalty's factor.
        share: Of the multiply-adds, what is left; 1 for the dense network, which trains on in the
            epochs of fine-tuning.
        scope: `"global"` ranks all channels together, `"layer"` takes the same share of each set.
        epochs: Epochs of dense training, sparse training, cutting, and fine-tuning.
        seed: Of initial weights and order of images.
        count: Number of training images.
        score: Name of the score that ranks the channels; it sees 512 images if it looks at any.
    """

    depth: int
    images: str
    penalty: str
    factor: float
    share: float
    scope: str
    epochs: tuple[int, int, int, int]
    seed: int
    count: int
    score: str = "Magnitude"

    def epoch(self, number: int) -> tuple[str, float]:
        """The phase of an epoch, and how far that is when the epoch begins, from 0 to 1."""
        for phase, length in zip(PHASES, self.epochs, strict=True):
            if number < length:
                return phase, number / length
            number -= length
        raise ValueError(f"the run has no epoch {number} more")


DENSE = Run(20, "", "none", 0.0, 1.0, "global", (25, 0, 0, 25), 0, 45_000)
CUT = dataclasses.replace(DENSE, share=0.5, epochs=(25, 5, 8, 12))


def plan_cpu() -> Iterator[Run]:
    """ResNet-20 with half the multiply-adds, against its own dense net of as many epochs."""
    for seed in (0, 1, 2):
        yield dataclasses.replace(DENSE, seed=seed)
        for score, (penalty, factor) in itertools.product(
            ("Magnitude", "Taylor"),
            (("GroupHoyerSquare", 1e-4), ("none", 0.0), ("GroupLasso", 1e-4)),
        ):
            yield dataclasses.replace(CUT, penalty=penalty, factor=factor, score=score, seed=seed)


def plan_gpu() -> Iterator[Run]:
    """ResNet-56, with half and 40% of the multiply-adds."""
    base = dataclasses.replace(DENSE, depth=56, epochs=(160, 0, 0, 150))
    yield base
    for penalty, share in itertools.product(("GroupHoyerSquare", "GroupLasso"), (0.5, 0.4)):
        epochs = (160, 20, 30, 100)
        yield dataclasses.replace(base, penalty=penalty, factor=1e-4, share=share, epochs=epochs)


def plan_quick() -> Iterator[Run]:
    """One epoch of each phase, two of cutting."""
    quick = dataclasses.replace(CUT, epochs=(1, 1, 2, 1), count=2000)
    yield dataclasses.replace(quick, penalty="GroupHoyerSquare", factor=1e-4, score="Taylor")


PLANS = {"cpu": plan_cpu, "gpu": plan_gpu, "quick": plan_quick}


class Augmented(keras.utils.PyDataset):
    """Batches of images moved by up to 4 pixels and mirrored, anew in each epoch.

    Args:
        images: Float32 of shape `(n, 32, 32, 3)`.
        labels: Of these.
        seed: With the number of the epoch it settles all that is drawn.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
        super().__init__()
        self.images = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
        self.labels = labels
        self.seed = seed
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Shuffles for an epoch, in whatever order epochs are asked for."""
        self.rng = np.random.default_rng([self.seed, epoch])
        self.order = self.rng.permutation(len(self.labels))

    def __len__(self) -> int:
        return len(self.labels) // BATCH

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One batch: float32 of shape `(BATCH, 32, 32, 3)`, and labels."""
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        down, right = self.rng.integers(0, 9, (2, BATCH, 1))
        steps = np.arange(32)
        columns = np.where(self.rng.random((BATCH, 1)) < 0.5, steps, steps[::-1]) + right
        rows = (steps + down)[:, :, np.newaxis]
        moved = self.images[chosen[:, np.newaxis, np.newaxis], rows, columns[:, np.newaxis]]
        return moved, self.labels[chosen]


def decode(files: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Images from JPEG files that lie end to end."""
    from PIL import Image

    raw = files.tobytes()
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(raw[a:b]))) for a, b in itertools.pairwise(offsets)]
    )


def load_data(file: Path | None) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Normalised images and labels: for training, held out, and for the test."""
    if file is None:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    else:
        with np.load(file) as data:
            x, x_test = (
                decode(data[f"{split}_jpeg"], data[f"{split}_offsets"])
                for split in ("train", "test")
            )
            y, y_test = data["y_train"], data["y_test"]
    mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
    x, x_test = (((images - mean) / std).astype("float32") for images in (x, x_test))
    y, y_test = (labels.reshape(-1).astype("int32") for labels in (y, y_test))
    return (x[:-HOLDOUT], y[:-HOLDOUT]), (x[-HOLDOUT:], y[-HOLDOUT:]), (x_test, y_test)


def build_resnet(depth: int) -> keras.Model:
    """The ResNet of three stages of 16, 32 and 64 channels, 1x1 convolutions where they change."""
    layers = keras.layers

    def convolve(x: keras.KerasTensor, filters: int, size: int, strides: int) -> keras.KerasTensor:
        convolution = layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
        )
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(convolution(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolve(inputs, 16, 3, 1))
    for stage, block in itertools.product(range(3), range((depth - 2) // 6)):
        filters, strides = 16 << stage, 2 if stage and not block else 1
        y = layers.ReLU()(convolve(x, filters, 3, strides))
        y = convolve(y, filters, 3, 1)
        x = convolve(x, filters, 1, strides) if strides == 2 else x
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


@keras.saving.register_keras_serializable("keras_hoyer_benchmarks")
class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Up to `peak` in the first `rise` of all steps, if any, and down to 0 as a cosine falls."""

    def __init__(self, peak: float, steps: int, rise: float) -> None:
        super().__init__()
        self.peak, self.steps, self.rise = peak, steps, rise

    def get_config(self) -> dict[str, float]:
        """The arguments."""
        return {"peak": self.peak, "steps": self.steps, "rise": self.rise}

    def __call__(self, step: Any) -> Any:
        """The rate at a step."""
        part = keras.ops.cast(step, "float32") / self.steps
        falls = (1 + keras.ops.cos(np.pi * (part - self.rise) / (1 - self.rise))) / 2
        if not self.rise:
            return self.peak * falls
        return self.peak * keras.ops.where(part < self.rise, part / self.rise, falls)


def compile_for(model: keras.Model, run: Run, phase: str, steps: int) -> None:
    """SGD with momentum; `steps` are those of an epoch."""
    rates = {
        "dense": Rate(0.2, run.epochs[0] * steps, 0.2),
        "fine": Rate(0.05, max(1, run.epochs[3]) * steps, 0.0),
    }
    rate = rates.get(phase, 0.01)
    optimizer = keras.optimizers.SGD(rate, MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


def cut(model: keras.Model, run: Run, left: float, data: Augmented) -> keras.Model:
    """Cuts until a share of the multiply-adds of what it gets is left; the smaller network."""
    seen = data.images[:512, 4:-4, 4:-4], data.labels[:512]
    arguments = {"Magnitude": (), "Activation": seen[:1]}.get(run.score, (seen,))
    score = getattr(kh.scores, run.score)(*arguments)
    kh.prune(model, kh.criteria.TargetFlops(left, run.scope), kh.patterns.Channel(), score=score)
    return kh.shrink(kh.strip(model))


class Training:
    """A run, epoch by epoch; what there is after each is kept in a file.

    Args:
        run: The run.
        data: What to train on.
        cache: Folder of the files. A dense network is that of all runs that begin alike.
    """

    def __init__(self, run: Run, data: Augmented, cache: Path) -> None:
        self.run, self.data, self.cache = run, data, cache
        keras.utils.set_random_seed(run.seed)
        self.model = build_resnet(run.depth)
        self.flops = sum(kh.count_flops(self.model).values())
        self.compiled = ""

    def go(self) -> keras.Model:
        """Trains from the last epoch that has a file; the network at the end."""
        total = sum(self.run.epochs)
        done = next((n for n in range(total, 0, -1) if self.file(n).exists()), 0)
        if done:
            self.model = keras.models.load_model(self.file(done), compile=False)
        for number in range(done, total):
            self.epoch(number)
            self.keep(number + 1)
        return kh.strip(self.model)

    def file(self, done: int) -> Path:
        """Where the network is kept that has been trained for so many epochs."""
        run = self.run
        name = (run.depth, run.images or "keras", run.seed, run.epochs[0], run.count)
        if done > run.epochs[0]:
            name += (run.penalty, run.factor, run.share, run.scope, run.score, *run.epochs[1:])
        part = "-".join(map(str, (keras.backend.backend(), *name)))
        return self.cache / f"{part}-after-{done}.keras"

    def keep(self, done: int) -> None:
        """Writes the network, whole or not at all, and removes that of the epoch before."""
        model = keras.models.clone_model(self.model)  # without penalties
        model.set_weights(self.model.get_weights())
        part = self.file(done).with_suffix(".part.keras")
        kh.strip(model).save(part)
        os.replace(part, self.file(done))
        if done - 1 != self.run.epochs[0]:
            self.file(done - 1).unlink(missing_ok=True)

    def epoch(self, number: int) -> None:
        """Trains for an epoch; cuts before it if that is due."""
        run, (phase, part) = self.run, self.run.epoch(number)
        self.data.begin(number)
        if phase == "cut":
            part += 1 / run.epochs[2]
            wanted = 1 - (1 - run.share) * (1 - (1 - part) ** 3)
            left = sum(kh.count_flops(self.model).values()) / self.flops
            if not self.compiled:  # scores may want a loss
                compile_for(self.model, run, phase, len(self.data))
            if wanted < left:
                self.model = cut(self.model, run, wanted / left, self.data)
        if phase == "cut" or phase != self.compiled:
            kh.strip(self.model)
            if phase in ("sparse", "cut") and run.penalty != "none":
                kh.regularize(self.model, getattr(kh, run.penalty)(run.factor), groups="coupled")
            compile_for(self.model, run, phase, len(self.data))
            self.compiled = phase
        optimizer = self.model.optimizer
        optimizer.build(self.model.trainable_variables)
        for variable in optimizer.variables:
            if variable.path != getattr(optimizer.learning_rate, "path", None):
                variable.assign(keras.ops.zeros_like(variable))
        first = 0 if phase == "dense" else sum(run.epochs[: PHASES.index(phase)])
        optimizer.iterations.assign((number - first) * len(self.data))
        self.model.fit(self.data, verbose=2)


def accuracy(model: keras.Model, data: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of images whose largest output is the right one."""
    outputs = model.predict(data[0], batch_size=500, verbose=0)
    return float(np.mean(outputs.argmax(-1) == data[1]))


def result(run: Run, data: tuple, cache: Path) -> dict:
    """Runs it all; returns the line of results."""
    start = time.time()
    training = Training(run, Augmented(*(part[: run.count] for part in data[0]), run.seed), cache)
    model = training.go()
    left = sum(kh.count_flops(model).values())
    return {
        **dataclasses.asdict(run),
        "flops": left,
        "flops_left": left / training.flops,
        "parameters": model.count_params(),
        "validation": accuracy(model, data[1]),
        "test": accuracy(model, data[2]),
        "last_sitting_seconds": round(time.time() - start, 1),
        "machine": describe_machine(),
    }


def main() -> None:
    """Makes the runs of a plan that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plan", choices=list(PLANS), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, help="number of training images, to try it out")
    parser.add_argument("--data", type=Path, help="JPEG files; default: keras.datasets.cifar10")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results/cifar.jsonl")
    folder = Path(__file__).parent.parent / "out" / "cifar"
    parser.add_argument("--cache", type=Path, default=folder, help="where networks are kept")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    # What a short run gives is of no use in the tables.
    short = options.count or options.plan == "quick"
    results = options.results or (options.cache if short else FOLDER) / "cifar.jsonl"
    data = load_data(options.data)
    images = options.data.name if options.data else "keras"
    for planned in PLANS[options.plan]():
        run = dataclasses.replace(planned, images=images, count=options.count or planned.count)
        if run.seed in options.seeds and run not in done_before(results, Run):
            line = result(run, data, options.cache)
            append(results, line)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
