"""Cutting: from a pattern and a criterion to masks, and zeros that stay."""

import math
import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_hoyer.constraints import KeepZeros, find_average
from keras_hoyer.criteria import Criterion, UnitScores
from keras_hoyer.patterns import KernelPattern, Pattern, Unstructured, check_pattern
from keras_hoyer.reports import Report, report
from keras_hoyer.weights import LayerSelection, Weight, find_kernels, refresh_compiled


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
    compiled step knows only the masks it was compiled with.

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
    """Raises a `ValueError` if there is no kernel, or one that the pattern does not divide."""
    if not kernels:
        raise ValueError(
            "There is nothing to prune: no layer that was asked for has a kernel. Expected dense, "
            "convolutional, recurrent or attention layers, or embeddings named in `layers`."
        )
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
        mask = pattern.expand(units_kept, kernel.shape)
        known = known_mask(kernel)
        # What was cut before stays cut, also if this target asks for less.
        masks[kernel] = mask if known is None else mask & known
        if not masks[kernel].any():
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
        weight.variable.assign(constraint.apply_mask(weight.name, weight.variable))
        _restore_averages(model, weight, constraint)
    if stale:
        refresh_compiled(model)


def known_mask(weight: Weight) -> np.ndarray | None:
    """The mask that a weight has been given before; `None` if it has none."""
    constraint = weight.get("constraint")
    return constraint.get_mask(weight.name) if isinstance(constraint, KeepZeros) else None


def adopt_zeros(model: keras.Model, kernels: Sequence[Weight]) -> bool:
    """Takes the zeros that kernels have for cut ones; returns whether the kernels were ever cut.

    So a model goes on that was restored from weights alone, which hold no masks.
    """
    masks = {}
    # A kernel that is zero altogether may just have begun so: others must tell that cuts were made.
    cut_before = False
    for kernel in kernels:
        known, mask = known_mask(kernel), kernel.read() != 0
        cut_before |= known is not None or (mask.any() and not mask.all())
        if not mask.all():
            masks[kernel] = mask if known is None else mask & known
    if cut_before:
        apply_masks(model, masks)
    return bool(cut_before)


def _restore_averages(model: keras.Model, weight: Weight, constraint: KeepZeros) -> None:
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for part in getattr(optimizer, "optimizers", [optimizer]):
        average = None if part is None else find_average(part, weight.variable)
        if average is not None:
            average.assign(constraint.apply_mask(weight.name, average))


def _score(kernel: Weight, pattern: KernelPattern) -> UnitScores:
    weights = kernel.read()
    if weights.dtype != np.float64:
        weights = np.asarray(weights, "float32")
    std = _std(weights)
    if not math.isfinite(std):
        raise ValueError(
            f"Kernel '{kernel.path}' holds NaN or infinity, so nothing can be said about which of "
            "its weights matter. Lower the learning rate or the penalty's factor and train again."
        )
    return UnitScores(kernel.path, np.ascontiguousarray(pattern.scores(weights)), std)


def _std(weights: np.ndarray) -> float:
    """Standard deviation in float64, in pieces, so that a large kernel needs no second copy."""
    flat = weights.reshape(-1)
    pieces = [flat[start : start + (1 << 20)] for start in range(0, flat.size, 1 << 20)]
    with np.errstate(invalid="ignore"):  # infinity becomes NaN, which the caller reports
        mean = sum(piece.sum(dtype="float64") for piece in pieces) / flat.size
        return math.sqrt(sum(np.square(piece - mean).sum() for piece in pieces) / flat.size)
