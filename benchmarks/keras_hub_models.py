"""Prunes and shrinks tiny models of KerasHub and nets in the style of keras.io.

    pip install keras-hub
    KERAS_BACKEND=torch python benchmarks/keras_hub_models.py

Each model has random weights and statistics. It is penalized, 40% of its channels are cut, and it
is reported, shrunk, saved and loaded; the outputs of the smaller one are compared with those of the
masked one on two batches, of two lengths where the model leaves them open. Then the masked model is
saved and loaded, its zeros are kept anew, and it is trained for an epoch. A line is written for
each model, so that a run can be stopped and resumed; the summary goes to
`benchmarks/results/keras_hub.json`. KerasHub's tokenizers are not used, so
`pip install --no-deps keras-hub` does where they cannot be installed but can be imported.
"""

import argparse
import gc
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from kit.hub import BACKBONES, TASKS
from kit.hub_nets import NETS
from kit.machine import describe_machine
from kit.random_models import (
    LENGTHS,
    SIDES,
    difference,
    make_inputs,
    outputs_of,
    patience,
    randomize,
    train,
    values_of,
    zeros_of,
)
from kit.results import FOLDER, append, read_lines, told, write

import keras_hoyer as kh

ROOT = Path(__file__).resolve().parents[1]
SPARSITY, TOLERANCE = 0.4, 1e-4

KINDS = {"backbone": BACKBONES, "task": TASKS, "net": NETS}


def main() -> None:
    """Examines what has no line yet, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", help="names; all by default")
    parser.add_argument("--uniform", action="store_true", help="keep equal blocks alike")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, default=ROOT / "out" / "keras_hub.jsonl")
    parser.add_argument("--results", type=Path, default=FOLDER / "keras_hub.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    backend = keras.backend.backend()
    setting = {"backend": backend, "seed": args.seed, "uniform": args.uniform}

    def lines() -> list[dict]:
        return [x for x in read_lines(args.lines) if setting.items() <= x.items()]

    done = {line["model"] for line in lines()}
    for kind, makers in KINDS.items():
        for name, make in makers.items():
            if name in done or (args.models and name not in args.models):
                continue
            found = examine(make, args.seed, args.uniform)
            append(args.lines, {**setting, "model": name, "kind": kind, **found})
            print(name, told(found), flush=True)
            keras.backend.clear_session()
            gc.collect()
    write(
        args.results,
        {
            "machine": describe_machine(),
            "keras_hub": version("keras-hub"),
            "keras_hoyer": kh.__version__,
            **setting,
            "sparsity": SPARSITY,
            "models": [told(line) for line in lines()],
        },
    )


def examine(make: Callable[[], Any], seed: int, uniform: bool) -> dict:
    """What becomes of one model: figures, and where and how it failed if it did."""
    found: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        with patience(), tempfile.TemporaryDirectory() as folder:
            _examine(make, seed, uniform, Path(folder), found)
        found.pop("stage")
    except Exception as error:
        text = str(error).strip()[:600]
        found["error"] = f"{type(error).__name__}: {text}"
        found["traceback"] = traceback.format_exc(limit=-6)
    found["seconds"] = round(time.perf_counter() - started, 1)
    return found


def _examine(make: Callable, seed: int, uniform: bool, folder: Path, found: dict) -> None:
    def stage(name: str) -> None:
        found["stage"] = name

    stage("build")
    keras.utils.set_random_seed(seed)
    model = make()
    randomize(model, seed)
    batches = [
        make_inputs(model, seed, *sizes) for sizes in zip((3, 2), LENGTHS, SIDES, strict=True)
    ]
    outputs_of(model, batches[0])
    stage("regularize")
    kh.regularize(model, kh.HoyerSquare(1e-4))
    stage("prune")
    criterion = kh.criteria.TargetSparsity(SPARSITY, scope="layer")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            kh.prune(model, criterion, kh.patterns.Channel(uniform=uniform))
        except ValueError as error:  # which says why; the rest is tried with single weights
            if "has no channels that can be removed" not in str(error):
                raise
            found["nothing_goes"] = str(error)[:2000]
            kh.prune(model, criterion)
    stage("report")
    report = kh.report(model)
    found["zeros"] = round(report.sparsity, 4)
    stage("outputs")
    before = [outputs_of(model, batch) for batch in batches]
    stage("shrink")
    with warnings.catch_warnings(record=True) as more:
        warnings.simplefilter("always")
        small = kh.shrink(model)
    found["said"] = [
        m for m in _messages(said + more) if "keras_hoyer" in m[1] or "hannels" in m[0]
    ]
    found["said"] = [text for text, _ in found["said"]]
    tables, params = _sizes(model)
    small_tables, small_params = _sizes(small)
    found |= {"parameters": params, "smaller": small_params, "tables": tables}
    found["lost"] = round(1 - (small_params - small_tables) / max(params - tables, 1), 4)
    found["class"], found["small_class"] = type(model).__name__, type(small).__name__
    stage("compare")
    after = [outputs_of(small, batch) for batch in batches]
    found["differences"] = [difference(x, y) for x, y in zip(before, after, strict=True)]
    stage("flops")
    found["flops"] = sum(kh.count_flops(model).values())
    found["smaller_flops"] = sum(kh.count_flops(small).values())
    stage("save")
    small.save(folder / "small.keras")
    stage("load")
    loaded = keras.models.load_model(folder / "small.keras")
    found["loaded_difference"] = difference(after[0], outputs_of(loaded, batches[0]))
    _retrain(model, batches[0], seed, folder, found)


def _retrain(model: keras.Model, batch: Any, seed: int, folder: Path, found: dict) -> None:
    """Saves, loads and trains the masked model."""
    found["stage"] = "save masked"
    model.save(folder / "masked.keras")
    found["stage"] = "load masked"
    again = keras.models.load_model(folder / "masked.keras")
    # What KerasHub itself loses by saving and loading: some tables are interpolated.
    pairs = [outputs_of(x, batch) for x in (model, again)]
    found["masked_loaded_difference"] = difference(*pairs)
    found["stage"] = "keep zeros"
    zeros = zeros_of(model)
    found["held"] = {"pruned": kh.report(model).held, "loaded": kh.report(again).held}
    kept = kh.keep_zeros(again)
    found["held"]["kept"] = kept.held
    found["stage"] = "train"
    train(again, again.input, batch, seed)
    found["zeros_kept"] = all(
        (v == 0)[z].all() for v, z in zip(values_of(again), zeros, strict=True)
    )


def _sizes(model: keras.Model) -> tuple[int, int]:
    """The parameters in embedding tables, and all of them."""
    tables = {
        id(v): int(np.prod(v.shape))
        for v in model.weights
        if "embeddings" in v.name and "reverse" not in v.name
    }
    return sum(tables.values()), model.count_params()


def _messages(said: list) -> list[tuple[str, str]]:
    return [(str(w.message)[:600], w.filename) for w in said if w.category is UserWarning]


if __name__ == "__main__":
    main()
