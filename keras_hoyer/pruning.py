"""Cutting: from a pattern and a criterion to masks, and zeros that stay."""

import warnings
from collections.abc import Sequence

import keras
import numpy as np

from keras_hoyer.collapse import warn_of_collapse
from keras_hoyer.criteria import Criterion
from keras_hoyer.masks import apply_masks, known_mask
from keras_hoyer.patterns import Pattern, Unstructured, check_pattern
from keras_hoyer.reports import Report, report
from keras_hoyer.targets import warn_of_limits
from keras_hoyer.units import ModelUnits, Units, find_units
from keras_hoyer.weights import LayerSelection, Weight


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
    cut(model, find_units(model, pattern, layers), criterion)
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


def cut(
    model: keras.Model,
    units: ModelUnits,
    criterion: Criterion,
    progress: float = 1.0,
    tentative: bool = False,
) -> None:
    """Cuts `progress` of the way to the criterion, and masks what is zero from then on.

    Args:
        model: A built Keras model.
        units: The units of a pattern in it.
        criterion: How much.
        progress: Part of the way to go, from 0 to 1.
        tentative: Whether the cut is taken back if it turns out too deep.
    """
    scores = [entry.score() for entry in units]
    keep = criterion.keep(scores, progress, units.flops)
    keep = [
        entry.restrict(kept, scored.values)
        for entry, kept, scored in zip(units, keep, scores, strict=True)
    ]
    if progress >= 1 and not tentative:
        warn_of_collapse(units, scores, keep)
    del scores
    masks: dict[Weight, np.ndarray] = {}
    for entry, kept in zip(units, keep, strict=True):
        for weight, mask in entry.masks(kept).items():
            # What was cut before stays cut, also if this target asks for less.
            known = masks.get(weight, known_mask(weight))
            masks[weight] = mask if known is None else mask & known
    emptied = [weight.path for weight, mask in masks.items() if not mask.any()]
    if emptied:
        warnings.warn(
            f"Pruning leaves no weight in {', '.join(emptied)}: nothing passes through any more. "
            "A smaller threshold or target keeps some, as does `scope='layer'`.",
            stacklevel=3,
        )
    warn_of_limits(criterion, progress, units, keep, masks)
    apply_masks(model, masks)


def adopt_zeros(model: keras.Model, units: Sequence[Units]) -> bool:
    """Takes the zeros that a model has for cut ones; returns whether it was ever cut.

    So a model goes on that was restored from weights alone, which hold no masks.
    """
    masks: dict[Weight, np.ndarray] = {}
    # A kernel that is zero altogether may just have begun so: others must tell that cuts were made.
    cut_before = False
    for entry in units:
        alive = entry.score().values > 0
        cut_before |= bool(alive.any() and not alive.all())
        for weight, mask in entry.masks(alive).items():
            known = masks.get(weight, known_mask(weight))
            cut_before |= known_mask(weight) is not None
            masks[weight] = mask if known is None else mask & known
    if cut_before:
        apply_masks(model, {weight: mask for weight, mask in masks.items() if not mask.all()})
    return cut_before
