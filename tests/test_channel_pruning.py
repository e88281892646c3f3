"""Cutting whole channels: scores, targets, masks that hold, and what `shrink` then removes."""

import math
from fractions import Fraction

import keras
import numpy as np
import pytest

import keras_hoyer as kh
from keras_hoyer.units import find_units


def residual_net(width: int = 16) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(width, 3, padding="same", name="stem")(inputs)
    y = keras.layers.BatchNormalization(name="norm_1")(x)
    y = keras.layers.ReLU()(y)
    y = keras.layers.Conv2D(24, 3, padding="same", name="inner")(y)
    y = keras.layers.BatchNormalization(name="norm_2")(y)
    y = keras.layers.ReLU()(y)
    y = keras.layers.Conv2D(width, 3, padding="same", name="outer")(y)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="head")(x))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.2, 1.0, variable.shape) * rng.choice([-1, 1], variable.shape))
        if "variance" in variable.name:
            variable.assign(np.abs(variable.numpy()))
    return model


def numpy(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def kernel(model, name: str) -> np.ndarray:
    return numpy(model.get_layer(name).kernel)


def predictions(model) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")
    return numpy(model(x, training=False))


def assert_same_outputs(small, model) -> None:
    expected = predictions(model)
    assert np.abs(predictions(small) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_cut_takes_whole_channels_with_all_that_goes_with_them():
    model = residual_net()
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())

    dead = ~kernel(model, "inner").any(axis=(0, 1, 2))
    norm = model.get_layer("norm_2")
    assert dead.any() and not dead.all()
    for weight in (model.get_layer("inner").bias, norm.gamma, norm.beta):
        assert np.array_equal(numpy(weight) == 0, dead)
    assert np.array_equal(~kernel(model, "outer").any(axis=(0, 1, 3)), dead)


def test_a_residual_stream_is_cut_in_all_its_layers_or_in_none():
    model = residual_net()
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())
    dead = ~kernel(model, "stem").any(axis=(0, 1, 2))
    assert dead.any()
    assert np.array_equal(~kernel(model, "outer").any(axis=(0, 1, 2)), dead)
    assert np.array_equal(~kernel(model, "inner").any(axis=(0, 1, 3)), dead)
    assert np.array_equal(~kernel(model, "head").any(axis=1), dead)


def test_a_target_counts_channels():
    model = residual_net()
    kh.prune(model, kh.criteria.TargetSparsity(0.4), kh.patterns.Channel())
    small = kh.shrink(model)
    left = small.get_layer("stem").filters + small.get_layer("inner").filters
    assert left == (16 + 24) - round(0.4 * (16 + 24))
    assert_same_outputs(small, model)


@pytest.mark.parametrize("score", ["l2", "mean", "max"])
def test_the_lowest_scores_go_first(score):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10), keras.layers.Dense(3)])
    first, second = (numpy(layer.kernel).astype("float64") for layer in model.layers)
    together = np.abs(np.concatenate([first, second.T]))
    scores = {
        "l2": np.sqrt((together**2).mean(axis=0)),
        "mean": together.mean(axis=0),
        "max": together.max(axis=0),
    }[score]
    kh.prune(model, kh.criteria.TargetSparsity(0.3), kh.patterns.Channel(score))
    dead = ~numpy(model.layers[0].kernel).any(axis=0)
    assert set(np.flatnonzero(dead)) == set(np.argsort(scores)[:3])


@pytest.mark.parametrize(
    "criterion",
    [
        kh.criteria.Threshold(0.62),
        kh.criteria.StdThreshold(1.0),
        kh.criteria.HoyerThreshold(1.0),
        kh.criteria.TargetSparsity(0.5, scope="layer"),
        kh.criteria.TargetFlops(0.5),
        kh.criteria.TargetFlops(0.5, scope="layer"),
    ],
    ids=repr,
)
def test_every_criterion_cuts_channels_that_shrink_removes(criterion):
    model = residual_net()
    kh.prune(model, criterion, kh.patterns.Channel())
    small = kh.shrink(model)
    assert small.count_params() < model.count_params()
    assert_same_outputs(small, model)


@pytest.mark.parametrize("fraction", [0.75, 0.4, 0.1])
def test_target_flops_is_reached_and_not_by_far(fraction):
    model = residual_net()
    before = sum(kh.count_flops(model).values())
    kh.prune(model, kh.criteria.TargetFlops(fraction), kh.patterns.Channel())
    after = sum(kh.count_flops(kh.shrink(model)).values())
    assert after <= fraction * before
    # One channel more, of the widest cost, would miss the target.
    assert after >= fraction * before - before / 10


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("fraction", [0.75, 0.4, 0.1])
def test_target_flops_leaves_room_for_no_channel_more(scope, fraction):
    model = residual_net()
    pattern = kh.patterns.Channel()
    # Channels that are gone already take no room.
    kh.prune(model, kh.criteria.TargetSparsity(0.1), pattern)
    units = find_units(model, pattern)
    scores = [entry.score() for entry in units]
    values = [entry.relative for entry in scores]
    left = units.flops
    kept = kh.criteria.TargetFlops(fraction, scope).keep(scores, flops=left)
    counts = np.array([stay.sum() for stay in kept])
    assert left(counts) <= fraction
    for one, stay, score in zip(np.eye(len(kept), dtype=int), kept, values, strict=True):
        assert left(counts + one) > fraction or not (~stay & (score > 0)).any()


@pytest.mark.parametrize("fraction", [0.5, 0.1])
def test_target_flops_by_layer_takes_the_same_share_of_each(fraction):
    model = residual_net()
    layer = model.get_layer("inner")
    layer.kernel.assign(layer.kernel * np.linspace(1e-3, 1, 24) ** 4)  # few large ones
    kh.prune(model, kh.criteria.TargetFlops(fraction, scope="layer"), kh.patterns.Channel())
    small = kh.shrink(model)

    def flops(stem: int, inner: int) -> int:
        return 64 * 9 * (3 * stem + 2 * stem * inner) + 5 * stem

    def left(share: Fraction) -> tuple[int, int]:
        return 16 - math.floor(share * 16), 24 - math.floor(share * 24)

    shares = sorted(Fraction(i, n) for n in (16, 24) for i in range(n))
    stem, inner = next(left(s) for s in shares if flops(*left(s)) <= fraction * flops(16, 24))
    assert abs(stem / 16 - inner / 24) <= 1 / 16
    # What both keep at the same share, and more only where there was room.
    assert small.get_layer("stem").filters >= stem
    assert small.get_layer("inner").filters >= inner
    assert sum(kh.count_flops(small).values()) <= fraction * flops(16, 24)


def test_a_multiple_and_a_least_number_of_channels_stay():
    model = residual_net()
    pattern = kh.patterns.Channel(min_channels=4, multiple_of=4)
    kh.prune(model, kh.criteria.TargetSparsity(0.8), pattern)
    small = kh.shrink(model)
    for name in ("stem", "inner"):
        assert small.get_layer(name).filters >= 4
        assert small.get_layer(name).filters % 4 == 0


def test_at_least_one_channel_stays_whatever_the_threshold():
    model = residual_net()
    kh.prune(model, kh.criteria.Threshold(1e6), kh.patterns.Channel())
    small = kh.shrink(model)
    assert small.get_layer("stem").filters == small.get_layer("inner").filters == 1


@pytest.mark.parametrize(
    "criterion", [kh.criteria.TargetFlops(0.5), kh.criteria.TargetSparsity(0.4)]
)
def test_a_layer_of_small_weights_is_not_emptied_for_the_others(criterion):
    model = residual_net()
    for name, factor in (("inner", 0.01), ("outer", 0.01)):
        layer = model.get_layer(name)
        layer.kernel.assign(layer.kernel * factor)
    kh.prune(model, criterion, kh.patterns.Channel())
    assert kh.shrink(model).get_layer("inner").filters > 24 // 4


def test_target_flops_that_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match="cannot be reached"):
        kh.prune(
            residual_net(), kh.criteria.TargetFlops(0.01), kh.patterns.Channel(min_channels=12)
        )


def test_target_flops_wants_channels():
    with pytest.raises(ValueError, match="Channel"):
        kh.callbacks.Pruning(kh.criteria.TargetFlops(0.5), kh.schedules.OneShot(1))


def test_a_model_without_free_channels_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no channels"):
        kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())


def test_fit_cuts_gradually_keeps_the_zeros_and_the_shrunk_model_trains_on():
    model = residual_net()
    model.compile("adam", "mse")
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(32, 8, 8, 3)), rng.normal(size=(32, 5))
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetFlops(0.4), kh.schedules.Polynomial(0, 2), kh.patterns.Channel()
    )
    history = model.fit(x, y, epochs=4, callbacks=[pruning], verbose=0).history["sparsity"]
    assert history[0] == 0 < history[1] < history[2] == history[3]

    small = kh.shrink(model)
    assert sum(kh.count_flops(small).values()) <= 0.4 * sum(kh.count_flops(model).values())
    assert_same_outputs(small, model)
    small.fit(x, y, verbose=0)


def test_biases_of_dead_channels_stay_dead_after_weights_alone_are_restored(tmp_path):
    model = residual_net()
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())
    model.save_weights(tmp_path / "cut.weights.h5")
    dead = numpy(model.get_layer("inner").bias) == 0

    restored = residual_net()
    restored.load_weights(tmp_path / "cut.weights.h5")
    restored.compile("adam", "mse")
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(1), kh.patterns.Channel()
    )
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(32, 8, 8, 3)), rng.normal(size=(32, 5))
    restored.fit(x, y, initial_epoch=2, epochs=3, callbacks=[pruning], verbose=0)
    assert np.array_equal(numpy(restored.get_layer("inner").bias) == 0, dead)
