"""`keep_zeros`: zeros that were loaded, or are still to come, survive every way of training."""

import inspect
import re
import textwrap
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_hoyer as kh
from keras_hoyer.masks import known_mask
from keras_hoyer.weights import find_kernels, find_weights

BACKEND = keras.backend.backend()
EAGER = BACKEND != "jax"
HALF = kh.criteria.TargetSparsity(0.5, scope="layer")
MOST = kh.criteria.TargetSparsity(0.9, scope="layer")


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def values_of(model):
    return [numpy(variable).copy() for variable in model.trainable_variables]


def assert_kept(model, pruned):
    """All zeros of `pruned` are positive zeros still, and other weights have been trained."""
    assert any((before == 0).any() for before in pruned)
    moved = False
    for variable, before in zip(model.trainable_variables, pruned, strict=True):
        now = numpy(variable)
        cut = before == 0
        if "kernel" in variable.path:
            lost = np.count_nonzero(now[cut])
            assert lost == 0, f"{lost} of {cut.sum()} zeros of {variable.path} lost"
            assert not np.signbit(now[cut]).any()
        moved |= bool(np.any(now[~cut] != before[~cut]))
    assert moved


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def train(model, optimizer="adamw", epochs=1):
    model.compile(optimizer, "mse", run_eagerly=EAGER)
    x = random(16, *model.input_shape[1:])
    y = random(*keras.ops.shape(model(x)))
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0)


@keras.saving.register_keras_serializable(package="test_keep_zeros")
class Block(layers.Layer):
    """A layer that builds its parts from the arguments of its constructor."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, 4)
        self.dense = layers.Dense(width, "relu")
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.attention.build(shape, shape)
        self.dense.build(shape)
        self.norm.build((*shape[:-1], self.width))

    def call(self, x, training=False):
        return self.norm(self.dense(x + self.attention(x, x)), training=training)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="test_keep_zeros")
class Subclassed(keras.Model):
    def __init__(self, width=6, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first = layers.Dense(width, "relu")
        self.last = {"out": layers.Dense(2)}

    def call(self, x):
        return self.last["out"](self.first(x))

    def get_config(self):
        return {"width": self.width}


@keras.saving.register_keras_serializable(package="test_keep_zeros")
class Backbone(keras.Model):
    """Functional inside, saved as the arguments of its constructor, as KerasHub's are."""

    def __init__(self, width=6, **kwargs):
        inputs = keras.Input((8,))
        super().__init__(inputs, layers.Dense(3)(layers.Dense(width, "relu")(inputs)), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def subclassed():
    model = Subclassed()
    model(np.ones((1, 8), "float32"))
    model.input_shape = (None, 8)
    return model


LOST_BY_SAVING = {
    "composite layers": lambda: keras.Sequential([keras.Input((5, 8)), Block(6), layers.Dense(2)]),
    "subclassed model": subclassed,
    "backbone": Backbone,
    "nested backbone": lambda: keras.Sequential([keras.Input((8,)), Backbone(), layers.Dense(2)]),
}


@pytest.mark.parametrize("kind", LOST_BY_SAVING)
def test_zeros_of_a_loaded_model_are_kept_where_saving_lost_the_masks(kind, tmp_path):
    model = LOST_BY_SAVING[kind]()
    cut = kh.prune(model, MOST)
    assert cut.held == cut.total - cut.nonzero
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    if kind == "subclassed model":
        loaded.input_shape = (None, 8)
    lost = kh.report(loaded)
    assert lost.held < lost.total - lost.nonzero == cut.total - cut.nonzero
    held = kh.keep_zeros(loaded)
    assert held.held == cut.held
    pruned = values_of(loaded)
    train(loaded)
    assert_kept(loaded, pruned)
    assert kh.report(loaded).held == cut.held


def test_zeros_of_loaded_weights_are_kept(tmp_path):
    def build():
        return keras.Sequential([keras.Input((8,)), layers.Dense(6, "relu"), layers.Dense(3)])

    model = build()
    kh.prune(model, HALF)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = build()
    fresh.compile("adamw", "mse")
    fresh.fit(random(8, 8), random(8, 3), verbose=0)  # a step is traced before
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert kh.keep_zeros(fresh).held == 33
    pruned = values_of(fresh)
    fresh.fit(random(8, 8), random(8, 3), epochs=2, verbose=0)
    assert_kept(fresh, pruned)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.9))
def test_no_weight_changes_and_every_zero_of_a_kernel_is_held(seed, share):
    generator = np.random.default_rng(seed)
    model = mixed_model()
    values = [np.where(generator.random(w.shape) < share, 0, w) for w in values_of(model)]
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kernel that happens to be zero altogether
        held = kh.keep_zeros(model)
    for now, before in zip(values_of(model), values, strict=True):
        np.testing.assert_array_equal(now, before.astype("float32"))
    for weight in find_kernels(model):
        kernel = numpy(weight.variable)
        if kernel.any():
            np.testing.assert_array_equal(known_mask(weight), kernel != 0)
    kernels = [numpy(weight.variable) for weight in find_kernels(model)]
    assert held.held == sum(np.count_nonzero(k == 0) for k in kernels if k.any())


def mixed_model():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Conv2D(6, 3, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="out"),
        ]
    )


def test_biases_and_scales_of_cut_channels_are_held_again_after_a_load():
    model = mixed_model()
    for variable in model.trainable_variables:
        variable.assign(random(*variable.shape))
    kh.prune(model, HALF, kh.patterns.Channel())
    masks = {weight.path: known_mask(weight) for weight in find_weights(model)}
    loaded = mixed_model()
    loaded.set_weights(model.get_weights())
    kh.keep_zeros(loaded)
    cut = {path for path, mask in masks.items() if mask is not None and not mask.all()}
    assert cut >= {"conv/kernel", "conv/bias", "norm/gamma", "norm/beta", "second/bias"}
    for weight in find_weights(loaded):
        if weight.path in cut:
            np.testing.assert_array_equal(known_mask(weight), masks[weight.path])
    before = {weight.path: numpy(weight.variable) == 0 for weight in find_weights(loaded)}
    train(loaded, keras.optimizers.SGD(0.1))
    for weight in find_weights(loaded):
        if weight.path in cut:
            assert not numpy(weight.variable)[before[weight.path]].any()
    assert kh.shrink(loaded).count_params() < loaded.count_params()


def test_a_zero_bias_of_a_living_channel_stays_free():
    model = mixed_model()  # its biases have just begun, as zeros
    kh.keep_zeros(model)
    train(model, keras.optimizers.SGD(0.1))
    assert numpy(model.get_layer("out").bias).all()
    assert numpy(model.get_layer("norm").beta).all()


def test_kernels_that_may_have_just_begun_as_zeros_are_named_and_left_free():
    def build():
        last = layers.Dense(3, kernel_initializer="zeros", name="last")
        return keras.Sequential([keras.Input((8,)), layers.Dense(6, name="first"), last])

    model = build()
    with pytest.warns(UserWarning, match=r"left free.*: last/kernel\. .*layers=\['last'\]"):
        assert kh.keep_zeros(model).held == 0
    train(model)
    assert np.count_nonzero(numpy(model.get_layer("last").kernel)) == 18
    model = build()
    with pytest.warns(UserWarning, match="kept so from now on: last/kernel"):
        assert kh.keep_zeros(model, ["last"]).held == 18
    train(model)
    assert not numpy(model.get_layer("last").kernel).any()
    # A mask knows that it was cut.
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert kh.keep_zeros(model).held == 18


def test_embeddings_are_held_only_by_name():
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(6, 4, name="words"), layers.Dense(4)]
    )
    kh.prune(model, HALF, layers=["words"])
    kh.strip(model)
    kh.keep_zeros(model)
    words = next(weight for weight in find_weights(model) if weight.name == "embeddings")
    assert known_mask(words) is None
    assert kh.keep_zeros(model, ["words"]).held == 12


def test_weights_that_were_loaded_over_other_masks_keep_their_own_zeros():
    def build():
        return keras.Sequential([keras.Input((8,)), layers.Dense(6, "relu"), layers.Dense(3)])

    model, other = build(), build()
    kh.prune(model, HALF)
    kh.prune(other, HALF)
    values = other.get_weights()
    model.set_weights(values)
    said = kh.report(model)
    clash = said.overwritten
    assert clash > 0
    assert said.held + clash == 33
    with pytest.warns(UserWarning, match=r"not zero any more, and are free now: .*dense"):
        kh.keep_zeros(model)
    for now, before in zip(model.get_weights(), values, strict=True):
        np.testing.assert_array_equal(now, before)
    pruned = values_of(model)
    train(model)
    assert_kept(model, pruned)


def test_a_later_step_makes_weights_that_were_set_over_a_mask_zero_again():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6)])
    kh.prune(model, HALF)
    cut = model.get_weights()[0] == 0
    model.set_weights([np.ones((8, 6)), np.zeros(6)])
    assert kh.report(model).overwritten == 24
    model.compile("adam", "mse")
    model.train_on_batch(random(4, 8), random(4, 6))
    assert not model.get_weights()[0][cut].any()
    assert kh.report(model).overwritten == 0


def test_there_must_be_something_to_keep():
    model = keras.Sequential([keras.Input((3,)), layers.ReLU()])
    with pytest.raises(ValueError, match="nothing to keep"):
        kh.keep_zeros(model)
    with pytest.raises(ValueError, match="no layer named 'x'"):
        kh.keep_zeros(mixed_model(), ["x"])


def traced_step(model, optimizer, x, y, **options):
    """A training step that the user writes and compiles; it returns nothing."""
    loss_fn = keras.losses.MeanSquaredError()
    optimizer.build(model.trainable_variables)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(**options)
        def step():
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        return step
    if BACKEND == "torch":
        import torch

        def step():
            model.zero_grad()
            loss_fn(y, model(x, training=True)).backward()
            gradients = [variable.value.grad for variable in model.trainable_variables]
            with torch.no_grad():
                optimizer.apply(gradients, model.trainable_variables)

        return step
    pytest.skip("JAX: compiled again after each cut, see test_pruning")


@pytest.mark.parametrize("pattern", [kh.patterns.Unstructured(), kh.patterns.Channel()], ids=repr)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_that_was_traced_before_the_cuts_keeps_their_zeros(pattern, compiled):
    options = {"jit_compile": True} if compiled and BACKEND == "tensorflow" else {}
    model = mixed_model()
    kh.keep_zeros(model)
    step = traced_step(
        model, keras.optimizers.Adam(0.01), random(8, 6, 6, 3), random(8, 4), **options
    )
    step()
    for share in (0.3, 0.6):
        kh.prune(model, kh.criteria.TargetSparsity(share), pattern)
        weights = [weight for weight in find_weights(model) if known_mask(weight) is not None]
        masks = [known_mask(weight) for weight in weights]
        if pattern == kh.patterns.Channel():
            assert any(w.path == "norm/gamma" for w in weights)
        before = values_of(model)
        step()
        step()
        for weight, mask in zip(weights, masks, strict=True):
            assert not numpy(weight.variable)[~mask].any(), weight.path
        assert any((a != b).any() for a, b in zip(values_of(model), before, strict=True))


def attention_model():
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(3, kernel_constraint="max_norm")(x))


def code_of(function):
    """The Python blocks of a docstring."""
    blocks = re.findall(r"```python\n(.*?)```", inspect.getdoc(function), re.DOTALL)
    return textwrap.dedent("\n".join(blocks))


def test_three_lines_keep_zeros_with_optimizers_that_apply_no_constraints():
    model = attention_model()
    kh.prune(model, HALF)
    pruned = values_of(model)
    x, y = random(8, 5, 8), random(8, 5, 3)
    if BACKEND == "torch":
        import torch

        optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    for _ in range(3):
        if BACKEND == "torch":
            optimizer.zero_grad()
            keras.ops.mean(keras.ops.square(keras.ops.subtract(model(x), y))).backward()
            optimizer.step()
        else:
            for v in model.trainable_variables:
                v.assign(v + random(*v.shape))
        assert kh.report(model).overwritten
        exec(code_of(kh.prune), {"model": model})
    assert_kept(model, pruned)
    assert kh.report(model).overwritten == 0


def test_constraints_take_bare_arrays_for_steps_that_are_functions():
    model = attention_model()
    kh.prune(model, HALF)
    pruned = values_of(model)
    values = [value + random(*value.shape) for value in pruned]
    values = [
        v.constraint(value) if v.constraint else value
        for v, value in zip(model.trainable_variables, values, strict=True)
    ]
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
    assert_kept(model, pruned)


def test_a_bare_array_of_a_loaded_attention_layer_needs_keep_zeros_first(tmp_path):
    model = attention_model()
    kh.prune(model, HALF)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    query = find_kernels(loaded)[0].variable
    with pytest.raises(ValueError, match=r"masks of query/kernel.*`keep_zeros\(model\)`"):
        query.constraint(np.ones(query.shape, "float32"))
    kh.keep_zeros(loaded)
    restored = numpy(query.constraint(np.ones(query.shape, "float32")))
    np.testing.assert_array_equal(restored, numpy(query) != 0)


def test_models_that_share_layers_and_were_compiled_before_keep_the_zeros_too():
    shared = keras.Sequential([keras.Input((8,)), layers.Dense(6, "relu"), layers.Dense(6)])
    inputs = keras.Input((8,))
    around = keras.Model(inputs, layers.Dense(3)(shared(inputs)))
    beside = keras.Model(inputs, layers.Dense(3)(shared(inputs)))
    x, y = random(8, 8), random(8, 3)
    for model, optimizer in ((around, "adam"), (beside, "sgd")):
        model.compile(optimizer, "mse")
        model.fit(x, y, verbose=0)
    kh.prune(shared, HALF)
    pruned = [numpy(layer.kernel) for layer in shared.layers]
    for model in (around, beside):
        model.fit(x, y, verbose=0)
        for layer, before in zip(shared.layers, pruned, strict=True):
            now = numpy(layer.kernel)
            assert not now[before == 0].any()
            assert (now != before).any()
        pruned = [numpy(layer.kernel) for layer in shared.layers]
