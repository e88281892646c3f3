"""What keeping the zeros costs: a masked epoch of LeNet-300-100 beside a dense one.

Both sides train in turn (dense, masked, masked, dense, ...), in short epochs, so that both see the
same machine; the cost is the median of the ratios of the rounds, once of the time by the clock and
once of the time of the processor, which tells more on a busy machine. The data are random, of
MNIST's shape. Writes `benchmarks/results/mask_cost_BACKEND.json`; choose the backend
with `KERAS_BACKEND`.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from kit.machine import describe_machine
from kit.nets import lenet
from kit.results import FOLDER, rounded, write
from kit.turns import PROCESSOR, Times, by_turns

import keras_hoyer as kh

SEED = 0
SPARSITY = 0.95


def build() -> keras.Model:
    """LeNet-300-100, compiled with Adam."""
    keras.utils.set_random_seed(SEED)
    model = lenet()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measure(rounds: int, samples: int, batch: int) -> Times:
    """Times of the epochs `dense` and `masked`."""
    random = np.random.default_rng(SEED)
    x = random.random((samples, 784), "float32")
    y = random.integers(0, 10, samples)
    dense, masked = build(), build()
    kh.prune(masked, kh.criteria.TargetSparsity(SPARSITY))
    actions = {
        "dense": lambda: dense.fit(x, y, batch_size=batch, epochs=1, verbose=0),
        "masked": lambda: masked.fit(x, y, batch_size=batch, epochs=1, verbose=0),
    }
    times = by_turns(actions, rounds)
    if kh.report(masked).sparsity < SPARSITY - 1e-4:
        raise RuntimeError("the zeros were not kept, so the measurement says nothing")
    return times


def main() -> None:
    """Measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--samples", type=int, default=6_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--output", type=Path, default=FOLDER, help="a folder")
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("rounds", "samples", "batch")}
    times = measure(**settings)
    result = {
        "model": "LeNet-300-100",
        "optimizer": "Adam",
        "seed": SEED,
        "sparsity": SPARSITY,
        **settings,
        "dense_epoch_s": rounded(times.median("dense"), 4),
        "masked_epoch_s": rounded(times.median("masked"), 4),
        "ratio": rounded(times.ratio("masked", "dense"), 3),
        "ratio_quartiles": rounded(times.quartiles("masked", "dense"), 3),
        "load_average": times.load_average,
        "ratio_cpu": rounded(times.ratio("masked", "dense", PROCESSOR), 3),
        "machine": describe_machine(),
    }
    backend = keras.backend.backend()
    print(
        f"{backend}: dense {result['dense_epoch_s']} s, masked {result['masked_epoch_s']} s, "
        f"ratio {result['ratio']}, of CPU time {result['ratio_cpu']}"
    )
    write(arguments.output / f"mask_cost_{backend}.json", result)


if __name__ == "__main__":
    main()
