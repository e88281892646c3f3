"""The path norm against its theorem: the least weight decay over all rescalings of the units."""

import keras
import numpy as np
import pytest
from scipy import optimize

import keras_hoyer as kh


def shallow(units=4, outputs=1, seed=0):
    random = np.random.default_rng(seed)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(units, "relu", name="hidden"),
            keras.layers.Dense(outputs, name="out"),
        ]
    )
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    return model


def kernel(model, name):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel).astype("float64")


def total_loss(model):
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in model.losses))


def decay_after(logs, w, v):
    """Weight decay after each unit was made `exp(log)` times as large and read as much smaller."""
    scales = np.exp(logs)
    return ((w * scales) ** 2).sum() / 2 + ((v / scales[:, None]) ** 2).sum() / 2


@pytest.mark.parametrize("outputs", [1, 3])
def test_it_is_the_least_weight_decay_over_all_rescalings(outputs):
    model = shallow(5, outputs)
    w, v = kernel(model, "hidden"), kernel(model, "out")
    found = optimize.minimize(decay_after, np.zeros(5), (w, v), tol=1e-12)
    kh.regularize(model, kh.PathNorm(0.3))
    assert total_loss(model) == pytest.approx(0.3 * found.fun, rel=1e-5)


def test_rescaling_a_unit_changes_neither_outputs_nor_penalty():
    model = shallow()
    kh.regularize(model, kh.PathNorm(1.0))
    x = np.random.default_rng(1).normal(size=(8, 3)).astype("float32")
    outputs, penalty = model.predict(x, verbose=0), total_loss(model)
    weights = model.get_weights()
    scales = np.array([0.1, 1, 3, 20], "float32")
    model.set_weights(
        [weights[0] * scales, weights[1] * scales, weights[2] / scales[:, None], weights[3]]
    )
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs, atol=1e-4)
    assert total_loss(model) == pytest.approx(penalty, rel=1e-5)


def value_by_hand(w, v):
    return (np.linalg.norm(w, axis=0) * np.linalg.norm(v, axis=1)).sum()


@keras.saving.register_keras_serializable("tests_path_norm")
def no_loss(y_true, y_pred):
    return 0.0 * keras.ops.mean(y_pred, axis=-1)


@pytest.mark.parametrize("dead", [None, "made", "read", "both"])
def test_training_follows_its_gradient_and_dead_units_stay(dead):
    model = shallow(4, 2)
    w, v = kernel(model, "hidden"), kernel(model, "out")
    if dead in ("made", "both"):
        w[:, 1] = 0
    if dead in ("read", "both"):
        v[1] = 0
    model.get_layer("hidden").kernel.assign(w)
    model.get_layer("out").kernel.assign(v)
    w, v = kernel(model, "hidden"), kernel(model, "out")
    kh.regularize(model, kh.PathNorm(0.5))
    model.compile(keras.optimizers.SGD(0.1), no_loss)
    model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=4, verbose=0)
    norms_w, norms_v = np.linalg.norm(w, axis=0), np.linalg.norm(v, axis=1)
    safe_w, safe_v = np.where(norms_w > 0, norms_w, 1), np.where(norms_v > 0, norms_v, 1)
    expected_w = w - 0.05 * w * norms_v / safe_w
    expected_v = v - 0.05 * v * (norms_w / safe_v)[:, None]
    np.testing.assert_allclose(kernel(model, "hidden"), expected_w, atol=1e-5)
    np.testing.assert_allclose(kernel(model, "out"), expected_v, atol=1e-5)


def test_it_survives_saving_and_strip_takes_it_off(tmp_path):
    model = kh.regularize(shallow(), kh.PathNorm(0.5))
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert total_loss(loaded) == pytest.approx(total_loss(model), rel=1e-6)
    assert total_loss(kh.strip(loaded)) == 0
    restored = kh.PathNorm.from_config(kh.PathNorm(0.25).get_config())
    assert restored.factor == 0.25


def test_the_units_of_each_layer_of_a_deep_net_add():
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(3, 3, activation="relu", name="second")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    kh.regularize(model, kh.PathNorm(1.0))
    first, second, head = (kernel(model, name) for name in ("first", "second", "head"))
    expected = value_by_hand(first.reshape(-1, 4), np.moveaxis(second, 2, 0).reshape(4, -1))
    expected += value_by_hand(second.reshape(-1, 3), head)
    assert total_loss(model) == pytest.approx(expected, rel=1e-5)
    chosen = kh.regularize(kh.strip(model), kh.PathNorm(1.0), layers=["second"])
    assert total_loss(chosen) == pytest.approx(value_by_hand(second.reshape(-1, 3), head), rel=1e-5)


def test_training_with_it_leaves_shorter_paths_than_without():
    x = np.linspace(-1, 1, 64)[:, None].astype("float32")
    y = np.abs(x)
    lengths = []
    for factor in (0.0, 1e-2):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((1,)),
                keras.layers.Dense(20, "relu", name="hidden"),
                keras.layers.Dense(1, name="out"),
            ]
        )
        kh.regularize(model, kh.PathNorm(factor))
        model.compile(keras.optimizers.Adam(0.02), "mse")
        repeated = [np.tile(each, (150, 1)) for each in (x, y)]
        model.fit(*repeated, batch_size=64, shuffle=False, verbose=0)
        assert model.evaluate(x, y, verbose=0) < 0.1
        lengths.append(value_by_hand(kernel(model, "hidden"), kernel(model, "out")))
    # |x| needs two units of path 1.
    assert 1.5 < lengths[1] < 0.9 * lengths[0]


def test_a_single_layer_has_no_paths():
    with pytest.raises(ValueError, match=r"regularize\(model, PathNorm"):
        kh.PathNorm(1.0)(np.ones((3, 2), "float32"))
    layer = keras.layers.Dense(2, kernel_regularizer=kh.PathNorm(1.0))
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"regularize\(model, PathNorm"):
        _ = layer.losses
    with pytest.raises(ValueError, match="does not fit kernel"):
        kh.regularize(shallow(), lambda layer: kh.PathNorm(1.0))
    with pytest.raises(ValueError, match="no channels"):
        kh.regularize(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), kh.PathNorm(1.0)
        )
