"""What a smaller model gets of the old one: weights, state, masks and settings."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer import _keras
from keras_hoyer.graph.building import Builder
from keras_hoyer.graph.compiled import carry_compile
from keras_hoyer.graph.copying import without_own
from keras_hoyer.graph.opening import has_graph
from keras_hoyer.graph.state import carry_attribute, carry_state, layer_pairs, loose_variables
from keras_hoyer.masks import KeepZeros, apply_masks
from keras_hoyer.weights import find_weights

Copies = dict[int, tuple[Any, Any]]


class Transfer:
    """Carries over what is left.

    Args:
        builder: has made the layers of the smaller model.
    """

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.graph = builder.graph
        self.made = builder.made

    def carry(self, model: keras.Model, new: keras.Model) -> Copies:
        """Gives the smaller model all that is left of the old one.

        Returns:
            The old and the new variables by the ids of the old ones.
        """
        copies = self.weights()
        # A list, since a model that an attribute holds is made on the way.
        for key, (unbuilt, before) in list(self.builder.from_config.items()):
            carry_state(*self.made[key], self.builder.copier, unbuilt, before)
        self.masks(model, new, copies)
        self.settings(model, copies)
        carry_compile(model, new)
        return copies

    def weights(self) -> Copies:
        """Copies what is left of each weight, and puts the constants into the biases."""
        copies = {}
        for old, new in self.made.values():
            whole = self.builder.plan.whole is not None
            # What a model was made of has got its weights by itself; a subclassed one becomes one.
            graph = _is_graph(old) or _is_graph(new)
            inlined = not whole and (graph or id(old) in self.builder.in_place)
            if isinstance(old, keras.Layer) and not inlined and old is not new:
                weights = self.builder.own_weights(old, old), self.builder.own_weights(old, new)
                pairs = list(zip(*weights, strict=False))
                for one, two in self._pairs(old, new):
                    self.builder.copier.know(one, two)
                    pairs += loose_variables(one, two)
                for source, target in pairs:
                    self.builder.copier.know(source, target)
                    copies[id(source)] = (source, target)
                    target.assign(self.value(source))
        for read, shift in self.builder.shifts.values():
            value: np.ndarray | int
            added = shift
            for index, axis in enumerate(read.outputs):
                if axis is not None:
                    added = added.compress(self.builder.kept(axis), axis=index)
            if read.bias is None:
                bias, value = self.made[id(read.layer)][1].bias, 0
            else:
                bias = copies[id(read.bias)][1]
                value = self.builder.cut(read.bias, _float64(read.bias))
            # Constants take the way of the weights, which a smaller width may scale.
            bias.assign((value + added) * self.graph.factor(read.bias, self.builder.size))
        return copies

    def masks(self, model: keras.Model, new: keras.Model, copies: Copies) -> None:
        """Holds the zeros that are left in the weights."""
        targets = {id(weight.variable): weight for weight in find_weights(new)}
        masks = {}
        for weight in find_weights(model):
            constraint = weight.get("constraint")
            if isinstance(constraint, KeepZeros) and id(weight.variable) in copies:
                mask = constraint.get_mask(weight.name, weight.variable.shape)
                mask = None if mask is None else self.builder.cut(weight.variable, mask)
                if mask is not None and not mask.all():
                    masks[targets[id(copies[id(weight.variable)][1])]] = mask
        apply_masks(new, masks)

    def settings(self, model: keras.Model, copies: Copies) -> None:
        """What is set on layers and variables alone: `trainable`, penalties and constraints."""
        twins = {
            id(one): two
            for old, new in self.made.values()
            if isinstance(old, keras.Layer)
            for one, two in self._pairs(old, new)
        }
        for layer in _keras.all_of(
            model
        ):  # from the outside to the inside, as each one passes it on
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
                        carry_attribute(new, name, value, self.builder.copier)

    def _pairs(self, old: keras.Layer, new: keras.Layer) -> list[tuple[keras.Layer, keras.Layer]]:
        """The two layers and the layers inside them, without parts that are made by themselves."""
        return [(old, new)] if id(old) in self.builder.parts else layer_pairs(old, new)

    def value(self, variable: Any) -> np.ndarray:
        """What is left of a weight."""
        values = self.builder.cut(variable, ops.convert_to_numpy(variable))
        factor = self.graph.factor(variable, self.builder.size)
        return values if factor == 1 else (values * factor).astype(values.dtype)


def _is_graph(operation: Any) -> bool:
    return isinstance(operation, keras.Model) and has_graph(operation)


def _float64(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), "float64")
