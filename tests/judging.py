"""Zeros made in any way, and whether the smaller model still gives the same outputs."""

import dataclasses
import tempfile
import traceback
import warnings
from pathlib import Path

import keras
import numpy as np
from cutting import random_inputs, randomize, to_numpy, zero_slices
from keras import tree
from random_networks import build_network

import keras_hoyer as kh

PACKAGE = str(Path(kh.__file__).parent)
TOLERANCE = 1e-4  # relative to the largest output


@dataclasses.dataclass
class Verdict:
    """What became of one network.

    Attributes:
        outcome: "same", "wrong", "refused" (an error that says why), "crashed" (any other), or
            "no model" (Keras itself cannot call the network).
        error: the largest difference of the outputs, relative to the largest output.
        rounding: the same of the model before, whose numbers were changed by what rounding does.
        removed: the share of the parameters that are gone.
        kinds: the names of the kinds in the network.
        zeros: how its zeros were made.
        message: of the error, if there was one.
    """

    outcome: str = "same"
    error: float = 0.0
    rounding: float = 0.0
    removed: float = 0.0
    kinds: list = dataclasses.field(default_factory=list)
    zeros: list = dataclasses.field(default_factory=list)
    message: str = ""


def examine(rank, steps, seed, reload=True):
    """Builds a network, makes zeros in it, shrinks it and compares.

    Args:
        rank: see `build_network`.
        steps: see `build_network`.
        seed: of the weights, the zeros and the inputs.
        reload: whether the smaller model is compared once more after it was saved and loaded.
    """
    verdict = Verdict()
    model, verdict.kinds = build_network(rank, steps)
    randomize(model, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without a rule
        try:
            _outputs(model, random_inputs(model, seed, size=7))
        except Exception as error:  # Keras hands some masks on at run time only
            verdict.outcome, verdict.message = "no model", f"{type(error).__name__}: {error}"
            return verdict
        verdict.zeros = make_zeros(model, np.random.default_rng(seed))
        try:
            small = _shrunk(model, verdict)
            verdict.removed = 1 - small.count_params() / model.count_params()
            _compare(verdict, model, small, seed)
            if reload and not _survives(small, seed) and _survives(model, seed):
                verdict.outcome, verdict.message = "wrong", "after it was saved and loaded"
        except Exception as error:
            own = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)
            refused = own and isinstance(error, ValueError)
            verdict.outcome = "refused" if refused else "crashed"
            verdict.message = str(error) if refused else traceback.format_exc()[-1500:]
    return verdict


def _shrunk(model, verdict):
    """The smaller model, also where the check of its own refuses it."""
    try:
        return kh.shrink(model)
    except ValueError as error:
        if "other outputs than" not in str(error):
            raise
        verdict.outcome, verdict.message = "refused", str(error)
        return kh.shrink(model, check=False)


def _compare(verdict, model, small, seed):
    """Compares on two sizes of the batch."""
    for batch in (3, 5):
        inputs = random_inputs(model, seed + batch, size=7, batch=batch)
        expected = _outputs(model, inputs)
        verdict.rounding = max(verdict.rounding, rounding_effect(model, inputs, expected))
        verdict.error = max(verdict.error, difference(expected, _outputs(small, inputs)))
    if not verdict.error <= max(TOLERANCE, 30 * verdict.rounding):
        verdict.outcome = "wrong"


def difference(expected, found):
    """The largest difference of outputs, relative to the largest of each; NaN only beside NaN."""
    worst = 0.0
    for one, two in zip(expected, found, strict=True):
        known = np.isfinite(one)
        if one.shape != two.shape or (known != np.isfinite(two)).any():
            return np.inf
        if known.any():
            scale = max(np.abs(one[known]).max(), 1e-6)
            worst = max(worst, float(np.abs(one - two)[known].max() / scale))
    return worst


def rounding_effect(model, inputs, expected):
    """How much the outputs change when all numbers do by as much as rounding changes them."""
    rng = np.random.default_rng(0)

    def rounded(x):
        return (x * (1 + 1e-7 * rng.choice([-1.0, 1.0], np.shape(x)))).astype(x.dtype)

    before = model.get_weights()
    model.set_weights([rounded(x) if x.dtype.kind == "f" else x for x in before])
    changed = tree.map_structure(lambda x: rounded(x) if x.dtype.kind == "f" else x, inputs)
    effect = difference(expected, _outputs(model, changed))
    model.set_weights(before)
    return effect


def _outputs(model, inputs):
    results = tree.flatten(model(inputs, training=False))
    return [to_numpy(x).astype("float64") for x in results]


def _survives(model, seed):
    """Whether a model is the same after saving and loading; Keras loses some masks and configs."""
    inputs = random_inputs(model, seed + 3, size=7)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            loaded = keras.models.load_model(path, safe_mode=False)
            return difference(_outputs(model, inputs), _outputs(loaded, inputs)) <= TOLERANCE
        except Exception:
            return False


# Ways to make zeros.


def make_zeros(model, rng):
    """Zeroes weights in one way or two, and says in which."""
    ways = sorted(WAYS)
    chosen = [ways[i] for i in rng.choice(len(ways), rng.integers(1, 3), replace=False)]
    for way in chosen:
        WAYS[way](model, rng)
    return chosen


def _channels(model, rng):
    try:
        kh.prune(model, kh.criteria.TargetSparsity(rng.uniform(0.2, 0.7)), kh.patterns.Channel())
    except ValueError as error:
        if "no channels" not in str(error):
            raise
    if rng.random() < 0.5:
        kh.strip(model)


def _single_weights(model, rng):
    try:
        kh.prune(model, kh.criteria.TargetSparsity(0.9))
    except ValueError as error:
        if "no kernel" not in str(error).lower():
            raise


def _slices(model, rng):
    zero_slices(model, int(rng.integers(1 << 16)))


def _whole_kernels(model, rng):
    """Some kernels are zero altogether, and all that is left of their layers is the bias."""
    for variable in model.trainable_variables:
        if len(variable.shape) > 1 and rng.random() < 0.15:
            variable.assign(np.zeros(variable.shape, "float32"))


def _constants(model, rng):
    """Outputs that are a constant: no kernel but a bias, no gamma but a beta."""
    for variable in model.trainable_variables:
        values = np.array(to_numpy(variable))
        if values.ndim > 1:
            along = np.moveaxis(values, rng.choice([-1, -2], p=[0.8, 0.2]), 0)
            along[rng.random(len(along)) < 0.5] = 0
        elif variable.name == "gamma":
            values[rng.random(values.shape) < 0.5] = 0
        variable.assign(values)


WAYS = {
    "channels": _channels,
    "single weights": _single_weights,
    "slices": _slices,
    "whole kernels": _whole_kernels,
    "constants": _constants,
}
