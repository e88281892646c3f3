import keras
import numpy as np
import pytest

import keras_hoyer as kh


def make_model(weights=100):
    model = keras.Sequential([keras.Input((weights,)), keras.layers.Dense(1, name="dense")])
    values = np.random.default_rng(0).permutation(np.arange(1, weights + 1)).astype("float32")
    model.set_weights([values[:, None], np.zeros(1, "float32")])
    return model


def kernel(model):
    return model.get_weights()[0].ravel()


def start(model, *arguments, **options):
    callback = kh.callbacks.BudgetPruning(*arguments, **options)
    callback.set_model(model)
    model.stop_training = False
    callback.on_train_begin()
    return callback


def play(callback, values, begin=0):
    """Runs one epoch for each value of the metric; nothing is trained."""
    lefts = []
    for epoch, value in enumerate(values, begin):
        callback.on_epoch_begin(epoch)
        lefts.append(np.count_nonzero(kernel(callback.model)))
        callback.on_epoch_end(epoch, {callback.monitor: value})
    return lefts


def may_grow(model):
    """Which weights training could make nonzero."""
    constraint = model.get_layer("dense").kernel.constraint
    shape = model.get_layer("dense").kernel.shape
    return keras.ops.convert_to_numpy(constraint(np.ones(shape, "float32"))).ravel() != 0


def test_each_round_cuts_a_share_of_the_weights_that_are_left_smallest_first():
    model = make_model()
    callback = start(model, 0.01, baseline=0.9, step=0.3)
    assert play(callback, [0.9, 0.895, 0.8901]) == [70, 49, 34]
    assert sorted(kernel(model))[-34:] == list(range(67, 101))


def test_a_round_has_as_many_epochs_as_patience_to_come_back_within_the_budget():
    callback = start(make_model(), 0.01, baseline=0.9, step=0.5, patience=3)
    assert play(callback, [0.5, 0.5, 0.9, 0.9]) == [50, 50, 50, 25]


def test_a_round_out_of_budget_is_taken_back_and_the_share_is_halved():
    model = make_model()
    callback = start(model, 0.01, baseline=0.9, step=0.4, min_step=0.1, patience=2)
    play(callback, [0.9])
    accepted = kernel(model)
    play(callback, [0.5, 0.5], begin=1)
    np.testing.assert_array_equal(kernel(model), accepted)
    np.testing.assert_array_equal(may_grow(model), accepted != 0)
    assert play(callback, [0.9], begin=3) == [48]


def test_what_is_cut_cannot_grow_back():
    model = make_model()
    play(start(model, 0.01, baseline=0.9, step=0.3), [0.9])
    np.testing.assert_array_equal(may_grow(model), kernel(model) != 0)


def test_training_stops_when_the_share_falls_below_the_least():
    model = make_model()
    callback = start(model, 0.01, baseline=0.9, step=0.4, min_step=0.2, patience=1)
    play(callback, [0.9, 0.5])
    assert not model.stop_training
    play(callback, [0.5], begin=2)
    assert model.stop_training
    assert np.count_nonzero(kernel(model)) == 60


def test_a_round_that_fit_had_no_time_for_is_taken_back():
    model = make_model()
    callback = start(model, 0.01, baseline=0.9, step=0.3, patience=5)
    play(callback, [0.9, 0.5])
    callback.on_train_end()
    assert np.count_nonzero(kernel(model)) == 70


def test_baseline_is_the_best_value_before_the_first_cut():
    callback = start(make_model(), 0.01, begin=3, step=0.5)
    assert play(callback, [0.5, 0.9, 0.7, 0.885, 0.895, 0.9]) == [100, 100, 100, 50, 50, 25]


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val_loss", "auto"), ("val_mean_absolute_error", "auto"), ("x", "min")]
)
def test_of_a_loss_less_is_better(monitor, mode):
    callback = start(make_model(), 0.1, baseline=1.0, monitor=monitor, mode=mode, step=0.5)
    assert play(callback, [1.2, 1.05, 0.2]) == [50, 50, 25]


def test_penalties_count_until_the_end_and_go_then():
    model = make_model()
    kh.regularize(model, kh.HoyerSquare(1e-2))
    callback = start(model, 0.01, baseline=0.9)
    play(callback, [0.9])
    assert len(model.losses) == 1
    callback.on_train_end()
    assert model.losses == []


def test_the_last_weight_stays_and_training_stops():
    model = make_model(weights=3)
    callback = start(model, 0.01, baseline=0.9, step=0.5)
    assert play(callback, [0.9, 0.9]) == [1, 1]
    assert model.stop_training


def test_blocks_are_cut_whole():
    model = make_model()
    callback = start(model, 0.01, baseline=0.9, step=0.5, pattern=kh.patterns.Block((10, 1)))
    play(callback, [0.9])
    blocks = (kernel(model) != 0).reshape(10, 10)
    assert blocks.all(1).sum() == 5
    assert blocks.any(1).sum() == 5


def test_channels_are_cut_with_their_biases_and_come_back_with_them():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, bias_initializer="ones", name="hidden"),
            keras.layers.Dense(2),
        ]
    )
    pattern = kh.patterns.Channel()
    callback = start(model, 0.01, baseline=0.9, step=0.5, patience=1, pattern=pattern)

    def alive():
        hidden, bias, output, _ = (values != 0 for values in model.get_weights())
        np.testing.assert_array_equal(hidden.any(0), bias)
        np.testing.assert_array_equal(output.any(1), bias)
        return bias

    callback.on_epoch_begin(0)
    assert alive().sum() == 4
    callback.on_epoch_end(0, {"val_accuracy": 0.9})
    kept = alive()
    callback.on_epoch_begin(1)
    assert alive().sum() == 2
    callback.on_epoch_end(1, {"val_accuracy": 0.5})
    np.testing.assert_array_equal(alive(), kept)
    bias = model.get_layer("hidden").bias
    ones = keras.ops.convert_to_numpy(bias.constraint(np.ones(8, "float32")))
    np.testing.assert_array_equal(ones, kept)


def test_no_cut_within_the_budget_leaves_the_model_as_it_was_and_warns():
    model = make_model()
    before = kernel(model)
    callback = start(model, 0.01, baseline=0.9, patience=1, step=0.1, min_step=0.1)
    play(callback, [0.5])
    with pytest.warns(UserWarning, match="Nothing was pruned"):
        callback.on_train_end()
    np.testing.assert_array_equal(kernel(model), before)
    assert model.stop_training


def test_fit_finds_the_weights_that_matter_and_fine_tuning_keeps_the_zeros():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    y = x[:, 3:4] - 2 * x[:, 8:9]
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(1, use_bias=False)])
    kh.regularize(model, kh.HoyerSquare(1e-3))
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    cut = kh.callbacks.BudgetPruning(
        0.05, baseline=0.0, monitor="val_loss", begin=40, step=0.5, min_step=0.2, patience=4
    )
    data = {"x": x, "y": y, "batch_size": 64, "verbose": 0, "validation_data": (x, y)}
    history = model.fit(**data, epochs=90, callbacks=[cut])
    assert len(history.epoch) < 90
    assert history.history["sparsity"][0] == 0
    model.fit(**data, epochs=3)
    assert np.flatnonzero(kernel(model)).tolist() == [3, 8]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", -0.1),
        ("budget", float("nan")),
        ("budget", "1%"),
        ("baseline", float("inf")),
        ("baseline", None),
        ("mode", "best"),
        ("begin", -1),
        ("begin", 1.5),
        ("step", 0.0),
        ("step", 1.0),
        ("min_step", 0.0),
        ("min_step", 0.9),
        ("patience", 0),
        ("pattern", "channels"),
        ("pattern", kh.patterns.NByM(2, 4)),
    ],
)
def test_wrong_arguments_are_refused_before_training(name, value):
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        kh.callbacks.BudgetPruning(**{"budget": 0.01, "baseline": 0.9, name: value})


def test_a_metric_that_is_not_logged_is_named_with_those_that_are():
    callback = start(make_model(), 0.01, baseline=0.9)
    callback.on_epoch_begin(0)
    with pytest.raises(ValueError, match=r"monitor.*\['accuracy', 'loss'\]"):
        callback.on_epoch_end(0, {"accuracy": 0.5, "loss": 1.0})


def test_without_a_baseline_fit_cannot_go_on_after_the_first_cut():
    callback = start(make_model(), 0.01, begin=3)
    with pytest.raises(ValueError, match="Give `baseline` a number"):
        callback.on_epoch_begin(5)


def test_a_pattern_that_does_not_divide_a_kernel_is_refused_before_training():
    with pytest.raises(ValueError, match="does not divide"):
        start(make_model(), 0.01, baseline=0.9, pattern=kh.patterns.Block((7, 1)))
