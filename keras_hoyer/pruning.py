"""Cutting: from a pattern and a criterion to masks, and zeros that stay."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import keras
import numpy as np

from keras_hoyer._checks import warn
from keras_hoyer._progress import step
from keras_hoyer.collapse import warn_of_collapse
from keras_hoyer.criteria import Criterion, Measured, UnitScores
from keras_hoyer.criteria.base import check_criterion
from keras_hoyer.graph.channels import find_channels
from keras_hoyer.masks import apply_masks, known_mask
from keras_hoyer.patterns import Pattern, Unstructured, check_pattern
from keras_hoyer.plain import LayerSelection
from keras_hoyer.reports import Report, report
from keras_hoyer.scores import Magnitude, Score
from keras_hoyer.scores.base import check_score
from keras_hoyer.targets import warn_of_limits
from keras_hoyer.trials import check_file, keep_by_files
from keras_hoyer.units import CoupledWeights, ModelUnits, Units, find_units
from keras_hoyer.weights import Weight, find_kernels, find_weights


def prune(
    model: keras.Model,
    criterion: Criterion,
    pattern: Pattern = Unstructured(),  # noqa: B008  (immutable)
    layers: LayerSelection = None,
    score: Score = Magnitude(),  # noqa: B008  (immutable)
) -> Report:
    """Cuts now, and keeps the zeros from then on.

    This is what `callbacks.Pruning` does at the epochs of its schedule; call it between two calls
    of `fit`, or in a custom training loop. The zeros are kept by a constraint, so every optimizer
    that applies Keras constraints keeps them: all of Keras' own do.

    Others do not: `torch.optim`, optax, weights that you assign. After each of their steps, put
    the zeros back:

    ```python
    for v in model.trainable_variables:
        if v.constraint is not None:
            v.assign(v.constraint(v))
    ```

    A constraint takes a bare array as well, for steps that are functions of arrays: `[v.constraint(
    value) if v.constraint else value for v, value in zip(model.trainable_variables, values)]`.

    A step that you compile yourself knows the masks of the time when it was traced. With
    TensorFlow, call `keep_zeros(model)` before, and it will keep the zeros of later cuts too; with
    JAX, `jax.jit` it again after each cut. The steps of `fit` and `train_on_batch` need neither.

    Args:
        model: A built Keras model. It is changed in place.
        criterion: How much: a criterion of `keras_hoyer.criteria`.
        pattern: What is cut together: a pattern of `keras_hoyer.patterns`. Defaults to
            `Unstructured()`.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool. Defaults to `None`: all dense, convolutional,
            recurrent and attention layers. Embeddings, and weights with two or more axes of layers
            without a `kernel_constraint`, such as the experts of a mixture, are cut only where
            they are asked for.
        score: How much a weight matters: a score of `keras_hoyer.scores`. Defaults to
            `Magnitude()`.

    Returns:
        A `Report` of the layers that were asked for; its `measured` says what was, if the criterion
        goes by files that are.

    Raises:
        ValueError: If the model is not built, a layer name does not exist, the criterion cannot be
            met with the pattern, the pattern does not divide a kernel, the score cannot be had, a
            kernel is not finite, or a layer computes with LoRA or is quantized.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
    >>> kh.prune(model, kh.criteria.TargetSparsity(0.9)).nonzero
    20
    """
    check_choices(criterion, pattern, score)
    with step(f"pruning {model.name}"):
        measured = cut(model, find_units(model, pattern, layers, score), criterion)
        return replace(report(model, layers), measured=measured)


def keep_zeros(model: keras.Model, layers: LayerSelection = None) -> Report:
    """Takes the zeros that a model has for cut ones, and keeps them from then on.

    Call it after `load_model` or `load_weights`: Keras saves masks in the config of each layer,
    and so loses those inside subclassed models, layers that build their own parts, and backbones
    that are saved as the arguments of their constructor. `report` shows how many zeros are held.

    Call it also before a training step is traced by hand: kernels without zeros get a mask too, so
    that later cuts hold in the traced step (with TensorFlow; with JAX compile it again).

    Where a whole channel is zero, in all kernels that make or read it and in its biases and
    scales, all of these are held, as `prune` with `patterns.Channel` does. No weight changes.

    Args:
        model: A built Keras model. It is changed in place.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool. Defaults to `None`: all dense, convolutional,
            recurrent and attention layers. What was cut only because it was named, such as an
            embedding, is held only if it is named here. A kernel that is zero altogether may
            just have begun so: it is held only where `layers` is given. Both are warned of.

    Returns:
        A `Report` of the layers that were asked for.

    Raises:
        ValueError: If the model is not built, a layer name does not exist, there is nothing to
            keep, a kernel is not finite, or a layer computes with LoRA or is quantized.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), np.zeros(2)])
    >>> keras_hoyer.report(model).held, keras_hoyer.keep_zeros(model).held
    (0, 3)
    """
    kernels = find_kernels(model, layers)
    if not kernels:
        raise ValueError(
            "There is nothing to keep: no layer that was asked for has a kernel. Expected dense, "
            "convolutional, recurrent or attention layers, or embeddings named in `layers`."
        )
    masks = {kernel: kernel.read() != 0 for kernel in kernels}
    _spare_empty(masks, hold=layers is not None)
    for weight, mask in _channel_masks(model, kernels):
        masks[weight] = masks.get(weight, True) & mask
    _warn_of_freed(masks)
    apply_masks(model, masks)
    return report(model, layers)


def check_choices(criterion: Criterion, pattern: Pattern, score: Score) -> None:
    """Raises a `ValueError` if one of them is no such thing or they do not go together."""
    check_criterion(criterion)
    check_pattern(pattern)
    check_score(score)
    criterion.check(pattern)
    if criterion.file is not None:
        check_file(criterion.file)


def cut(
    model: keras.Model,
    units: ModelUnits,
    criterion: Criterion,
    progress: float = 1.0,
    tentative: bool = False,
) -> Measured | None:
    """Cuts `progress` of the way to the criterion, and masks what is zero from then on.

    Args:
        model: A built Keras model.
        units: The units of a pattern in it.
        criterion: How much.
        progress: Part of the way to go, from 0 to 1.
        tentative: Whether the cut is taken back if it turns out too deep.

    Returns:
        What was measured, if the criterion goes by what is.
    """
    scores = units.scores(model)
    if criterion.file is None:
        measured = None
        keep = criterion.keep(scores, progress, units.flops)
        _check_kept(criterion, scores, keep)
        keep = units.restrict(keep, scores)
    else:
        keep, measured = keep_by_files(model, units, criterion, criterion.file, scores, progress)
    if progress >= 1 and not tentative:
        warn_of_collapse(units, keep)
    del scores
    # What was cut before stays cut, also if this target asks for less.
    masks = units.masks(keep)
    emptied = [weight.path for weight, mask in masks.items() if not mask.any()]
    if emptied:
        warn(
            f"Pruning leaves no weight in {', '.join(emptied)}: nothing passes through any more. "
            "A smaller threshold or target keeps some, as does `scope='layer'`."
        )
    warn_of_limits(criterion, progress, units, keep, masks)
    apply_masks(model, masks)
    return measured


def _check_kept(
    criterion: Criterion, scores: Sequence[UnitScores], keep: Sequence[np.ndarray]
) -> None:
    """Says where a criterion, which users write too, does not answer what it was asked."""
    wanted = [entry.values.shape for entry in scores]
    if [(kept.shape, kept.dtype) for kept in keep] != [(shape, np.dtype(bool)) for shape in wanted]:
        raise ValueError(
            f"`{type(criterion).__name__}.keep` is to return a boolean array for each entry of "
            f"`units`, of the shapes {wanted}. Received: "
            f"{[(kept.shape, str(kept.dtype)) for kept in keep]}"
        )


def adopt_zeros(model: keras.Model, units: Sequence[Units]) -> bool:
    """Takes the zeros that a model has for cut ones; returns whether it was ever cut.

    So a model goes on that was restored from weights alone, which hold no masks. What a mask holds
    is cut again; but for that no weight changes.
    """
    masks: dict[Weight, np.ndarray] = {}
    # A kernel that is zero altogether may just have begun so: others must tell that cuts were made.
    cut_before = False
    for entry in units:
        alive = entry.score().values > 0
        cut_before |= bool(alive.any() and not alive.all())
        for weight, mask in entry.masks(alive).items():
            known = known_mask(weight)
            cut_before |= known is not None and not known.all()
            # A channel that nothing reads any more may have a bias still.
            mask = (mask | (weight.read() != 0)) & masks.get(weight, True)
            masks[weight] = mask if known is None else mask & known
    if cut_before:
        apply_masks(model, {weight: mask for weight, mask in masks.items() if not mask.all()})
    return cut_before


def _spare_empty(masks: dict[Weight, np.ndarray], hold: bool) -> None:
    """Leaves kernels free that are zero altogether, unless they are held or are to be."""
    empty = [kernel for kernel, mask in masks.items() if not mask.any()]
    held = {kernel: known_mask(kernel) for kernel in empty}
    empty = [kernel for kernel, mask in held.items() if mask is None or mask.all()]
    if not empty:
        return
    named = ", ".join(kernel.path for kernel in empty)
    if hold:
        warn(
            f"Zero altogether, and kept so from now on: {named}. If a kernel has just begun so, as "
            "the last one of a residual branch may, `strip` sets it free."
        )
        return
    warn(
        f"Zero altogether, so left free, since a kernel may begin so: {named}. If it was cut, name "
        f"its layer: `keep_zeros(model, layers={sorted({k.layer.name for k in empty})})`."
    )
    for kernel in empty:
        masks[kernel] = np.ones(kernel.shape, bool)


def _warn_of_freed(masks: dict[Weight, np.ndarray]) -> None:
    """Says where weights are not zero that a mask held at zero: they are free from now on."""
    freed = {}
    for kernel, mask in masks.items():
        known = known_mask(kernel)
        freed[kernel.path] = 0 if known is None else np.count_nonzero(mask & ~known)
    named = ", ".join(f"{count:,} of {path}" for path, count in freed.items() if count)
    if named:
        warn(
            f"Weights that were held at zero are not zero any more, and are free now: {named}. "
            "Other weights were loaded or set since the cut, or an optimizer changed them that "
            "applies no Keras constraints: see `prune` for what to do after its steps."
        )


def _channel_masks(
    model: keras.Model, kernels: Sequence[Weight]
) -> Iterator[tuple[Weight, np.ndarray]]:
    """Masks of all weights that channels are made of; false for channels that are zero in all.

    Biases and scales get a mask without zeros as well, for cuts that come later.
    """
    weights = {id(weight.variable): weight for weight in (*find_weights(model), *kernels)}
    try:
        groups = find_channels(model, kernels).groups
    except ValueError:
        return  # a model whose graph cannot be seen has no channels to cut either
    for group in groups:
        channels = CoupledWeights(group, weights)
        alive = channels.alive()
        # If all are zero, they may just have begun so.
        keep = alive if alive.any() else ~alive
        for weight, mask in channels.masks(keep).items():
            held = known_mask(weight)
            if held is not None:
                mask &= held | (weight.read() != 0)
            yield weight, mask
