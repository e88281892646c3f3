"""What a penalty adds to a training step of a large MLP, beside the bare step and Keras' L1L2.

Every round takes one step of each model, so that all of them see the same machine at the same
time; a penalty's cost is the median over the rounds of what it adds to the bare step in its round.
Writes `benchmarks/results/penalty_cost_BACKEND.json`. Choose the backend with `KERAS_BACKEND`.
"""

import argparse
import pathlib
from collections.abc import Callable

import keras
import numpy as np
from kit.machine import describe_machine
from kit.results import FOLDER, rounded, write
from kit.turns import Times, by_turns

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


def measure(rounds: int, jit: bool | str) -> Times:
    """Times of each model's steps, by the penalty."""
    random = np.random.default_rng(SEED)
    x = random.random((BATCH, WIDTHS[0]), "float32")
    y = random.integers(0, WIDTHS[-1], BATCH)
    steps = {}
    for name, penalty in PENALTIES.items():
        model = build(penalty, jit)
        # Returns the loss as a number: the step has ended.
        steps[name] = lambda model=model: model.train_on_batch(x, y)
    return by_turns(steps, rounds, warmup=3)


def summarize(times: Times) -> dict[str, dict]:
    """Median step, ratio to the bare step and added time, and that as a share of L1L2's."""
    added = {name: 1e3 * times.added(name, "none") for name in times.seconds}
    return {
        name: {
            "step_ms": rounded(1e3 * times.median(name), 1),
            "ratio_to_bare": rounded(times.ratio(name, "none"), 3),
            "added_ms": rounded(added[name][1], 1),
            "added_ms_quartiles": rounded(added[name][[0, 2]].tolist(), 1),
            "added_share_of_l1l2": rounded(added[name][1] / added["keras L1L2"][1], 3),
        }
        for name in times.seconds
    }


def main() -> None:
    """Measures, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="steps of each model")
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER, help="a folder")
    arguments = parser.parse_args()
    backend = keras.backend.backend()
    modes = ("auto", False) if backend == "tensorflow" else ("auto",)
    times = {f"jit_compile={jit}": measure(arguments.rounds, jit) for jit in modes}
    result = {
        "machine": describe_machine(),
        "keras_hoyer": keras_hoyer.__version__,
        "seed": SEED,
        "model": {"widths": WIDTHS, "weights": sum(map(int, np.multiply(WIDTHS[:-1], WIDTHS[1:])))},
        "batch": BATCH,
        "optimizer": "Adam",
        "rounds": arguments.rounds,
        "results": {mode: summarize(measured) for mode, measured in times.items()},
        "load_average": [measured.load_average for measured in times.values()],
    }
    for mode, rows in result["results"].items():
        print(f"{backend}, {mode}")
        for name, row in rows.items():
            print(f"  {name:28s}", *(f"{key} {value}" for key, value in row.items()))
    write(arguments.output / f"penalty_cost_{backend}.json", result)


if __name__ == "__main__":
    main()
