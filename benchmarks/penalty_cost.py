"""What a penalty adds to a training step of a large MLP, beside the bare step and Keras' L1L2.

Every round takes one step of each model, so that all of them see the same machine at the same
time; a penalty's cost is the median over the rounds of what it adds to the bare step in its round.
Writes `benchmarks/results/penalty_cost_BACKEND.json`. Choose the backend with `KERAS_BACKEND`.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np
from machine import describe_machine

import keras_hoyer

WIDTHS = (784, 4096, 3072, 1024, 10)
BATCH = 64
SEED = 0
PENALTIES = {
    "none": lambda: None,
    "keras L1L2": lambda: keras.regularizers.L1L2(1e-6, 1e-6),
    "Hoyer": lambda: keras_hoyer.Hoyer(1e-6),
    "HoyerSquare": lambda: keras_hoyer.HoyerSquare(1e-9),
    "GroupHoyerSquare, both axes": lambda: keras_hoyer.GroupHoyerSquare(1e-6, axis=(-2, -1)),
}


def build(penalty: Callable, jit: bool | str) -> keras.Model:
    """The MLP, compiled with Adam, with a penalty on each kernel."""
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential([keras.Input((WIDTHS[0],))])
    for width in WIDTHS[1:-1]:
        model.add(keras.layers.Dense(width, "relu", kernel_regularizer=penalty()))
    model.add(keras.layers.Dense(WIDTHS[-1], kernel_regularizer=penalty()))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile=jit)
    return model


def measure(rounds: int, jit: bool | str) -> dict[str, list[float]]:
    """Seconds of each model's steps, one list for each penalty, in the order of the rounds."""
    random = np.random.default_rng(SEED)
    x = random.random((BATCH, WIDTHS[0]), "float32")
    y = random.integers(0, WIDTHS[-1], BATCH)
    models = {name: build(penalty, jit) for name, penalty in PENALTIES.items()}
    for model in models.values():
        for _ in range(3):
            model.train_on_batch(x, y)
    seconds = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.train_on_batch(x, y)  # returns the loss as a number: the step has ended
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summarize(seconds: dict[str, list[float]]) -> dict[str, dict]:
    """Median step, ratio to the bare step and added time, and that as a share of L1L2's."""
    times = {name: np.array(values) for name, values in seconds.items()}
    added = {name: np.median(values - times["none"]) for name, values in times.items()}
    return {
        name: {
            "step_ms": round(1e3 * float(np.median(values)), 1),
            "ratio_to_bare": round(float(np.median(values / times["none"])), 3),
            "added_ms": round(1e3 * float(added[name]), 1),
            "added_ms_quartiles": [
                round(1e3 * float(np.quantile(values - times["none"], q)), 1) for q in (0.25, 0.75)
            ],
            "added_share_of_l1l2": round(float(added[name] / added["keras L1L2"]), 3),
        }
        for name, values in times.items()
    }


def main() -> None:
    """Measures, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="steps of each model")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results"
    )
    arguments = parser.parse_args()
    backend = keras.backend.backend()
    result = {
        "machine": describe_machine(),
        "keras_hoyer": keras_hoyer.__version__,
        "seed": SEED,
        "model": {"widths": WIDTHS, "weights": sum(map(int, np.multiply(WIDTHS[:-1], WIDTHS[1:])))},
        "batch": BATCH,
        "optimizer": "Adam",
        "rounds": arguments.rounds,
        "results": {
            f"jit_compile={jit}": summarize(measure(arguments.rounds, jit))
            for jit in (("auto", False) if backend == "tensorflow" else ("auto",))
        },
    }
    for mode, rows in result["results"].items():
        print(f"{backend}, {mode}")
        for name, row in rows.items():
            print(f"  {name:28s}", *(f"{key} {value}" for key, value in row.items()))
    # Other work on the machine widens the quartiles, and shows here.
    result["load_average"] = os.getloadavg()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"penalty_cost_{backend}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
