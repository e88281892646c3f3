"""Cutting: from a pattern and a criterion to masks, and zeros that stay."""

import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_hoyer.constraints import KeepZeros
from keras_hoyer.criteria import Criterion, UnitScores
from keras_hoyer.patterns import KernelPattern, Pattern, Unstructured, check_pattern
from keras_hoyer.reports import Report, report
from keras_hoyer.weights import LayerSelection, Weight, find_kernels, find_weights, refresh_compiled


def prune(
    model: keras.Model,
    criterion: Criterion,
    pattern: Pattern = Unstructured(),  # noqa: B008  (immutable)
    layers: LayerSelection = None,
) -> Report:
    """Cuts now, and keeps the zeros from then on.

    This is what `callbacks.Pruning` does at the epochs of its schedule; call it between two calls
    of `fit`, or in a custom training loop. The zeros are kept by a constraint, so every optimizer
    that applies Keras constraints keeps them: all of Keras' own do.

    In a custom loop, trace the training step again after a cut (on JAX after each one), since a
    compiled step knows only the masks it was compiled with. If that loop uses an optimizer with
    `use_ema=True` which is not the one the model was compiled with, call `keep_averages(model,
    optimizer)` once after the first cut.

    Args:
        model: A built Keras model. It is changed in place.
        criterion: How much: a criterion of `keras_hoyer.criteria`.
        pattern: What is cut together: a pattern of `keras_hoyer.patterns`. Defaults to
            `Unstructured()`.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool. Defaults to `None`: all dense, convolutional,
            recurrent and attention layers.

    Returns:
        A `Report` of the layers that were asked for.

    Raises:
        ValueError: If the model is not built, a layer name does not exist, the criterion cannot be
            met with the pattern, the pattern does not divide a kernel, or a kernel is not finite.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
    >>> kh.prune(model, kh.criteria.TargetSparsity(0.9)).nonzero
    20
    """
    check_choices(criterion, pattern)
    cut(model, find_kernels(model, layers), criterion, pattern)
    return report(model, layers)


def check_choices(criterion: Criterion, pattern: Pattern) -> None:
    """Raises a `ValueError` if criterion and pattern are no such things or do not go together."""
    if not isinstance(criterion, Criterion):
        raise ValueError(
            "Invalid value for argument `criterion`. Expected a criterion of "
            "`keras_hoyer.criteria`, such as `TargetSparsity(0.9)`. "
            f"Received: criterion={criterion!r}"
        )
    check_pattern(pattern)
    criterion.check(pattern)


def check_fit(kernels: Sequence[Weight], pattern: KernelPattern) -> None:
    """Raises a `ValueError` that names the kernels which the pattern does not divide."""
    misfits = [kernel for kernel in kernels if not pattern.fits(kernel.shape)]
    if misfits:
        named = ", ".join(f"'{kernel.path}' of shape {kernel.shape}" for kernel in misfits)
        fitting = sorted({k.layer.name for k in kernels} - {k.layer.name for k in misfits})
        raise ValueError(
            f"{pattern} does not divide kernel {named}. To leave it out, choose the layers that "
            f"are to be cut: layers={fitting}"
        )


def cut(
    model: keras.Model,
    kernels: Sequence[Weight],
    criterion: Criterion,
    pattern: KernelPattern,
    progress: float = 1.0,
) -> None:
    """Cuts `progress` of the way to the criterion, and masks what is zero from then on."""
    check_fit(kernels, pattern)
    units = [_score(kernel, pattern) for kernel in kernels]
    keep = criterion.keep(units, progress)
    del units
    emptied = []
    masks = {}
    for kernel, units_kept in zip(kernels, keep, strict=True):
        masks[kernel] = pattern.expand(units_kept, kernel.shape)
        if not units_kept.any():
            emptied.append(kernel.path)
    if emptied:
        warnings.warn(
            f"Pruning leaves no weight in {', '.join(emptied)}: nothing passes through any more. "
            "A smaller threshold or target keeps some, as does `scope='layer'`.",
            stacklevel=3,
        )
    apply_masks(model, masks)


def apply_masks(model: keras.Model, masks: Mapping[Weight, np.ndarray]) -> None:
    """Sets weights to zero where their mask is false, and keeps them so."""
    # On JAX a compiled step holds the masks it was traced with; elsewhere it reads the variable.
    stale = keras.backend.backend() == "jax" and bool(masks)
    for weight, mask in masks.items():
        constraint = weight.get("constraint")
        if not isinstance(constraint, KeepZeros):
            # Parts of one attention layer share a constraint, as they do in its config.
            shared = getattr(weight.carriers[0][0], f"{weight.carriers[0][1]}_constraint")
            constraint = shared if isinstance(shared, KeepZeros) else KeepZeros({}, constraint)
            stale = True
        constraint.set_mask(weight.name, mask)
        weight.set("constraint", constraint)
        weights = keras.ops.convert_to_numpy(weight.variable)
        weight.variable.assign(np.where(mask, weights, np.zeros((), weights.dtype)))
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        keep_averages(model, optimizer)
    if stale:
        refresh_compiled(model)


def adopt_zeros(model: keras.Model, kernels: Sequence[Weight]) -> bool:
    """Takes the zeros that kernels have for cut ones and keeps them; returns whether there are any.

    So a model goes on that was restored from weights alone, which hold no masks.
    """
    masks = {}
    for kernel in kernels:
        mask = keras.ops.convert_to_numpy(kernel.variable) != 0
        if not mask.all():
            constraint = kernel.get("constraint")
            known = constraint.get_mask(kernel.name) if isinstance(constraint, KeepZeros) else None
            masks[kernel] = mask if known is None else mask & known
    if masks:
        apply_masks(model, masks)
    return bool(masks)


def keep_averages(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Keeps the zeros in an optimizer's moving averages of the weights (`use_ema=True`) too.

    `prune` and `callbacks.Pruning` do this for the optimizer that the model was compiled with.

    Args:
        model: A pruned model.
        optimizer: The optimizer that trains it. Without `use_ema=True` nothing is done.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.use_ema:
        return
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    averages = {
        id(variable): average
        for variable, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
    }
    for weight in find_weights(model):
        constraint, average = weight.get("constraint"), averages.get(id(weight.variable))
        if isinstance(constraint, KeepZeros) and average is not None:
            constraint.follow_average(weight.name, average)


def _score(kernel: Weight, pattern: KernelPattern) -> UnitScores:
    weights = keras.ops.convert_to_numpy(kernel.variable)
    if weights.dtype != np.float64:
        weights = np.asarray(weights, "float32")
    scores = np.ascontiguousarray(pattern.scores(weights))
    if not np.isfinite(weights).all():
        raise ValueError(
            f"Kernel '{kernel.path}' holds NaN or infinity, so nothing can be said about which of "
            "its weights matter. Lower the learning rate or the penalty's factor and train again."
        )
    return UnitScores(kernel.path, scores, float(weights.std()))
