"""The score that asks how normalisation scales the channel that a weight makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_hoyer._keras import flatten_layers
from keras_hoyer._values import serializable
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.scores.base import Score
from keras_hoyer.scores.data import name_all
from keras_hoyer.scores.scaled import Scaled
from keras_hoyer.weights import Weight


@serializable
@dataclass(frozen=True)
class BatchNormScale(Score):
    """A channel matters by the scale that BatchNormalization gives it.

    A channel scores the magnitude of its `gamma`; where several are on it, as on a residual stream,
    their mean. A weight scores its share: `gamma` times the weight over the root mean square of the
    kernel's weights of its channel, since normalisation takes that away.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017),
    which trains with L1 on the scales.

    Raises:
        ValueError: When cutting, if a kernel makes channels that no BatchNormalization with a scale
            follows.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential([
    ...     keras.Input((5,)), keras.layers.Dense(4), keras.layers.BatchNormalization(name="norm"),
    ...     keras.layers.Dense(2)])
    >>> _ = model.get_layer("norm").gamma.assign(np.array([1.0, 0.1, 2.0, 0.2]))
    >>> report = kh.prune(
    ...     model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel(),
    ...     score=kh.scores.BatchNormScale())
    >>> model.get_layer("norm").gamma.numpy()
    array([1., 0., 2., 0.], dtype=float32)
    """

    of_outputs = True

    def check(self, model: keras.Model, weights: Sequence[Weight]) -> None:
        """Raises a `ValueError` if no scale is found for a kernel."""
        _scales(model, weights)

    def measured(self, model: keras.Model, weights: Sequence[Weight]) -> Score:
        """Finds the scale of each channel."""
        factors = {}
        for weight, (axis, gamma) in _scales(model, weights).items():
            values = np.moveaxis(weight.read().astype("float64"), axis, 0)
            root = np.sqrt(np.square(values).reshape(len(values), -1).mean(axis=1))
            factor = np.divide(gamma, root, out=np.zeros_like(root), where=root > 0)
            shape = [1] * values.ndim
            shape[axis] = len(factor)
            factors[id(weight.variable)] = factor.reshape(shape)
        return Scaled(factors, of_outputs=True)


def _scales(model: keras.Model, weights: Sequence[Weight]) -> dict[Weight, tuple[int, np.ndarray]]:
    """For each kernel the axis of the channels that it makes, and the scale of each of these."""
    graph = ChannelGraph(model, values=False)
    found: dict[int, list[float]] = {}  # from a channel to the scales that are on it
    for layer in flatten_layers(model):
        gamma = layer.gamma if isinstance(layer, keras.layers.BatchNormalization) else None
        known = None if gamma is None else graph.weights.get(id(gamma))
        if known is not None and known.axes[0] is not None:
            values = np.abs(keras.ops.convert_to_numpy(gamma).astype("float64"))
            for label, value in zip(known.axes[0].labels.tolist(), values, strict=True):
                found.setdefault(graph.labels.find(label), []).append(float(value))
    scales = {}
    for weight in weights:
        made = graph.weights.get(id(weight.variable))
        axes = {} if made is None else dict(enumerate(made.axes))
        for index, axis in axes.items():
            if axis is not None and made is not None and index not in made.reads:
                lists = [found.get(graph.labels.find(label), []) for label in axis.labels.tolist()]
                if all(lists):
                    scales[weight] = index, np.array([np.mean(values) for values in lists])
    _check_all(weights, scales)
    return scales


def _check_all(weights: Sequence[Weight], scales: Mapping[Weight, object]) -> None:
    without = [weight for weight in weights if weight not in scales]
    if without:
        fitting = sorted({w.layer.name for w in scales} - {w.layer.name for w in without})
        advice = (
            f"Choose the layers that have one, layers={fitting}, or take" if fitting else "Take"
        )
        raise ValueError(
            "`BatchNormScale` needs a BatchNormalization with a scale after each kernel. It finds "
            f"none after {name_all(without)}. {advice} another score."
        )
