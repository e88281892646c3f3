"""The check that a smaller model gives the outputs of the one that it was made from."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer._checks import warn
from keras_hoyer._inputs import random_arrays
from keras_hoyer._keras import input_structure, seed_generators
from keras_hoyer._precision import computing_in
from keras_hoyer.graph.building import Builder
from keras_hoyer.graph.errors import ShrinkError
from keras_hoyer.graph.opening import (
    as_function,
    call_on,
    has_graph,
    nodes_in_order,
    ranked_inputs,
)

SAMPLES = 3
TOLERANCE = 1e-4  # of the largest output: what float32 makes of ordinary networks
ROOM = 8  # how much more than the same rounding elsewhere the rounding in other sums may do
DRAWS = 3

Arrays = list[np.ndarray]


def check_outputs(
    model: keras.Model, small: keras.Model, builders: Sequence[Builder], sample: Any
) -> None:
    """Runs both models on the same inputs and compares what they give.

    What differs by more than float32 mostly makes is run again in float64, and judged against what
    a change of the last digit of weights and inputs does to the model itself.

    Args:
        model: the model.
        small: the smaller one.
        builders: the steps from the one to the other.
        sample: a batch of inputs, or None for random ones.

    Raises:
        ShrinkError: if they differ; it names the first layer whose outputs do.
        ValueError: if the model cannot be called on `sample`.
    """
    function = builders[0].graph.function
    inputs, expected = _inputs(model, function, sample)
    if inputs is None:
        return
    try:
        found = _run(small, inputs)
    except Exception as error:
        raise ShrinkError(
            f"The smaller model of '{model.name}' cannot be called: {type(error).__name__}: {error}"
        ) from error
    if _difference(expected, found) <= TOLERANCE:
        return
    try:
        with computing_in("float64", model), computing_in("float64", small):
            verdict = _judge((model, small), inputs)
            first = _first_difference(builders, inputs) if verdict else ""
    except Exception:  # an operation or a device without float64
        verdict = _judge((model, small), inputs)
        first = _first_difference(builders, inputs) if verdict else ""
    if verdict is None:
        warn(
            f"The smaller model of '{model.name}' was not checked, since the model gives other "
            "outputs each time that it is called on the same inputs."
        )
    elif verdict:
        raise ShrinkError(
            f"The smaller model gives other outputs than the model '{model.name}': {verdict}. "
            f"{first} No model is handed over. A rule that is wrong for this layer, or a layer "
            "whose config is, can be the cause; `check=False` hands the smaller model over."
        )


def _inputs(model: keras.Model, function: Any, sample: Any) -> tuple[Arrays | None, Arrays]:
    """The inputs of the check as a flat list, and what the model gives for them."""
    if sample is not None:
        inputs = _sampled(function, sample)
        try:
            return inputs, _run(model, inputs)
        except Exception as error:
            raise ValueError(
                "Invalid value for argument `sample`. Expected a batch of inputs that the model "
                f"can be called on. Calling it raised {type(error).__name__}: {error}"
            ) from error
    specs = [
        (tuple(x.shape), keras.backend.standardize_dtype(x.dtype) if x.dtype else "float32")
        for x in function.inputs
    ]
    reason = "its inputs are strings"
    if not any(dtype == "string" for _, dtype in specs):
        open_axes = any(size is None for shape, _ in specs for size in shape[1:])
        # A net of images may need more than the steps of a sequence, and a table have fewer rows.
        tries = [(n, None) for n in ((32, 8, 4, 128, 256) if open_axes else (32,))]
        for unknown, limit in (*tries, (32, 2), (8, 2)):
            inputs = random_arrays(function, specs, SAMPLES, unknown, limit)
            try:
                return inputs, _run(model, inputs)
            except Exception as error:  # whatever the model makes of inputs that do not suit it
                reason = f"calling it on random inputs raised {type(error).__name__}: {error}"
    warn(
        f"The smaller model of '{model.name}' was not checked, since {reason}. Give `sample`, a "
        "batch of inputs, to have it checked, or `check=False`."
    )
    return None, []


def _sampled(function: Any, sample: Any) -> Arrays:
    """The sample as one array for each input."""
    if isinstance(sample, dict) and not isinstance(input_structure(function), dict):
        names = [x.name for x in function.inputs]
        leaves = [sample[name] for name in names] if sorted(names) == sorted(sample) else []
        leaves = leaves or tree.flatten(sample)
    else:
        ranks = [len(x.shape) for x in function.inputs]
        whole = not isinstance(sample, (list, tuple)) or [np.ndim(a) for a in sample] != ranks
        leaves = [sample] if whole and len(ranks) == 1 and not isinstance(sample, dict) else []
        leaves = leaves or tree.flatten(sample)
    if len(leaves) != len(function.inputs):
        raise ValueError(
            f"Invalid value for argument `sample`. Expected {len(function.inputs)} arrays, one for "
            f"each input of the model. Received: {len(leaves)}"
        )
    arrays = []
    for x, leaf in zip(function.inputs, leaves, strict=True):
        array = ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else np.asarray(leaf)
        count = x.shape[0] or 32
        arrays.append(array[:count] if array.dtype.kind in "OSU" else array[:count].astype(x.dtype))
    return arrays


def _run(model: keras.Model, inputs: Arrays) -> Arrays:
    """The flat outputs of a model, which stays as it is.

    Args:
        model: the model to call.
        inputs: the flat inputs.
    """
    if keras.backend.backend() == "jax":
        # Each operation would be compiled by itself, which takes about ten times as long.
        with contextlib.suppress(Exception):  # a layer that looks at values is run as it stands
            return _run_compiled(model, inputs)
    with keras.StatelessScope():
        return _arrays(call_on(model, _tensors(inputs)))


def _run_compiled(model: keras.Model, inputs: Arrays) -> Arrays:
    """The same on JAX, as one function of the values of all variables and the inputs."""
    import jax  # noqa: PLC0415  (only where it is the backend)

    def outputs(values: list[Any], tensors: list[Any]) -> list[Any]:
        with keras.StatelessScope(zip(model.variables, values, strict=True)):
            flat: list[Any] = tree.flatten(call_on(model, tensors))
            return flat

    values = [variable.value for variable in model.variables]
    return _arrays(jax.jit(outputs)(values, _tensors(inputs)))


def _judge(models: tuple[keras.Model, keras.Model], inputs: Arrays) -> str | None:
    """What is wrong, "" if nothing is; None if the outputs of the model are random."""
    model = models[0]
    expected, found = (_run_calls(each, inputs) for each in models)
    error = _difference(expected, found)
    if error <= TOLERANCE:
        return ""
    seeds = [generator.state for generator in seed_generators(model)]
    others = [(seed, ops.convert_to_numpy(seed) + 1) for seed in seeds]
    if _difference(expected, _run_calls(model, inputs, others)) > TOLERANCE:
        return None
    noise = 0.0
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        weights = [(v, _last_digit(v, rng)) for v in model.weights if "float" in v.dtype]
        moved = [_last_digit(x, rng) if x.dtype.kind == "f" else x for x in inputs]
        noise = max(noise, _difference(expected, _run_calls(model, moved, weights)))
    if error <= ROOM * noise:
        return ""
    return f"they differ by {error:.1e} of the largest; rounding alone makes {noise:.1e}"


def _last_digit(array: Any, rng: np.random.Generator) -> np.ndarray:
    """The array with each number a last digit larger or smaller."""
    dtype = keras.backend.standardize_dtype(array.dtype)
    step = 2.0 ** -{"float16": 10, "bfloat16": 7, "float64": 52}.get(dtype, 23)
    values = ops.convert_to_numpy(array).astype("float64")
    values *= 1 + step * rng.choice([-1, 1], values.shape)
    moved: np.ndarray = values if dtype == "float64" else values.astype("float32")
    return moved


def _run_calls(model: keras.Model, inputs: Arrays, state: Any = None) -> Arrays:
    """The flat outputs, each call of the graph made by itself, with other values of variables.

    So nothing casts what goes from one layer to the next, as a nested model does.
    """
    with keras.StatelessScope(state):
        return _arrays(_follow(as_function(model), _tensors(inputs)))


def _follow(function: Any, inputs: Sequence[Any]) -> list[Any]:
    values = dict(zip(map(id, function.inputs), inputs, strict=True))
    for node in nodes_in_order(function):
        args, kwargs = node.arguments.fill_in(values)
        outputs = _result(node.operation, args, kwargs)
        values.update(zip(map(id, node.outputs), outputs, strict=True))
    return [values[id(x)] for x in function.outputs]


def _result(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The flat outputs of a call in inference."""
    if isinstance(operation, keras.Model) and has_graph(operation):
        function = as_function(operation)
        return _follow(function, ranked_inputs(function, args, kwargs))
    if "training" in getattr(operation, "call_signature_parameters", ()):
        kwargs = {**kwargs, "training": False}
    flat: list[Any] = tree.flatten(operation(*args, **kwargs))
    return flat


def _first_difference(builders: Sequence[Builder], inputs: Arrays) -> str:
    """A sentence that names the first layer whose outputs differ, "" if none is found."""
    for builder in builders:
        if builder.plan.whole is not None:
            continue
        with keras.StatelessScope():
            tensors = _tensors(inputs)
            name = _differing(builder, builder.graph.function, tensors, tensors)
        if name:
            return f"The first layer whose outputs differ is {name}."
    return ""


def _differing(
    builder: Builder, function: Any, inputs: Sequence[Any], new_inputs: Sequence[Any]
) -> str | None:
    """The first call of a graph whose outputs differ from those of its new call."""
    old = dict(zip(map(id, function.inputs), inputs, strict=True))
    given, steps = builder.steps[id(function)]
    new = dict(zip(map(id, given), new_inputs, strict=True))

    def filled(x: Any) -> Any:
        return new.get(id(x), x) if isinstance(x, keras.KerasTensor) else x

    for node, operation, args, kwargs, results in steps:
        before = node.arguments.fill_in(old)
        after = tree.map_structure(filled, (args, kwargs))
        outputs, new_outputs = _result(node.operation, *before), _result(operation, *after)
        for reference, one, two in zip(node.outputs, outputs, new_outputs, strict=True):
            [one, two] = _arrays([one, two])
            for index, axis in enumerate(builder.graph.tensors[id(reference)].axes):
                if axis is not None:
                    one = one.compress(builder.kept(axis), axis=index)
            if _difference([one], [two]) > TOLERANCE:
                inner = None
                if isinstance(node.operation, keras.Model) and has_graph(node.operation):
                    graphs = (as_function(x) for x in (node.operation, operation))
                    parts = map(ranked_inputs, graphs, *zip(before, after, strict=True))
                    inner = _differing(builder, as_function(node.operation), *parts)
                return inner or f"{type(node.operation).__name__} '{node.operation.name}'"
        old.update(zip(map(id, node.outputs), outputs, strict=True))
        new.update(zip(map(id, results), new_outputs, strict=True))
    return None


def _difference(expected: Arrays, found: Arrays) -> float:
    """The largest difference of an output, as a part of its largest value.

    Of integers it is the share that differs; NaN and infinity equal themselves.
    """
    worst = 0.0
    for want, got in zip(expected, found, strict=True):
        if want.shape != got.shape:
            return np.inf
        if want.dtype.kind != "f":
            share = float(np.mean(want != got)) if want.size else 0.0
            worst = max(worst, share and max(share, 2 * TOLERANCE))
            continue
        finite = np.isfinite(want)
        if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
            return np.inf
        want, got = want[finite].astype("float64"), got[finite].astype("float64")
        if not np.isfinite(got).all():
            return np.inf
        scale = np.abs(want).max(initial=0) or 1.0
        worst = max(worst, float(np.abs(want - got).max(initial=0) / scale))
    return worst


def _tensors(arrays: Arrays) -> list[Any]:
    return [ops.convert_to_tensor(array) for array in arrays]


def _arrays(tensors: Any) -> Arrays:
    arrays = [ops.convert_to_numpy(x) for x in tree.flatten(tensors) if x is not None]
    return [a.astype("float32") if a.dtype.name == "bfloat16" else a for a in arrays]
