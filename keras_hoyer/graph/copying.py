"""Copies of layers as objects, for layers that their config does not bring back."""

import copy
import io
import pickle
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer import _keras
from keras_hoyer.graph.opening import has_graph
from keras_hoyer.graph.sharing import bound_values, global_state
from keras_hoyer.masks import KeepZeros
from keras_hoyer.regularizers import Penalty

_PLAIN = (int, float, complex, str, bytes, bool, type(None), tuple, list, dict, set, frozenset)
# Values that nothing changes, so that both models may hold the same one.
_UNCHANGING = (
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    keras.DTypePolicy,
    keras.Initializer,
    keras.constraints.Constraint,
    keras.regularizers.Regularizer,
    keras.losses.Loss,
    keras.layers.InputSpec,
)


class CannotCopy(Exception):
    """What is held by a layer has no copy of its own."""


class Copier:
    """Copies layers and values with all that they hold; what is shared stays shared.

    Args:
        model: makes the copy of a model that has a graph of its own.
    """

    def __init__(self, model: Callable[[keras.Model], keras.Model]) -> None:
        self.model = model
        self._known: dict[int, tuple[Any, Any]] = {}

    def know(self, old: Any, new: Any) -> None:
        """Says what stands for a layer, variable or other object in all copies."""
        self._known[id(old)] = (old, new)

    def twin(self, old: Any) -> Any:
        """What stands for an object; it is copied if it has not been."""
        if id(old) not in self._known:
            new = self._copied(old)
            if new is old:
                return self.value(old)
            self.know(old, new)
        return self._known[id(old)][1]

    def value(self, value: Any) -> Any:
        """A copy of any value that a layer may hold.

        Raises:
            CannotCopy: if it holds something that has no copy, such as a table or an open file.
        """
        held: list[Any] = []
        file = io.BytesIO()
        try:
            _Pickler(file, self._stand_in, held).dump(value)
            file.seek(0)
            return _Unpickler(file, held).load()
        except CannotCopy:
            raise
        except Exception as error:  # whatever a foreign object raises when it is taken apart
            raise CannotCopy(f"{type(error).__name__}: {error}") from error

    def layer(self, layer: keras.Layer) -> keras.Layer:
        """A copy of a layer that shares nothing with it but what does not change."""
        new = _keras.empty_like(layer)
        self.know(layer, new)
        for name, value in self.value(_keras.attributes_of(layer)).items():
            setattr(new, name, value)
        _keras.finish_like(layer, new, self.twin)
        return new

    def _stand_in(self, value: Any) -> Any:
        """What takes the place of a value as a whole; the value itself if nothing does."""
        if id(value) in self._known:
            return self._known[id(value)][1]
        new = self._copied(value)
        if new is not value:
            self.know(value, new)
        return new

    def _copied(self, value: Any) -> Any:
        for kinds, copied in self._ways:
            if isinstance(value, kinds):
                return copied(value)
        if hasattr(value, "named_parameters"):
            raise CannotCopy(f"it holds the torch module {type(value).__name__}")
        if keras.backend.backend() == "torch" and ops.is_tensor(value):
            return value.detach().clone()
        return without_own(value)

    @property
    def _ways(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """How each kind of object is copied."""
        return [
            (keras.Layer, self._layer_or_model),
            (keras.Variable, self._variable),
            ((keras.Metric, keras.optimizers.Optimizer), copy_from_config),
            (keras.random.SeedGenerator, self._seed_generator),
            (types.FunctionType, self._function),
            (np.ndarray, np.copy),
            (keras.KerasTensor, _refuse),
        ]

    def _layer_or_model(self, layer: keras.Layer) -> keras.Layer:
        graph = isinstance(layer, keras.Model) and has_graph(layer)
        return self.model(layer) if graph else self.layer(layer)

    def _variable(self, variable: keras.Variable) -> keras.Variable:
        new = _keras.copy_variable(variable)
        new.regularizer = without_own(variable.regularizer)
        new.constraint = without_own(variable.constraint)
        return new

    def _seed_generator(self, generator: keras.random.SeedGenerator) -> keras.random.SeedGenerator:
        new = copy.copy(generator)
        new.state = self.twin(generator.state)
        return new

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        if global_state(function):
            raise CannotCopy(f"the function {function.__qualname__} refers to a global layer")
        if all(isinstance(value, _PLAIN[:7]) for value in bound_values(function)):
            return function
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        new = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, None, cells or None
        )
        self.know(function, new)
        new.__defaults__ = self.value(function.__defaults__)
        new.__kwdefaults__ = self.value(function.__kwdefaults__)
        new.__dict__.update(self.value(function.__dict__))
        new.__qualname__, new.__module__ = function.__qualname__, function.__module__
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            if old != types.CellType():
                cell.cell_contents = self.value(old.cell_contents)
        return new


def _refuse(tensor: keras.KerasTensor) -> None:
    raise CannotCopy(f"it holds the symbolic tensor {tensor.name}, and so a whole graph")


def without_own(value: Any) -> Any:
    """The value without what only keras_hoyer could load: penalties and masks."""
    if isinstance(value, Penalty):
        return None
    return value.constraint if isinstance(value, KeepZeros) else value


def copy_from_config(item: Any) -> Any:
    """A metric or optimizer made anew, with the values of the old one's variables if it is built.

    Raises:
        CannotCopy: if its config does not make another one.
    """
    try:
        with _keras.trusting(), keras.saving.custom_object_scope({type(item).__name__: type(item)}):
            new = type(item).from_config(item.get_config())
    except Exception as error:  # whatever a foreign class raises
        raise CannotCopy(f"{type(item).__name__}: {type(error).__name__}: {error}") from error
    if isinstance(item, keras.Metric) and len(new.variables) == len(item.variables):
        for source, target in zip(item.variables, new.variables, strict=True):
            if target.shape == source.shape:
                assign_copy(source, target)
    return new


def assign_copy(source: keras.Variable, target: keras.Variable) -> None:
    """Gives a variable the value of another, not its array: JAX frees what a step has used."""
    target.assign(ops.convert_to_numpy(source))


class _Pickler(pickle.Pickler):
    """Takes a value apart; what `stand_in` replaces, or nothing changes, stays whole."""

    def __init__(self, file: Any, stand_in: Callable[[Any], Any], held: list[Any]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._stand_in = stand_in
        self._held = held

    def persistent_id(self, value: Any) -> int | None:
        if type(value) in _PLAIN:
            return None
        new = self._stand_in(value)
        whole = new is not value or isinstance(value, (*_UNCHANGING, types.FunctionType))
        if not whole and not ops.is_tensor(value):
            return None
        self._held.append(new)
        return len(self._held) - 1

    def reducer_override(self, value: Any) -> Any:
        # Lists, dicts and sets of Keras know the layer that holds them; setting them tells anew.
        if isinstance(value, list) and type(value).__module__.startswith("keras."):
            return list, (), None, iter(value)
        if isinstance(value, dict) and type(value).__module__.startswith("keras."):
            return dict, (), None, None, iter(value.items())
        if isinstance(value, set) and type(value).__module__.startswith("keras."):
            return set, (list(value),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, held: list[Any]) -> None:
        super().__init__(file)
        self._held = held

    def persistent_load(self, pid: int) -> Any:
        return self._held[pid]
