"""Training for the runtime's fast pattern: LeNet-300-100 on MNIST, 95% zeros in blocks of 4 x 1.

    KERAS_BACKEND=jax python benchmarks/blocks.py --data mnist.npz

The recipe is that of the `gradual` rows of `benchmarks/mnist.py`, with `GroupHoyerSquare` over
blocks and cuts of whole blocks, in all three kernels. 5,000 training images are held out; the
factor is that of the best validation accuracy with the first seed. Each seed's dense and block
nets are then exported, and test accuracy is read once, from the files. Their latency is measured
last, by turns. Writes `benchmarks/results/blocks.json`. The files stay in `--cache`:
`--only-time` measures their latency again.
"""

import argparse
import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from kit.latency import accuracy, compare_latencies
from kit.machine import describe_machine
from kit.nets import KERNELS
from kit.results import FOLDER, write
from mnist import Pipeline
from plans import EPOCHS, Run

import keras_hoyer as kh

NET = "300-100"
FACTORS = (1e-4, 2e-4, 4e-4, 8e-4)
KEEP = 13_308  # the whole blocks of 5% of the weights
SAMPLES = 200  # that exports are checked on


def trained(run: Run, data: Path | None, cache: Path) -> tuple[Pipeline, float]:
    """The pipeline of a run with its training done, and validation accuracy at the last epoch."""
    pipeline = Pipeline(run, data, cache)
    pipeline.train_all()
    validation = pipeline.accuracy(pipeline.watch)
    print(run.method, run.seed, run.factor, validation, flush=True)
    return pipeline, validation


def ship(pipeline: Pipeline, validation: float, path: Path, **options: object) -> dict:
    """Exports a trained net, and reads test accuracy from the file."""
    samples = pipeline.watch[0][:SAMPLES]
    result = kh.export(pipeline.model, path, representative_data=samples, **options)
    report = kh.report(pipeline.model)
    return {
        "validation": validation,
        "test": accuracy(path, *pipeline.test),
        "zeros": report.sparsity,
        "nonzero": [layer.nonzero for layer in report.layers],
        "bytes": result.bytes,
        "storage": {str(t.shape): t.storage for t in result.tensors if len(t.shape) > 1},
        "export_error": result.max_error,
    }


def main() -> None:
    """Chooses the factor, trains each seed, exports, times; writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="an mnist.npz; default: keras.datasets.mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS)
    parser.add_argument("--epochs", type=int, nargs=4, default=EPOCHS[NET])
    parser.add_argument("--only-time", action="store_true", help="measure the latency again")
    folder = Path(__file__).parent
    parser.add_argument("--results", type=Path, default=FOLDER / "blocks.json")
    parser.add_argument("--cache", type=Path, default=folder.parent / "out" / "mnist")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    if arguments.only_time:
        document = json.loads(arguments.results.read_text())
    else:
        document = train_and_ship(arguments)
    for line in document["seeds"]:
        files = {name: file_of(arguments.cache, name, line["seed"]) for name in ("dense", "blocks")}
        line["latency"] = compare_latencies(files)
    document["timed_on"] = describe_machine()
    lines = document["seeds"]
    document["means"] = {
        "points_lost": 100
        * float(np.mean([x["dense"]["test"] - x["blocks"]["test"] for x in lines])),
        "bytes_ratio": float(np.mean([x["blocks"]["bytes"] / x["dense"]["bytes"] for x in lines])),
        "latency_ratio": float(np.mean([x["latency"]["files"]["blocks"]["ratio"] for x in lines])),
    }
    write(arguments.results, document)
    print(json.dumps(document["means"]))


def file_of(cache: Path, name: str, seed: int) -> Path:
    """Where an exported file lies."""
    return cache / f"{name}-{seed}.tflite"


def train_and_ship(arguments: argparse.Namespace) -> dict:
    """All of the document but the latencies."""
    data, cache, first = arguments.data, arguments.cache, arguments.seeds[0]
    epochs = tuple(arguments.epochs)
    base = Run(NET, "ours", "blocks", penalty="GroupHoyerSquare", amount=KEEP, epochs=epochs)
    sweep = {
        factor: trained(dataclasses.replace(base, factor=factor, seed=first), data, cache)
        for factor in arguments.factors
    }
    factor = max(sweep, key=lambda each: sweep[each][1])
    lines = []
    for seed in arguments.seeds:
        run = dataclasses.replace(base, factor=factor, seed=seed)
        dense = Run(NET, "ours", "dense", seed=seed, epochs=epochs)
        lines.append(
            {
                "seed": seed,
                "dense": ship(
                    *trained(dense, data, cache), file_of(cache, "dense", seed), sparse=False
                ),
                "blocks": ship(
                    *(sweep[factor] if seed == first else trained(run, data, cache)),
                    file_of(cache, "blocks", seed),
                    optimize_for="latency",
                ),
            }
        )
    return {
        "recipe": {**dataclasses.asdict(base), "factor": factor, "weights": KERNELS[NET]},
        "validation_by_factor": {f"{each:g}": value[1] for each, value in sweep.items()},
        "seeds": lines,
        "machine": {**describe_machine(), "tensorflow": version("tensorflow")},
    }


if __name__ == "__main__":
    main()
