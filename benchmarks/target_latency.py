"""Does `TargetLatency` come to the share that it is asked for? MobileNetV2 and ResNet-50.

    KERAS_BACKEND=tensorflow python benchmarks/target_latency.py

Cuts channels to half the time of the LiteRT file, shrinks, exports, and times the file anew beside
the dense one: by turns, on one thread, with interpreters made anew for each repetition, by another
timer than the criterion's. The weights are random, each output channel scaled by a factor of its
own, since channels of initial weights are all alike; times depend on the widths that are left, not
on the weights. What else runs on the machine blurs the times; the load is written beside them, and
`ratio_cpu`, of the time of the processor, hardly sees it. A line is appended to
`benchmarks/results/target_latency.jsonl` for each network.
"""

import argparse
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from kit.latency import compare_latencies
from kit.machine import describe_machine
from kit.results import FOLDER, append, done_before

import keras_hoyer as kh

REPETITIONS = 3


@dataclasses.dataclass(frozen=True)
class Run:
    """One search: all that its result depends on, the machine and the versions aside.

    Attributes:
        network: Name in `keras.applications`.
        pixels: Height and width of the images.
        share: Of the time that is to be left.
        seed: Of the weights.
    """

    network: str
    pixels: int
    share: float
    seed: int


def plan() -> Iterator[Run]:
    """The networks of the bar, the quick ones first."""
    networks = ("MobileNetV2", "ResNet50")
    for seed, network, pixels in itertools.product((0, 1), networks, (96, 224)):
        yield Run(network, pixels, 0.5, seed)


def build(run: Run) -> keras.Model:
    """The network, its output channels of different strengths, its statistics drawn."""
    keras.utils.set_random_seed(run.seed)
    random = np.random.default_rng(run.seed)
    shape = (run.pixels, run.pixels, 3)
    model = getattr(keras.applications, run.network)(weights=None, input_shape=shape)
    for variable in model.weights:
        if variable.name == "kernel":
            variable.assign(variable * random.uniform(0.5, 1.5, variable.shape[-1]))
        elif variable.name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(random.normal(0, 0.1, variable.shape))
    return model


def search(run: Run, folder: Path, rounds: int) -> dict:
    """Searches, ships and times anew."""
    model = build(run)
    files = {"dense": kh.export(model, folder / "dense.tflite", sparse=False).path}
    flops = sum(kh.count_flops(model).values())
    start = time.perf_counter()
    report = kh.prune(model, kh.criteria.TargetLatency(run.share), kh.patterns.Channel())
    seconds = time.perf_counter() - start
    small = kh.shrink(kh.strip(model))
    files["small"] = kh.export(small, folder / "small.tflite", sparse=False).path
    again = [compare_latencies(files, rounds) for _ in range(REPETITIONS)]
    ratios = [times["files"]["small"]["ratio"] for times in again]
    return {
        "measured": report.measured.to_dict(),
        "seconds": seconds,
        "flops": sum(kh.count_flops(small).values()) / flops,
        "timed_again": float(np.median(ratios)),
        "repetitions": again,
    }


def main() -> None:
    """Makes the runs that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="turns of each file")
    parser.add_argument("--out", type=Path, default=FOLDER / "target_latency.jsonl")
    options = parser.parse_args()
    done = done_before(options.out, Run)
    for run in plan():
        if run in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = search(run, Path(folder), options.rounds)
        machine = {"backend": keras.backend.backend(), "machine": describe_machine()}
        append(options.out, {**dataclasses.asdict(run), **result, **machine})
        print(run, result, flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
