"""`factor="auto"`: the factor of a Hoyer penalty follows from what is to stay."""

import math
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import keras_hoyer as kh
from keras_hoyer.callbacks.course import Course, first_factor
from keras_hoyer.callbacks.steering import Amount

BACKEND = keras.backend.backend()
NINE_TENTHS = kh.criteria.TargetSparsity(0.9)
NEVER = kh.schedules.OneShot(99)

generator = np.random.default_rng(0)
X = generator.standard_normal((256, 16)).astype("float32")
Y = (X[:, :2] * [1.0, -2.0]).astype("float32")


def make_model(penalty=None, rate=0.01, **options):
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(32, "relu", kernel_regularizer=penalty, name="first"),
            layers.Dense(2, kernel_regularizer=penalty, name="second"),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), "mse", **options)
    return model


def fit(model, *callbacks, epochs, **options):
    options = {"batch_size": 32, "shuffle": False, "verbose": 0, **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Nothing will be pruned")
        return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options).history


def factor_of(model):
    return model.get_layer("first").kernel.regularizer.steered.value


def hoyer_squares(model):
    kernels = [np.abs(np.asarray(keras.ops.convert_to_numpy(v), "f8")) for v in model.weights[::2]]
    return [kernel.sum() ** 2 / np.square(kernel).sum() for kernel in kernels]


@given(
    speed=st.floats(0.5, 2),
    aim=st.floats(20, 5000),
    epochs=st.integers(20, 60),
    decays=st.booleans(),
)
def test_the_course_comes_to_the_aim_where_the_number_falls_as_it_supposes(
    speed, aim, epochs, decays
):
    total, steps = 40 * aim, 500
    rates = [(1 + math.cos(math.pi * e / epochs)) / 2 if decays else 1.0 for e in range(epochs)]
    factor = first_factor(aim, total, steps, rates)
    # The pace at which the first factor is the right one.
    needed = (1 / aim - 1 / total) / sum((factor * rate) ** 0.5 for rate in rates)
    effective = total
    course = Course(factor, effective, steps)
    for epoch in range(epochs):
        growth = speed * needed * (rates[epoch] * course.factor) ** 0.5
        effective = 1 / (1 / effective + growth)
        course.follow(effective, aim, rates[epoch:])
    assert effective == pytest.approx(aim, rel=0.05)


def test_where_few_stay_the_cut_comes_nearer_to_the_effective_number():
    assert Amount(effective=1.0, kept=2400, units=100_000).aim == 400
    assert Amount(effective=1.0, kept=800, units=100_000).aim == 200


def test_the_effective_number_comes_to_a_share_of_what_is_to_stay():
    keras.utils.set_random_seed(0)
    epochs = 30
    decay = keras.optimizers.schedules.CosineDecay(0.01, epochs * 32)
    model = make_model(kh.HoyerSquare("auto"), decay)
    criterion = kh.criteria.TargetSparsity(0.8)
    cut = kh.callbacks.Pruning(criterion, kh.schedules.OneShot(epochs))
    history = fit(model, cut, epochs=epochs + 1, batch_size=8)
    kept = kh.report(model).nonzero
    assert 4 < kept / history["effective_number"][-1] < 7
    assert len(history["factor"]) == epochs and len(set(history["factor"])) > 2
    assert history["sparsity"][-1] == pytest.approx(0.8, abs=0.01)
    assert not model.losses


def test_the_compiled_step_knows_each_new_factor_and_is_not_traced_again():
    traces = []

    class Watched(kh.HoyerSquare):
        def measure(self, x):
            traces.append(1)
            return super().measure(x)

    # At a learning rate of zero the number stands still, so the factor rises.
    model = make_model(Watched("auto"), 0.0)
    seen = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(len(traces)))
    history = fit(model, kh.callbacks.Pruning(NINE_TENTHS, NEVER), count, epochs=4)
    plain = float(np.mean((model.predict(X, verbose=0) - Y) ** 2))
    expected = [plain + factor * sum(hoyer_squares(model)) for factor in history["factor"]]
    assert len(set(history["factor"])) == 3  # the first epoch only shows the pace
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    if BACKEND != "torch":
        assert seen[0] == seen[-1]


def test_no_variable_of_the_model_is_left_of_it():
    model = make_model(kh.HoyerSquare("auto"))
    names = [variable.path for variable in model.variables]
    fit(model, kh.callbacks.Pruning(NINE_TENTHS, kh.schedules.OneShot(1)), epochs=2)
    assert [variable.path for variable in model.variables] == names


PENALTIES = [
    kh.Hoyer("auto"),
    kh.GroupHoyerSquare("auto", axis=(0, 1)),
    kh.GroupHoyer("auto", pattern=kh.patterns.Block((4, 1))),
]


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_every_hoyer_penalty_is_steered_saved_and_loaded(penalty, tmp_path):
    model = make_model(penalty)
    fit(model, kh.callbacks.Pruning(NINE_TENTHS, NEVER), epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    loaded = again.get_layer("first").kernel.regularizer
    assert repr(loaded) == repr(penalty) and factor_of(again) == factor_of(model) > 0
    np.testing.assert_allclose(float(sum(again.losses)), float(sum(model.losses)), rtol=1e-5)
    # Goes on from there, not from the beginning.
    reached = factor_of(model)
    history = fit(again, kh.callbacks.Pruning(NINE_TENTHS, NEVER), epochs=3, initial_epoch=2)
    assert history["factor"] == [pytest.approx(reached)]


def test_a_backup_keeps_the_factor(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    def callbacks():
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        return kh.callbacks.Pruning(NINE_TENTHS, NEVER), backup

    model = make_model(kh.HoyerSquare("auto"))
    with pytest.raises(KeyboardInterrupt):
        fit(model, *callbacks(), Kill(), epochs=5)
    reached = factor_of(model)
    again = make_model(kh.HoyerSquare("auto"))
    history = fit(again, *callbacks(), epochs=5)
    assert len(history["factor"]) == 2 and history["factor"][0] == pytest.approx(reached)


def test_weights_alone_do_not_tell_the_factor_and_that_is_said():
    model = make_model(kh.HoyerSquare("auto"))
    with pytest.warns(UserWarning, match="do not tell what the factor"):
        fit(model, kh.callbacks.Pruning(NINE_TENTHS, NEVER), epochs=5, initial_epoch=4)


@pytest.mark.parametrize("pattern", [{}, {"groups": "coupled"}], ids=str)
def test_channels_are_counted_where_channels_are_cut(pattern):
    model = make_model()
    kh.regularize(model, kh.GroupHoyerSquare("auto"), ["first"] if not pattern else None, **pattern)
    criterion = kh.criteria.TargetFlops(0.5)
    cut = kh.callbacks.Pruning(criterion, kh.schedules.OneShot(3), kh.patterns.Channel())
    with pytest.warns(UserWarning, match=r"it keeps \d+ of 32 units"):
        history = fit(model, cut, epochs=4)
    assert all(1 < number < 32 for number in history["effective_number"])
    assert not model.losses


def test_a_phase_that_is_too_short_is_said_with_what_to_do():
    model = make_model(kh.HoyerSquare("auto"))
    cut = kh.callbacks.Pruning(NINE_TENTHS, kh.schedules.OneShot(1))
    with pytest.warns(UserWarning, match="too short for this cut: it keeps 58 of 576 units") as got:
        fit(model, cut, epochs=2)
    assert any("or keep more, about 576" in str(entry.message) for entry in got)


@pytest.mark.parametrize(
    "callbacks", [None, [kh.callbacks.BudgetPruning(0.01)]], ids=["none", "budget"]
)
def test_without_a_callback_that_sets_it_fit_is_an_error(callbacks):
    model = make_model(kh.HoyerSquare("auto"))
    with pytest.raises(ValueError, match="needs a callback of `fit` that sets the factor"):
        model.fit(X, Y, epochs=1, verbose=0, callbacks=callbacks)


def test_outside_of_fit_it_counts_with_the_default_and_says_so_once():
    model = make_model(kh.HoyerSquare("auto"))
    with pytest.warns(UserWarning, match="has no factor yet.*counts with 0.0001") as got:
        losses = [float(sum(model.losses)) for _ in range(2)]
    assert len(got) == 1
    np.testing.assert_allclose(losses, 1e-4 * sum(hoyer_squares(model)), rtol=1e-5)


THRESHOLDS = [
    kh.criteria.Threshold(0.1),
    kh.criteria.StdThreshold(0.1),
    kh.criteria.HoyerThreshold(),
    kh.criteria.EffectiveNumber(),
]


@pytest.mark.parametrize("criterion", THRESHOLDS, ids=lambda criterion: type(criterion).__name__)
def test_a_criterion_that_asks_for_no_amount_is_an_error(criterion):
    model = make_model(kh.HoyerSquare("auto"))
    with pytest.raises(ValueError, match="expected a criterion that says"):
        fit(model, kh.callbacks.Pruning(criterion, NEVER), epochs=1)


def test_a_penalty_that_nothing_steers_is_an_error():
    model = make_model(kh.HoyerSquare("auto"))
    with pytest.raises(ValueError, match="second/kernel have factor='auto', but no callback cuts"):
        fit(model, kh.callbacks.Pruning(NINE_TENTHS, NEVER, layers=["first"]), epochs=1)
    both = [kh.callbacks.Pruning(NINE_TENTHS, NEVER, layers=[n]) for n in ("first", "second")]
    model = make_model()
    kh.regularize(model, lambda layer: kh.HoyerSquare("auto"))
    fit(model, *both, epochs=1)
    model = make_model()
    model.layers[0].activity_regularizer = kh.HoyerSquare("auto")
    with pytest.raises(ValueError, match="for layer 'first'"):
        fit(model, kh.callbacks.Pruning(NINE_TENTHS, NEVER), epochs=1)


def test_only_a_hoyer_penalty_can_be_automatic_and_not_a_normalized_one():
    for cls in (kh.L1, kh.GroupLasso, kh.TransformedL1, kh.PathNorm, kh.GroupMCP):
        with pytest.raises(ValueError, match="'auto' goes with the Hoyer penalties"):
            cls("auto")
    with pytest.raises(ValueError, match="`normalize`"):
        kh.GroupHoyer("auto", normalize=True)
    with pytest.raises(ValueError, match="or 'auto'"):
        kh.HoyerSquare("automatic")
