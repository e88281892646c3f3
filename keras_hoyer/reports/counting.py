"""Counting what is left of a model."""

import math
from typing import Any

import keras
import numpy as np

from keras_hoyer import measures
from keras_hoyer._progress import step
from keras_hoyer.masks import known_mask
from keras_hoyer.plain import LayerSelection
from keras_hoyer.reports.account import Account
from keras_hoyer.reports.activations import describe_activations
from keras_hoyer.reports.histograms import histogram_of
from keras_hoyer.reports.results import KernelReport, Report
from keras_hoyer.weights import Weight, find_kernels


def report(model: keras.Model, layers: LayerSelection = None, data: Any = None) -> Report:
    """Says what is left of a model's kernels, and how sparse its activations are on data.

    Args:
        model: A built Keras model.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.
        data: Samples to call the model on: an array, a list or dict of arrays for several inputs,
            or batches of them, such as a `tf.data.Dataset`. Defaults to `None`: nothing is said of
            activations.

    Returns:
        A `Report`: `total`, `nonzero`, `sparsity`, `layers`, with data also `activations`. Print
        it for a table.

    Raises:
        ValueError: If the model is not built, a layer name does not exist, or a kernel holds NaN
            or infinity.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
    >>> model.set_weights([np.array([[1, 0], [2, 0], [0, 0]]), np.zeros(2)])
    >>> print(report(model))
    kernel      shape  ...  sparsity  held  Hoyer  effective  zero channels  multiply-adds  left
    --------------------...
    out/kernel  3 x 2  ...    66.67%     0  0.764          2         1 of 2              6     2
    --------------------...
    total              ...    66.67%     0                 2                             6     2
    4 zeros are not held: training can bring them back. `keep_zeros(model)` holds them.
    No channel can be removed from: out/kernel (fixed by the model's outputs).
    """
    with step(f"counting what is left of {model.name}"):
        return _report(model, layers, data)


def _report(model: keras.Model, layers: LayerSelection, data: Any) -> Report:
    found = find_kernels(model, layers)
    try:
        account = Account(model)
    except ValueError:
        # A subclassed model whose graph cannot be seen: all else can still be said.
        account = None
    kernels = tuple(_describe(kernel, account) for kernel in found)
    rest, rest_left = account.rest(found, layers is None) if account else (0, 0)
    total = sum(kernel.total for kernel in kernels)
    nonzero = sum(kernel.nonzero for kernel in kernels)
    sparsity = (total - nonzero) / total if total else 0.0
    return Report(
        total,
        nonzero,
        sparsity,
        held=sum(kernel.held for kernel in kernels),
        overwritten=sum(kernel.overwritten for kernel in kernels),
        layers=kernels,
        parameters=sum(math.prod(weight.shape) for weight in model.weights),
        flops=rest + sum(kernel.flops or 0 for kernel in kernels) if account else None,
        flops_left=rest_left + sum(k.flops_left or 0 for k in kernels) if account else None,
        at_least=account.at_least if account else "",
        effective=measures.effective_count_of(kernel.read() for kernel in found),
        groups=tuple(account.groups(found)) if account else (),
        name=model.name,
        activations=() if data is None else describe_activations(model, data, layers),
    )


def count_nonzero(kernel: Weight) -> int:
    """Number of weights of a kernel that are not zero."""
    return int(np.count_nonzero(kernel.read()))


def _describe(kernel: Weight, account: Account | None) -> KernelReport:
    weights = kernel.read()
    if not np.isfinite(weights).all():
        raise ValueError(
            f"Kernel '{kernel.path}' holds NaN or infinity, so it cannot be measured. Lower the "
            "learning rate or the penalty's factor and train again."
        )
    axes = kernel.output_axes
    others = tuple(axis for axis in range(weights.ndim) if axis not in axes)
    alive = np.any(weights != 0, axis=others)
    nonzero = int(np.count_nonzero(weights))
    mask = known_mask(kernel)
    overwritten = 0 if mask is None else int(np.count_nonzero(weights[~mask]))
    uses = account.uses(kernel) if account else None
    size_left = _size_alive(kernel, weights)
    return KernelReport(
        name=kernel.path,
        shape=kernel.shape,
        total=weights.size,
        nonzero=nonzero,
        sparsity=(weights.size - nonzero) / weights.size,
        held=0 if mask is None else int(np.count_nonzero(~mask)) - overwritten,
        overwritten=overwritten,
        hoyer=measures.hoyer_sparsity(weights),
        effective=measures.effective_count(weights),
        channels=alive.size,
        zero_channels=int(alive.size - np.count_nonzero(alive)),
        flops=weights.size * uses[0] if uses else None,
        flops_left=size_left * uses[1] if uses else None,
        fixed=account.fixed(kernel) if account else None,
        size_left=size_left,
        threshold=measures.trimming_threshold(weights),
        histogram=histogram_of(weights),
        outputs_fixed=account.outputs_fixed(kernel) if account else None,
    )


def _size_alive(kernel: Weight, weights: np.ndarray) -> int:
    """Number of weights in the rows and columns of channels that are not wholly zero."""
    shape = list(weights.shape)
    for axis in (*kernel.output_axes, *kernel.input_axes):
        others = tuple(i for i in range(weights.ndim) if i != axis)
        shape[axis] = np.count_nonzero(np.any(weights != 0, axis=others))
    return int(np.prod(shape))
