"""Shrinks random networks and counts those whose outputs change.

    KERAS_BACKEND=torch python benchmarks/random_networks.py --count 2000 --seed 12

The networks are those of `tests/random_networks.py`: kinds of layers and operations put together
at random, zeros made in any way. Each is judged against the model before, on two sizes of the
batch, and once more after the smaller model was saved and loaded. A line is written for each, so a
run can be stopped and resumed; the summary goes to `benchmarks/results/random_networks.json`.
"""

import argparse
import collections
import dataclasses
import gc
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors are tiny

import keras
import numpy as np
from kit.machine import describe_machine
from kit.results import append, read_lines, write

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from judging import TOLERANCE, Verdict, examine  # noqa: E402
from random_networks import KINDS, random_steps  # noqa: E402


def main() -> None:
    """Examines what has no line yet, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, default=ROOT / "out" / "random_networks.jsonl")
    results = ROOT / "benchmarks" / "results" / "random_networks.json"
    parser.add_argument("--results", type=Path, default=results)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Keras warns of masks that layers drop
    lines = read_lines(args.lines)
    done = {line["number"] for line in lines if line["seed"] == args.seed}
    for number in range(args.count):
        if number not in done:
            append(args.lines, _examined(args.seed, number))
        if number % 50 == 49:
            keras.backend.clear_session()
            gc.collect()
    lines = [
        line
        for line in read_lines(args.lines)
        if line["seed"] == args.seed and line["number"] < args.count
    ]
    summary = _summary(args.seed, lines)
    write(args.results, summary)
    print(
        json.dumps({k: v for k, v in summary.items() if k not in ("kinds", "networks")}, indent=1)
    )


def _examined(seed: int, number: int) -> dict:
    """One network, and what became of it."""
    rank, steps = random_steps(np.random.default_rng([seed, number]))
    try:
        verdict = examine(rank, steps, number)
    except Exception as error:  # building it, or making its zeros
        verdict = Verdict(outcome="crashed", message=f"{type(error).__name__}: {error}")
    line = {"seed": seed, "number": number, **dataclasses.asdict(verdict)}
    return line if verdict.outcome == "same" else {**line, "rank": rank, "steps": steps}


def _summary(seed: int, lines: list[dict]) -> dict:
    counts = collections.Counter(line["outcome"] for line in lines)
    kinds = collections.Counter(kind for line in lines for kind in line["kinds"])
    fair = [line["error"] for line in lines if line["outcome"] == "same"]
    return {
        "machine": describe_machine(),
        "seed": seed,
        "count": len(lines),
        "tolerance": TOLERANCE,
        **{name: counts[name] for name in ("same", "wrong", "crashed", "refused", "no model")},
        "largest_error": max(fair, default=0.0),
        "beyond_tolerance_by_rounding": sum(error > TOLERANCE for error in fair),
        "made_smaller": sum(line["removed"] > 0 for line in lines),
        "mean_share_removed": float(np.mean([line["removed"] for line in lines])),
        "kinds_known": len(KINDS),
        "kinds_seen": len(kinds),
        "kinds": dict(sorted(kinds.items())),
        "zeros": dict(collections.Counter(way for line in lines for way in line["zeros"])),
        "networks": [line for line in lines if line["outcome"] != "same"],
    }


if __name__ == "__main__":
    main()
