"""Penalties over channels that live and die together, in all the kernels they touch."""

import keras
import numpy as np
import pytest
from gradients import value_and_gradient

import keras_hoyer as kh
from keras_hoyer.regularizers.coupled import CoupledPart


def residual_net() -> keras.Model:
    inputs = keras.Input((6,), name="inputs")
    x = keras.layers.Dense(5, name="stem")(inputs)
    y = keras.layers.Dense(7, "relu", name="inner")(x)
    y = keras.layers.Dense(5, name="outer")(y)
    x = keras.layers.Add()([x, y])
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x))


def kernels(model) -> dict[str, np.ndarray]:
    return {
        name: keras.ops.convert_to_numpy(model.get_layer(name).kernel).astype("float64")
        for name in ("stem", "inner", "outer", "head")
    }


def expected_norms(k: dict[str, np.ndarray]) -> list[np.ndarray]:
    """By hand: the stream of stem, outer, inner's inputs and head's; and inner's own channels."""
    stream = (k["stem"] ** 2).sum(0) + (k["outer"] ** 2).sum(0)
    stream = stream + (k["inner"] ** 2).sum(1) + (k["head"] ** 2).sum(1)
    inner = (k["inner"] ** 2).sum(0) + (k["outer"] ** 2).sum(1)
    return [np.sqrt(stream), np.sqrt(inner)]


MEASURES = {
    kh.GroupHoyer: lambda norms: norms.sum() / np.sqrt((norms**2).sum()),
    kh.GroupHoyerSquare: lambda norms: norms.sum() ** 2 / (norms**2).sum(),
    kh.GroupLasso: lambda norms: norms.sum(),
}


def total_loss(model) -> float:
    return float(sum(float(keras.ops.convert_to_numpy(loss)) for loss in model.losses))


@pytest.mark.parametrize("penalty", MEASURES, ids=lambda cls: cls.__name__)
def test_the_penalty_is_that_of_the_joint_groups(penalty):
    model = residual_net()
    kh.regularize(model, penalty(0.5), groups="coupled")
    expected = 0.5 * sum(MEASURES[penalty](norms) for norms in expected_norms(kernels(model)))
    assert total_loss(model) == pytest.approx(expected, rel=1e-5)
    assert total_loss(model) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("zero", [False, True])
def test_the_gradient_agrees_with_finite_differences_and_is_finite_at_zero(zero):
    penalty = kh.GroupHoyerSquare()
    norms = np.random.default_rng(0).uniform(0.5, 2, 6)
    if zero:
        norms[2:4] = 0
    squares = norms**2
    _, gradient = value_and_gradient(penalty.measure_of_squares, squares.astype("float32"))

    def value(s):
        return np.sqrt(s).sum() ** 2 / s.sum()

    for index in np.flatnonzero(norms):
        step = np.zeros(6)
        step[index] = 1e-6
        difference = (value(squares + step) - value(squares - step)) / 2e-6
        assert gradient[index] == pytest.approx(difference, rel=1e-4, abs=1e-5)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[norms == 0] == 0).all()


def fit(model, epochs: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 6)).astype("float32")
    y = x @ rng.normal(size=(6, 2)).astype("float32")
    model.fit(x, y, epochs=epochs, verbose=0, shuffle=False)


def test_training_lowers_the_penalty_of_a_model_that_was_compiled_before():
    model = residual_net()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    fit(model, 1)
    before = sum(MEASURES[kh.GroupHoyerSquare](n) for n in expected_norms(kernels(model)))
    kh.regularize(model, kh.GroupHoyerSquare(1.0), groups="coupled")
    fit(model, 30)
    after = sum(MEASURES[kh.GroupHoyerSquare](n) for n in expected_norms(kernels(model)))
    assert after < 0.8 * before


def test_the_penalty_survives_saving_and_loading(tmp_path):
    model = residual_net()
    model.compile("sgd", "mse")
    kh.regularize(model, kh.GroupHoyerSquare(0.5), groups="coupled")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert total_loss(loaded) == pytest.approx(total_loss(model), rel=1e-6)
    fit(loaded, 1)
    # The two models do not disturb each other.
    expected = 0.5 * sum(MEASURES[kh.GroupHoyerSquare](n) for n in expected_norms(kernels(model)))
    assert total_loss(model) == pytest.approx(expected, rel=1e-5)


def test_strip_and_the_last_cut_take_it_off():
    model = residual_net()
    kh.regularize(model, kh.GroupHoyerSquare(0.5), groups="coupled")
    assert isinstance(model.get_layer("stem").kernel_regularizer, CoupledPart)
    kh.strip(model)
    assert model.losses == []

    kh.regularize(model, kh.GroupHoyerSquare(0.5), groups="coupled")
    model.compile("sgd", "mse")
    x = np.ones((8, 6), "float32")
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetSparsity(0.3), kh.schedules.OneShot(1), kh.patterns.Channel()
    )
    model.fit(x, np.ones((8, 2)), epochs=2, callbacks=[pruning], verbose=0)
    assert model.losses == []


def test_a_layer_that_is_frozen_later_gives_a_warning():
    model = residual_net()
    kh.regularize(model, kh.GroupHoyerSquare(0.5), groups="coupled")
    model.get_layer("inner").trainable = False
    assert total_loss(model) == 0
    with pytest.warns(UserWarning, match="3 of its 4 kernels"):
        assert total_loss(model) == 0


def test_only_the_layers_that_were_asked_for_have_groups():
    model = residual_net()
    kh.regularize(model, kh.GroupLasso(1.0), layers=["inner"], groups="coupled")
    inner = expected_norms(kernels(model))[1]
    assert total_loss(model) == pytest.approx(inner.sum(), rel=1e-5)


@pytest.mark.parametrize(
    "regularizer",
    [kh.HoyerSquare(1e-4), kh.GroupHoyerSquare(axis=(-2, -1)), "l2"],
    ids=["elementwise", "axis", "keras"],
)
def test_a_penalty_without_groups_of_channels_is_refused(regularizer):
    with pytest.raises(ValueError, match="groups='coupled'"):
        kh.regularize(residual_net(), regularizer, groups="coupled")


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="`groups`"):
        kh.regularize(residual_net(), kh.GroupHoyerSquare(), groups="channels")
