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


def test_a_first_cut_before_the_first_epoch_needs_a_baseline():
    with pytest.raises(ValueError, match="Invalid value for argument `baseline`"):
        kh.callbacks.BudgetPruning(0.01, begin=0)


def test_without_a_number_cuts_begin_when_the_metric_has_levelled_off():
    callback = start(make_model(), 0.01, patience=2, step=0.5)
    values = [0.5, 0.8, 0.9, 0.895, 0.89, 0.9, 0.9]
    assert play(callback, values) == [100, 100, 100, 100, 100, 50, 25]


def test_a_model_that_is_still_learning_when_fit_ends_is_not_cut_and_it_is_said():
    callback = start(make_model(), 0.01, patience=2)
    play(callback, [0.5, 0.6, 0.7])
    with pytest.warns(UserWarning, match="ended before the first cut"):
        callback.on_train_end()


def test_a_first_cut_after_the_last_epoch_is_said_at_the_start():
    model = make_model()
    model.compile("sgd", "mse")
    cut = kh.callbacks.BudgetPruning(0.1, begin=5, monitor="loss")
    with pytest.warns(UserWarning, match="Nothing will be pruned"):
        model.fit(np.ones((4, 100)), np.ones((4, 1)), epochs=2, verbose=0, callbacks=[cut])


def test_points_in_place_of_shares_are_refused_or_said():
    with pytest.raises(ValueError, match=r"20 points are 0\.2"):
        kh.callbacks.BudgetPruning(20)
    with pytest.warns(UserWarning, match=r"`budget=0\.002`"):
        kh.callbacks.BudgetPruning(0.2)
    kh.callbacks.BudgetPruning(20, baseline=97.5)  # a metric in percent
    kh.callbacks.BudgetPruning(20, monitor="val_loss")


def test_a_metric_of_unknown_direction_needs_a_mode():
    with pytest.raises(ValueError, match=r"argument `mode`.*`val_quality`"):
        kh.callbacks.BudgetPruning(0.1, monitor="val_quality")
    assert kh.callbacks.BudgetPruning(0.1, monitor="val_mse").mode == "min"


def make_trained(seed=1):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4)])
    kh.regularize(model, kh.HoyerSquare(1e-3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"], jit_compile=False)
    return model


RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(128, 16)).astype("float32")
LABELS = (INPUTS @ RNG.normal(size=(16, 4))).argmax(1)


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def fit_within_budget(folder, stop=None, **options):
    model = make_trained()
    options = {"baseline": 0.9, "begin": 3, "step": 0.5, "patience": 3, "min_step": 0.1, **options}
    cut = kh.callbacks.BudgetPruning(0.05, **options)
    callbacks = [keras.callbacks.BackupAndRestore(folder), cut]
    history = model.fit(
        INPUTS,
        LABELS,
        batch_size=64,
        shuffle=False,
        epochs=25,
        verbose=0,
        validation_data=(INPUTS, LABELS),
        callbacks=[*callbacks, *([] if stop is None else [Stop(stop)])],
    )
    return model, history.history


def test_a_search_that_was_stopped_anywhere_ends_as_one_that_was_not(tmp_path):
    whole, history = fit_within_budget(tmp_path / "whole", baseline=None)
    accuracy = whole.evaluate(INPUTS, LABELS, verbose=0, return_dict=True)["accuracy"]
    for stop in (2, len(history["loss"]) - 2):  # before the first cut, and within rounds
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            fit_within_budget(folder, stop, baseline=None)
        model, _ = fit_within_budget(folder, baseline=None)
        for one, two in zip(whole.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)
        assert model.evaluate(INPUTS, LABELS, verbose=0, return_dict=True)["accuracy"] == accuracy


def test_resumed_from_weights_alone_nothing_is_cut_until_the_metric_is_within_the_budget():
    model = make_model()
    values = kernel(model)
    model.set_weights([np.where(values > 50, values, 0)[:, None], np.zeros(1, "float32")])
    callback = start(model, 0.01, baseline=0.9, step=0.5, begin=2, patience=1)
    assert play(callback, [0.5, 0.5, 0.9, 0.9], begin=7) == [50, 50, 50, 25]
    assert not model.stop_training
    np.testing.assert_array_equal(may_grow(model), kernel(model) != 0)


def test_resumed_from_weights_that_never_come_within_the_budget_it_is_said():
    model = make_model()
    values = kernel(model)
    model.set_weights([np.where(values > 50, values, 0)[:, None], np.zeros(1, "float32")])
    callback = start(model, 0.01, baseline=0.9, begin=2, patience=1)
    play(callback, [0.5, 0.5], begin=7)
    with pytest.warns(UserWarning, match="outside the budget"):
        callback.on_train_end()


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
