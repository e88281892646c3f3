"""`prune`: what it cuts, and that its zeros stay exactly zero whatever trains the model."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer.masks import KeepZeros, known_mask
from keras_hoyer.pruning import adopt_zeros
from keras_hoyer.units import find_units
from keras_hoyer.weights import find_kernels

BACKEND = keras.backend.backend()
# The quickest way to train for a few steps: JAX is slow without compiling, TensorFlow with it.
EAGER = BACKEND != "jax"
HALF = kh.criteria.TargetSparsity(0.5, scope="layer")


def numpy(variable):
    return keras.ops.convert_to_numpy(variable)


def kernels_of(model, layers=None):
    return {kernel.path: numpy(kernel.variable) for kernel in find_kernels(model, layers)}


def assert_kept(model, pruned, layers=None, trained=True):
    """All zeros of `pruned` are positive zeros still, and the rest has been trained."""
    now = kernels_of(model, layers)
    assert now.keys() == pruned.keys()
    for name, before in pruned.items():
        cut = before == 0
        assert cut.any(), f"{name} was not cut"
        lost = np.count_nonzero(now[name][cut])
        assert lost == 0, f"{lost} of {cut.sum()} zeros of {name} lost"
        assert not np.signbit(now[name][cut]).any(), f"{name} holds -0.0"
        if trained:
            assert np.any(now[name][~cut] != before[~cut]), f"{name} was not trained"


def dense_model():
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(12, "relu"), layers.Dense(6), layers.Dense(2)]
    )


def data(model, samples=16, seed=0):
    generator = np.random.default_rng(seed)

    def draw(tensor):
        shape = (samples, *tensor.shape[1:])
        if tensor.dtype.startswith("int"):
            return generator.integers(0, 5, shape)
        return generator.standard_normal(shape).astype("float32")

    inputs = [draw(tensor) for tensor in model.inputs]
    return (inputs if len(inputs) > 1 else inputs[0]), draw(model.outputs[0])


def train(model, epochs=1, samples=16, **kwargs):
    x, y = data(model, samples)
    return model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, **kwargs)


def optimizers():
    o = keras.optimizers
    decay = {"weight_decay": 0.1}
    return {
        "sgd_momentum": lambda: o.SGD(0.05, momentum=0.9, nesterov=True, **decay),
        "adam": lambda: o.Adam(0.01, amsgrad=True),
        "adamw": lambda: o.AdamW(0.01, **decay),
        "lion": lambda: o.Lion(0.01, **decay),
        "muon": lambda: o.Muon(0.01, **decay),
        "rmsprop": lambda: o.RMSprop(0.01, momentum=0.9, centered=True),
        "ftrl": lambda: o.Ftrl(0.01),
        "adafactor": lambda: o.Adafactor(0.01),
        "lamb": lambda: o.Lamb(0.01),
        "clipped": lambda: o.Nadam(0.01, global_clipnorm=0.1, **decay),
        "accumulating": lambda: o.Adam(0.01, gradient_accumulation_steps=3),
        "loss_scaled": lambda: o.LossScaleOptimizer(o.Adam(0.01), initial_scale=64.0),
    }


def averaging_optimizers():
    o = keras.optimizers
    ema = {"use_ema": True, "ema_momentum": 0.9}
    found = {
        "at_the_end": lambda: o.SGD(0.05, momentum=0.9, **ema),
        "every_third_step": lambda: o.Adam(0.01, ema_overwrite_frequency=3, **ema),
        "accumulating": lambda: o.Adam(0.01, gradient_accumulation_steps=2, **ema),
        "loss_scaled": lambda: o.LossScaleOptimizer(o.Adam(0.01, **ema)),
    }
    if hasattr(o, "MultiOptimizer"):
        found["multi"] = multi_optimizer
    return found


def multi_optimizer():
    o = keras.optimizers
    averaged, other = o.Adam(0.01, use_ema=True, ema_momentum=0.9), o.SGD(0.01)
    return o.MultiOptimizer(lambda v: averaged if "kernel" in v.path else other)


@pytest.mark.parametrize("name", optimizers())
def test_zeros_survive_every_optimizer_and_what_it_remembers(name):
    if name == "muon" and BACKEND == "tensorflow" and keras.__version__ < "3.13":
        pytest.skip("Keras' own Muon fails on TensorFlow before 3.13")
    model = dense_model()
    model.compile(optimizers()[name](), "mse")
    train(model)  # so that momentum points away from zero
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    train(model)
    assert_kept(model, pruned)


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 16}])
def test_zeros_survive_compiled_steps(options):
    if BACKEND == "torch":
        pytest.skip("PyTorch's needs a C++ compiler, and knows one step per execution only")
    model = dense_model()
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    train(model, samples=80)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    train(model, samples=80)
    assert_kept(model, pruned)


@pytest.mark.parametrize("name", averaging_optimizers())
def test_zeros_survive_moving_averages_that_began_before_the_cut(name):
    model = dense_model()
    model.compile(averaging_optimizers()[name](), "mse")
    pruned = {}
    see = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: pruned.update(kernels_of(model))
    )
    train(model, 2, callbacks=[kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1)), see])
    assert_kept(model, pruned)


def test_zeros_survive_moving_averages_of_an_optimizer_that_comes_after_the_cut():
    model = dense_model()
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    model.compile(averaging_optimizers()["at_the_end"](), "mse")
    train(model)
    assert_kept(model, pruned)


def test_zeros_survive_moving_averages_of_a_loaded_model(tmp_path):
    model = dense_model()
    model.compile(averaging_optimizers()["at_the_end"](), "mse")
    train(model)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    train(loaded)
    assert_kept(loaded, pruned)


def test_averages_are_sparse_at_once_after_a_cut():
    model = dense_model()
    model.compile(averaging_optimizers()["at_the_end"](), "mse")
    train(model)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    assert_kept(model, pruned, trained=False)


def test_mixed_float16_keeps_zeros():
    policy = keras.DTypePolicy("mixed_float16")
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, dtype=policy), layers.Dense(2, dtype=policy)]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")  # Keras wraps it for loss scaling
    train(model)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    train(model)
    assert_kept(model, pruned)


@pytest.mark.parametrize("constraint", ["MaxNorm", "NonNeg"])
def test_the_users_own_constraint_goes_on_working(constraint):
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, kernel_constraint=constraint), layers.Dense(2)]
    )
    model.layers[0].set_weights([np.abs(model.layers[0].get_weights()[0]), np.zeros(6)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    train(model)
    assert_kept(model, pruned)
    kernel = numpy(model.layers[0].kernel)
    if constraint == "NonNeg":
        assert kernel.min() >= 0
    else:
        assert np.linalg.norm(kernel, axis=0).max() <= 2 + 1e-5
    kh.strip(model)
    assert type(model.layers[0].kernel_constraint).__name__ == constraint


def test_training_with_masks_is_plain_masked_gradient_descent():
    generator = np.random.default_rng(1)
    x = generator.standard_normal((16, 5)).astype("float32")
    y = generator.standard_normal((16, 3)).astype("float32")
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    kh.prune(model, HALF)
    w = numpy(model.layers[0].kernel).astype("float64")
    mask = w != 0
    model.fit(x, y, batch_size=16, epochs=5, verbose=0)
    for _ in range(5):
        gradient = 2 * x.T @ (x @ w - y) / y.size
        w = np.where(mask, w - 0.1 * gradient, 0)
    np.testing.assert_allclose(numpy(model.layers[0].kernel), w, atol=1e-6)


def one_layer(make, *shapes, dtype="float32"):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    return keras.Model(inputs, make()(*inputs))


MODELS = {
    "conv1d": lambda: one_layer(lambda: layers.Conv1D(4, 3), (6, 4)),
    "conv2d": lambda: one_layer(lambda: layers.Conv2D(4, 3), (5, 5, 4)),
    "conv3d": lambda: one_layer(lambda: layers.Conv3D(2, 2), (3, 3, 3, 2)),
    "conv2d_transpose": lambda: one_layer(lambda: layers.Conv2DTranspose(3, 2), (4, 4, 2)),
    "depthwise": lambda: one_layer(lambda: layers.DepthwiseConv2D(3), (5, 5, 4)),
    "separable": lambda: one_layer(lambda: layers.SeparableConv2D(4, 3), (5, 5, 4)),
    "einsum": lambda: one_layer(lambda: layers.EinsumDense("ab,bcd->acd", (3, 4)), (6,)),
    "attention": lambda: one_layer(lambda: layers.MultiHeadAttention(2, 4), (3, 8), (3, 8)),
    "grouped_attention": lambda: one_layer(
        lambda: layers.GroupQueryAttention(4, 4, 2), (3, 8), (3, 8)
    ),
    "lstm": lambda: one_layer(lambda: layers.LSTM(4), (3, 5)),
    "gru": lambda: one_layer(lambda: layers.GRU(4), (3, 5)),
    "bidirectional": lambda: one_layer(lambda: layers.Bidirectional(layers.GRU(4)), (3, 5)),
    "stacked_cells": lambda: one_layer(
        lambda: layers.RNN([layers.GRUCell(4), layers.LSTMCell(3)]), (3, 5)
    ),
    "time_distributed": lambda: one_layer(lambda: layers.TimeDistributed(layers.Dense(4)), (3, 5)),
    "nested": lambda: one_layer(dense_model, (8,)),
    "shared": lambda: one_layer(shared_layers, (8,)),
}


def shared_layers():
    shared, last = layers.Dense(8), layers.Dense(3)
    return lambda x: last(shared(keras.ops.relu(shared(x))))


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_layer_keeps_its_zeros_through_save_and_load_and_a_second_cut(name, tmp_path):
    model = MODELS[name]()
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=EAGER)
    for sparsity in (0.5, 0.8):
        kh.prune(model, kh.criteria.TargetSparsity(sparsity, scope="layer"))
        pruned = kernels_of(model)
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
        model.run_eagerly = EAGER
        train(model)
        assert_kept(model, pruned)
    for kernel in find_kernels(keras.models.clone_model(model)):
        np.testing.assert_array_equal(known_mask(kernel), pruned[kernel.path] != 0)


def test_embeddings_are_cut_only_where_named():
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, layers.Dense(4)(layers.Embedding(6, 4, name="words")(inputs)))
    kh.prune(model, HALF)
    assert np.all(numpy(model.get_layer("words").embeddings) != 0)
    kh.prune(model, HALF, layers=["words"])
    pruned = kernels_of(model, ["words"])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    train(model)
    assert_kept(model, pruned, ["words"])


def test_subclassed_models_keep_their_zeros():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [layers.Dense(8, "relu"), layers.Dense(3)]

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    model = Net()
    generator = np.random.default_rng(0)
    x, y = (generator.random((16, n)).astype("float32") for n in (8, 3))
    with pytest.raises(ValueError, match="is not built"):
        kh.prune(model, HALF)
    model(x)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, verbose=0)
    assert_kept(model, pruned)


def test_layers_frozen_or_unfrozen_midway_keep_their_zeros():
    model = dense_model()
    first, second, _ = model.layers
    first.trainable = False
    model.compile(keras.optimizers.Adam(0.01), "mse")
    train(model)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    train(model)
    assert_kept(model, pruned, trained=False)
    first.trainable, second.trainable = True, False
    model.compile(keras.optimizers.Adam(0.01), "mse")
    train(model)
    assert_kept(model, pruned, trained=False)
    second.trainable = True
    model.compile(keras.optimizers.Adam(0.01), "mse")
    train(model)
    assert_kept(model, pruned)


def custom_steps(model, optimizer, x, y, steps):
    loss_fn = keras.losses.MeanSquaredError()
    optimizer.build(model.trainable_variables)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        for _ in range(steps):
            step()
    elif BACKEND == "jax":
        import jax

        def compute(trainable, others):
            predicted, others = model.stateless_call(trainable, others, x, training=True)
            return loss_fn(y, predicted), others

        @jax.jit
        def step(trainable, others, state):
            (_, others), gradients = jax.value_and_grad(compute, has_aux=True)(trainable, others)
            trainable, state = optimizer.stateless_apply(state, gradients, trainable)
            return trainable, others, state

        values = [
            [variable.value for variable in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                optimizer.variables,
            )
        ]
        for _ in range(steps):
            values = step(*values)
        for variable, value in zip(model.trainable_variables, values[0], strict=True):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, values[2], strict=True):
            variable.assign(value)
    else:
        import torch

        for _ in range(steps):
            model.zero_grad()
            loss_fn(y, model(x, training=True)).backward()
            gradients = [variable.value.grad for variable in model.trainable_variables]
            with torch.no_grad():
                optimizer.apply(gradients, model.trainable_variables)


@pytest.mark.parametrize("use_ema", [False, True])
def test_zeros_survive_a_hand_written_training_loop(use_ema):
    model = dense_model()
    x, y = data(model)
    optimizer = keras.optimizers.Adam(0.01, use_ema=use_ema)
    custom_steps(model, optimizer, x, y, 3)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    custom_steps(model, optimizer, x, y, 3)
    optimizer.finalize_variable_values(model.trainable_variables)
    assert_kept(model, pruned)


def test_a_second_cut_reaches_the_compiled_step_which_tensorflow_need_not_trace_again():
    class Counting(layers.Layer):
        traces = 0

        def call(self, x):
            Counting.traces += 1
            return x

    model = keras.Sequential([keras.Input((8,)), layers.Dense(4), Counting()])
    model.compile("adam", "mse")
    kh.prune(model, kh.criteria.TargetSparsity(0.2))
    train(model)
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    before = Counting.traces  # the report calls layers that it has no rule for
    train(model)
    assert_kept(model, pruned)
    if BACKEND == "tensorflow":
        assert Counting.traces == before


def test_what_was_cut_stays_cut_when_a_later_target_is_lower():
    model = dense_model()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    kh.prune(model, HALF)
    pruned = kernels_of(model)
    assert kh.prune(model, kh.criteria.TargetSparsity(0.1)).sparsity == pytest.approx(0.5)
    train(model)
    assert_kept(model, pruned)


def test_zeros_that_are_adopted_leave_every_other_weight_as_it_is():
    model = dense_model()
    first, second, _ = model.layers
    kernel, bias = first.get_weights()
    kernel[:, :4], bias[0] = 0, 3  # the first channel is a constant that the next layer reads
    first.set_weights([kernel, bias])
    before = model.get_weights()
    assert adopt_zeros(model, find_units(model, kh.patterns.Channel()))
    for now, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, was)
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=EAGER)
    train(model)
    assert not numpy(first.kernel)[:, :4].any()
    assert numpy(second.kernel)[0].any()


def test_two_prunes_of_different_layers_do_not_disturb_each_other():
    model = dense_model()
    first, second, _ = (layer.name for layer in model.layers)
    kh.prune(model, HALF, layers=[first])
    kh.prune(model, kh.criteria.TargetSparsity(0.25), layers=[second])
    found = {name.split("/")[0]: np.mean(w == 0) for name, w in kernels_of(model).items()}
    assert [found[name] for name in (first, second)] == [0.5, 0.25]
    assert list(found.values())[2] == 0


def test_attention_parts_share_one_mask_holder_after_a_load(tmp_path):
    model = MODELS["attention"]()
    kh.prune(model, HALF)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    holders = {id(kernel.get("constraint")) for kernel in find_kernels(loaded)}
    assert len(holders) == 1


def test_strip_sets_the_zeros_free():
    model = dense_model()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    kh.prune(model, HALF)
    train(model)
    kh.strip(model)
    train(model)
    assert all(np.count_nonzero(w == 0) == 0 for w in kernels_of(model).values())
    assert not any(isinstance(k.get("constraint"), KeepZeros) for k in find_kernels(model))


def test_report_of_prune_counts_the_layers_that_were_asked_for():
    model = dense_model()
    name = model.layers[1].name
    report = kh.prune(model, kh.criteria.TargetSparsity(0.25), layers=[name])
    assert (report.total, report.nonzero) == (72, 54)
    assert [layer.name for layer in report.layers] == [f"{name}/kernel"]


def test_names_the_kernels_that_a_pattern_does_not_divide_and_cuts_none():
    model = dense_model()
    before = kernels_of(model)
    first, second, third = (layer.name for layer in model.layers)
    with pytest.raises(ValueError) as error:
        kh.prune(model, HALF, kh.patterns.Block((1, 4)))
    message = str(error.value)
    assert f"'{second}/kernel' of shape (12, 6)" in message
    assert f"'{third}/kernel' of shape (6, 2)" in message
    assert f"layers=['{first}']" in message
    for name, kernel in kernels_of(model).items():
        np.testing.assert_array_equal(kernel, before[name])
    kh.prune(model, HALF, kh.patterns.Block((1, 4)), layers=[first])


def test_warns_with_the_name_of_a_layer_that_is_left_without_weights():
    model = dense_model()
    second = model.layers[1]
    second.kernel.assign(np.full((12, 6), 1e-6))
    with pytest.warns(UserWarning, match=f"no weight in {second.name}/kernel:"):
        kh.prune(model, kh.criteria.Threshold(1e-5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_kernels_that_are_not_finite_and_names_them(value):
    model = dense_model()
    kernel = numpy(model.layers[1].kernel).copy()
    kernel[3, 3] = value
    model.layers[1].kernel.assign(kernel)
    before = kernels_of(model)
    with pytest.raises(ValueError, match=f"'{model.layers[1].name}/kernel' holds NaN or infinity"):
        kh.prune(model, HALF)
    for name, now in kernels_of(model).items():
        np.testing.assert_array_equal(now, before[name])


def test_refuses_what_is_no_criterion_no_pattern_no_model_and_no_layer():
    model = dense_model()
    with pytest.raises(ValueError, match=r"`criterion`.*TargetSparsity.*criterion=0.5"):
        kh.prune(model, 0.5)
    with pytest.raises(ValueError, match=r"`pattern`.*Received: pattern='2:4'"):
        kh.prune(model, HALF, "2:4")
    with pytest.raises(ValueError, match=r"`sparsity`.*cuts at most 0.5"):
        kh.prune(model, kh.criteria.TargetSparsity(0.6), kh.patterns.NByM(2, 4))
    with pytest.raises(ValueError, match=r"`layers`.*no layer named 'dens'"):
        kh.prune(model, HALF, layers=["dens"])
    with pytest.raises(ValueError, match="nothing to prune"):
        kh.prune(model, HALF, layers=lambda layer: False)


MIRRORED = """
import sys
import keras, numpy as np, tensorflow as tf
import keras_hoyer as kh
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
x, y = np.random.rand(32, 8).astype("float32"), np.random.rand(32, 4).astype("float32")

def zeros(model):
    return [np.array(w.numpy()) == 0 for w in model.trainable_weights if len(w.shape) == 2]

def check(model, pruned):
    for now, before in zip(zeros(model), pruned, strict=True):
        assert before.any() and (now == before).all()

for options in ({}, {"use_ema": True}):
    with strategy.scope():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(4)])
        model.compile(keras.optimizers.Adam(0.01, **options), "mse")
    callback = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(1))
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    pruned = zeros(model)
    assert sum(z.sum() for z in pruned) == 48
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    check(model, pruned)
    model.save(sys.argv[1])
    with strategy.scope():
        model = keras.models.load_model(sys.argv[1])
    kh.prune(model, kh.criteria.TargetSparsity(0.75))
    pruned = zeros(model)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    check(model, pruned)
print("kept")
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a TensorFlow strategy")
def test_zeros_survive_two_mirrored_devices(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIRRORED), str(tmp_path / "model.keras")],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([p for p in sys.path if p] + [os.getcwd()]),
        },
        check=False,
    )
    assert done.returncode == 0 and "kept" in done.stdout, done.stderr[-3000:]
