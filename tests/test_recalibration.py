"""`recalibrate`: the moving statistics are the means of the batches', against NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh

rng = np.random.default_rng(0)


def numpy(value) -> np.ndarray:
    return keras.ops.convert_to_numpy(value)


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, name="a"),
            layers.BatchNormalization(name="n", momentum=0.9),
            layers.Dropout(0.5),
            layers.Dense(3, name="b"),
            layers.BatchNormalization(name="m"),
        ]
    )
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 2, layer.gamma.shape))
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
    return model


def through(model, x):
    """Mean and variance that each normalisation sees for one batch, and the outputs."""
    found = []
    for layer in model.layers:
        values = [numpy(v).astype("float64") for v in layer.weights]
        if isinstance(layer, layers.Dense):
            x = x @ values[0] + values[1]
        elif isinstance(layer, layers.BatchNormalization):
            mean, variance = x.mean(axis=0), x.var(axis=0)
            found += [mean, variance]
            x = (x - mean) / np.sqrt(variance + layer.epsilon) * values[0] + values[1]
    return found


@pytest.mark.parametrize("batch_size", [8, 30])
def test_statistics_are_the_mean_over_samples_of_those_of_batches(batch_size):
    model, x = network(), rng.normal(2, 3, (30, 4))
    expected, starts = 0, range(0, 30, batch_size)
    pieces = [x[start : start + batch_size] for start in starts]
    each = [through(model, piece) for piece in pieces]
    expected = [
        sum(len(piece) / 30 * found[i] for piece, found in zip(pieces, each, strict=True))
        for i in range(4)
    ]
    assert kh.recalibrate(model, x, batch_size=batch_size) is model
    norms = model.get_layer("n"), model.get_layer("m")
    statistics = [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    for variable, value in zip(statistics, expected, strict=True):
        np.testing.assert_allclose(numpy(variable), value, rtol=2e-5, atol=1e-5)
    assert (norms[0].momentum, norms[1].momentum) == (0.9, 0.99)


def test_nothing_else_of_the_model_changes():
    model = network()
    model.compile("adam", "mse", metrics=["mae"])
    x, y = rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")
    model.fit(x, y, verbose=0)
    kh.prune(model, kh.criteria.TargetSparsity(0.5))
    metrics = [v for metric in model.metrics for v in metric.variables]
    everything = [*model.variables, *model.optimizer.variables, *metrics]
    kept = [v for v in everything if "moving" not in v.path]
    before = [numpy(v).copy() for v in kept]
    kh.recalibrate(model, (x, y))
    for variable, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    assert not any("call" in vars(layer) for layer in model.layers)
    model.fit(x, y, verbose=0)
    assert kh.report(model).sparsity == pytest.approx(0.5, abs=0.02)


def test_frozen_nested_and_repeated_layers_in_models_of_all_kinds():
    norm = layers.BatchNormalization(name="norm", axis=1)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.Sequential([norm], name="inner")

        def call(self, x, training=None):
            return self.inner(x, training=training) + self.inner(2 * x, training=training)

    model = Own()
    x = rng.normal(3, 2, (12, 5, 4)).astype("float32")
    model(x)
    norm.trainable = False
    kh.recalibrate(model, lambda: iter([(x[:8],), (x[8:],)]))
    assert not norm.trainable and not norm.gamma.trainable
    seen = [part for piece in (x[:8], x[8:]) for part in (piece, 2 * piece)]
    mean = sum(len(s) / 24 * s.astype("float64").mean(axis=(0, 2)) for s in seen)
    variance = sum(len(s) / 24 * s.astype("float64").var(axis=(0, 2)) for s in seen)
    np.testing.assert_allclose(numpy(norm.moving_mean), mean, rtol=1e-4)
    np.testing.assert_allclose(numpy(norm.moving_variance), variance, rtol=1e-4)


def test_a_cut_model_comes_closer_to_what_it_was():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, name="c"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    x = rng.normal(1, 2, (64, 8, 8, 3)).astype("float32")
    kh.recalibrate(model, x)
    expected = numpy(model(x, training=False))
    kh.prune(model, kh.criteria.TargetSparsity(0.7), layers=["c"])
    before = np.square(numpy(model(x, training=False)) - expected).mean()
    kh.recalibrate(model, x)
    assert np.square(numpy(model(x, training=False)) - expected).mean() < before


def test_what_there_is_not_to_do_is_said():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.warns(UserWarning, match="has no BatchNormalization"):
        kh.recalibrate(model, np.ones((4, 4)))
    with pytest.raises(ValueError, match="Invalid value for argument `data`"):
        kh.recalibrate(network(), "text")
    with pytest.raises(ValueError, match="gave no batch"):
        kh.recalibrate(network(), iter([]))
    with pytest.raises(ValueError, match=r"`batches`. Expected an integer, 1 or more"):
        kh.recalibrate(network(), np.ones((4, 4)), batches=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_trainable_stays_so(frozen):
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((2,)), norm])
    norm.gamma.trainable = False
    norm.trainable = not frozen
    norm.gamma.trainable = False
    before = [variable.trainable for variable in norm.variables]
    kh.recalibrate(model, np.random.default_rng(0).normal(size=(8, 2)).astype("float32"))
    assert [variable.trainable for variable in norm.variables] == before
    assert norm.trainable is not frozen
