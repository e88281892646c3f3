"""Time and memory of pruning a model of 100M weights with a global target.

Run as `python benchmarks/prune_large.py`; the backend is Keras' own choice (`KERAS_BACKEND`).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from machine import describe_machine


def memory_bytes(field: str) -> int:
    """Resident size of this process: `"VmRSS"` now, `"VmHWM"` the largest since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def measure(layers: int, width: int, pattern: str, sparsity: float, seed: int) -> dict:
    """Builds the model, prunes it, and returns what that took."""
    import keras

    import keras_hoyer as kh

    keras.utils.set_random_seed(seed)
    patterns = {
        "unstructured": kh.patterns.Unstructured(),
        "block": kh.patterns.Block((4, 1)),
        "nbym": kh.patterns.NByM(2, 4),
    }
    stack = [keras.layers.Dense(width, use_bias=False) for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *stack])
    generator = np.random.default_rng(seed)
    for layer in stack:
        layer.set_weights([generator.standard_normal((width, width), "float32")])
    model_bytes = sum(4 * layer.count_params() for layer in stack)
    before = memory_bytes("VmRSS")
    # The peak must be the pruning's, not the building's.
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    report = kh.prune(model, kh.criteria.TargetSparsity(sparsity), patterns[pattern])
    seconds = time.perf_counter() - started
    return {
        "weights": report.total,
        "layers": layers,
        "pattern": pattern,
        "target": sparsity,
        "sparsity": report.sparsity,
        "seconds": round(seconds, 2),
        "model_bytes": model_bytes,
        "extra_over_model": round((memory_bytes("VmHWM") - before) / model_bytes, 2),
    }


def main() -> None:
    """Prints the result and stores it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument(
        "--pattern", choices=("unstructured", "block", "nbym"), nargs="+", default=["unstructured"]
    )
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        measure(
            arguments.layers,
            arguments.width,
            arguments.pattern[0],
            arguments.sparsity,
            arguments.seed,
        )
    )


if __name__ == "__main__":
    main()
