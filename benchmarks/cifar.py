"""ResNet-20 and ResNet-56 on CIFAR-10, channels cut: a line of JSON for each run.

    KERAS_BACKEND=jax python benchmarks/cifar.py --depth 56 --data cifar10_jpeg.npz
    KERAS_BACKEND=jax python benchmarks/cifar.py --quick

For machines with a GPU; `--quick` runs the whole way on 2,000 images in minutes on a CPU, which
shows that it works and says nothing of accuracy.

A run trains densely, then with the penalty over channels that are removed together, cuts them
little by little until a share of the multiply-adds is left, shrinks the network, and fine-tunes the
small one. 5,000 training images are held out, and test accuracy is read once, at the last epoch.
A re-encoded copy of the images (`--data`, JPEG files end to end) compares with the dense network
of the same copy only. A run that has a line is not done again, and dense networks are kept.
"""

import argparse
import dataclasses
import io
import itertools
import json
import time
from pathlib import Path

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


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: all that its result depends on, the machine and the versions aside.

    Attributes:
        depth: Number of layers with weights: 6n + 2, such as 20 or 56.
        images: `"keras"`, or the name of the file they come from.
        penalty: `"GroupHoyerSquare"`, `"GroupLasso"` or `"none"`.
        factor: The penalty's factor.
        share: Of the multiply-adds, what is left; 1 for the dense network.
        scope: `"global"` ranks all channels together, `"layer"` takes the same share of each set.
        epochs: Epochs of dense training, sparse training, cutting, and fine-tuning.
        seed: Of initial weights and order of images.
        count: Number of training images.
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


class Augmented(keras.utils.PyDataset):
    """Batches of images moved by up to 4 pixels and mirrored, anew in each epoch."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
        super().__init__()
        self.images = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
        self.labels = labels
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.labels) // BATCH

    def on_epoch_end(self) -> None:
        """Shuffles."""
        self.order = self.rng.permutation(len(self.labels))

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


def train(
    model: keras.Model, data: Augmented, epochs: int, rate: float, decay: bool, **options: object
) -> None:
    """Trains with SGD, its rate constant or decaying to 0."""
    if decay:
        rate = keras.optimizers.schedules.CosineDecay(rate, max(1, epochs * len(data)))
    optimizer = keras.optimizers.SGD(rate, MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(data, epochs=epochs, verbose=2, **options)


def accuracy(model: keras.Model, data: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of images whose largest output is the right one."""
    outputs = model.predict(data[0], batch_size=500, verbose=0)
    return float(np.mean(outputs.argmax(-1) == data[1]))


def result(run: Run, data: tuple, cache: Path) -> dict:
    """Runs it all; returns the line of results."""
    start = time.time()
    keras.utils.set_random_seed(run.seed)
    model = build_resnet(run.depth)
    flops = sum(kh.count_flops(model).values())
    batches = Augmented(*(part[: run.count] for part in data[0]), run.seed)
    name = (run.depth, run.images, run.seed, run.epochs[0], run.count)
    dense = cache / f"{keras.backend.backend()}-{'-'.join(map(str, name))}.weights.h5"
    if not dense.exists():
        train(model, batches, run.epochs[0], 0.1, decay=True)
        model.save_weights(dense)
    model.load_weights(dense)
    if run.share < 1:
        if run.penalty != "none":
            kh.regularize(model, getattr(kh, run.penalty)(run.factor), groups="coupled")
        train(model, batches, run.epochs[1], 0.01, decay=False)
        cut = kh.callbacks.Pruning(
            kh.criteria.TargetFlops(run.share, run.scope),
            kh.schedules.Polynomial(0, run.epochs[2] - 1),
            kh.patterns.Channel(),
        )
        train(model, batches, run.epochs[2], 0.01, decay=False, callbacks=[cut])
        model = kh.shrink(kh.strip(model))
        train(model, batches, run.epochs[3], 0.05, decay=True)
    left = sum(kh.count_flops(model).values())
    return {
        **dataclasses.asdict(run),
        "flops": left,
        "flops_left": left / flops,
        "parameters": model.count_params(),
        "validation": accuracy(model, data[1]),
        "test": accuracy(model, data[2]),
        "seconds": round(time.time() - start, 1),
        "machine": describe_machine(),
    }


def main() -> None:
    """Runs what has no line yet, the dense networks first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2,000 images, one epoch of each step")
    parser.add_argument("--depth", type=int, choices=[20, 56], default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.4])
    parser.add_argument("--scope", choices=["global", "layer"], default="global")
    parser.add_argument("--penalty", nargs="+", default=["GroupHoyerSquare", "GroupLasso"])
    parser.add_argument("--factor", type=float, nargs="+", default=[1e-4])
    parser.add_argument("--epochs", type=int, nargs=4, default=[160, 20, 30, 100])
    parser.add_argument("--data", type=Path, help="JPEG files; default: keras.datasets.cifar10")
    folder = Path(__file__).parent
    parser.add_argument("--results", type=Path, help="default: benchmarks/results/cifar.jsonl")
    parser.add_argument("--cache", type=Path, default=folder.parent / "out" / "cifar")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    # What a quick run gives is of no use in the tables.
    kept = arguments.cache if arguments.quick else FOLDER
    results = arguments.results or kept / "cifar.jsonl"
    data = load_data(arguments.data)
    for seed in arguments.seeds:
        base = Run(
            arguments.depth,
            arguments.data.name if arguments.data else "keras",
            "none",
            0.0,
            1.0,
            arguments.scope,
            (1, 1, 2, 1) if arguments.quick else tuple(arguments.epochs),
            seed,
            2000 if arguments.quick else len(data[0][0]),
        )
        settings = itertools.product(arguments.penalty, arguments.factor, arguments.shares)
        runs = [base] + [
            dataclasses.replace(base, penalty=penalty, factor=factor, share=share)
            for penalty, factor, share in settings
        ]
        for run in runs[:2] if arguments.quick else runs:
            if run not in done_before(results, Run):
                line = result(run, data, arguments.cache)
                append(results, line)
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
