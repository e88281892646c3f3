"""What the penalty over coupled channels costs before the first step: MobileNetV2 on TensorFlow.

Times the first `fit` of one batch, which traces and compiles the step, of a model without a penalty
and of one with it, by turns, each in a process of its own. Writes
`benchmarks/results/coupled_trace.json`.
"""

import argparse
import json
import os
import time

import keras
import numpy as np
from kit.machine import describe_machine
from kit.processes import measured_apart
from kit.results import FOLDER, write
from kit.turns import turns

import keras_hoyer as kh

SIZE = 96


def measure(penalized: bool) -> dict:
    """Seconds of the first step, and the median of three more."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((SIZE, SIZE, 3), weights=None, classes=10)
    if penalized:
        kh.regularize(model, kh.GroupHoyerSquare(1e-4), groups="coupled")
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.zeros((8, SIZE, SIZE, 3), "float32"), np.zeros(8)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        model.fit(x, y, batch_size=8, verbose=0)
        seconds.append(time.perf_counter() - start)
    return {"first": round(seconds[0], 2), "later": round(float(np.median(seconds[1:])), 3)}


def main() -> None:
    """Measures by turns and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=["plain", "coupled"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one == "coupled")))
        return
    found = {"plain": [], "coupled": []}
    for _, name in turns(found, arguments.rounds):
        found[name].append(measured_apart(__file__, "--one", name))
        print(name, found[name][-1], flush=True)
    medians = {
        name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
        for name, rows in found.items()
    }
    result = {
        "image_size": SIZE,
        "rounds": arguments.rounds,
        "seconds": medians,
        "ratio_first": round(medians["coupled"]["first"] / medians["plain"]["first"], 3),
        "ratio_later": round(medians["coupled"]["later"] / medians["plain"]["later"], 3),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": describe_machine(),
    }
    print(result["ratio_first"], result["ratio_later"])
    write(FOLDER / "coupled_trace.json", result)


if __name__ == "__main__":
    main()
