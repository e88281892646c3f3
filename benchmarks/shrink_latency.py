"""What shrinking gives in time: ResNet-50 and MobileNetV2 at shares of their multiply-adds.

Cuts channels to each share with `TargetFlops`, shrinks, exports to LiteRT and times the files in
turn. The weights are random, each output channel scaled by a factor of its own, since channels of
initial weights are all alike; times depend on the widths that are left, not on the weights. Writes
`benchmarks/results/shrink_latency.json` and, from that, the picture beside it; `--draw` makes the
picture only.
"""

import argparse
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from kit.latency import compare_latencies
from kit.machine import describe_machine
from kit.results import FOLDER, write

import keras_hoyer as kh

NETWORKS = {"ResNet-50": "ResNet50", "MobileNetV2": "MobileNetV2"}
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)
THREADS = 2
SEED = 0


def build(name: str) -> keras.Model:
    """The network, its output channels of different strengths."""
    keras.utils.set_random_seed(SEED)
    random = np.random.default_rng(SEED)
    model = getattr(keras.applications, NETWORKS[name])(weights=None)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(variable * random.uniform(0.5, 1.5, variable.shape[-1]))
    return model


def measure(name: str, rounds: int, folder: Path, multiple_of: int) -> dict:
    """A row for each share: multiply-adds, parameters, bytes, and times beside the dense file's."""
    rows, paths = [], {}
    pattern = kh.patterns.Channel(multiple_of=multiple_of)
    for share in SHARES:
        model = build(name)
        if share < 1:
            kh.prune(model, kh.criteria.TargetFlops(share), pattern)
            model = kh.shrink(kh.strip(model))
        file = kh.export(model, folder / f"{name}-{share}.tflite", sparse=False)
        paths[share] = file.path
        rows.append(
            {
                "share": share,
                "flops": sum(kh.count_flops(model).values()),
                "parameters": model.count_params(),
                "bytes": file.bytes,
            }
        )
        keras.backend.clear_session()
    times = compare_latencies(paths, rounds, THREADS)
    for share, row in zip(SHARES, rows, strict=True):
        row.update(times["files"][share])
        print(name, row, flush=True)
    return {**times, "files": rows}


def draw(document: dict, path: Path) -> None:
    """Latency against multiply-adds, both as shares of the dense network's."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="time in proportion")
    for (name, result), marker in zip(document["results"].items(), "os", strict=True):
        rows = result["files"]
        shares = [row["flops"] / rows[0]["flops"] for row in rows]
        half = next(row["ratio"] for row in rows if row["share"] == 0.5)
        label = f"{name}, {rows[0]['milliseconds']:.2g} ms dense: {half:.2f} at half"
        axes.plot(shares, [row["ratio"] for row in rows], marker=marker, label=label)
    axes.set(
        xlabel="multiply-adds left, share of the dense network",
        ylabel="latency, share of the dense file",
        title="Channels cut and shrunk: LiteRT float32, batch 1, 2 threads",
        xlim=(0, 1.04),
        ylim=(0, 1.08),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures, writes the JSON and draws."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="inferences of each file")
    parser.add_argument("--multiple-of", type=int, default=8, help="channels are cut in such steps")
    parser.add_argument("--draw", action="store_true", help="draw from the JSON, measure nothing")
    arguments = parser.parse_args()
    path = FOLDER / "shrink_latency.json"
    if not arguments.draw:
        with tempfile.TemporaryDirectory() as folder:
            results = {
                name: measure(name, arguments.rounds, Path(folder), arguments.multiple_of)
                for name in NETWORKS
            }
        document = {
            "machine": describe_machine(),
            "seed": SEED,
            "multiple_of": arguments.multiple_of,
            "results": results,
        }
        write(path, document)
    draw(json.loads(path.read_text()), path.with_suffix(".png"))


if __name__ == "__main__":
    main()
