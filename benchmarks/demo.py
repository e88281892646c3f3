"""What `make demo` gives, over three seeds: the figures and the picture of the README.

    python benchmarks/demo.py

Runs all of examples/digits.py for each seed and times its files by turns. Writes `demo.json` and
`demo.png` into `benchmarks/results`; the weights in the picture are those of the last seed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import digits  # the example
import keras
import numpy as np
from kit.latency import compare_latencies
from kit.machine import describe_machine
from kit.results import FOLDER, write

SEEDS = (0, 1, 2)


def measure(seed: int, out: Path) -> tuple[dict[str, dict], dict[str, keras.Model]]:
    """What the example gives for a seed, and its models."""
    keras.utils.set_random_seed(seed)
    data = digits.load_data()
    models = digits.train_all(data)
    rows = digits.measure(digits.export_all(models, data, out), data)
    files = {name: out / f"{name}.tflite" for name in rows}
    times = compare_latencies(files, rounds=100)["files"]
    for name, row in rows.items():
        row["milliseconds"], row["ratio"] = times[name]["milliseconds"], times[name]["ratio"]
        model = models["small" if name == "int8" else name]
        kernels = [digits.kernel_of(model, layer.name) for layer in model.layers if layer.weights]
        row["weights"] = int(sum(map(np.count_nonzero, kernels)))
    return rows, models


def means(document: dict) -> dict[str, dict[str, float]]:
    """The means over the seeds, by file and figure."""
    runs = list(document["seeds"].values())
    return {
        name: {what: float(np.mean([run[name][what] for run in runs])) for what in row}
        for name, row in runs[0].items()
    }


def main() -> None:
    """Measures, writes the JSON and draws."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    results = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            results[seed], models = measure(seed, Path(folder))
    path = FOLDER / "demo.json"
    write(path, {"machine": describe_machine(), "seeds": results})
    rows = means(json.loads(path.read_text()))
    digits.print_table(rows)
    digits.draw(models, rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
