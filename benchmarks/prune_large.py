"""Time and memory of pruning a model of 100M weights with a global target.

Each case runs in its own process. Needs Linux, whose kernel counts the memory. Writes
`benchmarks/results/prune_large_BACKEND.json`; choose the backend with `KERAS_BACKEND`.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np
from kit.machine import describe_machine
from kit.processes import measured_apart, memory
from kit.results import FOLDER, write

import keras_hoyer as kh

SEED = 0
# Layers, their width, pattern, target.
CASES = {
    "six kernels": (6, 4096, kh.patterns.Unstructured(), 0.9),
    "one kernel": (1, 10_016, kh.patterns.Unstructured(), 0.9),
    "blocks of 4 x 1": (6, 4096, kh.patterns.Block((4, 1)), 0.9),
    "2 of 4": (6, 4096, kh.patterns.NByM(2, 4), 0.5),
}


def measure(name: str) -> dict[str, object]:
    """Builds the case's model, prunes it, and returns what that took."""
    layers, width, pattern, target = CASES[name]
    stack = [keras.layers.Dense(width, use_bias=False) for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *stack])
    random = np.random.default_rng(SEED)
    for layer in stack:
        layer.set_weights([random.standard_normal((width, width), "float32")])
    size = 4 * model.count_params()
    Path("/proc/self/clear_refs").write_text("5")  # resets the most
    before = memory("VmRSS")
    start = time.perf_counter()
    report = kh.prune(model, kh.criteria.TargetSparsity(target), pattern)
    seconds = time.perf_counter() - start
    return {
        "weights": report.total,
        "target": target,
        "sparsity": report.sparsity,
        "seconds": round(seconds, 2),
        "extra_memory_over_model": round((memory("VmHWM") - before) / size, 2),
    }


def main() -> None:
    """Measures each case, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    case = parser.parse_args().case
    if case:
        print(json.dumps(measure(case)))
        return
    results = {}
    for name in CASES:
        results[name] = measured_apart(__file__, "--case", name)
        print(keras.backend.backend(), name, results[name])
    result = {"seed": SEED, "results": results, "machine": describe_machine()}
    write(FOLDER / f"prune_large_{keras.backend.backend()}.json", result)


if __name__ == "__main__":
    main()
