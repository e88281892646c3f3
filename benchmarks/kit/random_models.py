"""Models with random weights: what goes into them, what comes out, and a step of training."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

import keras_hoyer as kh

LENGTHS, SIDES = (6, 9), (64, 96)  # of what a model leaves open: sequences, images
PATIENCE = 300  # seconds for a model


class TooSlow(Exception):
    """A model took more than `PATIENCE` seconds."""


def randomize(model: keras.Model, seed: int) -> None:
    """Weights as large as what keeps activations at one, and statistics and biases at random."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        shape = tuple(variable.shape)
        values = generator.normal(size=shape)
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        elif len(shape) < 2 or variable.name in ("gamma", "scale"):
            values = 0.3 * values + keras.ops.convert_to_numpy(variable)
        else:
            fan = np.prod(shape[:-1]) if shape[-1] > 1 else np.prod(shape[:-2])
            values = values / np.sqrt(max(fan, 1))
        variable.assign(values.astype("float32"))


def make_inputs(model: keras.Model, seed: int, batch: int, length: int, side: int) -> Any:
    """Inputs by the shapes that a model takes: numbers of tokens below its vocabulary, images."""
    generator = np.random.default_rng([seed, batch])

    def made(x: Any) -> np.ndarray:
        shape = [batch if i == 0 else n for i, n in enumerate(x.shape)]
        open_size = side if len(shape) == 4 else length
        if "siglip" in type(model).__name__.lower():
            open_size = 12  # its position table is added whole
        if x.name.startswith("encoder") and "moonshine" in type(model).__name__.lower():
            open_size = 500 * length  # samples of sound
        shape = [open_size if n is None else n for n in shape]
        if "mask" in x.name and "positions" not in x.name:
            return np.ones(shape, x.dtype)
        if "segment" in x.name:
            return generator.integers(0, 2, shape).astype(x.dtype)
        if "mask_positions" in x.name:
            return generator.integers(0, length, (batch, 2)).astype(x.dtype)
        if "indices" in x.name or "labels" in x.name:
            return np.zeros(shape, x.dtype)
        if keras.backend.is_float_dtype(x.dtype) and "token" not in x.name:
            return generator.normal(size=shape).astype(x.dtype)
        return generator.integers(1, 50, shape).astype(x.dtype)

    return tree.map_structure(made, model.input)


def outputs_of(model: keras.Model, batch: Any) -> list[np.ndarray]:
    """The outputs, in a flat list."""
    outputs = model(batch, training=False)
    return [keras.ops.convert_to_numpy(y) for y in tree.flatten(outputs)]


def train(model: keras.Model, inputs: Any, batch: Any, seed: int) -> None:
    """An epoch of one batch, towards numbers at random.

    What a task sets up for its own training is left out, and an output need not have an entry for
    each example: what is learned from is one number, the sum of all mean squared errors.
    """
    generator = np.random.default_rng(seed)
    errors = [
        ops.mean(ops.square(ops.cast(y, "float32") - generator.normal(size=x.shape)))
        for y, x in zip(tree.flatten(model(inputs)), outputs_of(model, batch), strict=True)
    ]
    trained = keras.Model(inputs, ops.reshape(sum(errors), (1, 1)))
    trained.compile(
        keras.optimizers.AdamW(1e-2), "mae", run_eagerly=keras.backend.backend() == "torch"
    )
    trained.train_on_batch(batch, np.zeros((1, 1), "float32"))


def values_of(model: keras.Model) -> list[np.ndarray]:
    """The weights that penalties and cuts concern."""
    return [
        keras.ops.convert_to_numpy(weight.variable) for weight in kh.weights.find_weights(model)
    ]


def zeros_of(model: keras.Model) -> list[np.ndarray]:
    """Where the zeros are that are held."""
    return [
        values == 0 if weight.is_kernel else np.zeros(values.shape, bool)
        for weight, values in zip(kh.weights.find_weights(model), values_of(model), strict=True)
    ]


def difference(one: list[np.ndarray], two: list[np.ndarray]) -> float:
    """The largest difference, as a share of the largest output where that is more than one."""
    pairs = [(x, y) for x, y in zip(one, two, strict=True) if x.size]
    return max(
        float(np.max(np.abs(x.astype("float64") - y)) / max(1.0, float(np.max(np.abs(x)))))
        for x, y in pairs
    )


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Stops what takes more than `PATIENCE` seconds."""

    def stop(*_: Any) -> None:
        raise TooSlow(f"more than {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
