"""What a score of a model of 100M weights costs, beside forward passes and training steps.

    KERAS_BACKEND=jax python benchmarks/score_cost.py

A score looks at 8 batches of 32; beside it the model predicts them, or trains on them by Adam. Six
dense layers of 4,096 units: a pass over few samples is short beside what is done once for each
weight, so other nets come off better. Each score has a process of its own: first it is taken for
the first time, when what is needed is compiled, and the memory that it adds is measured; then by
turns with what it is compared with, by the clock and by the time of the processor. Needs Linux,
whose kernel counts the memory. A line is appended to `benchmarks/results/score_cost.jsonl` for each
score and backend; one that has a line is not measured again.
"""

import argparse
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from kit.machine import describe_machine
from kit.processes import measured_apart, memory
from kit.results import FOLDER, append, done_before, rounded
from kit.turns import PROCESSOR, by_turns

import keras_hoyer as kh
from keras_hoyer.weights import find_kernels

SEED, BATCHES, SIZE = 0, 8, 32


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured: all that its result depends on, the machine and the versions aside.

    Attributes:
        score: Name of a score of `keras_hoyer.scores`.
        backend: Of Keras.
        rounds: How often each side has its turn.
    """

    score: str
    backend: str
    rounds: int = 3


# What a score is compared with, and how many times that it may take.
BARS = {"Activation": ("forward", 3.0), "Taylor": ("training", 2.0), "Fisher": ("training", 2.0)}


def plan() -> Iterator[Case]:
    """The scores that see data, on each backend."""
    for score, backend in itertools.product(BARS, ("torch", "tensorflow", "jax")):
        yield Case(score, backend)


def build() -> keras.Model:
    """The net, compiled with Adam."""
    keras.utils.set_random_seed(SEED)
    hidden = (keras.layers.Dense(4096, "relu") for _ in range(6))
    model = keras.Sequential([keras.Input((4096,)), *hidden, keras.layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def actions(case: Case) -> tuple[keras.Model, dict[str, Callable[[], object]]]:
    """The model; the score of all batches, and what it is compared with."""
    model = build()
    random = np.random.default_rng(SEED)
    x = random.random((BATCHES * SIZE, 4096), "float32")
    y = random.integers(0, 10, len(x))
    to, _ = BARS[case.score]
    data = (x,) if to == "forward" else ((x, y),)
    score, kernels = getattr(kh.scores, case.score)(*data), find_kernels(model)
    other = {
        "forward": lambda: model.predict(x, batch_size=SIZE, verbose=0),
        "training": lambda: model.fit(x, y, batch_size=SIZE, verbose=0),
    }
    return model, {"score": lambda: score.measured(model, kernels), to: other[to]}


def measure(case: Case) -> dict[str, object]:
    """Memory and seconds of the first score and of the first of the others; ratios by turns."""
    model, both = actions(case)
    size = 4 * model.count_params()
    first, added = {}, {}
    for name, action in both.items():
        Path("/proc/self/clear_refs").write_text("5")  # resets the most
        before = memory("VmRSS")
        start = time.perf_counter(), time.process_time()
        action()
        first[name] = np.subtract((time.perf_counter(), time.process_time()), start)
        added[name] = rounded((memory("VmHWM") - before) / size, 2)
    times = by_turns(both, case.rounds, warmup=0)
    later = {name: np.median(times.seconds[name], axis=0) for name in both}
    _, to = both
    return {
        "weights": model.count_params(),
        "to": to,
        "added_memory_over_model": added,
        "seconds": {name: rounded(both.tolist(), 3) for name, both in later.items()},
        "first_seconds": {name: rounded(both.tolist(), 3) for name, both in first.items()},
        "ratio": rounded(times.ratio("score", to), 3),
        "ratio_cpu": rounded(times.ratio("score", to, PROCESSOR), 3),
        "first_ratio_cpu": rounded(first["score"][PROCESSOR] / later[to][PROCESSOR], 3),
        "load_average": times.load_average,
    }


def main() -> None:
    """Measures what the plan has for this backend and what has no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "score_cost.jsonl")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Case(**json.loads(options.measure)))))
        return
    done = done_before(options.out, Case)
    for case in plan():
        if case.backend == keras.backend.backend() and case not in done:
            fields = dataclasses.asdict(case)
            result = measured_apart(__file__, "--measure", json.dumps(fields))
            machine = {"threads": os.environ.get("OMP_NUM_THREADS"), "machine": describe_machine()}
            line = {**fields, "seed": SEED, **result, **machine}
            append(options.out, line)
            print(line, flush=True)


if __name__ == "__main__":
    main()
