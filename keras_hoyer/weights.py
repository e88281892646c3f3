"""Which weights of a model are kernels, and where Keras keeps their regularizer and constraint.

Keras stores a weight's regularizer and constraint twice: on the variable, where they act, and as an
attribute of the layer (`kernel_regularizer`), from which the layer's config is saved. Composite
layers, such as `MultiHeadAttention`, keep it once more for all their parts. Where a layer has no
such attribute, as for the experts of a mixture, they act all the same but are not saved.
"""

import difflib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_hoyer._checks import warn
from keras_hoyer._keras import (
    all_of,
    carrier_prefix,
    flatten_layers,
    has_call,
    own_learned_variables,
    own_variables,
)
from keras_hoyer.plain import LayerSelection, check_plain, walk_layers

# Names of variables, and the prefixes of the attributes that layers give them.
_KERNEL_PREFIXES = {
    "kernel": ("kernel", "depthwise"),
    "depthwise_kernel": ("depthwise",),
    "pointwise_kernel": ("pointwise",),
    "recurrent_kernel": ("recurrent",),
}
_EMBEDDING_PREFIXES = {
    "embeddings": ("embeddings",),
    "reverse_embeddings": ("reverse_embeddings",),
}
_OTHER_PREFIXES = {
    "bias": ("bias",),
    "beta": ("beta",),
    "gamma": ("gamma",),
    "alpha": ("alpha",),
}


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that can carry a regularizer and a constraint.

    Attributes:
        layer: The layer that a user sees: the attention or recurrent layer, not its parts.
        variable: The `keras.Variable`.
        name: Path within the layer, such as `"kernel"` or `"query/kernel"`.
        path: Path within the model, for reports and messages.
        carriers: Pairs of an object and an attribute prefix, outermost first, that keep the
            regularizer and the constraint for the config. None if no layer keeps them.
        ancestors: Names of the layer, and of all models and layers that contain it.
        owner: The layer whose own the variable is, such as the query part of an attention layer.
        role: `"kernel"`: penalties and cuts concern it by default. `"embedding"`: only where
            `layers` names the layer, or what contains it. `"matrix"`, of a layer that is known by
            no attributes: only where `layers` names the layer, or a layer that it is a part of;
            the name of a model does not stand for it. `"other"`: never by itself.
        part_of: The names of `ancestors` that choose a `"matrix"`.
    """

    layer: keras.Layer
    variable: keras.Variable
    name: str
    path: str
    carriers: tuple[tuple[keras.Layer, str], ...]
    ancestors: tuple[str, ...]
    owner: keras.Layer
    role: str
    part_of: tuple[str, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether penalties and cuts concern it by default."""
        return self.role == "kernel"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the variable."""
        return tuple(self.variable.shape)

    @property
    def output_axes(self) -> tuple[int, ...]:
        """Axes of the kernel that number output channels."""
        owner = self.owner
        rank = len(self.shape)
        if self._is_depthwise:
            return (rank - 2, rank - 1)
        if self._is_einsum:
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
        rank = len(self.shape)
        if self._is_depthwise or self.variable.name == "embeddings" or rank < 2:
            return ()
        if self._is_einsum:
            return tuple(axis for axis in range(rank) if axis not in self.output_axes)
        return tuple(axis for axis in (rank - 2, rank - 1) if axis not in self.output_axes)

    @property
    def _is_depthwise(self) -> bool:
        return any(prefix == "depthwise" for _, prefix in self.carriers)

    @property
    def _is_einsum(self) -> bool:
        return isinstance(self.owner, keras.layers.EinsumDense) and self.is_kernel

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
    found: dict[int, Weight] = {}
    for layer, chain, visible in walk_layers(model):
        for weight in _weights_of(layer, chain, visible):
            known = found.setdefault(id(weight.variable), weight)
            if known is not weight:
                found[id(weight.variable)] = _merge(known, weight)
    return list(found.values())


def _merge(known: Weight, again: Weight) -> Weight:
    """One weight that was met twice: shared, or held by a wrapper as well."""
    # A wrapper has no attributes for what it holds of the layer inside.
    known = again if known.role == "matrix" else known
    # A shared layer answers to the name of each model that contains it.
    return replace(
        known,
        ancestors=(*known.ancestors, *again.ancestors),
        part_of=(*known.part_of, *again.part_of),
    )


def find_kernels(
    model: keras.Model, layers: LayerSelection = None, allowed: Sequence[str] = ("float8",)
) -> list[Weight]:
    """Finds the kernels that penalties and cuts concern.

    By default these are the kernels of dense, convolutional, recurrent and attention layers; of a
    `keras.distillation.Distiller` those of the student.

    Args:
        model: A built Keras model.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool. Only so are embeddings chosen, and the matrices of
            layers that have no attribute `kernel_constraint`.
        allowed: What may stand between a kernel and the product: see `check_plain`.

    Returns:
        A list of `Weight`, in the order of the model's layers.

    Raises:
        ValueError: If the model is not built, a name does not exist or chooses nothing, or a
            layer computes with something else than its kernel.
    """
    weights = [weight for weight in find_weights(model) if weight.role != "other"]
    if layers is None:
        check_plain(model, _is_no_embedding, allowed)
        _warn_of_unknown_layers(model, weights)
        kept = _of_teacher(model)
        return [w for w in weights if w.is_kernel and id(w.variable) not in kept]
    if callable(layers):
        check_plain(model, layers, allowed)
        return [weight for weight in weights if layers(weight.layer)]
    listed = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not listed or not all(isinstance(name, str) for name in layers):
        raise ValueError(
            "Invalid value for argument `layers`. Expected a list of layer names or a function "
            f"from a layer to a bool. Received: layers={layers!r}"
        )
    check_plain(model, layers, allowed)
    _check_names(model, weights, layers)
    return [weight for weight in weights if not set(layers).isdisjoint(_names(weight))]


def _of_teacher(model: keras.Model) -> set[int]:
    """The variables of a distiller's teacher."""
    distiller = getattr(getattr(keras, "distillation", None), "Distiller", ())
    return {id(v) for v in model.teacher.variables} if isinstance(model, distiller) else set()


def warn_unsaved(weights: Sequence[Weight], what: str) -> None:
    """Warns of weights whose layer does not keep a mask or a penalty in its config."""
    unsaved = [weight for weight in weights if not weight.carriers]
    if unsaved:
        names = sorted({weight.layer.name for weight in unsaved})
        warn(
            f"The {what} of {', '.join(weight.path for weight in unsaved)} works, but is not saved "
            f"with the model, since these layers have no attribute for it. After loading, call "
            + (
                f"`keep_zeros(model, layers={names})`."
                if what == "mask"
                else f"`regularize` again with layers={names}."
            )
        )


def refresh_compiled(model: keras.Model) -> None:
    """Makes compiled models trace their steps again, with what the weights now carry.

    That goes for the model, and for each that shares weights with it: one around it, the other
    half of a GAN, a second head with an optimizer of its own.
    """
    own = {id(variable) for variable in model.variables}
    for other in (model, *_compiled_models()):
        if other is model or any(id(variable) in own for variable in other.variables):
            for step in ("train", "test"):
                if getattr(other, f"{step}_function", None) is not None:
                    getattr(other, f"make_{step}_function")(force=True)


def _compiled_models() -> list[keras.Model]:
    """All models of this process that have traced a step: no layer knows the models it is in."""
    # By `type`, since `isinstance` runs the code of lazy objects.
    models = [known for known in gc.get_objects() if issubclass(type(known), keras.Model)]
    steps = ("train_function", "test_function")
    return [known for known in models if any(getattr(known, s, None) is not None for s in steps)]


def _weights_of(
    layer: keras.Layer, chain: tuple[keras.Layer, ...], visible: keras.Layer
) -> Iterator[Weight]:
    named = [parent.name for parent in chain]
    for variable in own_variables(layer):
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        prefix = _prefix(layer, variable.name)
        role = _role(layer, variable, prefix)
        if role is None:
            continue
        inside = [] if layer in (visible, getattr(visible, "cell", None)) else [layer.name]
        outer = _composite_carrier(visible, prefix) if prefix and visible is not layer else ()
        name = "/".join([*inside, variable.name])
        yield Weight(
            layer=visible,
            variable=variable,
            name=name,
            path="/".join([*(named[1:] or named), name]),
            carriers=(*outer, (layer, prefix)) if prefix else (),
            ancestors=tuple(named),
            owner=layer,
            role=role,
            part_of=_part_of(chain),
        )


def _part_of(chain: tuple[keras.Layer, ...]) -> tuple[str, ...]:
    """The layer and the layers around it, up to the first model."""
    names = [chain[-1].name]
    for parent in chain[-2::-1]:
        if isinstance(parent, keras.Model):
            break
        names.append(parent.name)
    return tuple(names)


def _prefix(layer: keras.Layer, name: str) -> str | None:
    known = {**_KERNEL_PREFIXES, **_EMBEDDING_PREFIXES, **_OTHER_PREFIXES}
    for prefix in known.get(name, ()):
        if hasattr(layer, f"{prefix}_constraint"):
            return prefix
    return None


def _role(layer: keras.Layer, variable: keras.Variable, prefix: str | None) -> str | None:
    name = variable.name
    if name in _EMBEDDING_PREFIXES and (prefix or isinstance(layer, keras.layers.Embedding)):
        return "embedding"
    if prefix:
        return "kernel" if name in _KERNEL_PREFIXES else "other"
    # Not a vector, such as a class token of shape (1, 1, width), and no state.
    matrix = len(variable.shape) > 1 and any(size > 1 for size in variable.shape[:-1])
    learned = any(variable is known for known in own_learned_variables(layer))
    vector = not {*_OTHER_PREFIXES, "scale"}.isdisjoint(name.split("_"))
    return "matrix" if matrix and learned and not vector else None


def _names(weight: Weight) -> tuple[str, ...]:
    """The names by which `layers` chooses a weight."""
    return weight.part_of if weight.role == "matrix" else weight.ancestors


def _is_no_embedding(layer: keras.Layer) -> bool:
    return not isinstance(layer, keras.layers.Embedding)


def _composite_carrier(layer: keras.Layer, prefix: str) -> tuple[tuple[keras.Layer, str], ...]:
    # Recurrent layers read these attributes from their cell.
    if isinstance(layer, keras.layers.RNN):
        return ()
    return ((layer, carrier_prefix(layer, prefix)),)


def _check_built(model: keras.Model) -> None:
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"Invalid value for argument `model`. Expected a Keras model. Received: model={model!r}"
        )
    waiting = [layer for layer in flatten_layers(model) if not layer.built]
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


def _check_names(model: keras.Model, weights: list[Weight], names: Sequence[str]) -> None:
    prunable = {name for weight in weights for name in _names(weight)}
    existing = {layer.name for layer in all_of(model)}
    for name in names:
        if name in prunable:
            continue
        if name in existing:
            raise ValueError(
                f"Invalid value for argument `layers`. Layer '{name}' has no kernel of its own "
                "that could be pruned or penalized: no trained weight with two or more axes. If it "
                "is a part of an attention or recurrent layer, name that layer."
            )
        near = difflib.get_close_matches(name, sorted(existing), n=3, cutoff=0.4)
        hint = f" Near ones: {', '.join(near)}." if near else ""
        raise ValueError(
            f"Invalid value for argument `layers`. Model '{model.name}' has no layer named "
            f"'{name}'.{hint}"
        )


def _warn_of_unknown_layers(model: keras.Model, weights: list[Weight]) -> None:
    unbuilt = sorted({layer.name for layer in getattr(model, "layers", ()) if not layer.built})
    unknown = sorted({weight.layer.name for weight in weights if weight.role == "matrix"})
    if unbuilt:
        warn(
            f"Left alone, because they are not built: layers {', '.join(unbuilt)}. If the model "
            "uses them, call it once on a batch of data before this call."
        )
    if unknown:
        warn(
            f"Left alone, because their weights are of no known kind: layers {', '.join(unknown)}. "
            "Name them in `layers` to choose these weights too. A custom layer is known by a "
            "weight named 'kernel' and by the attributes `kernel_regularizer` and "
            "`kernel_constraint`."
        )
