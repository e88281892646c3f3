"""Random inputs for a model."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_hoyer._keras import all_of, nodes_into

_TABLES = (keras.layers.Embedding, keras.layers.CategoryEncoding)


def random_arrays(
    model: keras.Model | None,
    specs: Sequence[tuple[tuple[int | None, ...], str]],
    samples: int,
    unknown: int = 32,
    limit: int | None = None,
) -> list[np.ndarray]:
    """Random inputs of the right shapes and dtypes; those of an `Embedding` are valid indices.

    Args:
        model: A model with these inputs, whose tables bound the integers; or None.
        specs: Shape and dtype of each input.
        samples: Size of an open batch axis.
        unknown: Size of every other open axis.
        limit: Integers are below it, and below 10 where no table is known.
    """
    rng = np.random.default_rng(0)
    limits = [
        getattr(layer, "input_dim", None) or getattr(layer, "num_tokens", None) or 10
        for layer in (all_of(model) if model else [])
        if isinstance(layer, _TABLES)
    ]
    bound = min([*(limits or [10]), *([] if limit is None else [limit])])
    indexed = _inputs_of_tables(model, len(specs)) if limits else set()
    arrays: list[np.ndarray] = []
    for number, (sizes, dtype) in enumerate(specs):
        batch = [size or samples for size in sizes[:1]]
        shape = (*batch, *(unknown if size is None else size for size in sizes[1:]))
        array: np.ndarray
        if dtype == "bool":
            array = rng.integers(0, 2, shape)
        elif number in indexed or "int" in dtype:
            array = rng.integers(0, bound, shape)
        else:
            array = rng.standard_normal(shape)
        arrays.append(np.asarray(array).astype(dtype))
    return arrays


def _inputs_of_tables(model: keras.Model, count: int) -> set[int]:
    """Numbers of the inputs that a table reads; all, where the graph is not known."""
    tensors = [] if isinstance(model, keras.Sequential) else getattr(model, "inputs", None) or []
    if len(tensors) != count:
        return set(range(count))
    numbers = {id(tensor): i for i, tensor in enumerate(tensors)}
    indexed = set()
    for operation in model.operations:
        if isinstance(operation, keras.Layer) and any(
            isinstance(layer, _TABLES) for layer in all_of(operation)
        ):
            for node in nodes_into(operation):
                indexed |= {numbers[id(t)] for t in node.input_tensors if id(t) in numbers}
    return indexed
