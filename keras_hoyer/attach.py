"""Putting penalties on a model that exists already, and taking everything off again."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, get_args

import keras

from keras_hoyer._checks import check_choice, warn
from keras_hoyer._keras import all_of
from keras_hoyer._literals import Groups
from keras_hoyer.masks import KeepZeros
from keras_hoyer.plain import LayerSelection
from keras_hoyer.regularizers import Penalty, pull
from keras_hoyer.regularizers.coupled import couple, keep_in_configs
from keras_hoyer.weights import (
    Weight,
    find_kernels,
    find_weights,
    refresh_compiled,
    warn_unsaved,
)

Regularizer: TypeAlias = keras.regularizers.Regularizer


def regularize(
    model: keras.Model,
    regularizer: Regularizer | str | Callable[[keras.Layer], Regularizer | None],
    layers: LayerSelection = None,
    groups: Groups | None = None,
) -> keras.Model:
    """Puts a penalty on the kernels of a model that is built, loaded or pretrained already.

    The penalty counts from the next training step, also if the model was compiled or trained
    before, and it is saved with the model. A kernel that has a penalty gets the new one instead.
    The parts of a subclassed layer or model are the exception to saving: Keras builds them again
    from the code of that class, so call `regularize` again after loading.

    Args:
        model: A built Keras model. It is changed in place.
        regularizer: A Keras regularizer, such as `HoyerSquare(1e-4)`; or a function that takes a
            layer and returns its regularizer, or `None` to leave the layer as it is.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool. Defaults to `None`: all dense, convolutional,
            recurrent and attention layers.
        groups: `"coupled"` takes the channels of the model's graph for the groups of a group
            penalty without `axis`: a channel of a residual stream is one group with all kernels
            that make or read it, as `patterns.Channel` cuts it. Kernels that are frozen count in
            the norms of their groups; a group of frozen kernels alone is a constant and is left
            out. Of the losses of a single layer, or of a model that shares only some of the layers,
            a group is part if the first of its kernels that is being trained is. Defaults to
            `None`: each kernel has its own groups; but those of `PathNorm` are always coupled.

    Returns:
        The same model.

    Raises:
        ValueError: If the model is not built, a layer name does not exist, or the regularizer
            does not fit a kernel.

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="first")])
    >>> model = regularize(model, keras_hoyer.HoyerSquare(1e-4))
    >>> model.get_layer("first").kernel_regularizer
    HoyerSquare(factor=0.0001)
    """
    if isinstance(regularizer, type):
        raise ValueError(
            "Invalid value for argument `regularizer`. Expected a regularizer, not its class, such "
            f"as `{regularizer.__name__}(1e-4)`. Received: regularizer={regularizer!r}"
        )
    check_choice("groups", groups, (None, *get_args(Groups)))
    coupled = groups == "coupled" or getattr(regularizer, "only_couples", False)
    parts = couple(model, regularizer, layers) if coupled else []
    chosen: Sequence[tuple[Weight, Regularizer | None]]
    chosen = parts or _choose(model, regularizer, layers)
    _warn_of_changes(model, chosen)
    for kernel, penalty in chosen:
        if penalty is not None:
            kernel.set("regularizer", penalty)
    keep_in_configs(parts)
    warn_unsaved([kernel for kernel, penalty in chosen if penalty is not None], "penalty")
    refresh_compiled(model)
    return model


def strip(model: keras.Model) -> keras.Model:
    """Takes penalties and masks off, which leaves a plain Keras model with the same weights.

    Zeros stay where they are, but further training is free to change them. Saved now, the model
    loads where keras_hoyer is not installed.

    Args:
        model: A built Keras model. It is changed in place.

    Returns:
        The same model.

    Raises:
        ValueError: If the model is not built.

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="first")])
    >>> model = strip(regularize(model, keras_hoyer.HoyerSquare(1e-4)))
    >>> model.get_layer("first").kernel_regularizer is None
    True
    """
    pull.release(model)
    for weight in find_weights(model):
        constraint = weight.get("constraint")
        if isinstance(constraint, KeepZeros):
            weight.set("constraint", constraint.constraint)
    for variable in model.weights:
        if isinstance(getattr(variable, "regularizer", None), Penalty):
            variable.regularizer = None
    # Configs also name penalties that no weight carries: of an unused bias, or of the outputs.
    for layer in all_of(model):
        for name, value in list(vars(layer).items()):
            if isinstance(value, Penalty):
                setattr(layer, name, None)
            elif isinstance(value, KeepZeros):  # of a kernel that was quantized since
                setattr(layer, name, value.constraint)
    refresh_compiled(model)
    return model


def remove_penalties(weights: list[Weight]) -> bool:
    """Takes this package's penalties off the weights; returns whether there were any."""
    penalized = [weight for weight in weights if isinstance(weight.get("regularizer"), Penalty)]
    for weight in penalized:
        weight.set("regularizer", None)
    return bool(penalized)


def _choose(
    model: keras.Model,
    regularizer: Regularizer | str | Callable[[keras.Layer], Regularizer | None],
    layers: LayerSelection,
) -> list[tuple[Weight, Regularizer | None]]:
    choose: Callable[[keras.Layer], Regularizer | None]
    if callable(regularizer) and not isinstance(regularizer, (str, keras.regularizers.Regularizer)):
        choose = regularizer
    else:
        choose = _constant(keras.regularizers.get(regularizer))
    chosen = [(kernel, choose(kernel.layer)) for kernel in _find_plain(model, layers)]
    for kernel, penalty in chosen:
        _check_penalty(kernel, penalty)
    return chosen


def _warn_of_changes(
    model: keras.Model, chosen: Sequence[tuple[Weight, Regularizer | None]]
) -> None:
    """Warns if no kernel is to get a penalty, or another regularizer is to go for one."""
    penalized = [kernel for kernel, penalty in chosen if penalty is not None]
    if not penalized:
        warn(f"No kernel of model '{model.name}' got a penalty.")
    ours = (Penalty, type(None))
    replaced = [k.path for k in penalized if not isinstance(k.get("regularizer"), ours)]
    if replaced:
        warn(f"Replaced the regularizers that these kernels had: {', '.join(replaced)}")


def _find_plain(model: keras.Model, layers: LayerSelection) -> list[Weight]:
    """The kernels that were asked for, without those to which LoRA adds unless they are named."""
    if layers is not None:
        return find_kernels(model, layers)
    kernels = find_kernels(model, allowed=("float8", "lora"))
    with_lora = [k.path for k in kernels if getattr(k.owner, "lora_enabled", False)]
    if with_lora:
        warn(
            f"Left alone, because they compute with LoRA: {', '.join(with_lora)}. These kernels "
            "are frozen, so no penalty would change them. Merge LoRA first: the error that "
            "`prune` raises shows how."
        )
    return [kernel for kernel in kernels if kernel.path not in with_lora]


def _constant(regularizer: Regularizer | None) -> Callable[[keras.Layer], Regularizer | None]:
    if regularizer is None:
        raise ValueError(
            "Invalid value for argument `regularizer`. Expected a Keras regularizer or a function "
            "from a layer to one. Received: regularizer=None. To take penalties off, use `strip`."
        )
    return lambda layer: regularizer


def _check_penalty(kernel: Weight, penalty: object) -> None:
    if penalty is not None and not isinstance(penalty, keras.regularizers.Regularizer):
        raise ValueError(
            "Invalid value for argument `regularizer`. Expected a function that returns a Keras "
            f"regularizer or `None`. Received {penalty!r} for layer '{kernel.layer.name}'."
        )
    if isinstance(penalty, Penalty):
        try:
            penalty.check_shape(kernel.shape)
        except ValueError as error:
            raise ValueError(f"The penalty does not fit kernel '{kernel.path}': {error}") from None
