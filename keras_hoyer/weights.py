"""Which weights of a model are kernels, and where Keras keeps their regularizer and constraint.

Keras stores a weight's regularizer and constraint twice: on the variable, where they act, and as an
attribute of the layer (`kernel_regularizer`), from which the layer's config is saved. Composite
layers, such as `MultiHeadAttention`, keep it once more for all their parts.
"""

import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_hoyer._keras import has_call

LayerSelection = Sequence[str] | Callable[[keras.Layer], bool] | None

# Names of variables, and the prefixes of the attributes that layers give them.
_KERNEL_PREFIXES = {
    "kernel": ("kernel", "depthwise"),
    "depthwise_kernel": ("depthwise",),
    "pointwise_kernel": ("pointwise",),
    "recurrent_kernel": ("recurrent",),
}
_OTHER_PREFIXES = {
    "embeddings": ("embeddings",),
    "bias": ("bias",),
    "beta": ("beta",),
    "gamma": ("gamma",),
    "alpha": ("alpha",),
}
# Layers that build their parts from their own config: a user names and sees only the whole.
_COMPOSITES = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.RNN,
)


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that can carry a regularizer and a constraint.

    Attributes:
        layer: The layer that a user sees: the attention or recurrent layer, not its parts.
        variable: The `keras.Variable`.
        name: Path within the layer, such as `"kernel"` or `"query/kernel"`.
        path: Path within the model, for reports and messages.
        carriers: Pairs of an object and an attribute prefix, outermost first, that keep the
            regularizer and the constraint for the config.
        ancestors: Names by which a user may choose the weight: of the layer, and of all models
            and wrappers that contain it.
        is_kernel: Whether penalties and cuts concern it by default.
    """

    layer: keras.Layer
    variable: keras.Variable
    name: str
    path: str
    carriers: tuple[tuple[keras.Layer, str], ...]
    ancestors: tuple[str, ...]
    is_kernel: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the variable."""
        return tuple(self.variable.shape)

    @property
    def output_axes(self) -> tuple[int, ...]:
        """Axes of the kernel that number output channels."""
        owner, prefix = self.carriers[-1]
        rank = len(self.shape)
        if prefix == "depthwise":
            return (rank - 2, rank - 1)
        if isinstance(owner, keras.layers.EinsumDense):
            _, kernel, output = owner.equation.replace("->", ",").replace(" ", "").split(",")
            inputs = owner.equation.split(",")[0]
            axes = (i for i, axis in enumerate(kernel) if axis in output and axis not in inputs)
            return tuple(axes) or (rank - 1,)
        transposed = (
            keras.layers.Conv1DTranspose,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3DTranspose,
        )
        return (rank - 2,) if isinstance(owner, transposed) else (rank - 1,)

    @property
    def input_axes(self) -> tuple[int, ...]:
        """Axes of the kernel that number input channels; none for depthwise kernels."""
        owner, prefix = self.carriers[-1]
        rank = len(self.shape)
        if prefix in ("depthwise", "embeddings") or rank < 2:
            return ()
        if isinstance(owner, keras.layers.EinsumDense):
            return tuple(axis for axis in range(rank) if axis not in self.output_axes)
        return tuple(axis for axis in (rank - 2, rank - 1) if axis not in self.output_axes)

    def read(self) -> np.ndarray:
        """Copies the values; in pieces, since Keras' conversion makes several copies at a time."""
        values = np.empty(self.shape, keras.ops.convert_to_numpy(self.variable[:1]).dtype)
        rows = max(1, (1 << 22) * len(values) // values.size)
        for start in range(0, len(values), rows):
            piece = slice(start, start + rows)
            values[piece] = keras.ops.convert_to_numpy(self.variable[piece])
        return values

    def get(self, kind: str) -> object:
        """The variable's `"regularizer"` or `"constraint"`."""
        return getattr(self.variable, kind)

    def set(self, kind: str, value: object) -> None:
        """Sets the `"regularizer"` or `"constraint"`, where it acts and where it is saved."""
        setattr(self.variable, kind, value)
        for carrier, prefix in self.carriers:
            setattr(carrier, f"{prefix}_{kind}", value)


def find_weights(model: keras.Model) -> list[Weight]:
    """Finds every weight of a model that can carry a regularizer and a constraint, each once.

    Raises:
        ValueError: If the model is not built.
    """
    _check_built(model)
    found = {}
    for weight in _walk(model, (), ()):
        known = found.setdefault(id(weight.variable), weight)
        # A shared layer answers to the name of each model that contains it.
        if known is not weight:
            ancestors = (*known.ancestors, *weight.ancestors)
            found[id(weight.variable)] = replace(known, ancestors=ancestors)
    return list(found.values())


def find_kernels(model: keras.Model, layers: LayerSelection = None) -> list[Weight]:
    """Finds the kernels that penalties and cuts concern.

    By default these are the kernels of dense, convolutional, recurrent and attention layers.

    Args:
        model: A built Keras model.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool. Only so are embeddings chosen.

    Returns:
        A list of `Weight`, in the order of the model's layers.

    Raises:
        ValueError: If the model is not built, or a name does not exist or chooses nothing.
    """
    weights = [weight for weight in find_weights(model) if _is_prunable(weight)]
    if layers is None:
        _warn_of_unknown_layers(model)
        return [weight for weight in weights if weight.is_kernel]
    if callable(layers):
        return [weight for weight in weights if layers(weight.layer)]
    listed = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not listed or not all(isinstance(name, str) for name in layers):
        raise ValueError(
            "Invalid value for argument `layers`. Expected a list of layer names or a function "
            f"from a layer to a bool. Received: layers={layers!r}"
        )
    _check_names(model, weights, layers)
    return [weight for weight in weights if not set(layers).isdisjoint(weight.ancestors)]


def refresh_compiled(model: keras.Model) -> None:
    """Makes a compiled model trace its steps again, with what its weights now carry."""
    for step in ("train", "test"):
        if getattr(model, f"{step}_function", None) is not None:
            getattr(model, f"make_{step}_function")(force=True)


def _walk(
    layer: keras.Layer, parents: tuple[keras.Layer, ...], composites: tuple[keras.Layer, ...]
) -> Iterator[Weight]:
    if layer in parents:
        return
    chain = (*parents, layer)
    visible = composites[0] if composites else layer
    for variable in _own_variables(layer):
        prefix = _prefix(layer, variable.name)
        if prefix is None:
            continue
        inside = [] if layer in (visible, getattr(visible, "cell", None)) else [layer.name]
        outer = _composite_carrier(visible, prefix) if visible is not layer else ()
        name = "/".join([*inside, variable.name])
        named = [parent.name for parent in chain[: chain.index(visible) + 1]]
        yield Weight(
            layer=visible,
            variable=variable,
            name=name,
            path="/".join([*(named[1:] or named), name]),
            carriers=(*outer, (layer, prefix)),
            ancestors=tuple(named),
            is_kernel=variable.name in _KERNEL_PREFIXES,
        )
    if isinstance(layer, _COMPOSITES):
        composites = (*composites, layer)
    for child in layer._layers:
        yield from _walk(child, chain, composites)


def _own_variables(layer: keras.Layer) -> list[keras.Variable]:
    return [
        variable
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables)
        if keras.backend.is_float_dtype(variable.dtype)
    ]


def _prefix(layer: keras.Layer, name: str) -> str | None:
    for prefix in {**_KERNEL_PREFIXES, **_OTHER_PREFIXES}.get(name, ()):
        if hasattr(layer, f"{prefix}_constraint"):
            return prefix
    return None


def _composite_carrier(layer: keras.Layer, prefix: str) -> tuple[tuple[keras.Layer, str], ...]:
    # Recurrent layers read these attributes from their cell.
    if isinstance(layer, keras.layers.RNN):
        return ()
    private = f"_{prefix}"
    return ((layer, private if hasattr(layer, f"{private}_constraint") else prefix),)


def _is_prunable(weight: Weight) -> bool:
    return weight.is_kernel or weight.name == "embeddings"


def _check_built(model: keras.Model) -> None:
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"Invalid value for argument `model`. Expected a Keras model. Received: model={model!r}"
        )
    waiting = [layer for layer in _inside(model) if not layer.built]
    if not has_call(model):
        # It only holds models for its `train_step`, so nothing ever builds it but its parts.
        if waiting and not model.weights:
            names = ", ".join(f"'{x.name}'" for x in model.layers if not x.built)
            raise ValueError(
                f"Model '{model.name}' has no `call`, and its parts {names} are not built, so they "
                "have no weights yet. Give each an `Input`, or call it once on a batch of data, "
                "before this call."
            )
    # A subclassed model counts as built although its layers wait for the first call.
    elif not model.built or (waiting and not model.weights):
        raise ValueError(
            f"Model '{model.name}' is not built, so it has no weights yet. Give it an `Input`, or "
            "call it once on a batch of data, before this call."
        )


def _inside(model: keras.Model) -> list[keras.Layer]:
    return list(model._flatten_layers(include_self=False))


def _check_names(model: keras.Model, weights: list[Weight], names: Sequence[str]) -> None:
    prunable = {name for weight in weights for name in weight.ancestors}
    existing = {layer.name for layer in model._flatten_layers()}
    for name in names:
        if name in prunable:
            continue
        if name in existing:
            raise ValueError(
                f"Invalid value for argument `layers`. Layer '{name}' has no kernel of its own "
                "that could be pruned or penalized. If it is a part of an attention or recurrent "
                "layer, name that layer."
            )
        near = difflib.get_close_matches(name, sorted(existing), n=3, cutoff=0.4)
        hint = f" Near ones: {', '.join(near)}." if near else ""
        raise ValueError(
            f"Invalid value for argument `layers`. Model '{model.name}' has no layer named "
            f"'{name}'.{hint}"
        )


def _warn_of_unknown_layers(model: keras.Model) -> None:
    layers = _inside(model)
    unbuilt = sorted({layer.name for layer in getattr(model, "layers", ()) if not layer.built})
    unknown = sorted(
        {
            layer.name
            for layer in layers
            if not type(layer).__module__.startswith("keras.")
            and any(
                len(variable.shape) > 1 and _prefix(layer, variable.name) is None
                for variable in _own_variables(layer)
            )
        }
    )
    if unbuilt:
        warnings.warn(
            f"Left alone, because they are not built: layers {', '.join(unbuilt)}. If the model "
            "uses them, call it once on a batch of data before this call.",
            stacklevel=4,
        )
    if unknown:
        warnings.warn(
            f"Left alone, because their weights are of no known kind: layers {', '.join(unknown)}. "
            "A custom layer is known by a weight named 'kernel' and by the attributes "
            "`kernel_regularizer` and `kernel_constraint`.",
            stacklevel=4,
        )
