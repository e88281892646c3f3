"""Which layers hold a variable together, as a tied head and its embedding do."""

import dis
import types
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_hoyer.graph.opening import as_function, has_graph, nodes_in_order


def sharing_layers(function: Any) -> list[list[Any]]:
    """The layers of a graph that hold a variable that another one holds too.

    Args:
        function: a functional graph; nested models are looked into.

    Returns:
        Lists of layers that belong together, each layer in one of them.
    """
    layers = list({id(layer): layer for layer in _called(function)}.values())
    groups: list[tuple[set[int], list[Any]]] = []
    for layer in layers:
        held = {id(variable) for variable in held_variables(layer)}
        members = [layer]
        apart = []
        for variables, others in groups:
            if held.isdisjoint(variables):
                apart.append((variables, others))
            else:
                held, members = held | variables, [*others, *members]
        groups = [*apart, (held, members)]
    return [members for _, members in groups if len(members) > 1]


def held_variables(operation: Any) -> list[keras.Variable]:
    """The variables of an operation, those that the function of a `Lambda` refers to included."""
    variables = list(getattr(operation, "variables", ()))
    if isinstance(operation, keras.layers.Lambda):
        for value in referred(operation.function):
            variables += [value] if isinstance(value, keras.Variable) else value.variables
    return variables


def referred(function: Any) -> list[Any]:
    """The variables and layers that a plain function gets at by itself."""
    return _state([function], set())


def bound_values(function: Any) -> list[Any]:
    """What a function holds in its closure and defaults."""
    cells = getattr(function, "__closure__", None) or ()
    values = [cell.cell_contents for cell in cells if cell != types.CellType()]
    values += getattr(function, "__defaults__", None) or ()
    values += (getattr(function, "__kwdefaults__", None) or {}).values()
    return values


def global_state(function: Any) -> list[Any]:
    """The variables and layers that a function refers to as globals."""
    return _state(_global_values(function), {id(function)})


def _global_values(function: types.FunctionType) -> list[Any]:
    known = function.__globals__
    return [known[name] for name in _global_names(function.__code__) if name in known]


def _global_names(code: types.CodeType) -> set[str]:
    """The globals that a piece of code or the functions inside it load."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return names.union(*map(_global_names, inner))


def _state(values: Iterable[Any], seen: set[int]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (keras.Variable, keras.Layer)):
            found.append(value)
        elif isinstance(value, types.MethodType):
            found += _state([value.__self__], seen)
        elif isinstance(value, (list, tuple, dict)):
            found += _state(value.values() if isinstance(value, dict) else value, seen)
        elif isinstance(value, types.FunctionType) and not _is_of_a_library(value):
            found += _state([*bound_values(value), *_global_values(value)], seen)
    return found


def _is_of_a_library(function: types.FunctionType) -> bool:
    libraries = ("keras", "tensorflow", "jax", "torch", "numpy")
    return (function.__module__ or "").partition(".")[0] in libraries


def _called(function: Any) -> Iterator[Any]:
    for node in nodes_in_order(function):
        operation = node.operation
        if isinstance(operation, keras.Model) and has_graph(operation):
            yield from _called(as_function(operation))
        else:
            yield operation
