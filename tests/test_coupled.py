"""Penalties over channels that live and die together, in all the kernels they touch."""

import copy
import threading

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
    kh.GroupMCP: lambda norms: np.where(norms < 3, norms - norms**2 / 6, 1.5).sum(),
    kh.GroupTransformedL1: lambda norms: (2 * norms / (1 + norms)).sum(),
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


def penalty_of(k, factor=0.5) -> float:
    return factor * sum(MEASURES[kh.GroupHoyerSquare](norms) for norms in expected_norms(k))


@keras.saving.register_keras_serializable("tests")
def no_loss(y_true, y_pred):
    return 0.0 * keras.ops.mean(y_pred, axis=-1)


def trained(model, prepare=lambda model: None, steps: int = 2) -> dict[str, np.ndarray]:
    """The kernels after steps of plain gradient descent on the penalty alone."""
    model.compile(keras.optimizers.SGD(0.1), no_loss)
    prepare(model)
    x = np.ones((4, 6), "float32")
    model.fit(x, np.ones((4, 2)), epochs=steps, batch_size=4, verbose=0)
    return kernels(model)


def expected_after(k, trainable=("stem", "inner", "outer", "head"), steps: int = 2):
    """The same in NumPy, by finite differences."""
    k = {name: value.copy() for name, value in k.items()}
    for _ in range(steps):
        gradients = {name: np.zeros_like(value) for name, value in k.items()}
        for name in trainable:
            for index in np.ndindex(k[name].shape):
                was = k[name][index]
                k[name][index] = was + 1e-5
                above = penalty_of(k)
                k[name][index] = was - 1e-5
                gradients[name][index] = (above - penalty_of(k)) / 2e-5
                k[name][index] = was
        for name, gradient in gradients.items():
            k[name] -= 0.1 * gradient
    return k


def coupled_net():
    model = residual_net()
    kh.regularize(model, kh.GroupHoyerSquare(0.5), groups="coupled")
    return model


def read_one(number):
    return lambda model: model.layers[number].losses


def evaluate_extractor(model):
    extractor = keras.Model(model.inputs, model.get_layer("inner").output)
    extractor.compile("sgd", "mse")
    extractor.evaluate(np.ones((4, 6)), np.ones((4, 7)), verbose=0)


def read_a_clone(model):
    clone = keras.models.clone_model(model)
    assert total_loss(clone) == pytest.approx(penalty_of(kernels(clone)), rel=1e-5)


def read_in_threads(model):
    threads = [threading.Thread(target=lambda: model.losses) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "before",
    [
        lambda model: None,
        read_one(1),
        read_one(2),
        read_one(-1),
        evaluate_extractor,
        read_a_clone,
        copy.deepcopy,
        read_in_threads,
    ],
    ids=["nothing", "stem", "inner", "head", "extractor", "clone", "deepcopy", "threads"],
)
def test_training_follows_the_gradient_whatever_was_read_before(before):
    model = coupled_net()
    expected = expected_after(kernels(model))
    found = trained(model, before)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-4)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("frozen", [("stem",), ("stem", "inner", "head"), ("outer", "head")])
def test_frozen_kernels_count_as_constants(frozen, when):
    model = residual_net() if when == "before" else coupled_net()
    for name in frozen:
        model.get_layer(name).trainable = False
    if when == "before":
        kh.regularize(model, kh.GroupHoyerSquare(0.5), groups="coupled")
    assert total_loss(model) == pytest.approx(penalty_of(kernels(model)), rel=1e-5)
    trainable = [name for name in kernels(model) if name not in frozen]
    expected = expected_after(kernels(model), trainable)
    found = trained(model)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-4)
    for name in frozen:
        model.get_layer(name).trainable = True
    assert total_loss(model) == pytest.approx(penalty_of(kernels(model)), rel=1e-5)


def test_groups_of_frozen_kernels_alone_are_left_out():
    model = coupled_net()
    model.trainable = False
    assert total_loss(model) == 0
    model.trainable = True
    assert total_loss(model) == pytest.approx(penalty_of(kernels(model)), rel=1e-5)


def test_a_part_of_a_loaded_model_alone_is_an_error_and_the_whole_is_right(tmp_path):
    coupled_net().save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"4 kernels, of which 1 .*groups='coupled'.*strip"):
        _ = loaded.get_layer("inner").losses
    assert total_loss(loaded) == pytest.approx(penalty_of(kernels(loaded)), rel=1e-5)
    assert len(loaded.get_layer("stem").losses) == 1


def test_a_loaded_model_trains_with_the_penalty_at_once(tmp_path):
    coupled_net().save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = expected_after(kernels(loaded))
    found = trained(loaded)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-4)


def test_kernels_of_attention_and_recurrent_layers_come_back_with_their_own_parts(tmp_path):
    inputs = keras.Input((5, 6))
    x = keras.layers.Dense(8)(inputs)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, 3)(x, x)])
    x = keras.layers.LSTM(4)(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    kh.regularize(model, kh.GroupHoyerSquare(0.5), groups="coupled")
    value = total_loss(model)
    assert value > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert total_loss(loaded) == pytest.approx(value, rel=1e-6)
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    assert total_loss(fresh) == pytest.approx(value, rel=1e-6)


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
