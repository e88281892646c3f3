"""Nets of layers of one's own against the same nets written inline, pruned and shrunk.

    KERAS_BACKEND=torch python benchmarks/own_layers.py

Both have the same weights. Each is penalized, 40% of its channels are cut, and it is reported and
shrunk. The net of own layers has to count as many FLOPs as the inline one, before and after, to
become as small, and to answer as the masked one on two batches, of two lengths where the length is
open. Then it is saved, loaded, its zeros are kept, and it is trained for a step of AdamW. The
summary goes to `benchmarks/results/own_layers.json`.
"""

import argparse
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
from kit import own_nets, own_nets_more
from kit.machine import describe_machine
from kit.random_models import (
    LENGTHS,
    SIDES,
    difference,
    make_inputs,
    outputs_of,
    randomize,
    train,
    values_of,
    zeros_of,
)
from kit.results import FOLDER, write

import keras_hoyer as kh

SPARSITY = 0.4
NETS = {**own_nets.NETS, **own_nets_more.NETS}


def main() -> None:
    """Examines the nets and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", help="names; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=FOLDER / "own_layers.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    for name, pair in NETS.items():
        if args.nets and name not in args.nets:
            continue
        found: dict[str, Any] = {"net": name}
        try:
            examine(*pair, args.seed, found)
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {str(error).strip()[:600]}"
            traceback.print_exc(limit=-6)
        lines.append(found)
        print(found, flush=True)
    header = {"machine": describe_machine(), "keras_hoyer": kh.__version__, "seed": args.seed}
    write(args.results, {**header, "sparsity": SPARSITY, "nets": lines})


def examine(
    own: Callable[[], keras.Model], inline: Callable[[], keras.Model], seed: int, found: dict
) -> None:
    """Notes what becomes of a net and of its twin."""
    keras.utils.set_random_seed(seed)
    twin, model = inline(), own()
    batches = [make_inputs(twin, seed, *n) for n in zip((3, 2), LENGTHS, SIDES, strict=True)]
    model(keras.tree.map_structure(_like, twin.input))  # which builds it, with open sizes
    randomize(model, seed)
    copy_weights(model, twin)
    found["twin_difference"] = difference(*(outputs_of(x, batches[0]) for x in (model, twin)))
    found["flops"] = [_flops(x) for x in (model, twin)]
    found["parameters"] = model.count_params()
    for x in (model, twin):
        kh.regularize(x, kh.HoyerSquare(1e-4))
        criterion = kh.criteria.TargetSparsity(SPARSITY, scope="layer")
        kh.prune(x, criterion, kh.patterns.Channel())
    found["zeros"] = [kh.report(x).sparsity for x in (model, twin)]
    before = [outputs_of(model, batch) for batch in batches]
    small, small_twin = kh.shrink(model), kh.shrink(twin)
    found["smaller"] = [x.count_params() for x in (small, small_twin)]
    found["smaller_flops"] = [_flops(x) for x in (small, small_twin)]
    found["differences"] = [
        difference(x, outputs_of(small, batch)) for x, batch in zip(before, batches, strict=True)
    ]
    found["class"], found["small_class"] = type(model).__name__, type(small).__name__
    with tempfile.TemporaryDirectory() as folder:
        small.save(path := Path(folder) / "small.keras")
        after = outputs_of(keras.models.load_model(path), batches[1])
        found["loaded_difference"] = difference(outputs_of(small, batches[1]), after)
        model.save(path := Path(folder) / "masked.keras")
        again = keras.models.load_model(path)
    outputs_of(again, batches[0])
    zeros = zeros_of(model)
    found["held"] = [kh.report(model).held, kh.report(again).held, kh.keep_zeros(again).held]
    train(again, twin.input, batches[0], seed)
    pairs = zip(values_of(again), zeros, strict=True)
    found["zeros_kept"] = all((values[zero] == 0).all() for values, zero in pairs)


def _like(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.Input(batch_shape=x.shape, dtype=x.dtype)


def _flops(model: keras.Model) -> int:
    return sum(kh.count_flops(model).values())


def copy_weights(model: keras.Model, twin: keras.Model) -> None:
    """Gives the layers of each kind the weights of the other model's, in the order of their making.

    Keras numbers the layers of a class as they are made; parts such as the query of an attention
    have no number, and that of their owner counts.
    """
    for one, two in zip(_in_order(model), _in_order(twin), strict=True):
        two.assign(one)


def _in_order(model: keras.Model) -> list[keras.Variable]:
    def key(weight: keras.Variable) -> tuple:
        parts = [re.fullmatch(r"(.*?)(?:_(\d+))?", part) for part in weight.path.split("/")]
        *owners, layer, name = [(part[1], int(part[2] or 0)) for part in parts if part]
        return (layer[0], name, layer[1], [number for _, number in reversed(owners)])

    return sorted(model.weights, key=key)


if __name__ == "__main__":
    main()
