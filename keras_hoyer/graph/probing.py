"""What can be known of a function by running it: whether it works on each element alone."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer.graph.axes import Axis, Tensor


def works_on_each_element(function: Callable[..., Any], shape: Iterable[int]) -> bool:
    """Whether each output depends on the input at its own place alone, and on no place.

    It is run on numbers of many sizes: in the shape, in another order, as one column, and with
    most of them replaced. Functions that only look so on some numbers, such as a running sum,
    a sort, or a threshold on a mean, differ in one of these.

    Args:
        function: from a tensor to a tensor.
        shape: of the numbers, all sizes two or more, so that no axis is passed over.
    """
    shape = tuple(shape)
    size = int(np.prod(shape))
    rng = np.random.default_rng(0)
    order = rng.permutation(size)
    try:
        # Keras warns of a softmax over the one column.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for values in (_numbers(rng, size, -3, 2), _numbers(rng, size, -4, -1)):
                whole = _run(function, values, shape)
                if not _same(_run(function, values[order], shape), whole[order]):
                    return False
                if not _same(_run(function, values, (size, 1)), whole):
                    return False
                for kept, changed in _changed(rng, values):
                    if not _same(_run(function, changed, shape)[kept], whole[kept]):
                        return False
    except Exception:  # whatever a foreign function raises, it is not a known one
        return False
    return True


def probe_shape(x: Tensor | None) -> tuple[int, ...]:
    """A small shape of the tensor's rank, with its own sizes where it has channels."""
    if x is None:
        return (5, 3, 4)
    sizes = [n if axis is not None else min(n or 3, 3) for n, axis in _pairs(x)]
    return tuple(max(n or 3, 2) for n in (5, *sizes[1:]))


def function_key(operation: Any, arguments: Any) -> tuple[Any, ...]:
    """Tells functions apart; layers and operations of Keras that are configured alike are one."""
    key = (id(operation), repr(arguments))
    own = not type(operation).__module__.startswith("keras.")
    if own or isinstance(operation, keras.layers.Lambda) or not hasattr(operation, "get_config"):
        return key
    try:
        config = {k: v for k, v in operation.get_config().items() if k != "name"}
    except Exception:
        return key
    plain = (str, int, float, bool, type(None))
    if not all(isinstance(leaf, plain) for leaf in tree.flatten(config)):
        return key  # an array's `repr` leaves out what is in it
    return (type(operation), repr(config), repr(arguments))


def _sample(x: Tensor, dtype: str, rng: np.random.Generator) -> Any:
    """Random values for a tensor, its constants where it has them."""
    shape = [n or 2 for n in x.shape]
    if dtype == "bool":
        return ops.convert_to_tensor(rng.random(shape) < 0.5)
    if not keras.backend.is_float_dtype(dtype):
        return ops.convert_to_tensor(rng.integers(0, 2, shape).astype(dtype))
    values = rng.normal(size=shape).astype("float32")
    for index, axis in enumerate(x.axes):
        if axis is not None:
            known = ~np.isnan(axis.constants)
            np.moveaxis(values, index, -1)[..., known] = axis.constants[known]
    return ops.convert_to_tensor(values, dtype=dtype)


def probed_constants(
    operation: Any,
    written: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: Sequence[Tensor],
) -> list[Tensor]:
    """Finds by running a layer which channels stay constant under a rule that does not say so.

    Args:
        operation: the layer, or None if constants are not followed.
        written: the arguments as they were written, or None if these are not known.
        args: the arguments, with a `Tensor` for each tensor.
        kwargs: the same by name.
        outputs: what the rule returned.
    """
    constant = {
        label
        for x in tree.flatten((args, kwargs))
        if isinstance(x, Tensor)
        for axis in x.labelled
        for label in axis.labels[~np.isnan(axis.constants)]
    }
    draws: list[list[np.ndarray]] = []
    if operation is not None and constant:
        draws = [_drawn(operation, written, args, kwargs, seed) for seed in range(3)]
    labels = list(constant)
    probed = []
    for number, x in enumerate(outputs):
        axes = []
        for index, axis in enumerate(x.axes):
            values: np.ndarray | float = np.nan
            if axis is not None and draws:
                parts = [np.moveaxis(d[number], index, 0).reshape(len(axis), -1) for d in draws]
                rows = np.concatenate(parts, axis=1)
                still = (np.ptp(rows, axis=1) == 0) & np.isin(axis.labels, labels)
                values = np.where(still, rows[:, 0], np.nan)
            axes.append(axis if axis is None else axis.having(values))
        probed.append(Tensor(x.shape, axes))
    return probed


def _drawn(
    operation: Any, written: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int
) -> list[np.ndarray]:
    """The outputs of a layer on random values for its tensors."""
    given = tree.flatten((args, kwargs))
    references = [None] * len(given)
    if written is not None:
        references = tree.flatten((written.args, written.kwargs))
    dtypes = [getattr(reference, "dtype", "float32") for reference in references]
    rng = np.random.default_rng(seed)
    values = [
        _sample(x, dtype, rng) if isinstance(x, Tensor) else x
        for x, dtype in zip(given, dtypes, strict=True)
    ]
    drawn_args, drawn_kwargs = tree.pack_sequence_as((args, kwargs), values)
    results = operation(*drawn_args, **drawn_kwargs)
    return [ops.convert_to_numpy(y) for y in tree.flatten(results)]


def _pairs(x: Tensor) -> Iterator[tuple[int | None, Axis | None]]:
    return zip(x.shape, x.axes, strict=True)


def _numbers(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """Numbers of both signs, between these powers of ten, with zeros and repetitions among them."""
    values = rng.choice([-1.0, 1.0], count) * 10 ** rng.uniform(low, high, count)
    special = rng.random(count) < 0.2
    values[special] = 10**high * rng.integers(-1, 2, special.sum())
    return values.astype("float32")


def _changed(
    rng: np.random.Generator, values: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which of the values are kept, two or a quarter of them, and all with the others replaced."""
    for share in (0, 0.25):
        kept = rng.random(values.size) < share
        kept[rng.choice(values.size, 2)] = True
        for others in (np.abs(values) * 3 + 1, -1e4, 1e4, 0):
            yield kept, np.where(kept, values, others).astype("float32")


def _run(function: Callable[..., Any], values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    result = function(ops.convert_to_tensor(values.reshape(shape)))
    if not ops.is_tensor(result) or tuple(result.shape) != shape:
        raise ValueError("The result is no tensor of the shape of the input.")
    found: np.ndarray = ops.convert_to_numpy(result).reshape(-1)
    return found


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    if one.dtype.kind != "f":
        return bool((one == two).all())
    return np.allclose(one, two, rtol=1e-4, atol=1e-6, equal_nan=True)
