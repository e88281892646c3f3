# Long, because all that depends on the insides of Keras is to stand in one file.
"""Every private name of Keras that this package needs, one small function each.

Nothing else touches a private name, so that a new Keras breaks this file alone. A name that it has
no more costs what needs it, with an error that says so, and never `import keras_hoyer`.
"""

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np

from keras_hoyer._checks import warn

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _needed(purpose: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Says which Keras lacks a private name, and what it is needed for."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            try:
                return function(*args, **kwargs)
            except (AttributeError, ImportError) as error:
                raise RuntimeError(
                    f"Keras {keras.__version__} lacks what keras_hoyer needs to {purpose}: "
                    f"{error}. Install an older Keras, and please report this."
                ) from error

        return checked

    return decorate


def current_optimizer() -> keras.optimizers.Optimizer | None:
    """The optimizer whose step is being computed; `None` outside of one.

    A constraint is not told who calls it, but optimizers open a name scope for each step.
    """
    try:
        from keras.src.backend.common import global_state  # noqa: PLC0415

        scopes = global_state.get_global_attribute("name_scope_stack", default=[])
        caller = scopes[-1].caller if scopes else None
    except (AttributeError, ImportError) as error:
        # All that needs it is `use_ema=True`; masks hold without.
        warn(
            f"Keras {keras.__version__} does not tell which optimizer calls a constraint ({error})."
            " With `use_ema=True` pruned weights come back when training ends: call `prune` or "
            "`keep_zeros` again after it."
        )
        return None
    return caller if isinstance(caller, keras.optimizers.Optimizer) else None


@_needed("build a layer from a config that holds Python code")
def trusting() -> contextlib.AbstractContextManager[Any]:
    """A scope in which layers may be built from configs that hold Python code."""
    from keras.src.saving.serialization_lib import SafeModeScope  # noqa: PLC0415

    scope: contextlib.AbstractContextManager[Any] = SafeModeScope(safe_mode=False)
    return scope


@_needed("export to ONNX")
def patch_tf2onnx() -> None:
    """Lets `tf2onnx` run with NumPy 2, as Keras' own export to ONNX does."""
    from keras.src.export import tf2onnx_lib  # noqa: PLC0415

    tf2onnx_lib.patch_tf2onnx()


@_needed("replace operations that a file format lacks")
def tensorflow_operations() -> tuple[Any, Any]:
    """The modules in which `keras.ops` looks up what it computes on TensorFlow, at each call.

    Returns:
        The module of the NumPy-like operations, and that of the neural ones.
    """
    try:  # from Keras 3.16 on
        from keras.src.backend.tensorflow.ops import nn, numpy  # noqa: PLC0415
    except ImportError:
        from keras.src.backend.tensorflow import nn, numpy  # noqa: PLC0415
    return numpy, nn


def running_callbacks() -> list[keras.callbacks.Callback] | None:
    """The callbacks of the `fit` that is calling, in their order; `None` outside of one.

    A callback is not told of the others, but the list that calls it stands further up the stack.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            callbacks: list[keras.callbacks.Callback] = caller.callbacks  # itself, to be changed
            return callbacks
        frame = frame.f_back
    return None


def callbacks_of_fit() -> list[Any] | None:
    """What the `fit` that is running was given as callbacks; `None` outside of one.

    A regularizer is handed a tensor and nothing else. What is done with it stands in the callers.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        known = frame.f_locals
        if frame.f_code.co_name == "fit" and isinstance(known.get("self"), keras.Model):
            callbacks = known.get("callbacks", ())
            listed = getattr(callbacks, "callbacks", callbacks)
            return list(keras.tree.flatten(listed)) if listed else []
        frame = frame.f_back
    return None


def context_arguments(operation: Any) -> set[str]:
    """The arguments, such as `training`, that Keras drops where a layer's `call` has none."""
    return {"training", *getattr(operation, "_call_context_args", ())}


@_needed("build a layer anew")
def build_shapes(layer: keras.Layer) -> dict[str, Any]:
    """The shapes with which a layer was built, by the names of the arguments of its `build`."""
    return dict(layer._build_shapes_dict or {})


@_needed("see how a layer was called")
def last_call(layer: keras.Layer) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments with which a layer was last called on symbolic tensors; `None` if never."""
    nodes = layer._inbound_nodes
    return (nodes[-1].arguments.args, nodes[-1].arguments.kwargs) if nodes else None


@_needed("tell whether a model follows its graph")
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
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner, variable = frame.f_locals.get("self"), frame.f_locals.get("variable")
        if isinstance(owner, keras.Layer) and isinstance(variable, keras.Variable):
            return list(owner.variables), variable
        frame = frame.f_back
    return [], None


@_needed("list the layers of a model")
def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """All layers inside of a model, at any depth, without the model itself."""
    return list(model._flatten_layers(include_self=False, recursive=True))


# Where TensorFlow and torch keep what a layer's own attributes tell them, and `compile` what was
# trainable.
_TRACKING = (
    "_compiled_trainable_state",
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
    kind: Any = type(layer)
    empty = kind.__new__(kind)
    base = keras.Model if isinstance(layer, keras.Model) else keras.Layer
    base.__init__(empty, name=layer.name, dtype=layer.dtype_policy)
    for name in ("_auto_config", "_input_spec", "_build_shapes_dict", "_trainable", "_path"):
        setattr(empty, name, getattr(layer, name, None))
    for name, value in settings_of(layer).items():
        setattr(empty, name, value)
    empty.activity_regularizer = layer.activity_regularizer
    return empty


def made_with(layer: Any) -> dict[str, Any]:
    """The arguments that Keras noted when a layer was made; empty if one was no plain value."""
    noted = getattr(layer, "_auto_config", None)
    return {} if noted is None else dict(noted.config)


@_needed("copy a layer")
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


@_needed("copy a variable")
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


@_needed("compile the new model as the old one was")
def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What `compile` was called with, as it was given."""
    return dict(model._compile_config.config)


@_needed("tell whether a model was compiled anew")
def compilation_of(model: keras.Model) -> Any:
    """An object that is another one after each call of `compile`."""
    return model._compile_config


def has_mask(x: keras.KerasTensor) -> bool:
    """Whether a symbolic tensor carries a mask, which Keras hands on beside the arguments."""
    return getattr(x, "_keras_mask", None) is not None


@_needed("list the variables of a layer")
def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables that a layer holds itself, not its parts."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


@contextlib.contextmanager
def forgetting_calls(layer: keras.Layer) -> Iterator[None]:
    """A scope whose symbolic calls leave no trace in a layer and its parts."""
    lists = _recorded_calls(layer)
    known = [len(nodes) for nodes in lists]
    try:
        yield
    finally:
        for nodes, count in zip(lists, known, strict=True):
            del nodes[count:]


@_needed("follow the graph of a model")
@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """A scope in which new variables get a shape and no value: nothing is drawn or computed.

    Models that are made in it can be asked for their shapes alone.
    """
    from keras.src.backend.common import global_state  # noqa: PLC0415

    # Keras would give them values once it is out of the scope.
    name = "uninitialized_variables"
    waiting = global_state.get_global_attribute(name, [])
    global_state.set_global_attribute(name, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(name, waiting)


def _recorded_calls(layer: keras.Layer) -> list[list[Any]]:
    return [x for part in all_of(layer) for x in (part._inbound_nodes, part._outbound_nodes)]


@_needed("tell learned weights from state")
def own_learned_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Those that were made to be trained, also where the layer is frozen now."""
    return list(layer._trainable_variables)


@_needed("list the layers of a model")
def all_of(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all layers inside it."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


@_needed("follow the graph of a model")
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
def going_through(
    layers: Sequence[keras.Layer], gone: list[keras.Layer], always: Sequence[keras.Layer] = ()
) -> Iterator[None]:
    """A scope in which layers whose outputs Keras cannot foresee run their own code instead.

    Args:
        layers: those to which it applies: what they call is recorded in place of the call.
        gone: gets those that were gone through.
        always: those of them that are gone through if they can be, whatever Keras foresees.
    """
    known, classes = {id(layer): False for layer in layers}, {type(layer) for layer in layers}
    known.update((id(layer), True) for layer in always)
    # One thread at a time, or another would put back what is not its own.
    with _CALLS_REPLACED, _calls_replaced(known, classes, gone):
        yield


_CALLS_REPLACED = threading.RLock()


@contextlib.contextmanager
def _calls_replaced(
    known: dict[int, bool], classes: set[type], gone: list[keras.Layer]
) -> Iterator[None]:
    # Looked up before any is replaced, since one class may inherit from another.
    calls: dict[Any, Any] = {cls: cls.__call__ for cls in classes}
    own = {cls for cls in calls if "__call__" in vars(cls)}

    def through(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
            if known.get(id(layer)):
                with contextlib.suppress(Exception):  # what cannot be followed is recorded
                    return layer.call(*args, **kwargs)
            try:
                return _with_sizes(layer, original(layer, *args, **kwargs), args, kwargs)
            except Exception:  # it gives None, or has a wrong `compute_output_spec`
                leaves = keras.tree.flatten((args, kwargs))
                if id(layer) not in known or not any(map(_is_symbolic, leaves)):
                    raise
            gone.append(layer)
            return layer.call(*args, **kwargs)

        return call

    for cls, original in calls.items():
        cls.__call__ = through(original)
    try:
        with _operators_recorded():
            yield
    finally:
        for cls, original in calls.items():
            if cls in own:
                cls.__call__ = original
            else:
                del cls.__call__


def _with_sizes(layer: keras.Layer, result: Any, args: Any, kwargs: Any) -> Any:
    """The result of a call, with the sizes that Keras forgets of the outputs of an EinsumDense."""
    given = [*args, *kwargs.values()]
    if isinstance(layer, keras.layers.EinsumDense) and given and _is_symbolic(result):
        source, weights, target = layer.equation.replace("->", ",").split(",")
        if "..." not in source and len(source) == len(given[0].shape):
            sizes = dict(zip(weights, layer.kernel.shape, strict=True))
            sizes |= dict(zip(source, given[0].shape, strict=True))
            # Newer versions of Keras let nobody set the shape of a tensor.
            name = "_shape" if "shape" in vars(type(result)) else "shape"
            setattr(result, name, tuple(sizes[letter] for letter in target))
    return result


# What `variable * tensor` and the like do; `tensor * variable` is recorded by Keras itself.
_OPERATORS = {
    "__add__": keras.ops.add,
    "__sub__": keras.ops.subtract,
    "__mul__": keras.ops.multiply,
    "__truediv__": keras.ops.true_divide,
    "__floordiv__": keras.ops.floor_divide,
    "__mod__": keras.ops.mod,
    "__pow__": keras.ops.power,
    "__matmul__": keras.ops.matmul,
}


@contextlib.contextmanager
def _operators_recorded() -> Iterator[None]:
    """A scope in which variables and arrays can be combined with symbolic tensors on their right.

    JAX takes what has a `__jax_array__` for an array; without, it leaves the sum to its right side.
    """
    base: Any = next(cls for cls in keras.Variable.__mro__ if "__add__" in vars(cls))
    originals = {name: vars(base)[name] for name in _OPERATORS}

    def recorded(name: str) -> Callable[..., Any]:
        def operator(variable: Any, other: Any) -> Any:
            if _is_symbolic(other):
                return _OPERATORS[name](variable, other)
            return originals[name](variable, other)

        return operator

    as_array: Any = vars(keras.KerasTensor).get("__jax_array__")
    if as_array is not None:
        del keras.KerasTensor.__jax_array__
    for name in originals:
        setattr(base, name, recorded(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(base, name, original)
        if as_array is not None:
            keras.KerasTensor.__jax_array__ = as_array


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)


@_needed("change a part of a layer")
def set_part(layer: keras.Layer, name: str, part: keras.Layer) -> None:
    """Sets an attribute to a layer, though the layer that gets it is built already."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    setattr(layer, name, part)
    if locked:
        layer._lock_state()


@_needed("list the parts of a layer")
def parts_of(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer holds itself."""
    return list(layer._layers)


def carrier_prefix(layer: keras.Layer, prefix: str) -> str:
    """What the attributes of a composite layer start with, such as `prefix` + `"_constraint"`.

    Attention layers keep what they were given for their parts in private attributes.
    """
    private = f"_{prefix}"
    return private if hasattr(layer, f"{private}_constraint") else prefix


@_needed("follow the graph of a model")
def nodes_into(operation: Any) -> list[Any]:
    """The symbolic calls of a layer, with their `input_tensors`, in their order."""
    return list(operation._inbound_nodes)


@_needed("follow the graph of a model")
def readers_of(layer: keras.Layer) -> list[Any]:
    """The layers and operations that read what a layer's symbolic calls return."""
    return [node.operation for node in layer._outbound_nodes]


@_needed("follow the graph of a model")
def producer_of(x: keras.KerasTensor) -> Any:
    """The layer or operation that a symbolic tensor comes from."""
    return x._keras_history.operation


@_needed("keep pruned weights out of an optimizer's moving averages")
def moving_averages(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """The variables of an optimizer with `use_ema=True`, each with its average."""
    averages = optimizer._model_variables_moving_average
    return list(zip(optimizer._trainable_variables, averages, strict=True))


@_needed("know the learning rates to come")
def planned_rates(
    optimizer: keras.optimizers.Optimizer | None, steps: int, epochs: int
) -> list[float]:
    """The learning rate in the middle of each of the next epochs; empty without a schedule."""
    rate = _inner(optimizer)._learning_rate if optimizer is not None else None
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return []
    done = int(keras.ops.convert_to_numpy(_inner(optimizer).iterations))
    middles = (done + int((epoch + 0.5) * steps) for epoch in range(epochs))
    return [float(keras.ops.convert_to_numpy(rate(step))) for step in middles]


def learning_rate_now(optimizer: keras.optimizers.Optimizer | None) -> float:
    """The learning rate now; 1 for a model without an optimizer, which trains by its own code."""
    if optimizer is None:
        return 1.0
    return float(keras.ops.convert_to_numpy(_inner(optimizer).learning_rate))


def _inner(optimizer: Any) -> Any:
    """The optimizer inside one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class _Policy(keras.dtype_policies.DTypePolicy):
    def __init__(self, compute_dtype: str, variable_dtype: str) -> None:
        super().__init__(compute_dtype)
        self._variable_dtype = variable_dtype


def policy_name(policy: keras.dtype_policies.DTypePolicy) -> str | None:
    """The name that makes the same policy again, or `None` if there is none."""
    try:
        return policy.name if keras.dtype_policies.get(policy.name) == policy else None
    except ValueError:
        return None


def dtype_policy(compute_dtype: str, variable_dtype: str) -> keras.dtype_policies.DTypePolicy:
    """A policy that computes in one dtype whatever the dtype of the variables, and casts them."""
    return _Policy(compute_dtype, variable_dtype)


def operations(*names: str) -> list[type[keras.Operation]]:
    """The classes of operations of `keras.ops`, those of the named ones that this Keras has."""
    modules = ("numpy", "nn", "core", "math", "image", "linalg")
    return [
        found
        for name in names
        for found in [next(filter(None, (_class(f"ops.{m}", name) for m in modules)), None)]
        if found is not None
    ]


def application_layers(application: str, *names: str) -> list[type[keras.Layer]]:
    """The named layers that a module of `keras.applications` has for itself in this Keras."""
    found = (_class(f"applications.{application}", name) for name in names)
    return [cls for cls in found if cls is not None]


def _class(module: str, name: str) -> type | None:
    try:
        return getattr(importlib.import_module(f"keras.src.{module}"), name, None)
    except ImportError:
        return None


def projections(layer: Any) -> dict[str, keras.Layer]:
    """The dense layers in an attention layer: query, key, value, output, perhaps gate."""
    names = ("query", "key", "value", "output", "gate")
    return {n: part for n in names if (part := getattr(layer, f"_{n}_dense", None)) is not None}


@_needed("make a Lambda again")
def lambda_arguments(layer: keras.layers.Lambda) -> dict[str, Any]:
    """What a Lambda was made with, which its config does not bring back whole."""
    return {
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": layer.arguments,
    }


def graph_of(model: keras.Model) -> Any:
    """The functional graph of a Sequential or functional model; `None` for any other."""
    functional = getattr(model, "_functional", None)
    if functional is not None:
        return functional
    return model if hasattr(model, "_nodes_by_depth") else None


@functools.cache
def graph_attributes() -> frozenset[str]:
    """The attributes in which Sequential and functional models keep their graphs."""
    x = keras.Input((1,))
    y = keras.layers.Identity()(x)  # an older Keras makes no model whose output is its input
    models = keras.Model(x, y), keras.Sequential([x, keras.layers.Identity()])
    held = (name for m in models for name in (*vars(m), *vars(m).get("_modules", ())))
    return frozenset(held)


@_needed("follow the graph of a model")
def calls_in_order(function: Any) -> list[Any]:
    """The calls of a functional graph, each after the calls that it depends on."""
    depths = sorted(function._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in function._nodes_by_depth[depth]]
    return [node for node in nodes if node.operation and not node.is_input]


def output_structure(model: keras.Model) -> Any:
    """The symbolic outputs of a functional model as they were given: a list, a dict or one."""
    return getattr(model, "_outputs_struct", None)


@_needed("draw other random numbers")
def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """The random generators of a model and of all layers inside it."""
    found = (generator for layer in all_of(model) for generator in layer._seed_generators)
    return [generator for generator in found if not isinstance(generator, _Beside)]


class _Beside:
    """Stands among the random generators of a model, with a variable that is no weight of it."""

    def __init__(self, state: keras.Variable, owner: str) -> None:
        self.state = state
        self.owner = owner


@_needed("hand a value that changes to the compiled step")
def hold_beside_weights(
    model: keras.Model, variables: Sequence[keras.Variable], owner: str
) -> None:
    """Has a model hand variables to its compiled step that are neither its weights nor saved.

    JAX compiles what a free variable holds as a constant. The state of random generators is handed
    over as these are: it is among a model's `variables`, not among its `weights`.

    Args:
        model: The model.
        variables: What it is to hold; what it holds already is passed by.
        owner: Who lets go of them.
    """
    held = model._seed_generators
    known = {id(entry.state) for entry in held if isinstance(entry, _Beside)}
    held.extend(_Beside(v, owner) for v in variables if id(v) not in known)


def release_beside_weights(model: keras.Model, owner: str) -> None:
    """Lets go of what `hold_beside_weights` put beside the weights for an owner."""
    held: list[Any] = getattr(model, "_seed_generators", [])
    for entry in [x for x in held if isinstance(x, _Beside) and x.owner == owner]:
        held.remove(entry)
