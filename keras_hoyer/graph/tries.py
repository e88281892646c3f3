"""What layers and models would be with other entries in their configs, found by making them."""

import contextlib
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from keras_hoyer import _keras
from keras_hoyer.graph.configs import Shapes
from keras_hoyer.graph.opening import call_on
from keras_hoyer.graph.remaking import comes_from_config, config_of, made_from_config
from keras_hoyer.graph.state import layer_pairs


class Tries:
    """Makes layers with other configs, and keeps what came out.

    Layers of one class and config are alike but for their names, so that only one of a stack of
    blocks is made.

    Args:
        model: the model whose layers are tried.
    """

    def __init__(self, model: keras.Model) -> None:
        self.classes = {type(layer).__name__: type(layer) for layer in _keras.all_of(model)}
        self._found: dict[Any, Any] = {}
        self._kinds: dict[int, tuple[Any, Any]] = {}

    def comes_back(self, layer: Any) -> bool:
        """Whether the config of a layer makes it again."""
        found: bool = self._once(
            ("comes back", self._kind(layer)), lambda: comes_from_config(layer, self.classes)
        )
        return found

    def model(
        self, model: keras.Model, inputs: Sequence[Any], updates: dict[str, Any]
    ) -> Shapes | None:
        """The shapes of the weights of a model with other entries in its config, if it works."""
        if not updates:  # the model as it is
            return [tuple(variable.shape) for variable in model.weights]

        def made() -> Shapes | None:
            new = made_from_config(model, updates, self.classes)
            if not new.built:
                call_on(new, [keras.KerasTensor(x.shape, x.dtype) for x in inputs], like=model)
            return _shapes_if_alike(model, new)

        found: Shapes | None = self._once((self._kind(model), repr(updates)), lambda: _tried(made))
        return found

    def layer(
        self, layer: keras.Layer, updates: dict[str, Any], args: Any, kwargs: Any
    ) -> tuple[Shapes, Shapes] | None:
        """The shapes of the weights and outputs of a layer with other entries in its config.

        Args:
            layer: the layer.
            updates: the entries.
            args: what it is called with.
            kwargs: the same by name.

        Returns:
            The shapes, or None if no such layer can be made.
        """

        def made() -> tuple[Shapes, Shapes] | None:
            new = made_from_config(layer, updates, self.classes)
            outputs = [y.shape for y in tree.flatten(new(*args, **kwargs)) if y is not None]
            shapes = _shapes_if_alike(layer, new)
            return None if shapes is None else (shapes, outputs)

        given = [getattr(x, "shape", x) for x in tree.flatten((args, kwargs))]
        key = self._kind(layer), repr(given), repr(updates)
        found: tuple[Shapes, Shapes] | None = self._once(key, lambda: _tried(made))
        return found

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]

    def _kind(self, layer: Any) -> Any:
        """The same for layers of the same class and config, whatever their names."""
        if id(layer) not in self._kinds:
            kind: Any = id(layer)
            with contextlib.suppress(Exception):  # a config that no file could hold
                config = json.dumps(_nameless(config_of(layer)), sort_keys=True)
                kind = type(layer), config
            self._kinds[id(layer)] = layer, kind  # it is held, so that no other gets its id
        return self._kinds[id(layer)][1]


def _tried(make: Callable[[], Any]) -> Any:
    """What is made, of variables without values where that works; None if it cannot be made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras speaks of layers that no model will hold
        try:
            with _keras.without_values():
                return make()
        except Exception as error:  # whatever a class makes of sizes that do not suit it
            if not isinstance(error, ImportError) and "stateless scope" not in str(error):
                return None
        with contextlib.suppress(Exception):
            return make()
    return None


def _nameless(value: Any) -> Any:
    """A config without the names of the layer and of those in it."""
    if isinstance(value, dict):
        return {key: _nameless(entry) for key, entry in value.items() if key != "name"}
    if isinstance(value, (list, tuple)):
        return [_nameless(entry) for entry in value]
    if isinstance(value, (keras.DTypePolicy, keras.Layer, keras.initializers.Initializer)):
        return _nameless(keras.saving.serialize_keras_object(value))
    return value


def _shapes_if_alike(old: keras.Layer, new: keras.Layer) -> Shapes | None:
    """The shapes of the new weights; None if the new layer computes with other numbers.

    A scale by the root of a width, say, is one that its own config changes with the width.
    """
    for one, two in layer_pairs(old, new):
        theirs = _keras.attributes_of(two)
        for name, value in _keras.attributes_of(one).items():
            other = theirs.get(name)
            if isinstance(value, float) and isinstance(other, float) and value != other:
                return None
    return [tuple(variable.shape) for variable in new.weights]
