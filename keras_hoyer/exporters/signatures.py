"""What goes into a model and what comes out of it, as flat lists of named arrays."""

import contextlib
import dataclasses
import inspect
import re
from typing import Any, NoReturn

import keras
import numpy as np

from keras_hoyer import _inputs
from keras_hoyer._data import samples_of
from keras_hoyer._keras import input_structure
from keras_hoyer._precision import HALF, computing_in
from keras_hoyer.exporters.results import ExportError

ARGUMENT = "representative_data"
CALIBRATION_SAMPLES = 500
CHECK_SAMPLES = 32
UNKNOWN_DIMENSION = 32  # what an unknown dimension other than the batch becomes in random inputs


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """One input array: `shape` has `None` where any size goes, the batch comes first."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Signature:
    """The flat inputs of a model and how they are packed into its call."""

    inputs: tuple[ModelInput, ...]
    structure: Any
    by_keyword: bool = False

    def call(self, model: keras.Model, arrays: list[Any]) -> tuple[list[str], list[Any]]:
        """Calls the model in inference mode; returns the flat outputs' names and tensors."""
        packed = keras.tree.pack_sequence_as(self.structure, list(arrays))
        if self.by_keyword:
            outputs = model(**packed, training=False)
        else:
            outputs = model(packed, training=False)
        flat = keras.tree.flatten(outputs)
        if isinstance(outputs, dict) and len(outputs) == len(flat):
            names = sorted(outputs)
        else:
            names = getattr(model, "output_names", None) or []
        if len(names) != len(flat):
            names = [f"output_{i}" for i in range(len(flat))]
        return _identifiers(names), flat

    def with_batch(self, batch: int) -> "Signature":
        """The same inputs with the batch size fixed."""
        fixed = tuple(dataclasses.replace(i, shape=(batch, *i.shape[1:])) for i in self.inputs)
        return dataclasses.replace(self, inputs=fixed)


# Of a file that is not run.
NO_INPUTS = Signature((), None)


def signature_of(model: keras.Model, data: Any = None) -> Signature:
    """Reads the inputs of a built model.

    Args:
        model: a built `keras.Model` of any kind.
        data: representative data or `None`. A subclassed model does not record the dtypes of its
            inputs; they are taken from here.

    Returns:
        The `Signature`, with an open batch size unless the model fixes it.
    """
    if isinstance(model, keras.Sequential):
        tensors, structure, by_keyword = [model.inputs[0]], model.inputs[0], False
    elif isinstance(model, keras.Model) and input_structure(model) is not None:
        tensors, structure, by_keyword = model.inputs, input_structure(model), False
    else:
        return _subclassed_signature(model, data)
    names = [
        f"input_{i}" if tensor.name.startswith("keras_tensor") else tensor.name
        for i, tensor in enumerate(tensors)
    ]
    names = _identifiers(names)
    inputs = tuple(
        ModelInput(name, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        for name, tensor in zip(names, tensors, strict=True)
    )
    return Signature(inputs, structure, by_keyword)


def _subclassed_signature(model: keras.Model, data: Any) -> Signature:
    shapes, by_keyword = _shapes_of_call(model, data)
    leaves: list[tuple[int | None, ...]] = []

    def numbered(shape: tuple[int | None, ...]) -> int:
        leaves.append((None, *shape[1:]))
        return len(leaves) - 1

    structure = _map_shapes(shapes, numbered)
    # Keras takes a dict in the order of its sorted keys.
    ordered = [leaves[number] for number in keras.tree.flatten(structure)]
    arrays = keras.tree.flatten(data) if data is not None else []
    dtypes = ["float32"] * len(ordered)
    if len(arrays) == len(ordered) and all(hasattr(array, "dtype") for array in arrays):
        dtypes = [keras.backend.standardize_dtype(array.dtype) for array in arrays]
    named = isinstance(structure, dict) and len(structure) == len(ordered)
    names = sorted(structure) if named else [f"input_{i}" for i in range(len(ordered))]
    inputs = tuple(
        ModelInput(name, shape, "float32" if dtype == "float64" else dtype)
        for name, shape, dtype in zip(_identifiers(names), ordered, dtypes, strict=True)
    )
    return Signature(inputs, structure, by_keyword)


def _shapes_of_call(model: keras.Model, data: Any) -> tuple[Any, bool]:
    """The shapes that a model was called on, nested as its inputs; and whether by keywords."""
    arguments = [
        name
        for name, parameter in inspect.signature(model.call).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name not in ("training", "mask")
    ]
    if len(arguments) > 1:
        # Keras records the shape of the first argument only.
        if not isinstance(data, dict) or sorted(data) != sorted(arguments):
            raise ValueError(
                "Invalid value for argument `representative_data`. Expected a dict of arrays with "
                f"the keys {arguments}, since `{type(model).__name__}.call` takes several "
                f"arguments and their shapes are not known. Received: {type(data).__name__}"
            )
        return {name: np.shape(data[name]) for name in arguments}, True
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that was called on data at "
            "least once, so that the shapes of its inputs are known. "
            f"Received: model={model!r}. Call it once on a batch of data first."
        )
    return shapes, False


def _map_shapes(shapes: Any, function: Any) -> Any:
    if isinstance(shapes, dict):
        return {key: _map_shapes(value, function) for key, value in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return function(tuple(shapes))
    return [_map_shapes(value, function) for value in shapes]


def _identifiers(names: list[str]) -> list[str]:
    """Names that every file format accepts, each once."""
    result: list[str] = []
    for name in names:
        name = re.sub(r"\W", "_", name)
        name = name if name[:1].isalpha() else f"x_{name}"
        unique, count = name, 1
        while unique in result:
            unique, count = f"{name}_{count}", count + 1
        result.append(unique)
    return result


def arrays_of(signature: Signature, data: Any) -> list[np.ndarray]:
    """Representative data as one array for each input, cast to the input's dtype.

    Args:
        signature: what the model takes.
        data: samples in any form that `_data.samples_of` reads; the first axis counts them.

    Returns:
        One array for each input, all with the same number of samples.

    Raises:
        ValueError: if number, shapes or contents do not fit.
    """
    shapes = [spec.shape for spec in signature.inputs]
    leaves = _leaves_of(signature, samples_of(data, shapes, ARGUMENT, CALIBRATION_SAMPLES))
    if len(leaves) != len(signature.inputs):
        _refuse(signature, f"{len(leaves)} arrays for {len(signature.inputs)} inputs")
    arrays = []
    for spec, leaf in zip(signature.inputs, leaves, strict=True):
        array = _array(leaf)
        if array is None:
            kind = type(leaf).__name__
            _refuse(signature, f"{kind} for the input {spec.name}, which is no array of numbers")
        fits = array.ndim == len(spec.shape) and all(
            size is None or size == actual
            for size, actual in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            _refuse(signature, f"an array of shape {array.shape} for the input {spec.name}")
        if not np.isfinite(array).all():
            _refuse(signature, f"NaN or infinite values for the input {spec.name}")
        arrays.append(array.astype(spec.dtype))
    counts = {len(array) for array in arrays}
    if len(counts) > 1 or min(counts) < (signature.inputs[0].shape[0] or 1):
        _refuse(signature, f"{sorted(counts)} samples")
    return arrays


def _leaves_of(signature: Signature, data: Any) -> list[Any]:
    """What was given for each input, whatever holds it."""
    names = [spec.name for spec in signature.inputs]
    if isinstance(data, dict):
        keyed = isinstance(signature.structure, dict)
        if sorted(data) != sorted(signature.structure if keyed else names):
            _refuse(signature, f"a dict with the keys {sorted(data)}")
        return list(keras.tree.flatten(data)) if keyed else [data[name] for name in names]
    return list(keras.tree.flatten(data))


def _refuse(signature: Signature, received: str) -> NoReturn:
    expected = ", ".join(f"{i.name}: {i.shape} {i.dtype}" for i in signature.inputs)
    raise ValueError(
        "Invalid value for argument `representative_data`. Expected samples for the inputs "
        f"of the model ({expected}) as an array, or a list or dict of arrays. "
        f"Received: {received}"
    )


def _array(value: Any) -> np.ndarray | None:
    """An array of numbers, or `None` if `value` is none."""
    try:
        value = keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value
        array = np.asarray(value)
    except (ValueError, TypeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def random_arrays(
    model: keras.Model | None, signature: Signature, samples: int
) -> list[np.ndarray]:
    """Random inputs of the right shapes and dtypes; those of an `Embedding` are valid indices."""
    specs = [(spec.shape, spec.dtype) for spec in signature.inputs]
    return _inputs.random_arrays(model, specs, samples, UNKNOWN_DIMENSION)


def calls_of(signature: Signature, arrays: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The calls a file is checked with: single samples and, where the batch is open, a batch."""
    fixed = signature.inputs[0].shape[0]
    samples = min(len(array) for array in arrays)
    if fixed is not None:
        starts = range(0, min(samples, CHECK_SAMPLES) // fixed * fixed or fixed, fixed)
        return [[array[start : start + fixed] for array in arrays] for start in starts]
    rows = np.linspace(0, samples - 1, min(samples, CHECK_SAMPLES)).astype(int)
    return [
        [array[rows[:1]] for array in arrays],
        [array[rows[-1:]] for array in arrays],
        [array[rows] for array in arrays],
    ]


def in_float32(model: keras.Model) -> contextlib.AbstractContextManager[None]:
    """Lets the layers of half precision compute in float32 for a while."""
    return computing_in("float32", model, HALF)


def call_all(
    model: keras.Model, signature: Signature, calls: list[list[np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """What the model answers to each call, computed in float32."""
    results = []
    with in_float32(model):
        for arrays in calls:
            tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
            names, outputs = signature.call(model, tensors)
            arrays = [keras.ops.convert_to_numpy(o) for o in outputs]
            results.append(dict(zip(names, arrays, strict=True)))
    return results


def outputs_of(
    model: keras.Model, signature: Signature, calls: list[list[np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """The model's own outputs for each call, computed in float32.

    Raises:
        ExportError: if the model cannot be called, or its outputs are not finite: there is nothing
            to compare a file with.
    """
    try:
        results = call_all(model, signature, calls)
    except Exception as error:
        raise ExportError(
            "outputs of the model",
            f"the model cannot be called on its inputs: {type(error).__name__}: {error}. Give "
            "`representative_data` if random inputs do not suit it.",
        ) from error
    for result in results:
        for name, array in result.items():
            if not np.isfinite(array).all():
                raise ExportError(
                    "outputs of the model",
                    f"the Keras model itself gives NaN or infinite values in its output `{name}`. "
                    "Give `representative_data` if random inputs do not suit it.",
                )
    return results


def compare(
    expected: list[dict[str, np.ndarray]], actual: list[dict[str, np.ndarray]]
) -> tuple[float | None, str | None]:
    """The largest error over all outputs, and what is wrong if none can be given.

    The error of an output is its largest difference divided by the largest expected value; of an
    output of integers, such as an argmax, it is the share of elements that differ.
    """
    worst = 0.0
    for name in expected[0]:
        scale = max(float(np.abs(call[name]).max(initial=0)) for call in expected) or 1.0
        for call, (want, got) in enumerate(zip(expected, actual, strict=True)):
            if name not in got:
                return None, f"the output {name} is missing"
            if want[name].shape != got[name].shape:
                return None, (
                    f"the output {name} of call {call} has the shape {got[name].shape}, "
                    f"not {want[name].shape}"
                )
            if not np.isfinite(got[name]).all():
                return None, f"the output {name} holds NaN or infinite values"
            if want[name].dtype.kind in "biu":
                error = float(np.mean(want[name] != got[name])) if want[name].size else 0.0
            else:
                difference = got[name].astype("float64") - want[name].astype("float64")
                error = float(np.abs(difference).max(initial=0)) / scale
            worst = max(worst, error)
    return worst, None
