"""Cuts channels of every `keras.applications` network at random, shrinks it, and compares outputs.

Writes `benchmarks/results/applications.json`, row by row, and skips the rows that it has: stop and
start as you like. `--only NAME ...` chooses networks.

The weights are random, batch normalization statistics and biases too, so that nothing is zero that
was not cut. The statistics follow those of the cut network on random images: without that, the
outputs of a deep network hardly depend on its input, and any two of them agree. A channel's score
is the root mean square of what produces it.
"""

import argparse
import gc
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops
from kit.machine import describe_machine
from kit.results import FOLDER, write

from keras_hoyer.graph import channel_groups
from keras_hoyer.graph.costs import count_flops
from keras_hoyer.graph.shrink import shrink


def architectures() -> dict[str, Callable]:
    """The functions of `keras.applications` that build a network, by name."""
    found = {}
    for module in (keras.applications, *vars(keras.applications).values()):
        for name, build in vars(module).items() if inspect.ismodule(module) else ():
            if inspect.isfunction(build) and "weights" in inspect.signature(build).parameters:
                found[name] = build
    return dict(sorted(found.items()))


def randomize(model: keras.Model, rng: np.random.Generator) -> None:
    """Gives biases and the parameters of normalization layers random values."""
    for variable in model.weights:
        if len(variable.shape) == 1 and "moving" not in variable.name:
            # Below one, for the deepest networks: at one they blow a change of 1e-7 up to 0.2.
            center = 0.4 if variable.name == "gamma" else 0
            variable.assign(rng.normal(center, 0.1, tuple(variable.shape)))


def randomize_statistics(model: keras.Model, inputs: np.ndarray, rng: np.random.Generator) -> None:
    """Gives batch normalization layers statistics near those of the inputs."""
    norms = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(inputs, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        mean, variance = (ops.convert_to_numpy(x) for x in layer.non_trainable_variables)
        # A weak channel stays weak: blown up, it would carry its rounding errors with it.
        scale = np.maximum(variance, max(variance.mean(), 1e-3))
        layer.moving_mean.assign(mean + rng.normal(0, 0.2, mean.shape) * np.sqrt(scale))
        layer.moving_variance.assign(scale * rng.uniform(0.5, 1.5, mean.shape))


def cut(model: keras.Model, fraction: float, rng: np.random.Generator) -> tuple[int, int]:
    """Zeroes what makes and reads the channels of lowest scores; returns how many, of how many."""
    groups = channel_groups(model)
    values, variables, scores = {}, {}, []
    for group in groups:
        total, count = 0, 0
        for piece in group.producing:
            variables[id(piece.variable)] = piece.variable
            if id(piece.variable) not in values:
                values[id(piece.variable)] = np.array(ops.convert_to_numpy(piece.variable))
            rows = np.moveaxis(values[id(piece.variable)], piece.axis, 0)[piece.indices]
            rows = rows.reshape(group.channels, -1)
            total, count = total + np.square(rows).sum(axis=1), count + rows.shape[1]
        # A network at its initial weights has channels of nearly one norm: spread them.
        scores.append(np.sqrt(total / count) * rng.uniform(0.5, 1.5, group.channels))
    ranked = np.sort(np.concatenate(scores))
    threshold = ranked[int(fraction * len(ranked))]
    number = 0
    for group, score in zip(groups, scores, strict=True):
        dead = score < threshold
        dead[score.argmax()] = False
        number += int(dead.sum())
        # The kernels that read them too, as `patterns.Channel` does: behind a normalization without
        # a scale, a channel without a kernel is a constant, not zero.
        for piece in (*group.producing, *group.consuming):
            variables[id(piece.variable)] = piece.variable
            if id(piece.variable) not in values:
                values[id(piece.variable)] = np.array(ops.convert_to_numpy(piece.variable))
            along = np.moveaxis(values[id(piece.variable)], piece.axis, 0)
            along[piece.indices[dead].reshape(-1)] = 0
    for key, variable in variables.items():
        variable.assign(values[key])
    return number, len(ranked)


def measure(name: str, build: Callable, fraction: float, seed: int, **options: object) -> dict:
    """Builds, cuts, shrinks and compares one network."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = build(weights=None, classifier_activation=None, **options)
    randomize(model, rng)
    number, channels = cut(model, fraction, rng)
    shape = [n or 224 for n in model.input_shape[1:]]
    inputs = rng.uniform(0, 255, (2, *shape)).astype(keras.config.dtype_policy().compute_dtype)
    randomize_statistics(model, inputs, rng)
    start = time.perf_counter()
    small = shrink(model)
    seconds = time.perf_counter() - start
    before = ops.convert_to_numpy(model(inputs, training=False))
    after = ops.convert_to_numpy(small(inputs, training=False))
    largest, difference = np.abs(before).max(), np.abs(before - after).max()
    # What rounding alone does: the same network, its inputs changed in the last digit.
    nudged = inputs * (1 + np.finfo(inputs.dtype).eps * rng.choice([-1, 1], inputs.shape))
    rounding = np.abs(before - ops.convert_to_numpy(model(nudged, training=False))).max()
    return {
        "name": name,
        "fraction": fraction,
        "channels": channels,
        "cut": number,
        "left": sum(group.channels for group in channel_groups(small)),
        "parameters": model.count_params(),
        "parameters_after": small.count_params(),
        "flops": sum(count_flops(model).values()),
        "flops_after": sum(count_flops(small).values()),
        "error": float(difference / largest),
        "rounding": float(rounding / largest),
        # How far two inputs are apart, to show that the network is still one.
        "spread": float(np.abs(before[0] - before[1]).max() / largest),
        "seconds": seconds,
    }


def measure_checked(name: str, build: Callable, fraction: float, seed: int) -> dict:
    """The row of one network; with its error in float64 too if that in float32 is large."""
    try:
        row = measure(name, build, fraction, seed)
        if row["error"] > 1e-4:
            # A wrong model stays wrong, rounding errors do not. Small images, for the memory.
            keras.config.set_dtype_policy("float64")
            again = measure(name, build, fraction, seed, input_shape=(224, 224, 3))
            row["error_float64"] = again["error"]
    except Exception as error:
        row = {"name": name, "fraction": fraction, "failure": repr(error)}
    finally:
        keras.config.set_dtype_policy("float32")
        keras.backend.clear_session()
        gc.collect()
    return row


def main() -> None:
    """Runs the sweep and writes its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FOLDER / "applications.json")
    parser.add_argument("--only", nargs="*", help="names of networks; default: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    document = {"machine": describe_machine(), "seed": arguments.seed, "results": []}
    if arguments.output.exists():
        document["results"] = json.loads(arguments.output.read_text())["results"]
    rows = document["results"]
    known = {(row["name"], row["fraction"]) for row in rows}
    for name, build in architectures().items():
        for fraction in (0.3, 0.6):
            chosen = not arguments.only or name in arguments.only
            if not chosen or (name, fraction) in known:
                continue
            rows.append(measure_checked(name, build, fraction, arguments.seed))
            print(json.dumps(rows[-1]), flush=True)
            write(arguments.output, document)
    errors = [row["error"] for row in rows if "failure" not in row]
    print(
        f"{len(errors)} shrunk, {len(rows) - len(errors)} failed, "
        f"largest error {max(errors, default=float('nan')):.1e}"
    )


if __name__ == "__main__":
    main()
