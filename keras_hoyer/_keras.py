"""Every private name of Keras that this package needs, one small function each.

Nothing else touches a private name, so that a new Keras breaks this file with a clear message.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np


def current_optimizer() -> keras.optimizers.Optimizer | None:
    """The optimizer whose step is being computed; `None` outside of one.

    A constraint is not told who calls it, but optimizers open a name scope for each step.
    """
    from keras.src.backend.common import global_state  # noqa: PLC0415

    scopes = global_state.get_global_attribute("name_scope_stack", default=[])
    caller = scopes[-1].caller if scopes else None
    return caller if isinstance(caller, keras.optimizers.Optimizer) else None


def trusting() -> contextlib.AbstractContextManager[Any]:
    """A scope in which layers may be built from configs that hold Python code."""
    from keras.src.saving.serialization_lib import SafeModeScope  # noqa: PLC0415

    return SafeModeScope(safe_mode=False)


def patch_tf2onnx() -> None:
    """Lets `tf2onnx` run with NumPy 2, as Keras' own export to ONNX does."""
    from keras.src.export import tf2onnx_lib  # noqa: PLC0415

    tf2onnx_lib.patch_tf2onnx()


def tensorflow_operations() -> tuple[Any, Any]:
    """The modules in which `keras.ops` looks up what it computes on TensorFlow, at each call.

    Returns:
        The module of the NumPy-like operations, and that of the neural ones.
    """
    from keras.src.backend.tensorflow import nn, numpy  # noqa: PLC0415

    return numpy, nn


def running_callbacks() -> list[keras.callbacks.Callback] | None:
    """The callbacks of the `fit` that is calling, in their order; `None` outside of one.

    A callback is not told of the others, but the list that calls it stands further up the stack.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller.callbacks
        frame = frame.f_back
    return None


def context_arguments(operation: Any) -> set[str]:
    """The arguments, such as `training`, that Keras drops where a layer's `call` has none."""
    return {"training", *getattr(operation, "_call_context_args", ())}


def build_shapes(layer: keras.Layer) -> dict[str, Any]:
    """The shapes with which a layer was built, by the names of the arguments of its `build`."""
    return dict(layer._build_shapes_dict or {})


def last_call(layer: keras.Layer) -> tuple[tuple, dict] | None:
    """The arguments with which a layer was last called on symbolic tensors; `None` if never."""
    nodes = layer._inbound_nodes
    return (nodes[-1].arguments.args, nodes[-1].arguments.kwargs) if nodes else None


def follows_its_graph(model: keras.Model) -> bool:
    """Whether a Sequential or functional model has Keras' own `call`, that follows its graph."""
    from keras.src.models import Functional  # noqa: PLC0415

    return type(model).call in (keras.Sequential.call, Functional.call)


def input_structure(model: keras.Model) -> Any:
    """The symbolic inputs of a functional model as they were given: a list, a dict or one."""
    return getattr(model, "_inputs_struct", None)


def has_call(model: keras.Layer) -> bool:
    """Whether the layer can be called: some models only hold others for their `train_step`."""
    return type(model).call not in (keras.Model.call, keras.Layer.call)


def variables_whose_losses_are_read() -> tuple[list[keras.Variable], keras.Variable | None]:
    """The variables of the model whose `losses` are being read, and the one it has come to.

    A regularizer is handed a tensor, and on JAX not even a variable. What it belongs to stands in
    the caller.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner, variable = frame.f_locals.get("self"), frame.f_locals.get("variable")
        if isinstance(owner, keras.Layer) and isinstance(variable, keras.Variable):
            return list(owner.variables), variable
        frame = frame.f_back
    return [], None


def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """All layers inside of a model, at any depth, without the model itself."""
    return list(model._flatten_layers(include_self=False, recursive=True))


# Where TensorFlow and torch keep what a layer's own attributes tell them.
_TRACKING = (
    "_torch_params",
    "_self_name_based_restores",
    "_self_saveable_object_factories",
    "_self_setattr_tracking",
    "_self_unconditional_",
    "_self_update_uid",
)


def attributes_of(layer: keras.Layer) -> dict[str, Any]:
    """The attributes that a layer's own code has set, by name; not those of `keras.Layer`."""
    found = {**vars(layer), **vars(layer).get("_modules", {})}  # where torch puts sublayers
    base = _base_attributes(isinstance(layer, keras.Model))
    return {
        name: value
        for name, value in found.items()
        if name not in base and not name.startswith(_TRACKING)
    }


def settings_of(layer: keras.Layer) -> dict[str, Any]:
    """What `keras.Layer` keeps of a layer and its config does not hold."""
    names = ("_supports_masking", "supports_jit", "autocast")
    return {name: vars(layer)[name] for name in names if name in vars(layer)}


@functools.cache
def _base_attributes(model: bool) -> frozenset[str]:
    base = keras.Model() if model else keras.Layer()
    # Made by Keras when a layer is called, built or quantized, or held as a torch module.
    later = ("_input_shape_arg", "_is_quantized", "_dtype_policy", "quantization_mode")
    return frozenset(vars(base)) | frozenset(later)


def empty_like(layer: keras.Layer) -> keras.Layer:
    """A layer of the same class as it is before the class's own `__init__` runs."""
    empty = type(layer).__new__(type(layer))
    base = keras.Model if isinstance(layer, keras.Model) else keras.Layer
    base.__init__(empty, name=layer.name, dtype=layer.dtype_policy)
    for name in ("_auto_config", "_input_spec", "_build_shapes_dict", "_trainable", "_path"):
        setattr(empty, name, getattr(layer, name, None))
    for name, value in settings_of(layer).items():
        setattr(empty, name, value)
    empty.activity_regularizer = layer.activity_regularizer
    return empty


def finish_like(layer: keras.Layer, new: keras.Layer, twin: Callable[[Any], Any]) -> None:
    """Completes a layer made by `empty_like` that has its attributes.

    Args:
        layer: the layer that it is a copy of.
        new: the copy.
        twin: the variable, layer, metric or seed generator that stands for one of `layer`.
    """
    for name, (_, known) in layer._tracker.config.items():
        store = new._tracker.config[name][1]
        store[:] = [twin(item) for item in known]
        new._tracker.stored_ids[name] = {id(item) for item in store}
    new.built = layer.built
    if layer.built:
        new._post_build()
    if layer._tracker.locked:
        new._lock_state()


def copy_variable(variable: keras.Variable) -> keras.Variable:
    """A variable with the value, name, path and settings of another, without penalty or mask."""
    layout = getattr(variable, "_layout", None)
    new = keras.Variable(
        np.array(keras.ops.convert_to_numpy(variable)),
        dtype=variable.dtype,
        trainable=variable.trainable,
        autocast=variable._autocast,
        aggregation=variable.aggregation,
        name=variable.name,
        **({} if layout is None else {"layout": layout}),
    )
    new._path = variable.path
    return new


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What `compile` was called with, as it was given."""
    return dict(model._compile_config.config)


def has_mask(x: keras.KerasTensor) -> bool:
    """Whether a symbolic tensor carries a mask, which Keras hands on beside the arguments."""
    return getattr(x, "_keras_mask", None) is not None


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables that a layer holds itself, not its parts."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


@contextlib.contextmanager
def forgetting_calls(layer: keras.Layer) -> Iterator[None]:
    """A scope whose symbolic calls leave no trace in a layer and its parts."""
    known = [(part, len(part._inbound_nodes), len(part._outbound_nodes)) for part in all_of(layer)]
    try:
        yield
    finally:
        for part, inbound, outbound in known:
            del part._inbound_nodes[inbound:]
            del part._outbound_nodes[outbound:]


def all_of(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all layers inside it."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def calls_of(outputs: Sequence[keras.KerasTensor]) -> list[Any]:
    """The calls that symbolic tensors come from, each after those that it depends on.

    Those that make inputs are left out.
    """
    found: dict[int, Any] = {}
    pending = [(x, False) for x in reversed(outputs)]
    while pending:
        x, done = pending.pop()
        operation, index, _ = x._keras_history
        node = operation._inbound_nodes[index]
        if done:
            found.setdefault(id(node), node)
        elif id(node) not in found and not node.is_input:
            pending.append((x, True))
            pending += [(y, False) for y in reversed(node.input_tensors)]
    return list(found.values())


@contextlib.contextmanager
def going_through(layers: Sequence[keras.Layer], gone: list[keras.Layer]) -> Iterator[None]:
    """A scope in which layers that Keras cannot record on symbolic tensors are gone through.

    Args:
        layers: those to which it applies: what they call is recorded in place of the call.
        gone: gets those that were gone through.
    """

    def symbolic_call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        try:
            return type(layer).symbolic_call(layer, *args, **kwargs)
        except Exception:  # it gives None, or has a wrong `compute_output_spec`
            outputs = layer.call(*args, **kwargs)
            gone.append(layer)
            return outputs

    for layer in layers:
        object.__setattr__(layer, "symbolic_call", functools.partial(symbolic_call, layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "symbolic_call")


def set_part(layer: keras.Layer, name: str, part: keras.Layer) -> None:
    """Sets an attribute to a layer, though the layer that gets it is built already."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    setattr(layer, name, part)
    if locked:
        layer._lock_state()
