"""Which rule describes which layer class."""

import importlib
from collections.abc import Callable
from typing import Any

_RULES: dict[type, tuple[Callable[..., Any], bool]] = {}

# Rules for the layers of other packages, imported when the first of them is met.
_LATER = {"keras_hub": "keras_hoyer.graph.rules.keras_hub"}


def register_rule(
    *classes: type, follows_constants: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers how the channels go through a layer class of your own.

    The rule is called as the layer is, with a `Tensor` for each tensor, and returns a `Tensor` for
    each output. It labels the layer's weights with `graph.weight`, new channels with
    `graph.channels`, and says with `graph.resize` which entries of the layer's config hold a
    number of channels. An axis of an output that is None holds no channel that can be removed.
    Where the layer sums over a channel axis, `graph.read` says so, and what must stay is named to
    `graph.freeze`.

    What the layer costs comes from the rule as well. A weight that reads channels (`reads=`) counts
    as multiplied once for each place of the first output: for each entry along the axes that the
    weight does not make. `graph.weight(..., uses=inputs.places(-1))` says otherwise, and is needed
    for a weight that reads none, such as a depthwise kernel; `uses=()` is one place. Products of
    tensors with each other are told to `graph.product`.

    Args:
        classes: the classes; a subclass needs a rule of its own if it has a `call` or `build` of
            its own.
        follows_constants: whether the rule sets the constants on the axes that it returns. Default
            False: which channels of the output are constant is found by running the layer.

    Returns:
        A decorator.

    Raises:
        ValueError: if one of `classes` is not a class.

    >>> class Gain(keras.layers.Layer):
    ...     def __init__(self, width, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.width = width
    ...     def build(self, input_shape):
    ...         self.gain = self.add_weight(shape=(self.width,), name="gain")
    ...     def call(self, inputs):
    ...         return inputs * self.gain
    ...     def get_config(self):
    ...         return {**super().get_config(), "width": self.width}
    >>> @register_rule(Gain)
    ... def gain_rule(graph, layer, inputs):
    ...     channels = inputs.axes[-1]
    ...     graph.weight(layer.gain, [channels])
    ...     graph.resize(layer, lambda size: {"width": size(channels)})
    ...     return inputs
    """
    for cls in classes:
        if not isinstance(cls, type):
            raise ValueError(
                "Invalid value for argument `classes`. Expected layer or operation classes. "
                f"Received: classes={classes}"
            )

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        for cls in classes:
            _import_rules(cls)  # so that a rule of the user's comes after them
        _RULES.update(dict.fromkeys(classes, (rule, follows_constants)))
        return rule

    return decorate


def find_rule(operation: Any) -> tuple[Callable[..., Any] | None, bool]:
    """The rule of the class, or of a base class whose `call` and `build` it still has."""
    own = type(operation)
    _import_rules(own)
    for cls in own.__mro__:
        if own.call is not getattr(cls, "call", None):
            break
        if getattr(own, "build", None) is not getattr(cls, "build", None):
            break
        if cls in _RULES:
            return _RULES[cls]
    return None, False


def _import_rules(own: type) -> None:
    """Registers the rules for the package that a class, or one of its bases, comes from."""
    if _LATER:
        for package in {cls.__module__.partition(".")[0] for cls in own.__mro__} & _LATER.keys():
            importlib.import_module(_LATER.pop(package))
