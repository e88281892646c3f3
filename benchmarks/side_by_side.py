"""The same work with other tools: TFMOT on weights, Torch-Pruning on channels.

Each tool in an environment of its own, this project in its usual one:

    python -m venv out/tfmot
    out/tfmot/bin/pip install tensorflow-model-optimization tf-keras scikit-learn
    TF_USE_LEGACY_KERAS=1 out/tfmot/bin/python benchmarks/side_by_side.py --tool tfmot
    KERAS_BACKEND=tensorflow python benchmarks/side_by_side.py --tool ours
    pip install --no-deps torch-pruning
    KERAS_BACKEND=torch python benchmarks/side_by_side.py --tool channels

*Weights*: a net of 64-128-64-10 on scikit-learn's digits, from the same initial weights with the
same batches: dense training, then from epoch to epoch more zeros, then fine-tuning; Adam, all rates
alike. Compared are accuracy at the same number of zeros, what an epoch costs beside a dense one,
the file, and the lines that a user adds (of the functions below that do a tool's part of it).
*Channels*: a residual net is trained once, its weights are copied into the same net in PyTorch, and
both tools cut to the same share of the multiply-adds, before any fine-tuning. A line is appended to
`benchmarks/results/side_by_side.jsonl` for each run.
"""

import argparse
import dataclasses
import inspect
import itertools
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
from kit.machine import describe_machine
from kit.results import FOLDER, append, done_before, rounded
from kit.turns import PROCESSOR, by_turns

WIDTHS, BATCH = (64, 128, 64, 10), 32
DENSE, CUT, FINE = 20, 20, 10  # epochs
Weights = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: all that its result depends on, the machine and the versions aside.

    Attributes:
        tool: `"tfmot"`, `"ours"` or `"channels"`.
        method: Name of one of its ways to do it.
        amount: Share of weights that are to be zero, or of the multiply-adds that are to be left.
        seed: Of initial weights and order of images.
    """

    tool: str
    method: str
    amount: float
    seed: int


METHODS = {
    "tfmot": ("layer",),
    "ours": ("layer", "global", "hoyer"),
    "channels": (
        "ours magnitude",
        "ours taylor",
        "torch-pruning magnitude",
        "torch-pruning taylor",
    ),
}
AMOUNTS = {"channels": (0.7, 0.5)}


def plan(tool: str) -> Iterator[Run]:
    """Each way of a tool, at each amount, over three seeds."""
    for seed, amount in itertools.product((0, 1, 2), AMOUNTS.get(tool, (0.9, 0.97))):
        for method in METHODS[tool]:
            yield Run(tool, method, amount, seed)


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The digits as `kit.small_nets` divides them."""
    from kit.small_nets import NETS, load

    return load(NETS["mlp"], None)


def build(library: ModuleType, seed: int) -> Any:
    """The net of `keras` or `tf_keras`, its weights drawn by NumPy."""
    layers = library.layers
    body = [layers.Dense(width, "relu") for width in WIDTHS[1:-1]]
    model = library.Sequential([layers.InputLayer((WIDTHS[0],)), *body, layers.Dense(WIDTHS[-1])])
    random = np.random.default_rng(seed)
    weights: Weights = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        limit = (6 / (inputs + outputs)) ** 0.5
        weights += [random.uniform(-limit, limit, (inputs, outputs)), np.zeros(outputs)]
    model.set_weights(weights)
    return model


def fit(library: ModuleType, model: Any, epochs: int, callbacks: Any = ()) -> None:
    """Epochs of Adam."""
    x, y = load_data()[:2]
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.Adam(1e-3), loss)
    options = {"batch_size": BATCH, "epochs": epochs, "verbose": 0, "callbacks": list(callbacks)}
    model.fit(x, y, **options)


def prune_tfmot(library: ModuleType, model: Any, method: str, sparsity: float, path: str) -> Any:
    """What a user of TFMOT writes."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    sparsity_api = tfmot.sparsity.keras
    steps = -(-len(load_data()[0]) // BATCH)
    schedule = sparsity_api.PolynomialDecay(0.0, sparsity, 0, CUT * steps, frequency=steps)
    pruned = sparsity_api.prune_low_magnitude(model, pruning_schedule=schedule)
    fit(library, pruned, CUT + FINE, [sparsity_api.UpdatePruningStep()])
    model = sparsity_api.strip_pruning(pruned)
    Path(path).write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return model


def prune_ours(library: ModuleType, model: Any, method: str, sparsity: float, path: str) -> Any:
    """What a user of this project writes."""
    import keras_hoyer as kh

    if method == "hoyer":
        kh.regularize(model, kh.HoyerSquare(1e-4))
    target = kh.criteria.TargetSparsity(sparsity, "layer" if method == "layer" else "global")
    pruning = kh.callbacks.Pruning(target, kh.schedules.Polynomial(0, CUT))
    fit(library, model, CUT + FINE, [pruning])
    kh.export(kh.strip(model), path)
    return model


PRUNE: dict[str, Callable[[ModuleType, Any, str, float, str], Any]] = {
    "tfmot": prune_tfmot,
    "ours": prune_ours,
}


def lines_of(function: Callable[..., Any]) -> int:
    """Lines of a function that a user would write, the signature and the docstring aside."""
    lines = [line.strip() for line in inspect.getsource(function).splitlines()]
    return sum(bool(line) for line in lines) - 2


def step_cost(tool: str, library: ModuleType, rounds: int) -> dict[str, float]:
    """An epoch at 90% zeros beside a dense one, by turns."""
    dense, sparse = build(library, 0), build(library, 0)
    x, y = load_data()[:2]
    fit(library, dense, 1)
    callbacks = []
    if tool == "tfmot":
        import tensorflow_model_optimization as tfmot

        sparse = tfmot.sparsity.keras.prune_low_magnitude(
            sparse, pruning_schedule=tfmot.sparsity.keras.ConstantSparsity(0.9, 0)
        )
        callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    else:
        import keras_hoyer as kh

        kh.prune(sparse, kh.criteria.TargetSparsity(0.9))
    fit(library, sparse, 1, callbacks)
    options = {"batch_size": BATCH, "epochs": 3, "verbose": 0}
    actions = {
        "dense": lambda: dense.fit(x, y, **options),
        "sparse": lambda: sparse.fit(x, y, callbacks=callbacks, **options),
    }
    times = by_turns(actions, rounds)
    return {
        "ratio": rounded(times.ratio("sparse", "dense"), 3),
        "ratio_cpu": rounded(times.ratio("sparse", "dense", PROCESSOR), 3),
    }


def weights_result(run: Run, rounds: int) -> dict[str, Any]:
    """Trains and cuts; accuracy, zeros, and bytes of the file as it is and zipped."""
    library = keras
    if run.tool == "tfmot":
        import tf_keras as library
    _, _, x_val, y_val = load_data()
    library.utils.set_random_seed(run.seed)
    model = build(library, run.seed)
    fit(library, model, DENSE)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.tflite"
        model = PRUNE[run.tool](library, model, run.method, run.amount, path)
        zipped = Path(f"{folder}/model.zip")
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, "model.tflite")
        size = {"bytes": Path(path).stat().st_size, "zipped": zipped.stat().st_size}
    kernels = [weight for weight in model.get_weights() if weight.ndim == 2]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    labels = np.argmax(model.predict(x_val, verbose=0), axis=-1)
    return {
        "accuracy": float(100 * np.mean(labels == y_val)),
        "zeros": zeros / sum(kernel.size for kernel in kernels),
        **size,
        "lines": lines_of(PRUNE[run.tool]),
        "epoch": step_cost(run.tool, library, rounds) if run.seed == 0 else None,
    }


def main() -> None:
    """Makes the runs of a tool that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tool", choices=list(METHODS), required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=FOLDER / "side_by_side.jsonl")
    options = parser.parse_args()
    done = done_before(options.out, Run)
    package = {"tfmot": "tensorflow-model-optimization", "channels": "torch-pruning"}
    for run in plan(options.tool):
        if run in done:
            continue
        if run.tool == "channels":
            from kit.torch_channels import result

            found = result(run.method, run.amount, run.seed)
        else:
            found = weights_result(run, options.rounds)
        name = package.get(run.tool, "keras-hoyer")
        about = {"package": f"{name} {version(name)}", "machine": describe_machine()}
        append(options.out, {**dataclasses.asdict(run), **found, **about})
        print(run, found, flush=True)


if __name__ == "__main__":
    main()
