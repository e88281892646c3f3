"""`callbacks.ADMM` and `callbacks.ProximalStep`: what they find, when, and how training goes on."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer import proximal
from keras_hoyer.callbacks.splits import find_splits
from keras_hoyer.glm import GroupGLM
from keras_hoyer.masks import known_mask
from keras_hoyer.proximal.choice import Chosen
from keras_hoyer.regularizers.pull import Pull, Pulls
from keras_hoyer.units import find_units
from keras_hoyer.weights import find_kernels

ADMM, ProximalStep = kh.callbacks.ADMM, kh.callbacks.ProximalStep

generator = np.random.default_rng(0)
X = generator.standard_normal((64, 8)).astype("float32")
Y = X[:, :2] @ generator.standard_normal((2, 4)).astype("float32")


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def make_model(optimizer=None, **options):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, "relu", name="first"),
            layers.Dense(8, "relu", name="second"),
            layers.Dense(4, name="third"),
        ]
    )
    random = np.random.default_rng(1)
    for kernel in find_kernels(model):
        kernel.variable.assign(random.normal(size=kernel.shape) / np.sqrt(kernel.shape[0]))
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **options)
    return model


def fit(model, *callbacks, epochs, batch_size=8, **options):
    options = {"shuffle": False, "verbose": 0, **options}
    return model.fit(
        X, Y, epochs=epochs, batch_size=batch_size, callbacks=list(callbacks), **options
    ).history


def classes(rows=120):
    """Rows of 12 columns in 4 groups, two of which matter, and labels of two classes."""
    random = np.random.default_rng(3)
    x = random.normal(size=(rows, 12)).astype("float32")
    beta = np.repeat([1.0, 0.0, 1.0, 0.0], 3) * random.normal(size=12)
    y = (random.random(rows) < 1 / (1 + np.exp(-(x @ beta + 0.3)))).astype("float32")
    return x, y, np.repeat(np.arange(4), 3)


@pytest.mark.parametrize(
    ("penalty", "strength", "parameters"),
    [("lasso", 0.06, {}), ("mcp", 0.25, {"gamma": 8.0})],
)
def test_a_logistic_model_ends_where_the_group_glm_does(penalty, strength, parameters):
    x, y, groups = classes()
    wanted = GroupGLM(
        "binomial", penalty, groups, strength, np.ones(4), ridge=0.1, tol=1e-8, **parameters
    ).fit(x.astype("float64"), y)
    assert 0 < wanted.groups_.size < 4
    ridge = keras.regularizers.L2(0.05)  # half of that of the linear model
    model = keras.Sequential([keras.Input((12,)), layers.Dense(1, kernel_regularizer=ridge)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), loss)
    block = {"pattern": kh.patterns.Block((3, 1)), "rho": 0.3, "growth": 1.0, "every": 20}
    if penalty == "lasso":
        callback = ADMM("l1", strength, 12, **block)
    else:  # whose strength there is the slope at zero
        callback = ADMM("mcp", 1.0, 12, threshold=strength, **block, **parameters)
    rows = np.tile(x, (40, 1)), np.tile(y, 40)[:, None]  # an epoch is 40 steps of all rows
    history = model.fit(
        *rows, batch_size=len(x), epochs=12, shuffle=False, verbose=0, callbacks=[callback]
    ).history
    kernel, bias = map(numpy, model.weights)
    np.testing.assert_array_equal(kernel[:, 0] == 0, wanted.coef_ == 0)
    np.testing.assert_allclose(kernel[:, 0], wanted.coef_, atol=1e-4)
    np.testing.assert_allclose(bias, wanted.intercept_, atol=1e-4)
    assert history["residual"][-1] < 1e-4
    assert history["split_sparsity"][-1] == np.mean(wanted.coef_ == 0)


@dataclasses.dataclass(frozen=True)
class Row(kh.patterns.KernelPattern):
    """All weights of one input: a pattern of a user's own, which has no `split_shape`."""

    def fits(self, shape):
        return len(shape) > 1

    def scores(self, importance):
        return np.sqrt(np.square(importance).mean(axis=-1))

    def expand(self, keep, shape):
        return np.broadcast_to(keep[..., None], shape)


# With strengths that leave some of the units, not all.
PATTERNS = [
    (kh.patterns.Unstructured(), 0.3),
    (kh.patterns.NByM(2, 4), 0.3),
    (kh.patterns.Block((4, 1)), 0.6),
    (Row(), 1.1),
    (kh.patterns.Channel(min_channels=2), 1.1),
]


@pytest.mark.parametrize(("pattern", "strength"), PATTERNS, ids=str)
@pytest.mark.parametrize("kind", [ADMM, ProximalStep])
def test_zeros_come_in_units_and_are_kept_after_the_hand_over(pattern, strength, kind):
    model = make_model(keras.optimizers.SGD(0.1), run_eagerly=True)
    more = {"rho": 1.0} if kind is ADMM else {}
    callback = kind("l1", strength, epoch=2, every=3, pattern=pattern, **more)
    history = fit(model, callback, epochs=4, batch_size=16)
    assert 0 < history["sparsity"][2] == history["sparsity"][3] < 1
    assert not any(isinstance(v.regularizer, Pull) for v in model.trainable_variables)
    masks = [known_mask(kernel) for kernel in find_kernels(model)]
    for kernel, mask in zip(find_kernels(model), masks, strict=True):
        assert mask is None or not numpy(kernel.variable)[~mask].any()
    first, second, third = masks
    if isinstance(pattern, kh.patterns.Block):
        blocks = second.reshape(3, 4, 8)
        assert ((blocks.sum(axis=1) % 4) == 0).all()
    elif isinstance(pattern, kh.patterns.NByM):
        assert (second.reshape(3, 4, 8).sum(axis=1) >= 2).all()
    elif isinstance(pattern, Row):
        assert (second.all(axis=1) | ~second.any(axis=1)).all()
    elif isinstance(pattern, kh.patterns.Channel):
        made, read = first.any(axis=0), second.any(axis=1)
        np.testing.assert_array_equal(made, read)
        assert made.sum() >= 2 and second.any(axis=0).sum() >= 2
        small = kh.shrink(model)
        assert small.layers[0].units == made.sum() and small.layers[1].units == third.any(1).sum()


def test_a_pull_is_the_quadratic_beside_the_kernels_own_regularizer():
    model = make_model()
    model.get_layer("first").kernel.regularizer = keras.regularizers.L2(0.3)
    kernels = find_kernels(model)[:2]
    counts = [np.ones((8, 12)), np.add.outer(np.arange(12.0) < 5, np.arange(8.0) < 9)]
    pulls = Pulls(model, kernels, counts)
    targets = [generator.standard_normal(k.shape).astype("float32") for k in kernels]
    for rho in (1.0, 0.25):
        pulls.set(rho, targets)
        w = [numpy(kernel.variable).astype("float64") for kernel in kernels]
        wanted = [
            rho / 2 * (count * (a - t) ** 2).sum()
            for a, t, count in zip(w, targets, counts, strict=True)
        ]
        wanted[0] += 0.3 * (w[0] ** 2).sum()
        np.testing.assert_allclose([float(x) for x in model.losses], wanted, rtol=1e-5)
    assert len(kh.strip(model).losses) == 1  # its own


def test_compiled_steps_follow_the_pull_and_are_traced_once_for_all_of_them():
    traces = []

    class Counting(layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    kernel = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((3,)), kernel, Counting()])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    before = len(traces)
    x, y = np.zeros((20, 3), "float32"), np.zeros((20, 1), "float32")
    # No loss: only the pulls move the weights, by hand the same.
    w, z, u = np.ones(3), np.full(3, 0.9), np.zeros(3)
    for epoch, rho in enumerate((1.0, 2.0)):
        for batch in range(10):
            if (epoch or batch) and batch % 4 == 0:
                v = w + u
                z = np.sign(v) * np.maximum(np.abs(v) - 0.1 / (1.0 if batch == 0 else rho), 0)
                u = v - z
                if batch == 0:
                    u = u / 2
            w = w - 0.25 * rho * (w - z + u)
    callback = ADMM("l1", 0.1, 3, rho=1.0, growth=2.0, every=4)
    with pytest.warns(UserWarning, match="No zeros will be kept"):
        model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(numpy(kernel.kernel)[:, 0], w, rtol=1e-5)
    if keras.backend.backend() != "torch":
        assert len(traces) - before <= 4  # symbolic builds, and one trace


class Die(keras.callbacks.Callback):
    def __init__(self, begin=None, end=None):
        super().__init__()
        self.begin, self.end = begin, end

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.begin:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.end:
            raise KeyboardInterrupt


def assert_equal(one, two):
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


# At an epoch's end: ours is written, and Keras' own backup is that of the epoch before.
@pytest.mark.parametrize("die", [Die(begin=1), Die(end=1)], ids=["between", "while-saving"])
def test_what_was_killed_goes_on_as_if_nothing_had_been(tmp_path, die):
    def callbacks(*more):
        pattern = kh.patterns.Block((4, 1))
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        return ADMM("l1", 0.1, 2, rho=0.1, every=3, pattern=pattern), *more, backup

    whole, again = make_model(), make_model()
    fit(whole, callbacks()[0], epochs=3)
    with pytest.raises(KeyboardInterrupt):
        fit(again, *callbacks(die), epochs=3)
    again = make_model()
    history = fit(again, *callbacks(), epochs=3)
    assert len(history["sparsity"]) == 2
    assert_equal(whole, again)


def test_two_calls_of_fit_are_like_one():
    def callback():
        return ADMM("l1", 0.1, 2, rho=0.1, every=3, pattern=kh.patterns.Channel())

    whole, two, same = make_model(), make_model(), callback()
    fit(whole, callback(), epochs=2)
    with pytest.warns(UserWarning, match="No zeros will be kept"):
        fit(two, same, epochs=1)
    assert not two.losses
    fit(two, same, epochs=2, initial_epoch=1)
    assert_equal(whole, two)


def test_a_fit_that_was_interrupted_leaves_pulls_that_the_next_one_takes_off():
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, ADMM("l1", 0.05, 3), Die(1), epochs=4)
    count = len(model.variables)
    fit(model, ADMM("l1", 0.05, 1), epochs=1)
    assert not model.losses
    assert len(model.variables) <= count
    assert len(make_model().variables) == len(model.variables)


def test_proximal_steps_are_those_of_proximal_gradient_descent():
    # By a rate that changes, an epoch's rest of steps, and validation that sees the zeros.
    rates = keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.5, staircase=True)
    kernel = layers.Dense(4, use_bias=False)
    model = keras.Sequential([keras.Input((8,)), kernel])
    model.compile(keras.optimizers.SGD(rates), "mse")
    w = numpy(kernel.kernel).astype("float64")
    history = fit(
        model,
        ProximalStep("l1", 0.5, 2, every=4),
        epochs=2,
        batch_size=11,
        validation_data=(X, Y),
    )
    seen = []
    for step in range(12):
        rows = slice(11 * (step % 6), 11 * (step % 6 + 1))
        rate = 0.05 * 0.5 ** (step // 4)
        residual = X[rows] @ w - Y[rows]
        w -= rate * 2 * X[rows].T @ residual / residual.size
        done = {3: 4, 5: 2, 9: 4, 11: 2}.get(step, 0)
        bound = 0.05 * 0.5 ** ((step + 1) // 4) * done * 0.5
        w = np.sign(w) * np.maximum(np.abs(w) - bound, 0)
        if step in (5, 11):
            seen.append(np.square(X @ w - Y).mean())
    np.testing.assert_allclose(numpy(kernel.kernel), w, atol=1e-5)
    np.testing.assert_allclose(history["val_loss"], seen, rtol=1e-4)


def test_units_of_any_pattern_and_of_channels_shrink_as_the_operators_say():
    model = make_model()
    penalty = Chosen("hoyer_square", {})
    rows = find_splits(model, find_units(model, Row()), penalty)
    kernel = numpy(rows.read()[1])
    np.testing.assert_allclose(
        rows.shrink(rows.read(), 0.01)[1],
        numpy(proximal.hoyer_square(kernel, 0.01, axis=0)),
        atol=1e-6,
    )
    channels = find_splits(model, find_units(model, kh.patterns.Channel()), Chosen("l1", {}))
    first, second, third = (numpy(k.variable) for k in find_kernels(model))
    a, b = proximal.l1([first, second], 0.3, axis=[1, 0])
    c, d = proximal.l1([second, third], 0.3, axis=[1, 0])
    pieces = channels.shrink(channels.read(), 0.3)
    np.testing.assert_allclose(pieces[0], numpy(a).T, atol=1e-6)
    found = channels.mean(pieces)
    np.testing.assert_allclose(found[1], (numpy(b) + numpy(c)) / 2, atol=1e-6)
    np.testing.assert_allclose(found[2], numpy(d), atol=1e-6)
    assert [np.unique(count).tolist() for count in channels.counts] == [[1], [2], [1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"penalty": "l2"}, "one of 'l1', 'hoyer'"),
        ({"strength": 0.0}, "positive"),
        ({"epoch": 0}, "1 or more"),
        ({"every": 0}, "1 or more"),
        ({"rho": -1.0}, "positive"),
        ({"growth": 0.5}, "between 1 and 10"),
        ({"penalty": "mcp", "strength": 3.0, "rho": 1.0}, "above 1, the concavity of 'mcp'"),
        ({"penalty": "log_sum", "epsilon": 0.1, "rho": 1.0}, "above 10,"),
        ({"gamma": 3.0}, "no parameters"),
        ({"penalty": "mcp", "gamma": -1.0}, "`gamma`"),
        ({"pattern": "channel"}, "`pattern`"),
    ],
)
def test_refuses_bad_arguments_before_training(arguments, message):
    with pytest.raises(ValueError, match=message):
        ADMM(**{"penalty": "l1", "strength": 0.1, "epoch": 2, **arguments})


def test_refuses_models_that_it_cannot_train():
    def begin(model, **options):
        fit(model, ADMM("l1", 0.1, 1, **options), epochs=1)

    flat = keras.Sequential([keras.Input((8,)), layers.LayerNormalization()])
    flat.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no layer that was asked for has a kernel"):
        flat.fit(X, X, verbose=0, callbacks=[ADMM("l1", 0.1, 1)])
    frozen = make_model()
    frozen.get_layer("first").trainable = False
    with pytest.raises(ValueError, match=r"frozen: first/kernel.*layers=\['second', 'third'\]"):
        begin(frozen)
    penalized = kh.regularize(make_model(), kh.HoyerSquare(1e-3), layers=["second"])
    with pytest.raises(ValueError, match=r"penalty of this package already.*second/kernel"):
        begin(penalized)
    begin(penalized, layers=["first"])


def test_says_when_training_ended_before_the_hand_over():
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
    )
    model = make_model()
    with pytest.warns(UserWarning, match="ended after 1 epochs, before the zeros"):
        fit(model, ADMM("l1", 0.1, 2), stop, epochs=2)
    assert not model.losses
