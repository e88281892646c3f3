"""What a layer holds beside its config and its weights, and how a layer made anew gets it."""

import contextlib
import pathlib
import tempfile
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer import _keras
from keras_hoyer.graph.copying import CannotCopy, Copier, assign_copy, without_own

_MISSING = object()
_LIBRARIES = ("keras", "tensorflow", "jax", "torch")  # their objects come from configs


def layer_pairs(old: keras.Layer, new: keras.Layer) -> list[tuple[keras.Layer, keras.Layer]]:
    """The two layers and, where both are made alike, the layers inside them."""
    ours, theirs = _keras.all_of(old), _keras.all_of(new)
    if [type(layer) for layer in ours] != [type(layer) for layer in theirs]:
        return [(old, new)]
    return list(zip(ours, theirs, strict=True))


def carry_assets(old: keras.Layer, new: keras.Layer) -> None:
    """Vocabularies and tables, as a saved model has them; before the new layer is built."""
    for one, two in layer_pairs(old, new):
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                _carry_own_variables(one, two)
                one.save_assets(folder)
                if any(pathlib.Path(folder).iterdir()):
                    two.load_assets(folder)


def carry_state(
    old: keras.Layer,
    new: keras.Layer,
    copier: Copier,
    unbuilt: Mapping[str, Any] | None,
    before: Mapping[str, Any],
) -> None:
    """State and attributes that were set after the layer was made.

    Args:
        old: the layer.
        new: a built layer from the config of `old`, with its weights.
        copier: copies what is carried over.
        unbuilt: the attributes of a layer from the config of `old`, before it was built; None if
            `new` has the sizes of `old`, so that all it holds is to be the same.
        before: the attributes of `new` before it was built.
    """
    for one, two in layer_pairs(old, new):
        for source, target in zip(_other_variables(one), _other_variables(two), strict=False):
            if source.shape == target.shape:
                assign_copy(source, target)
        if unbuilt is None:
            _carry_own_variables(one, two)
        elif _has_own(two, "load_own_variables"):
            _carry_own_variables(two, two)  # what is computed from the variables comes up to date
        for name, value in _keras.settings_of(one).items():
            setattr(two, name, value)
    for number, (one, two) in enumerate(layer_pairs(old, new)):
        ours, theirs = _keras.attributes_of(one), _keras.attributes_of(two)
        # A new model has a graph of its own.
        graph = _keras.graph_attributes() if _keras.graph_of(two) is not None else ()
        for name, value in ((n, v) for n, v in ours.items() if n not in graph):
            if unbuilt is None:
                lost = not _same(value, theirs.get(name, _MISSING))
            elif number or name not in unbuilt:
                lost = name not in theirs
            else:
                set_by_build = not _same(before.get(name, _MISSING), theirs.get(name, _MISSING))
                lost = not set_by_build and not _same(value, unbuilt[name])
            if lost:
                carry_attribute(two, name, value, copier)


def carry_attribute(new: Any, name: str, value: Any, copier: Copier) -> None:
    """Sets an attribute to a copy of a value; what has no copy is left as the class made it."""
    with contextlib.suppress(CannotCopy, AttributeError):
        setattr(new, name, copier.value(value))


def loose_variables(
    old: keras.Layer, new: keras.Layer
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Pairs of variables that two layers hold but do not count as theirs, as recurrent states."""
    tracked = {id(variable) for variable in (*old.variables, *old.metrics_variables)}
    theirs = _keras.attributes_of(new)
    pairs = []
    for name, value in _keras.attributes_of(old).items():
        one, two = _variables_in(value), _variables_in(theirs.get(name))
        if len(one) == len(two):
            pairs += [pair for pair in zip(one, two, strict=True) if id(pair[0]) not in tracked]
    return pairs


def _variables_in(value: Any) -> list[keras.Variable]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in values if isinstance(item, keras.Variable)]


def _carry_own_variables(old: keras.Layer, new: keras.Layer) -> None:
    if not _has_own(old, "save_own_variables") and not _has_own(new, "load_own_variables"):
        return
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    new.load_own_variables({name: _array(value) for name, value in store.items()})
    if old is not new:
        # What a class makes of values that it loads, such as other resolutions, was made already.
        for source, target in zip(old.weights, new.weights, strict=False):
            if source.shape == target.shape:
                assign_copy(source, target)


def _has_own(layer: keras.Layer, method: str) -> bool:
    """Whether the class keeps its state in its own way."""
    return getattr(type(layer), method) is not getattr(keras.Layer, method)


def _other_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables that are no weights: of random generators and of metrics."""
    weights = {id(weight) for weight in layer.weights}
    return [v for v in (*layer.variables, *layer.metrics_variables) if id(v) not in weights]


def _array(value: Any) -> Any:
    return ops.convert_to_numpy(value) if ops.is_tensor(value) or _is_variable(value) else value


def _is_variable(value: Any) -> bool:
    return isinstance(value, keras.Variable)


def _same(one: Any, two: Any, depth: int = 4) -> bool:
    """Whether two values are equal as far as can be told; what has state of its own counts so."""
    one, two = without_own(one), without_own(two)
    if one is two or depth == 0:
        return True
    if two is _MISSING:
        return False
    if isinstance(one, np.ndarray) or ops.is_tensor(one):
        return _same_array(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[k], two[k], depth - 1) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        pairs = zip(one, two, strict=False)
        return len(one) == len(two) and all(_same(a, b, depth - 1) for a, b in pairs)
    return _same_object(one, two, depth)


def _same_object(one: Any, two: Any, depth: int) -> bool:
    if isinstance(one, (keras.Variable, keras.Layer, keras.Metric, keras.random.SeedGenerator)):
        return True
    if type(one) is not type(two):
        return False
    if isinstance(one, types.MethodType):
        one, two = one.__func__, two.__func__
    if isinstance(one, types.FunctionType):
        one, two = (one.__code__, id(one.__globals__)), (two.__code__, id(two.__globals__))
    if type(one).__module__.partition(".")[0] in _LIBRARIES:
        return True
    if hasattr(one, "__dict__"):
        return _same(vars(one), vars(two), depth - 1)
    return bool(one == two) or bool(one != one)  # noqa: PLR0124  (NaN)


def _same_array(one: Any, two: Any) -> bool:
    if not isinstance(two, np.ndarray) and not ops.is_tensor(two):
        return False
    try:
        one, two = ops.convert_to_numpy(one), ops.convert_to_numpy(two)
    except Exception:  # a tensor of a graph has no value to carry over
        return True
    alike = one.shape == two.shape and one.dtype == two.dtype
    return bool(alike and one.tobytes() == two.tobytes())
