"""What keeping the zeros costs: a masked epoch of LeNet-300-100 beside a dense one.

Both sides train in turn (dense, masked, masked, dense, ...), in short epochs, so that both see the
same machine; the cost is the median of the ratios of the rounds, once of the time by the clock and
once of the time of the processor, which tells more on a busy machine. The data are random, of
MNIST's shape. Writes `benchmarks/results/mask_cost_BACKEND.json`; choose the backend
with `KERAS_BACKEND`.
"""

import argparse
import json
import os
import time
from pathlib import Path

import keras
import numpy as np
from machine import describe_machine

import keras_hoyer as kh

SEED = 0
SPARSITY = 0.95


def build() -> keras.Model:
    """LeNet-300-100, compiled with Adam."""
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(300, "relu"),
            keras.layers.Dense(100, "relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measure(rounds: int, samples: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the dense and of the masked epochs: rows of rounds, columns clock and CPU."""
    random = np.random.default_rng(SEED)
    x = random.random((samples, 784), "float32")
    y = random.integers(0, 10, samples)
    dense, masked = build(), build()
    kh.prune(masked, kh.criteria.TargetSparsity(SPARSITY))
    seconds = {id(dense): [], id(masked): []}
    for number in range(-1, rounds):
        for model in (dense, masked) if number % 2 else (masked, dense):
            start = time.perf_counter(), time.process_time()
            model.fit(x, y, batch_size=batch, epochs=1, verbose=0)
            end = time.perf_counter(), time.process_time()
            if number >= 0:  # the first round compiles
                seconds[id(model)].append(np.subtract(end, start))
    if kh.report(masked).sparsity < SPARSITY - 1e-4:
        raise RuntimeError("the zeros were not kept, so the measurement says nothing")
    return np.array(seconds[id(dense)]), np.array(seconds[id(masked)])


def main() -> None:
    """Measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--samples", type=int, default=6_000)
    parser.add_argument("--batch", type=int, default=100)
    arguments = parser.parse_args()
    dense, masked = measure(arguments.rounds, arguments.samples, arguments.batch)
    ratios = masked / dense
    result = {
        "model": "LeNet-300-100",
        "optimizer": "Adam",
        "seed": SEED,
        "sparsity": SPARSITY,
        **vars(arguments),
        "dense_epoch_s": round(float(np.median(dense[:, 0])), 4),
        "masked_epoch_s": round(float(np.median(masked[:, 0])), 4),
        "ratio": round(float(np.median(ratios[:, 0])), 3),
        "ratio_quartiles": [round(float(q), 3) for q in np.percentile(ratios[:, 0], [25, 75])],
        "load_average": round(os.getloadavg()[0], 1),
        "ratio_cpu": round(float(np.median(ratios[:, 1])), 3),
    }
    print(
        f"{keras.backend.backend()}: dense {result['dense_epoch_s']} s, masked "
        f"{result['masked_epoch_s']} s, ratio {result['ratio']}, of CPU time {result['ratio_cpu']}"
    )
    path = Path(__file__).parent / "results" / f"mask_cost_{keras.backend.backend()}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**result, "machine": describe_machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
