"""Random statistics and random cuts, to compare a masked model with its shrunk one."""

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer.graph import channel_groups
from keras_hoyer.graph.shrink import shrink

ADAPTED = ("mean", "variance", "count")  # what a Normalization has seen


def to_numpy(x):
    return ops.convert_to_numpy(x)


def randomize(model, seed=0):
    """Gives every weight a random value: biases and statistics too."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if not variable.dtype.startswith("float") or variable.name in ADAPTED:
            continue
        if "variance" in variable.name or variable.name in ("gamma", "scale"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) < 2 or "bias" in variable.name:
            variable.assign(rng.normal(scale=0.3, size=shape))
        else:
            fan_in = np.prod(shape) / shape[-1]
            variable.assign(rng.normal(scale=fan_in**-0.5, size=shape))
    return model


def cut_channels(model, fraction, seed=0, scale=True):
    """Zeroes what produces the channels of lowest mean square, and returns how many those are.

    Two channels of each group stay.
    """
    rng = np.random.default_rng(seed)
    groups = channel_groups(model)
    values, variables, scores = {}, {}, []
    for group in groups:
        total, count = 0, 0
        for piece in group.producing:
            key = id(piece.variable)
            variables[key] = piece.variable
            values.setdefault(key, np.array(to_numpy(piece.variable)))
            rows = np.moveaxis(values[key], piece.axis, 0)[piece.indices]
            rows = rows.reshape(group.channels, -1)
            total, count = total + np.square(rows).sum(axis=1), count + rows.shape[1]
        scores.append(np.sqrt(total / count) * rng.uniform(0.5, 1.5, group.channels))
    everything = np.sort(np.concatenate(scores))
    threshold = everything[int(fraction * len(everything))]
    cut = 0
    for group, score in zip(groups, scores, strict=True):
        dead = score < threshold
        dead[np.argsort(score)[-2:]] = False
        cut += int(dead.sum())
        for piece in group.producing:
            along = np.moveaxis(values[id(piece.variable)], piece.axis, 0)
            along[piece.indices[dead].reshape(-1)] = 0
    for key, variable in variables.items():
        variable.assign(values[key])
    return cut


def zero_slices(model, seed):
    """Zeroes slices of every weight along every axis, whatever they mean together."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "variance" in variable.name or not variable.dtype.startswith("float"):
            continue
        if variable.name in ADAPTED:
            continue
        values = np.array(to_numpy(variable))
        for axis, size in enumerate(values.shape):
            gone = rng.random(size) < (0.7 if values.ndim == 1 else 0.4)
            np.moveaxis(values, axis, 0)[gone] = 0
        variable.assign(values)


def random_inputs(model, seed=1, size=24, batch=3):
    rng = np.random.default_rng(seed)
    inputs = []
    for x in tree.flatten(model.inputs):
        shape = (batch, *(n or size for n in x.shape[1:]))
        if "int" in x.dtype:
            inputs.append(rng.integers(0, 10, shape).astype(x.dtype))
        else:
            inputs.append(rng.normal(size=shape).astype("float32"))
    return inputs[0] if len(inputs) == 1 else inputs


def largest_difference(model, small, inputs=None, network=False):
    """The largest difference of the outputs, relative to the largest output.

    Args:
        model: the model.
        small: the smaller one.
        inputs: for both.
        network: whether they are of many layers, which JAX compiles faster as one.
    """
    inputs = random_inputs(model) if inputs is None else inputs
    compiled = network and keras.backend.backend() == "jax"

    def outputs(each):
        return each.predict_on_batch(inputs) if compiled else each(inputs, training=False)

    worst = 0.0
    before, after = (tree.flatten(outputs(each)) for each in (model, small))
    for pair in zip(before, after, strict=True):
        one, two = (to_numpy(x).astype("float64") for x in pair)
        assert one.shape == two.shape
        worst = max(worst, np.abs(one - two).max() / max(np.abs(one).max(), 1e-6))
    return worst


def count_channels(model):
    return sum(group.channels for group in channel_groups(model))


def check_shrinks(model, fraction=0.5, kept=0, inputs=None, seed=0):
    """Cuts, shrinks, and checks that the channels are gone and the outputs have stayed.

    Args:
        model: a fresh model.
        fraction: of the channels to cut.
        kept: how many of the cut channels are not to go.
        inputs: for the comparison.
        seed: of the random numbers.

    Returns:
        The smaller model.
    """
    randomize(model, seed)
    before = count_channels(model)
    cut = cut_channels(model, fraction, seed)
    assert cut > 0
    small = shrink(model)
    assert largest_difference(model, small, inputs, network=True) <= 1e-4
    left = count_channels(small)
    assert left == before - cut + kept, f"{left} of {before} channels left after cutting {cut}"
    assert {type(x).__module__.partition(".")[0] for x in small._flatten_layers()} == {"keras"}
    again = shrink(small)
    assert [w.shape for w in again.weights] == [w.shape for w in small.weights]
    return small
