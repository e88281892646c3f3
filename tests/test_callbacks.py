"""`callbacks.Pruning` inside `fit`: when it cuts, what it logs, and how training goes on."""

import csv
import json
import math
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer.masks import known_mask
from keras_hoyer.weights import find_kernels

BACKEND = keras.backend.backend()
HALF = kh.criteria.TargetSparsity(0.5)

generator = np.random.default_rng(0)
X = generator.standard_normal((32, 8)).astype("float32")
Y = generator.standard_normal((32, 4)).astype("float32")


def make_model(penalty=None, optimizer=None, **options):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, "relu", kernel_regularizer=penalty, name="first"),
            layers.Dense(4, kernel_regularizer=penalty, name="second"),
        ]
    )
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **options)
    return model


def fit(model, *callbacks, epochs, batch_size=8, **kwargs):
    return model.fit(
        X,
        Y,
        epochs=epochs,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    ).history


def zero_share(model):
    kernels = [keras.ops.convert_to_numpy(k.variable) for k in find_kernels(model)]
    return sum(np.count_nonzero(k == 0) for k in kernels) / sum(k.size for k in kernels)


class Watch(keras.callbacks.Callback):
    """Writes down the share of zeros at each batch, as `{epoch: [share, ...]}`."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.seen[epoch] = [zero_share(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        self.seen[max(self.seen)].append(zero_share(self.model))


CRITERIA = {
    "threshold": kh.criteria.Threshold(0.3),
    "std": kh.criteria.StdThreshold(0.8),
    "hoyer": kh.criteria.HoyerThreshold(0.8),
    "global": HALF,
    "layer": kh.criteria.TargetSparsity(0.5, scope="layer"),
}
PATTERNS = [
    kh.patterns.Unstructured(),
    kh.patterns.Block((4, 1)),
    kh.patterns.Block((1, 2)),
    kh.patterns.NByM(2, 4),
]
SCHEDULES = [
    kh.schedules.OneShot(1),
    kh.schedules.OneShot(0.5),
    kh.schedules.Polynomial(0, 1),
    kh.schedules.Polynomial(0, 1, frequency=0.5),
]


# Each schedule meets each pattern and each criterion.
@pytest.mark.parametrize(
    ("pattern", "criterion", "schedule"),
    [
        pytest.param(
            pattern, CRITERIA[name], SCHEDULES[(i + j) % len(SCHEDULES)], id=f"{pattern}-{name}"
        )
        for i, pattern in enumerate(PATTERNS)
        for j, name in enumerate(CRITERIA)
    ],
)
def test_every_pattern_goes_with_every_criterion_and_every_schedule(pattern, criterion, schedule):
    model = make_model(optimizer=keras.optimizers.SGD(0.01), run_eagerly=True)
    callback = kh.callbacks.Pruning(criterion, schedule, pattern)
    history = fit(model, callback, epochs=2, batch_size=16)
    assert history["sparsity"][-1] == pytest.approx(zero_share(model))
    if isinstance(criterion, kh.criteria.TargetSparsity):
        assert zero_share(model) == pytest.approx(0.5)
    else:
        assert 0 < zero_share(model) < 1
    for kernel in find_kernels(model):
        values = keras.ops.convert_to_numpy(kernel.variable)
        if isinstance(pattern, kh.patterns.Block):
            split, inner = pattern.split_shape(values.shape)
            nonzero = np.count_nonzero(values.reshape(split), axis=inner)
            assert set(np.unique(nonzero)) <= {0, np.prod(pattern.shape)}
        elif isinstance(pattern, kh.patterns.NByM):
            groups = values.reshape(-1, 4, values.shape[-1])
            assert np.count_nonzero(groups, axis=1).min() >= 2


def test_one_fit_trains_with_the_penalty_cuts_takes_it_off_and_keeps_the_zeros():
    model = make_model(kh.HoyerSquare(0.01))
    watch = Watch()
    callback = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(2))
    history = fit(model, callback, watch, epochs=4)
    assert history["sparsity"] == [0, 0, 0.5, 0.5]
    assert watch.seen == {0: [0] * 5, 1: [0] * 5, 2: [0.5] * 5, 3: [0.5] * 5}
    assert not model.losses and model.get_layer("first").kernel_regularizer is None
    plain = float(np.mean((model.predict(X, verbose=0) - Y) ** 2))
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(plain, rel=1e-4)


def test_the_last_epochs_train_without_the_penalty_in_the_compiled_step():
    # With a learning rate of zero, the loss that `fit` logs shows what the step computes.
    model = make_model(kh.HoyerSquare(1.0), keras.optimizers.SGD(0.0))
    history = fit(model, kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1)), epochs=2)
    assert history["loss"][0] > 10
    assert history["loss"][1] == pytest.approx(
        float(np.mean((model.predict(X, verbose=0) - Y) ** 2)), rel=1e-4
    )


def test_keep_penalty_keeps_it():
    model = make_model(kh.HoyerSquare(1.0), keras.optimizers.SGD(0.0))
    callback = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1), keep_penalty=True)
    history = fit(model, callback, epochs=2)
    assert history["loss"][1] > 10
    assert isinstance(model.get_layer("first").kernel_regularizer, kh.HoyerSquare)


def test_penalties_stay_until_the_last_of_several_cuts():
    model = make_model(kh.HoyerSquare(0.01))
    attached = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: attached.append(
            model.get_layer("first").kernel_regularizer is not None
        )
    )
    fit(model, kh.callbacks.Pruning(HALF, kh.schedules.Polynomial(0, 2)), look, epochs=4)
    assert attached == [True, True, False, False]


def test_cuts_gradually_along_the_polynomial():
    model = make_model()
    schedule = kh.schedules.Polynomial(1, 4)
    history = fit(model, kh.callbacks.Pruning(HALF, schedule), epochs=6)
    expected = [0.5 * (1 - (1 - min(max(e - 1, 0), 3) / 3) ** 3) for e in range(6)]
    np.testing.assert_allclose(history["sparsity"], expected, atol=0.5 / 144)


def test_cuts_at_fractions_of_an_epoch():
    model = make_model()
    watch = Watch()
    schedule = kh.schedules.Polynomial(0, 2, frequency=0.25)
    # Watching comes after pruning, so each share is the one with which the next batch trains.
    fit(model, kh.callbacks.Pruning(HALF, schedule), watch, epochs=3, batch_size=4)  # 8 steps
    for epoch in range(3):
        for step, share in enumerate(watch.seen[epoch][:-1]):
            gone = min((epoch * 8 + step) // 2 * 0.25 / 2, 1)
            assert share == pytest.approx(0.5 * (1 - (1 - gone) ** 3), abs=0.5 / 144)


@pytest.mark.skipif(BACKEND == "torch", reason="one step per execution only")
def test_cuts_once_per_crossing_when_executions_take_several_steps():
    model = make_model(steps_per_execution=3)
    watch = Watch()
    schedule = kh.schedules.Polynomial(0, 1, frequency=0.25)
    fit(model, kh.callbacks.Pruning(HALF, schedule), watch, epochs=2, batch_size=4)
    # 8 steps: after 3 the first update is due, after 6 the second and third, then the epoch ends.
    gone = [0, 0.25, 0.75, 0.75]
    expected = [0.5 * (1 - (1 - part) ** 3) for part in gone]
    np.testing.assert_allclose(watch.seen[0], expected, atol=0.5 / 144)
    assert watch.seen[1][0] == 0.5


def test_an_epoch_of_unknown_length_is_made_up_for_at_its_end():
    model = make_model()
    watch = Watch()
    callback = kh.callbacks.Pruning(HALF, kh.schedules.Polynomial(0, 2, frequency=0.5))
    model.fit(endless(), steps_per_epoch=4, epochs=3, verbose=0, callbacks=[callback, watch])
    known = watch.seen
    model, watch = make_model(), Watch()
    model.fit(unknown_length(), epochs=3, verbose=0, callbacks=[callback, watch])
    # The first epoch has no length yet; from the second on the cuts fall where they should.
    assert set(watch.seen[0]) == {0.0}
    assert known[0][2] > 0
    assert watch.seen[1] == known[1] and watch.seen[2] == known[2]


def endless():
    while True:
        for start in range(0, 32, 8):
            yield X[start : start + 8], Y[start : start + 8]


def unknown_length():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).filter(lambda x, y: True)


def test_two_calls_of_fit_are_like_one():
    one, two = make_model(), make_model()
    two.set_weights(one.get_weights())
    schedule = kh.schedules.Polynomial(1, 4)
    fit(one, kh.callbacks.Pruning(HALF, schedule), epochs=6)
    callback = kh.callbacks.Pruning(HALF, schedule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(two, callback, epochs=3)
    fit(two, callback, epochs=6, initial_epoch=3)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_second_fit_from_the_beginning_releases_nothing():
    model = make_model()
    callback = kh.callbacks.Pruning(HALF, kh.schedules.Polynomial(0, 2))
    fit(model, callback, epochs=3)
    before = {k.path: known_mask(k) for k in find_kernels(model)}
    history = fit(model, callback, epochs=3)
    assert history["sparsity"] == [0.5] * 3
    for kernel in find_kernels(model):
        np.testing.assert_array_equal(known_mask(kernel), before[kernel.path])


def test_one_callback_serves_two_models():
    callback = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1))
    for _ in range(2):
        assert fit(make_model(), callback, epochs=2)["sparsity"] == [0, 0.5]


def test_a_late_start_cuts_at_once():
    history = fit(
        make_model(), kh.callbacks.Pruning(HALF, kh.schedules.OneShot(2)), epochs=7, initial_epoch=5
    )
    assert history["sparsity"] == [0.5, 0.5]


def test_a_kernel_that_begins_at_zero_is_not_taken_for_a_cut_one():
    model = make_model()
    model.get_layer("second").kernel.assign(np.zeros((12, 4)))
    # Were it taken for one, the cut at epoch 1 would count as made.
    fit(model, kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1)), epochs=4, initial_epoch=2)
    assert zero_share(model) == 0.5


def test_logs_show_sparsity_in_history_csv_and_progress_bar(tmp_path, capsys):
    model = make_model()
    log = tmp_path / "log.csv"
    model.fit(
        X,
        Y,
        epochs=2,
        verbose=2,
        batch_size=8,
        callbacks=[
            kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1)),
            keras.callbacks.CSVLogger(log),
        ],
    )
    with open(log) as file:
        assert [float(row["sparsity"]) for row in csv.DictReader(file)] == [0, 0.5]
    assert "sparsity: 0.5000" in capsys.readouterr().out


def test_averages_that_are_swapped_in_at_each_epoch_are_sparse(tmp_path):
    model = make_model(optimizer=keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))
    path = str(tmp_path / "{epoch}.weights.h5")
    fit(
        model,
        kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1)),
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
        epochs=3,
    )
    assert zero_share(model) == 0.5
    saved = make_model()
    for epoch, share in ((1, 0), (2, 0.5), (3, 0.5)):
        saved.load_weights(path.format(epoch=epoch))
        assert zero_share(saved) == share


@pytest.mark.parametrize("with_callback", [True, False])
@pytest.mark.parametrize("weights_only", [True, False])
def test_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path, with_callback, weights_only):
    if weights_only and not with_callback:
        pytest.skip("weights hold no masks: the callback takes the zeros for cut ones")
    schedule = kh.schedules.Polynomial(0, 2)
    make_callback = lambda: kh.callbacks.Pruning(HALF, schedule)  # noqa: E731
    name = "{epoch}.weights.h5" if weights_only else "{epoch}.keras"
    path = str(tmp_path / name)
    model = make_model(kh.HoyerSquare(0.01))
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=weights_only)
    fit(model, make_callback(), checkpoint, epochs=5)
    if weights_only:
        other = make_model(kh.HoyerSquare(0.01))
        other.optimizer.build(other.trainable_variables)
        other.load_weights(path.format(epoch=3))
    else:
        other = keras.models.load_model(path.format(epoch=3))
    assert zero_share(other) == 0.5
    callbacks = [make_callback()] if with_callback else []
    fit(other, *callbacks, epochs=5, initial_epoch=3)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not other.losses


KILLED = """
import json, os, sys
import keras, numpy as np
import keras_hoyer as kh
directory, die_at = sys.argv[1], int(sys.argv[2])
x, y = (np.random.default_rng(0).standard_normal((32, n)).astype("float32") for n in (8, 4))
keras.utils.set_random_seed(1)

class Die(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == die_at:
            os._exit(9)

def run(*more):
    keras.utils.set_random_seed(1)
    penalty = kh.HoyerSquare(0.01)
    model = keras.Sequential([
        keras.Input((8,)),
        keras.layers.Dense(12, "relu", kernel_regularizer=penalty, name="first"),
        keras.layers.Dense(4, kernel_regularizer=penalty, name="second"),
    ])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetSparsity(0.5), kh.schedules.Polynomial(1, 3))
    history = model.fit(x, y, epochs=4, batch_size=8, shuffle=False, verbose=0,
                        callbacks=[*more, pruning]).history
    return model, history

if die_at < 0:
    whole, whole_history = run()
model, history = run(keras.callbacks.BackupAndRestore(directory), Die())
assert len(history["sparsity"]) == 2, history
for a, b in zip(whole.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
for a, b in zip(whole.optimizer.variables, model.optimizer.variables, strict=True):
    np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
for layer in ("first", "second"):
    a, b = (m.get_layer(layer).kernel_constraint.get_mask("kernel") for m in (whole, model))
    np.testing.assert_array_equal(a, b)
assert whole_history["sparsity"][2:] == history["sparsity"]
assert not model.losses
print("equal")
"""


def test_a_killed_training_goes_on_in_a_new_process_as_if_nothing_had_been(tmp_path):
    paths = [path for path in sys.path if path] + [os.getcwd()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(die_at):
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path / "backup"), str(die_at)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    assert run(2).returncode == 9
    metadata = json.loads((tmp_path / "backup" / "training_metadata.json").read_text())
    assert metadata["epoch"] == 2
    done = run(-1)
    assert "equal" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (kh.schedules.OneShot(3), "Nothing will be pruned"),
        (kh.schedules.Polynomial(0, 3), "Not all will be pruned"),
    ],
)
def test_warns_when_fit_ends_before_the_schedule(schedule, message):
    with pytest.warns(UserWarning, match=message):
        fit(make_model(), kh.callbacks.Pruning(HALF, schedule), epochs=3)


def warnings_of(*callbacks, model=None, epochs=6, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model or make_model(), *callbacks, epochs=epochs, **options)
    return [str(entry.message) for entry in caught if issubclass(entry.category, UserWarning)]


class Metric(keras.callbacks.Callback):
    """Writes a metric whose values are known into the logs."""

    def __init__(self, *values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.values[epoch]


def test_says_when_training_was_stopped_before_the_cut():
    early = keras.callbacks.EarlyStopping("score", mode="max", patience=1)
    once = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(4))
    [message] = warnings_of(once, Metric(0.9, 0.8, 0.7), early)
    assert "nothing was pruned" in message
    assert "start_from_epoch=4" in message
    early = keras.callbacks.EarlyStopping("score", mode="max", patience=1)
    slowly = kh.callbacks.Pruning(HALF, kh.schedules.Polynomial(0, 5, power=1))
    [message] = warnings_of(slowly, Metric(0.9, 0.8, 0.7), early)
    assert "20% of the way" in message


def test_says_when_a_best_epoch_from_before_the_cut_was_restored():
    model = make_model()
    early = keras.callbacks.EarlyStopping(
        "score", mode="max", patience=9, restore_best_weights=True
    )
    once = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(3))
    values = Metric(0.7, 0.9, 0.8, 0.5, 0.6, 0.7)
    [message] = warnings_of(values, early, once, model=model)
    assert "EarlyStopping restored an epoch from before the cut" in message
    cut = sum(math.prod(w.shape) for w in find_kernels(model)) // 2
    assert f"{cut:,} of the {cut:,} weights" in message
    assert zero_share(model) == 0


def test_says_when_the_best_file_is_from_before_the_cut(tmp_path):
    def save():
        return keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "score", save_best_only=True, mode="max"
        )

    once = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(3))
    [message] = warnings_of(once, Metric(0.7, 0.9, 0.8, 0.5, 0.6, 0.7), save())
    assert message.startswith("ModelCheckpoint: the best epoch")
    once = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(3))
    assert warnings_of(once, Metric(0.7, 0.8, 0.8, 0.5, 0.6, 0.9), save()) == []


def test_callbacks_that_stand_before_it_see_the_sparsity_too(tmp_path):
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    called = []

    class Count(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            called.append(self)

    before, after = Count(), Count()
    first = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1), layers=["first"])
    second = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1), layers=["second"])
    fit(make_model(), before, log, first, after, second, epochs=2)
    assert called == [before, after]
    with open(tmp_path / "log.csv") as file:
        assert [float(row["sparsity"]) for row in csv.DictReader(file)] == [0, 0.5]


def test_warns_of_a_cut_below_the_effective_number():
    few = kh.criteria.TargetSparsity(0.9)
    model = make_model(penalty=kh.HoyerSquare(1e-6))
    [message] = warnings_of(kh.callbacks.Pruning(few, kh.schedules.OneShot(1)), model=model)
    assert "'first/kernel'" in message
    assert "effective number" in message
    # Without such a penalty the effective number says little.
    assert warnings_of(kh.callbacks.Pruning(few, kh.schedules.OneShot(1))) == []
    # Of what has few effective weights, few may stay.
    model = make_model(penalty=kh.HoyerSquare(1e-6))
    for name in ("first", "second"):
        layer = model.get_layer(name)
        values = 1e-3 * np.asarray(keras.ops.convert_to_numpy(layer.kernel))
        values[0, :2] = 1
        layer.kernel.assign(values)
    assert warnings_of(kh.callbacks.Pruning(few, kh.schedules.OneShot(0)), model=model) == []


@pytest.mark.parametrize("pattern", [kh.patterns.Block((2, 1)), kh.patterns.Channel()])
def test_warns_of_groups_as_well(pattern):
    model = make_model(penalty=kh.GroupHoyerSquare(1e-6))
    callback = kh.callbacks.Pruning(
        kh.criteria.TargetSparsity(0.8), kh.schedules.OneShot(1), pattern
    )
    [message] = warnings_of(callback, model=model)
    assert "effective number" in message


def test_refuses_bad_arguments_before_training():
    once = kh.schedules.OneShot(1)
    with pytest.raises(ValueError, match="argument `criterion`"):
        kh.callbacks.Pruning(0.9, once)
    with pytest.raises(ValueError, match=r"argument `schedule`.*schedule=60"):
        kh.callbacks.Pruning(HALF, 60)
    with pytest.raises(ValueError, match="argument `pattern`"):
        kh.callbacks.Pruning(HALF, once, pattern="block")
    with pytest.raises(ValueError, match=r"cuts at most 0.25"):
        kh.callbacks.Pruning(HALF, once, kh.patterns.NByM(3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": kh.patterns.Block((5, 1))}, r"'first/kernel' of shape \(8, 12\)"),
        ({"layers": ["frist"]}, r"no layer named 'frist'. Near ones: first"),
        ({"layers": lambda layer: False}, "nothing to prune"),
    ],
)
def test_refuses_what_does_not_fit_the_model_before_the_first_step(arguments, message):
    model = make_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1), **arguments), epochs=2)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_that_is_not_built_is_pruned_or_refused_at_once():
    model = keras.Sequential([layers.Dense(4)])
    model.compile("adam", "mse")
    callback = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1))
    if BACKEND == "tensorflow":  # Keras builds the model only in the first step
        with pytest.raises(ValueError, match="is not built"):
            fit(model, callback, epochs=2)
    else:
        fit(model, callback, epochs=2)
        assert zero_share(model) == 0.5


def test_keras_may_dispatch_batches_asynchronously_unless_a_schedule_looks_within_epochs():
    whole = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1))
    parts = kh.callbacks.Pruning(HALF, kh.schedules.OneShot(0.5))
    is_default = [getattr(c.on_train_batch_end, "_is_default", False) for c in (whole, parts)]
    assert is_default == [True, False]
