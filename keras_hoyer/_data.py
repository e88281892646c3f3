"""Samples of a user's data, in whatever form Keras or TFLite takes them: the one reader of them."""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import keras
import numpy as np
from keras import tree

_EXPECTED = (
    "Expected an array of samples, a list or dict of arrays for several inputs, a pair `(x, y)` of "
    "these, or batches of them: a `tf.data.Dataset`, a `PyDataset`, a `DataLoader`, or a function "
    "that returns a generator."
)

Shapes = Sequence[Sequence[int | None]]


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
        ValueError: If the data are of no such kind, do not fit the model's inputs, are of unequal
            lengths, or there are none.
    """
    if most is None and _is_endless(data):
        raise ValueError(
            f"Invalid value for argument `batches`. Expected a number, since `data` has no end: "
            f"{type(data).__name__}. Received: batches=None"
        )
    shapes = shapes_of(model)
    reader = _Reader(shapes, "data")
    reader.check(data)
    if reader.is_whole(data):
        fixed = shapes[0][0] if shapes and shapes[0] else None
        batches = reader.slices(reader.unpack(data, isinstance(data, tuple)), size, fixed)
    else:
        batches = reader.stream(data)
    for batch in itertools.islice(batches, most):
        reader.check_fit(batch.x)
        yield batch


def samples_of(data: Any, shapes: Shapes, argument: str, most: int = 500) -> Any:
    """Reads the inputs of samples as whole arrays, nested as the data have them.

    Args:
        data: Arrays, which are taken as they are; or something that gives batches, of which as many
            are read as it takes for `most` samples.
        shapes: Shapes of the model's inputs, their batch axis included; empty if not known.
        argument: What messages call the data.
        most: Number of samples after which no further batch is read.

    Raises:
        ValueError: If the data are of no such kind, batches do not fit together or the inputs, or
            there are none.
    """
    reader = _Reader(shapes, argument)
    reader.check(data)
    if reader.is_whole(data):
        return reader.unpack(data, isinstance(data, tuple)).x
    found: list[Any] = []
    count = 0
    for batch in reader.stream(data):
        reader.check_fit(batch.x)
        found.append(batch.x)
        count += batch.size
        if count >= most:
            break
    try:
        return tree.map_structure(lambda *arrays: np.concatenate(arrays), *found)
    except (ValueError, TypeError):
        kinds = dict.fromkeys(str(tree.map_structure(lambda a: a.shape[1:], x)) for x in found)
        reader.refuse(f"batches with samples of different shapes: {', '.join(kinds)}")


def shapes_of(model: keras.Model) -> Shapes:
    """Shapes of a model's inputs, their batch axis included; empty if it does not say."""
    return [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or []]


def count_batches(data: Any, size: int = 32, most: int | None = None) -> int | None:
    """How many batches `batches_of` will give, if that can be told before they are read."""
    arrays = [leaf for leaf in tree.flatten(data) if _is_array(leaf)]
    count: int | None = None
    if arrays:
        count = -(-arrays[0].shape[0] // size)
    elif isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
    elif callable(getattr(data, "cardinality", None)):
        count = max(0, int(data.cardinality())) or None  # below 0 if it is not known
    elif hasattr(data, "__len__") and not isinstance(data, (list, tuple, dict)):
        count = len(data)
    return min((number for number in (count, most) if number is not None), default=None)


def call_on(model: keras.Model, x: Any) -> Any:
    """Calls a model on the inputs of a batch, in inference mode."""
    if isinstance(x, dict) and not getattr(model, "inputs", None) and _takes_several(model):
        return model(**x, training=False)
    return model(x, training=False)


def check_data(data: Any) -> None:
    """Raises a `ValueError` if data are of no kind that can be read; reads none of them."""
    _Reader((), "data").check(data)


class _Reader:
    """Reads data for inputs of known shapes.

    Args:
        shapes: Shapes of the inputs, their batch axis included; empty if not known.
        argument: What messages call the data.
    """

    def __init__(self, shapes: Shapes, argument: str) -> None:
        self._shapes = shapes
        self._argument = argument

    def refuse(self, received: str, advice: str = "", cause: Exception | None = None) -> NoReturn:
        """Raises the error that says what can be read."""
        expected = f"{_EXPECTED} {advice}".rstrip()
        raise ValueError(
            f"Invalid value for argument `{self._argument}`. {expected} Received: {received}"
        ) from cause

    def check(self, data: Any) -> None:
        """Raises if data are of no kind that can be read; reads none of them."""
        if isinstance(data, (tuple, list, dict)):
            leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
            numbers = all(isinstance(leaf, (int, float)) for leaf in leaves)
            valid = bool(leaves) and (numbers or all(map(_is_array, leaves)))
        else:
            readable = isinstance(data, (keras.utils.PyDataset, Iterable)) or callable(data)
            valid = _is_array(data) or (readable and not isinstance(data, (str, bytes)))
        if not valid:
            self.refuse(type(data).__name__)

    def is_whole(self, data: Any) -> bool:
        """Whether data are arrays, and nothing that gives batches."""
        return isinstance(data, (tuple, list, dict)) or _is_array(data)

    def stream(self, data: Any) -> Iterator[Batch]:
        """The batches that data give."""
        # PyTorch's loaders give lists where all others give tuples.
        lists = any(base.__module__.startswith("torch.") for base in type(data).__mro__)
        if callable(data) and not isinstance(data, (Iterable, keras.utils.PyDataset)):
            data = data()
        if isinstance(data, keras.utils.PyDataset):
            count = data.num_batches
            data = map(data.__getitem__, itertools.count() if count is None else range(count))
        if not isinstance(data, Iterable):
            self.refuse(f"a function that returns {type(data).__name__}")
        empty = True
        for batch in data:
            empty = False
            yield self.unpack(batch, isinstance(batch, tuple) or (lists and type(batch) is list))
        if empty:
            raise ValueError(
                f"Invalid value for argument `{self._argument}`. It gave no batch. A generator can "
                "be read once only, also where data are read anew for each cut: give a function "
                "that returns a generator, or a dataset."
            )

    def unpack(self, data: Any, is_tuple: bool) -> Batch:
        """Inputs, labels and weights.

        Args:
            data: A tuple of them, or inputs alone.
            is_tuple: Whether it is such a tuple, unless it has an array for each of several inputs.
        """
        inputs = len(self._shapes)
        if is_tuple and not (inputs > 1 and len(data) == inputs and all(map(_is_array, data))):
            parts = tuple(data)
        else:
            parts = (data,)
        if not 1 <= len(parts) <= 3:
            self.refuse(f"a tuple of {len(parts)}")
        x = parts[0]
        if inputs == 1 and isinstance(x, list) and x and all(map(_is_array, x)):
            x = self._single(x)
        return Batch(*(None if part is None else self._to_numpy(part) for part in (x, *parts[1:])))

    def check_fit(self, x: Any) -> None:
        """Raises if the arrays of a batch cannot be those of the inputs."""
        arrays = tree.flatten(x)
        if len(arrays) != len(self._shapes) or isinstance(x, dict):
            return  # by which name an array goes is up to the model
        for array, shape in zip(arrays, self._shapes, strict=True):
            # Keras adds and takes a last axis of one.
            same = len(_without_last_one(array.shape)) == len(_without_last_one(shape))
            if array.ndim == len(shape) or same:
                continue
            advice = ""
            if array.ndim == len(shape) - 1:
                advice = "Batches have an axis of samples in front: `dataset.batch(32)` adds it."
            self.refuse(f"a batch of shape {array.shape} for an input of shape {shape}", advice)

    def slices(self, batch: Batch, size: int, fixed: int | None) -> Iterator[Batch]:
        """Batches of `size` samples; all of `fixed` where a model takes no others."""
        lengths = {len(array) for array in tree.flatten(tuple(p for p in batch if p is not None))}
        if len(lengths) != 1:
            raise ValueError(
                f"Invalid value for argument `{self._argument}`. Expected arrays of as many "
                f"samples each. Received: arrays of {sorted(lengths)} samples"
            )
        (length,) = lengths
        size = fixed or size
        if length < (fixed or 1):
            raise ValueError(
                f"Invalid value for argument `{self._argument}`. Expected {fixed or 1} samples or "
                f"more, which is what the model takes at a time. Received: {length} samples"
            )
        for start in range(0, length - (size - 1 if fixed else 0), size):
            yield Batch(*(_slice(part, start, start + size) for part in batch))

    def _single(self, arrays: list[Any]) -> Any:
        """The array of a single input from a list: of that array, or of samples."""
        [shape] = self._shapes
        stacked = {(len(arrays), *array.shape) for array in arrays}
        if len(stacked) == 1 and _fits(stacked.pop(), shape):
            return np.stack([self._array(array) for array in arrays])
        if len(arrays) == 1:
            return arrays[0]
        self.refuse(
            f"a list of {len(arrays)} arrays for one input",
            "A pair of samples and labels is a tuple.",
        )

    def _to_numpy(self, part: Any) -> Any:
        if isinstance(part, dict):
            return {key: self._to_numpy(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)) and any(map(_is_array, tree.flatten(part))):
            return [self._to_numpy(value) for value in part]
        return self._array(part)

    def _array(self, value: Any) -> np.ndarray:
        value = value.detach().cpu() if hasattr(value, "detach") else value
        try:
            is_tensor = keras.ops.is_tensor(value)
            array = keras.ops.convert_to_numpy(value) if is_tensor else np.asarray(value)
        except (ValueError, TypeError) as error:
            self.refuse(f"{type(value).__name__}, which is no array ({error})", cause=error)
        if array.ndim == 0:
            self.refuse(f"{type(value).__name__} in place of an array")
        return array


def _slice(part: Any, start: int, end: int) -> Any:
    return None if part is None else tree.map_structure(lambda array: array[start:end], part)


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    pairs = zip(shape[1:], wanted[1:], strict=False)
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in pairs)


def _without_last_one(shape: Sequence[int | None]) -> Sequence[int | None]:
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape


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
