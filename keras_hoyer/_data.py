"""Batches of a user's data, in whatever form Keras or `export` takes them."""

import inspect
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

_HINT = (
    "Expected an array of samples, a list or dict of arrays for several inputs, a pair `(x, y)` of "
    "these, or batches of them: a `tf.data.Dataset`, a `PyDataset`, a `DataLoader`, or a function "
    "that returns a generator."
)


class Batch(NamedTuple):
    """Some samples; `y` and `weights` are `None` where the data have none."""

    x: Any
    y: Any = None
    weights: Any = None

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(tree.flatten(self.x)[0])


def batches_of(
    model: keras.Model, data: Any, size: int = 32, most: int | None = None
) -> Iterator[Batch]:
    """Reads data batch by batch, as NumPy arrays.

    Args:
        model: The model that they are for.
        data: Arrays, or something that gives batches.
        size: Number of samples of a batch, where the data are arrays and the model leaves it open.
        most: Number of batches at most. Defaults to all.

    Raises:
        ValueError: If the data are of no such kind, of unequal lengths, or there are none.
    """
    if most is None and _is_endless(data):
        raise ValueError(
            f"Invalid value for argument `batches`. Expected a number, since `data` has no end: "
            f"{type(data).__name__}. Received: batches=None"
        )
    number = -1
    for number, batch in enumerate(_all_batches(model, data, size)):
        if number == most:
            break
        yield batch
    if number < 0:
        raise ValueError(
            "The data gave no batch. A generator can be read once only, and is read anew for each "
            "cut: give a function that returns a generator, or a dataset."
        )


def call_on(model: keras.Model, x: Any) -> Any:
    """Calls a model on the inputs of a batch, in inference mode."""
    if isinstance(x, dict) and not getattr(model, "inputs", None) and _takes_several(model):
        return model(**x, training=False)
    return model(x, training=False)


def check_data(data: Any) -> None:
    """Raises a `ValueError` if data are of no kind that can be read; reads none of them."""
    if isinstance(data, (tuple, list, dict)):
        leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
        numbers = all(isinstance(leaf, (int, float)) for leaf in leaves)
        valid = bool(leaves) and (numbers or all(map(_is_array, leaves)))
    else:
        readable = isinstance(data, (keras.utils.PyDataset, Iterable)) or callable(data)
        valid = _is_array(data) or (readable and not isinstance(data, (str, bytes)))
    if not valid:
        raise ValueError(
            f"Invalid value for argument `data`. {_HINT} Received: {type(data).__name__}"
        )


def _all_batches(model: keras.Model, data: Any, size: int) -> Iterator[Batch]:
    check_data(data)
    if callable(data) and not isinstance(data, (Iterable, keras.utils.PyDataset)):
        data = data()
    if isinstance(data, (tuple, list, dict)) or _is_array(data):
        inputs = getattr(model, "inputs", None) or []
        fixed = inputs[0].shape[0] if inputs and inputs[0].shape else None
        yield from _slices(_unpack(data, len(inputs), isinstance(data, tuple)), size, fixed)
        return
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        data = map(data.__getitem__, itertools.count() if count is None else range(count))
    # PyTorch's loaders give lists where all others give tuples.
    lists = type(data).__module__.startswith("torch.")
    for batch in data:
        pair = isinstance(batch, tuple) or (lists and isinstance(batch, list))
        yield _unpack(batch, 0, pair)


def _unpack(data: Any, inputs: int, is_tuple: bool) -> Batch:
    """Inputs, labels and weights.

    Args:
        data: A tuple of them, or inputs alone.
        inputs: Number of the model's inputs, 0 if it is not known.
        is_tuple: Whether `data` is such a tuple, unless it has an array for each of several inputs.
    """
    if is_tuple and not (inputs > 1 and len(data) == inputs and all(map(_is_array, data))):
        parts = tuple(data)
    else:
        parts = (data,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            f"Invalid value for argument `data`. {_HINT} Received: a tuple of {len(parts)}"
        )
    x = parts[0]
    if inputs == 1 and isinstance(x, list) and all(map(_is_array, x)):
        if len(x) > 1:
            raise ValueError(
                f"Invalid value for argument `data`. {_HINT} A pair of samples and labels is a "
                f"tuple. Received: a list of {len(x)} arrays for one input"
            )
        parts = (x[0], *parts[1:])
    return Batch(*(None if part is None else _to_numpy(part) for part in parts))


def _slices(batch: Batch, size: int, fixed: int | None) -> Iterator[Batch]:
    """Batches of `size` samples; all of `fixed` where a model takes no others."""
    lengths = {len(array) for array in tree.flatten(tuple(p for p in batch if p is not None))}
    if len(lengths) != 1:
        raise ValueError(
            "Invalid value for argument `data`. Expected arrays of as many samples each. Received: "
            f"arrays of {sorted(lengths)} samples"
        )
    (length,) = lengths
    size = fixed or size
    if length < (fixed or 1):
        raise ValueError(
            f"Invalid value for argument `data`. Expected {fixed or 1} samples or more, which is "
            f"what the model takes at a time. Received: {length} samples"
        )
    for start in range(0, length - (size - 1 if fixed else 0), size):
        yield Batch(*(_slice(part, start, start + size) for part in batch))


def _slice(part: Any, start: int, end: int) -> Any:
    return None if part is None else tree.map_structure(lambda array: array[start:end], part)


def _to_numpy(part: Any) -> Any:
    if isinstance(part, list) and part and not any(map(_is_array, tree.flatten(part))):
        return np.asarray(part)  # nested lists of numbers
    return tree.map_structure(_array, part)


def _array(value: Any) -> np.ndarray:
    value = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "__array__")


def _is_endless(data: Any) -> bool:
    """Whether it is known that data never end; of a generator it is not."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    cardinality = getattr(data, "cardinality", None)  # of a `tf.data.Dataset`, -1 if infinite
    return callable(cardinality) and int(cardinality()) == -1


def _takes_several(model: keras.Model) -> bool:
    parameters = inspect.signature(model.call).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return len([name for name in needed if name not in ("training", "mask")]) > 1
