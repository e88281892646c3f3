"""The new model: layers with the widths that are left, called in the same order."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer import _keras
from keras_hoyer.graph.axes import Axis, Read
from keras_hoyer.graph.compiled import carry_compile
from keras_hoyer.graph.copying import CannotCopy, Copier, without_own
from keras_hoyer.graph.opening import all_layers, as_function, has_graph, nodes_in_order
from keras_hoyer.graph.state import (
    carry_assets,
    carry_attribute,
    carry_state,
    layer_pairs,
    loose_variables,
)
from keras_hoyer.graph.undrawn import without_drawing
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.masks import KeepZeros, apply_masks
from keras_hoyer.weights import find_weights


class ShrinkError(ValueError):
    """A smaller model could not be made, or gives other outputs; none is handed over."""


class Builder:
    """Makes the layers anew with the widths that are left, and calls them in the same order.

    Args:
        graph: the channels of the model.
        removed: whether each root of the graph goes.

    Attributes:
        steps: for each functional graph, by its id, the new inputs, and the calls in their order:
            the old node, and the new operation, arguments and outputs.
        kept_shared: the layers that the new model has in common with the old one.
    """

    def __init__(self, graph: ChannelGraph, removed: np.ndarray) -> None:
        self.graph = graph
        self.removed = removed
        self.classes = {type(layer).__name__: type(layer) for layer in all_layers(graph.model)}
        self.copier = Copier(self._copied_model)
        self.steps: dict[int, tuple[list, list[tuple[Any, Any, tuple, dict, list]]]] = {}
        self.kept_shared: list[Any] = []
        self.made: dict[int, tuple[Any, Any]] = {}
        self.from_config: dict[int, tuple[dict[str, Any] | None, dict[str, Any]]] = {}
        self.partners = {id(layer): group for group in graph.sharing for layer in group}
        self.touched = self._touched(graph.function)
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
        """The whole model with its weights, state and compile settings."""
        new = self.model(model, self.graph.function)
        self.made[id(model)] = (model, new)
        copies = self.transfer()
        for key, (unbuilt, before) in self.from_config.items():
            carry_state(*self.made[key], self.copier, unbuilt, before)
        self.carry_masks(model, new, copies)
        self.carry_settings(model, copies)
        carry_compile(model, new)
        return new

    def model(self, model: keras.Model, function: Any) -> keras.Model:
        """A model of any depth, without its weights."""
        inputs = [self.input(x) for x in function.inputs]
        known = {id(x): y for x, y in zip(function.inputs, inputs, strict=True)}
        _, steps = self.steps[id(function)] = (inputs, [])
        for node in nodes_in_order(function):
            args, kwargs = node.arguments.fill_in(known)
            args, kwargs = self.graph.rewritten(node, self.size, args, kwargs)
            new, results = self.call(node.operation, args, kwargs)
            outputs = tree.flatten(results)
            known.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
            steps.append((node, new, args, kwargs, outputs))
        if isinstance(model, keras.Sequential):
            stack = [self.made[id(layer)][1] for layer in model.layers]
            return keras.Sequential([*inputs, *stack], name=model.name)
        return keras.Model(
            tree.pack_sequence_as(function._inputs_struct, inputs),
            tree.pack_sequence_as(
                function._outputs_struct, [known[id(x)] for x in function.outputs]
            ),
            name=model.name,
        )

    def input(self, reference: keras.KerasTensor) -> keras.KerasTensor:
        """An input with the channels that are left."""
        config = reference._keras_history.operation.get_config()
        known = self.graph.tensors.get(id(reference))
        if known is not None:
            config["batch_shape"] = tuple(
                n if axis is None else self.size(axis)
                for n, axis in zip(reference.shape, known.axes, strict=True)
            )
        return keras.layers.InputLayer.from_config(config).output

    def call(self, old: Any, args: tuple, kwargs: dict) -> tuple[Any, Any]:
        """The layer or operation with the sizes that are left, and what it gives.

        The first way that works is taken; the same layer again for each call.
        """
        if id(old) in self.made:
            new = self.made[id(old)][1]
            return new, new(*args, **kwargs)
        reasons = []
        for way in self._ways(old):
            self.from_config.pop(id(old), None)
            try:
                new = way(old)
                with without_drawing(new):
                    outputs = new(*args, **kwargs)
                self._check_weights(old, new)
            except ShrinkError:
                raise
            except Exception as error:  # whatever a foreign class raises
                reasons.append(f"{type(error).__name__}: {error}")
            else:
                self.made[id(old)] = (old, new)
                return new, outputs
        raise ShrinkError(
            f"{type(old).__name__} '{old.name}' has to be built anew, as channels of its weights "
            f"or its inputs go, and its config does not make it: {reasons[0]}\n{_advice()}"
        )

    def _ways(self, old: Any) -> Iterator[Callable[[Any], Any]]:
        """The ways to make a layer, the best first."""
        if _is_graph(old):
            yield lambda old: self.model(old, as_function(old))
        elif not isinstance(old, keras.Layer):
            yield self.configured
        elif id(old) in self.partners:
            yield self._with_partners
        elif id(old) not in self.touched:
            yield from (self.configured, self.copier.layer, self._kept_shared)
        else:
            yield self.configured
            if self._keeps_config(old):
                yield self._copied_for_other_inputs

    def configured(self, old: Any) -> Any:
        """A layer or operation made from the config of the old one."""
        updates = self.graph.updates(old, self.size)
        if id(old) in self.shifts and self.shifts[id(old)][0].bias is None:
            updates = {**updates, "use_bias": True}
        if not isinstance(old, keras.Layer) and not updates:
            return old  # it has no state, and its arguments may not fit into a config
        new = self._from_config(old, updates)
        if isinstance(old, keras.Layer):
            same = id(old) not in self.touched
            reference = new if same or not updates else self._from_config(old, {})
            unbuilt = None if same else dict(_keras.attributes_of(reference))
            carry_assets(old, new)
            self.from_config[id(old)] = (unbuilt, dict(_keras.attributes_of(new)))
        return new

    def _from_config(self, old: Any, updates: dict[str, Any]) -> Any:
        config = {**old.get_config(), **updates}
        for name in config:
            if _is_foreign_function(getattr(old, name, None)):
                config[name] = getattr(old, name)  # what a config holds of it may not be all
        if isinstance(old, keras.layers.Lambda):
            # Its config loses what the function refers to.
            own = {"function": old.function, "output_shape": old._output_shape, "mask": old.mask}
            return type(old)(**{**config, **own, "arguments": old.arguments})
        # The layer is here already, so nothing untrusted is loaded.
        with _keras.trusting(), keras.saving.custom_object_scope(self.classes):
            return type(old).from_config(_without_own(config))

    def _with_partners(self, old: Any) -> Any:
        """A copy that shares with the copies of other layers what the old one shares with these."""
        group = self.partners[id(old)]
        try:
            return [self.copier.twin(layer) for layer in group][[*map(id, group)].index(id(old))]
        except CannotCopy:
            for layer in group:
                self.made[id(layer)] = (layer, layer)
            self.kept_shared += group
            return old

    def _kept_shared(self, old: Any) -> Any:
        self.kept_shared.append(old)
        return old

    def _copied_for_other_inputs(self, old: keras.Layer) -> keras.Layer:
        new = self.copier.layer(old)
        new.built = bool(new.weights)  # so that it learns its input's shape
        return new

    def _copied_model(self, model: keras.Model) -> keras.Model:
        """A nested model that a copied layer holds."""
        if id(model) not in self.made:
            self.made[id(model)] = (model, self.model(model, as_function(model)))
        return self.made[id(model)][1]

    def _touched(self, function: Any) -> set[int]:
        """The ids of the layers of which something changes: a weight, an input or an output."""
        touched = set()
        for node in nodes_in_order(function):
            operation = node.operation
            if _is_graph(operation):
                touched |= self._touched(as_function(operation))
            around = [*node.input_tensors, *node.outputs]
            tensors = [self.graph.tensors[id(x)] for x in around if id(x) in self.graph.tensors]
            axes = [axis for tensor in tensors for axis in tensor.labelled]
            axes += self._axes_of_weights(operation)
            if not all(self.kept(axis).all() for axis in axes):
                touched.add(id(operation))
        return touched

    def _axes_of_weights(self, operation: Any) -> list[Axis]:
        weights = [self.graph.weights.get(id(v)) for v in getattr(operation, "weights", ())]
        return [axis for weight in weights if weight for axis in weight.axes if axis is not None]

    def _keeps_config(self, operation: Any) -> bool:
        """Whether a layer with other inputs has the weights and the config that it had."""
        if not all(self.kept(axis).all() for axis in self._axes_of_weights(operation)):
            return False
        try:
            return self.graph.updates(operation, len) == self.graph.updates(operation, self.size)
        except Exception:  # a layer inside has no config
            return False

    def _check_weights(self, old: Any, new: Any) -> None:
        """Raises a `ValueError` if the config has not made the weights that are to be copied."""
        if not isinstance(old, keras.Layer) or _is_graph(old) or old is new:
            return
        expected = [self.cut(v, np.empty(v.shape, bool)).shape for v in old.weights]
        found = [tuple(variable.shape) for variable in new.weights]
        if id(old) in self.shifts and self.shifts[id(old)][0].bias is None:
            found = found[:-1]  # a bias that was added is the last weight of its layer
        if found != expected:
            raise ValueError(f"It gives weights of shapes {found}. Expected: {expected}")

    def transfer(self) -> dict[int, tuple[Any, Any]]:
        """Copies what is left of each weight, and puts the constants into the biases.

        Returns:
            The old and the new variables by the ids of the old ones.
        """
        copies = {}
        for old, new in self.made.values():
            if isinstance(old, keras.Layer) and not _is_graph(old) and old is not new:
                pairs = list(zip(old.weights, new.weights, strict=False))
                for one, two in layer_pairs(old, new):
                    self.copier.know(one, two)
                    pairs += loose_variables(one, two)
                for source, target in pairs:
                    self.copier.know(source, target)
                    copies[id(source)] = (source, target)
                    target.assign(self.values(source))
        for read, shift in self.shifts.values():
            added = shift
            for index, axis in enumerate(read.outputs):
                if axis is not None:
                    added = added.compress(self.kept(axis), axis=index)
            if read.bias is None:
                bias, value = self.made[id(read.layer)][1].bias, 0
            else:
                bias = copies[id(read.bias)][1]
                value = self.cut(read.bias, _float64(read.bias))
            # Constants take the way of the weights, which a smaller width may scale.
            bias.assign((value + added) * self.graph.factor(read.bias, self.size))
        return copies

    def carry_masks(
        self, model: keras.Model, new: keras.Model, copies: dict[int, tuple[Any, Any]]
    ) -> None:
        """Holds the zeros that are left in the weights."""
        targets = {id(weight.variable): weight for weight in find_weights(new)}
        masks = {}
        for weight in find_weights(model):
            constraint = weight.get("constraint")
            if isinstance(constraint, KeepZeros) and id(weight.variable) in copies:
                mask = constraint.get_mask(weight.name, weight.variable.shape)
                mask = None if mask is None else self.cut(weight.variable, mask)
                if mask is not None and not mask.all():
                    masks[targets[id(copies[id(weight.variable)][1])]] = mask
        apply_masks(new, masks)

    def carry_settings(self, model: keras.Model, copies: dict[int, tuple[Any, Any]]) -> None:
        """What is set on layers and variables alone: `trainable`, penalties and constraints."""
        twins = {
            id(one): two
            for old, new in self.made.values()
            if isinstance(old, keras.Layer)
            for one, two in layer_pairs(old, new)
        }
        for layer in all_layers(model):  # from the outside to the inside, as each one passes it on
            twin = twins.get(id(layer))
            if twin is not None and twin.trainable != layer.trainable:
                twin.trainable = layer.trainable
        for old, new in copies.values():
            if new.trainable != old.trainable:
                new.trainable = old.trainable
            for kind in ("regularizer", "constraint"):
                setting = without_own(getattr(old, kind))
                if setting is not None and getattr(new, kind) is None:
                    setattr(new, kind, setting)
        for old, new in self.made.values():
            if _is_graph(old) and type(old) is type(new):
                known = _keras.attributes_of(new)
                for name, value in _keras.attributes_of(old).items():
                    if not name.startswith("_") and name not in known:
                        carry_attribute(new, name, value, self.copier)

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


def _advice() -> str:
    if keras.distribution.distribution() is None:
        return (
            "Give the class a `get_config` with all arguments of `__init__`, or keep the channels "
            "around it."
        )
    return (
        "Where it is the mesh that does not divide a width: prune with `patterns.Channel("
        "multiple_of=n)`, n being the size of the mesh's axis, or load the model and shrink it "
        "in a process without a distribution."
    )


def _is_graph(operation: Any) -> bool:
    return isinstance(operation, keras.Model) and has_graph(operation)


def _is_foreign_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and not value.__module__.startswith("keras.")


def _float64(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(variable).astype("float64")


def _without_own(config: Any) -> Any:
    """The config without what only keras_hoyer could load."""
    if isinstance(config, dict):
        if config.get("registered_name") == "keras_hoyer>KeepZeros":
            return config["config"]["constraint"]
        if str(config.get("registered_name")).startswith("keras_hoyer>"):
            return None
        return {key: _without_own(value) for key, value in config.items()}
    return config
