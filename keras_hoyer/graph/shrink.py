"""A smaller model with the same outputs: channels that are constant, or that nobody reads, go."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer._checks import warn
from keras_hoyer._keras import trusting
from keras_hoyer.graph.axes import FROZEN, Axis, Read
from keras_hoyer.graph.opening import all_layers, as_function, has_graph, nodes_in_order
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.masks import KeepZeros, apply_masks
from keras_hoyer.plain import find_adapted
from keras_hoyer.weights import find_weights


def shrink(model: keras.Model) -> keras.Model:
    """Builds a smaller model that gives the same outputs.

    A channel goes, with everything that lives and dies with it, if at each place where it is read
    it is a constant whose effect a bias can take up (zero has none), or nothing that stays depends
    on it. The weights, names, dtype policies, trainable flags and compile settings are carried
    over, and the masks of what is left. The penalties of keras_hoyer are left behind, so that
    the result loads without keras_hoyer where no mask is left to hold. At least one channel of each
    layer stays. The new optimizer starts afresh.

    Args:
        model: a built Sequential or functional model, nested models included, or a subclassed one
            that can be called on symbolic inputs. It is not changed.

    Returns:
        A Sequential model for a Sequential one, else a functional one.

    Raises:
        ValueError: if the model is not built, or its graph cannot be seen.

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    >>> kernel, bias, *rest = model.get_weights()
    >>> kernel[:, 3:] = 0
    >>> model.set_weights([kernel, bias, *rest])
    >>> small = shrink(model)
    >>> small.layers[0].units
    3
    >>> x = np.ones((1, 4), "float32")
    >>> bool(np.allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5))
    True
    """
    adapted = find_adapted(model) if isinstance(model, keras.Model) else {}
    if adapted:
        warn(
            "Kept as they are, since LoRA adds to their kernels or they are quantized: layers "
            f"{', '.join(adapted)}. The order is: merge LoRA, prune, shrink, quantize."
        )
    graph = ChannelGraph(model)
    small = _Builder(graph, _removable(graph)).build(model)
    # What is left may be tied less: a convolution of one group in place of two, for instance.
    while small.count_params() < model.count_params():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all has been said of the first model
            graph = ChannelGraph(small)
        removed = _removable(graph)
        if not any(removed[graph.roots[axis.labels]].any() for axis in graph.axes):
            break
        model, small = small, _Builder(graph, removed).build(small)
    return small


def _removable(graph: ChannelGraph) -> np.ndarray:
    """Whether each root of the graph can go, as a bool array over all labels."""
    stays = {FROZEN}
    axes = [graph.roots[axis.labels] for axis in graph.axes if len(axis)]
    while True:
        removed = _unread(graph, stays)
        emptied = next((roots for roots in axes if removed[roots].all()), None)
        if emptied is None:
            return removed
        stays.add(int(emptied[0]))


def _unread(graph: ChannelGraph, stays: set[int]) -> np.ndarray:
    """The largest set of channels that can go together if those in `stays` are to stay.

    Starting from what has to stay, whatever it depends on has to stay too.
    """
    removed = np.ones(len(graph.roots), bool)
    removed[list(stays)] = False
    pending = [
        (read, graph.roots[read.axis.labels], ~_replaceable(graph, read)) for read in graph.reads
    ]
    changed = True
    while changed:
        changed = False
        for read, roots, needed in pending:
            asked = needed & removed[roots]
            if not asked.any():
                continue
            if read.used is not None:
                used = read.used[asked]
                for index, output in enumerate(read.outputs):
                    if output is not None:
                        used = used.compress(~removed[graph.roots[output.labels]], axis=index + 1)
                asked[asked] = used.reshape(len(used), -1).any(axis=1)
            if asked.any():
                removed[roots[asked]] = False
                changed = True
    return removed


def _replaceable(graph: ChannelGraph, read: Read) -> np.ndarray:
    """Whether each channel is a constant that can be left out of what is read."""
    constants = read.axis.constants
    if read.shift is None:
        return constants == 0
    agree = ~np.isnan(constants)
    for other in graph.reads:
        if other.layer is read.layer:
            # A layer that is called several times has one bias for all of its calls.
            agree &= other.axis.constants == constants
    return agree


class _Builder:
    """Makes the layers anew with the widths that are left, and calls them in the same order."""

    def __init__(self, graph: ChannelGraph, removed: np.ndarray) -> None:
        self.graph = graph
        self.removed = removed
        self.classes = {type(layer).__name__: type(layer) for layer in all_layers(graph.model)}
        self.made: dict[int, tuple[Any, Any]] = {}
        self.shifts: dict[int, tuple[Read, np.ndarray]] = {}
        for read in graph.reads:
            if read.shift is not None:
                # What varies and goes all the same is read by nothing that stays.
                constants = np.where(self.kept(read.axis), 0, np.nan_to_num(read.axis.constants))
                shift = read.shift(constants)
                if shift.any():
                    self.shifts[id(read.layer)] = (read, shift)

    def kept(self, axis: Axis) -> np.ndarray:
        """Which channels of the axis are left."""
        return ~self.removed[self.graph.roots[axis.labels]]

    def size(self, axis: Axis) -> int:
        """How many channels of the axis are left."""
        return int(self.kept(axis).sum())

    def build(self, model: keras.Model) -> keras.Model:
        """The whole model with its weights and compile settings."""
        new = self.model(model, self.graph.function)
        copies = self.transfer()
        self.carry_masks(model, new, copies)
        _copy_trainable(model, new)
        _compile(model, new)
        return new

    def model(self, model: keras.Model, function: Any) -> keras.Model:
        """A model of any depth, without its weights."""
        if isinstance(model, keras.Sequential):
            inputs = self.input(function.inputs[0])
            stack = [self.operation(layer) for layer in model.layers]
            return keras.Sequential([inputs, *stack], name=model.name)
        inputs = [self.input(x) for x in function.inputs]
        known = {id(x): y for x, y in zip(function.inputs, inputs, strict=True)}
        for node in nodes_in_order(function):
            args, kwargs = node.arguments.fill_in(known)
            args, kwargs = self.graph.rewritten(node, self.size, args, kwargs)
            outputs = tree.flatten(self.operation(node.operation)(*args, **kwargs))
            known.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
        outputs = [known[id(x)] for x in function.outputs]
        return keras.Model(
            tree.pack_sequence_as(function._inputs_struct, inputs),
            tree.pack_sequence_as(function._outputs_struct, outputs),
            name=model.name,
        )

    def input(self, reference: keras.KerasTensor) -> keras.KerasTensor:
        """An input with the channels that are left."""
        config = reference._keras_history.operation.get_config()
        axes = self.graph.tensors[id(reference)].axes
        config["batch_shape"] = tuple(
            n if axis is None else self.size(axis)
            for n, axis in zip(reference.shape, axes, strict=True)
        )
        return keras.layers.InputLayer.from_config(config).output

    def operation(self, old: Any) -> Any:
        """The layer or operation with the sizes that are left; the same one for each call."""
        if id(old) not in self.made:
            nested = _is_graph(old)
            new = self.model(old, as_function(old)) if nested else self.configured(old)
            self.made[id(old)] = (old, new)
        return self.made[id(old)][1]

    def configured(self, old: Any) -> Any:
        """A layer or operation made from the config of the old one."""
        updates = self.graph.updates(old, self.size)
        if not isinstance(old, keras.Layer) and not updates:
            return old  # it has no state, and its arguments may not fit into a config
        config = {**old.get_config(), **updates}
        if id(old) in self.shifts:
            read = self.shifts[id(old)][0]
            if read.bias is None:
                config["use_bias"] = True
        if isinstance(old, keras.layers.Lambda):
            # Its config loses what the function refers to.
            own = {"function": old.function, "output_shape": old._output_shape, "mask": old.mask}
            return type(old)(**{**config, **own, "arguments": old.arguments})
        # The layer is here already, so nothing untrusted is loaded.
        with trusting(), keras.saving.custom_object_scope(self.classes):
            return type(old).from_config(_without_own(config))

    def transfer(self) -> dict[int, Any]:
        """Copies what is left of each weight, and puts the constants into the biases.

        Returns:
            The new variables by the ids of the old ones.
        """
        copies = {}
        for old, new in self.made.values():
            if isinstance(old, keras.Layer) and not _is_graph(old):
                # A bias that was added is the last weight of its layer.
                added = [None] * (len(new.weights) - len(old.weights))
                for source, target in zip([*old.weights, *added], new.weights, strict=True):
                    if source is not None:
                        copies[id(source)] = target
                        target.assign(self.values(source))
        for read, shift in self.shifts.values():
            added = shift
            for index, axis in enumerate(read.outputs):
                if axis is not None:
                    added = added.compress(self.kept(axis), axis=index)
            if read.bias is None:
                bias, value = self.made[id(read.layer)][1].bias, 0
            else:
                bias, value = copies[id(read.bias)], _numpy(copies[id(read.bias)])
            bias.assign(value + added)
        return copies

    def carry_masks(self, model: keras.Model, new: keras.Model, copies: dict[int, Any]) -> None:
        """Holds the zeros that are left in the weights."""
        targets = {id(weight.variable): weight for weight in find_weights(new)}
        masks = {}
        for weight in find_weights(model):
            constraint = weight.get("constraint")
            if isinstance(constraint, KeepZeros):
                mask = constraint.get_mask(weight.name)
                mask = None if mask is None else self.cut(weight.variable, mask)
                if mask is not None and not mask.all():
                    masks[targets[id(copies[id(weight.variable)])]] = mask
        apply_masks(new, masks)

    def cut(self, variable: Any, values: np.ndarray) -> np.ndarray:
        """What is left of an array that has the axes of a variable."""
        weight = self.graph.weights.get(id(variable))
        for index, axis in enumerate(weight.axes if weight else ()):
            if axis is not None:
                values = values.compress(self.kept(axis), axis=index)
        return values

    def values(self, variable: Any) -> np.ndarray:
        """What is left of a weight."""
        values = self.cut(variable, ops.convert_to_numpy(variable))
        factor = self.graph.factor(variable, self.size)
        return values if factor == 1 else (values * factor).astype(values.dtype)


def _is_graph(operation: Any) -> bool:
    return isinstance(operation, keras.Model) and has_graph(operation)


def _numpy(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(variable, "float32"))


def _without_own(config: Any) -> Any:
    """The config without what only keras_hoyer could load."""
    if isinstance(config, dict):
        if config.get("registered_name") == "keras_hoyer>KeepZeros":
            return config["config"]["constraint"]
        if str(config.get("registered_name")).startswith("keras_hoyer>"):
            return None
        return {key: _without_own(value) for key, value in config.items()}
    return config


def _copy_trainable(model: keras.Model, new: keras.Model) -> None:
    """Copies the `trainable` flags, from the outside to the inside as each one is passed on."""
    for old, layer in zip(all_layers(model), all_layers(new), strict=False):
        if layer.trainable != old.trainable:
            layer.trainable = old.trainable


def _compile(model: keras.Model, new: keras.Model) -> None:
    if not model.compiled:
        return
    try:
        new.compile_from_config(model.get_compile_config())
    except Exception as error:
        warnings.warn(
            f"The compile settings of the model '{model.name}' could not be carried over "
            f"({type(error).__name__}: {error}). Call `compile` on the smaller model.",
            stacklevel=3,
        )
