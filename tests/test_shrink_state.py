"""What a smaller model keeps of the layers of the old one, beside weights and config."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from cutting import largest_difference, randomize, to_numpy
from keras import layers, ops

from keras_hoyer import ShrinkError, shrink


def with_dead_units(build, shape=(6,), dtype=None):
    """What `build` makes of an input, then a Dense layer with three dead units and a head."""
    inputs = keras.Input(shape, dtype=dtype)
    x = build(inputs)
    dense = layers.Dense(8, "relu", name="wide")
    model = keras.Model(inputs, layers.Dense(2, name="head")(dense(x)))
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=dense.kernel.shape)
    kernel[:, 5:] = 0
    dense.kernel.assign(kernel)
    return model


def shrunk(model, **arguments):
    small = shrink(model, **arguments)
    assert small.get_layer("wide").units == 5
    return small


class Own(keras.layers.Layer):
    """A layer that nobody can build from its config."""

    def __init__(self, width):
        super().__init__(name="own")
        self.table = {"widths": np.full(1, width)}
        self.limits = [0.5, {"high": width}]

    def build(self, input_shape):
        size = int(self.table["widths"][0])
        self.gain = self.add_weight(shape=(size,), initializer="normal", name="gain")
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, inputs, training=False):
        if training:
            self.seen.assign_add(1.0)
        return inputs * self.gain + self.limits[0]

    def get_config(self):
        raise NotImplementedError


class WithParts(keras.layers.Layer):
    """Sublayers in lists and models, a random state, and a function that refers to the layer."""

    def __init__(self, units):
        super().__init__(name="parts")
        self.blocks = [layers.Dense(n, "tanh") for n in units]
        self.model = keras.Sequential([layers.Dense(units[-1]), layers.Dropout(0.5, seed=1)])
        self.last = lambda x: self.blocks[-1](x) + self.offset
        self.offset = 0.25
        self.again = self.first

    def first(self, x):
        return self.blocks[0](x)

    def call(self, inputs):
        return self.last(self.model(self.again(inputs)))


# A layer of which nothing changes.


@pytest.mark.parametrize(
    "make", [lambda: Own(np.int64(6)), lambda: WithParts((7, 5))], ids=["own", "parts"]
)
def test_a_layer_without_config_is_copied(make):
    layer = make()
    model = with_dead_units(layer)
    weights = [to_numpy(w) for w in model.weights]
    layer.extra = {"note": [1, 2]}
    small = shrunk(model)
    copy = small.get_layer(layer.name)
    assert type(copy) is type(layer)
    assert copy is not layer
    assert copy.extra == {"note": [1, 2]}
    assert copy.extra is not layer.extra
    assert [w.name for w in copy.weights] == [w.name for w in layer.weights]
    assert not {id(v) for v in copy.variables} & {id(v) for v in layer.variables}
    small.compile(keras.optimizers.SGD(0.5), "mse")
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    small.fit(x, np.ones((8, 2)), verbose=0)
    for before, after in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, to_numpy(after))
    changed = [
        np.abs(to_numpy(one) - to_numpy(two)).max() > 0
        for one, two in zip(layer.trainable_weights, copy.trainable_weights, strict=True)
    ]
    assert all(changed)


def test_a_copied_layer_trains_and_counts_as_the_old_one():
    model = with_dead_units(Own(6))
    small = shrunk(model)
    copy = small.get_layer("own")
    small.compile("sgd", "mse")
    small.fit(np.ones((4, 6)), np.ones((4, 2)), batch_size=2, verbose=0)
    assert float(to_numpy(copy.seen)) == 2
    assert float(to_numpy(model.get_layer("own").seen)) == 0
    copy.trainable = False
    assert len(copy.trainable_variables) == 0


def test_a_layer_whose_config_gives_other_weights_is_copied():
    class Wrong(Own):
        def __init__(self, width=3, **kwargs):
            super().__init__(width)

        def get_config(self):
            return {"name": self.name}

    model = with_dead_units(Wrong(6))
    small = shrunk(model)
    assert small.get_layer("own").gain.shape == (6,)


def test_a_layer_whose_config_forgets_a_value_keeps_it():
    class Scaled(keras.layers.Layer):
        def __init__(self, factor=1.0, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, inputs):
            return inputs * self.factor

        def get_config(self):
            return super().get_config()

    model = with_dead_units(Scaled(3.0, name="scaled"))
    assert shrunk(model).get_layer("scaled").factor == 3.0


def test_what_cannot_be_copied_is_shared_and_named():
    class Holding(Own):
        def __init__(self, width):
            super().__init__(width)
            self.steps = (n for n in range(3))

    model = with_dead_units(Holding(6))
    with pytest.warns(UserWarning, match="Holding 'own'") as caught:
        small = shrunk(model)
    assert len([w for w in caught if w.category is UserWarning]) == 1
    assert small.get_layer("own") is model.get_layer("own")


def test_an_elementwise_layer_without_config_gets_smaller_inputs():
    class Bend(keras.layers.Layer):
        def __init__(self, powers):
            super().__init__(name="bend")
            self.powers = powers

        def call(self, inputs):
            return inputs * ops.sigmoid(inputs * self.powers[0])

    inputs = keras.Input((6,))
    dense = layers.Dense(8, name="wide")
    model = randomize(keras.Model(inputs, layers.Dense(2)(Bend([np.float32(2)])(dense(inputs)))))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 5:], bias[5:] = 0, 0
    dense.set_weights([kernel, bias])
    small = shrunk(model)
    assert small.get_layer("bend").powers == [2]
    assert small.get_layer("bend").input.shape == (None, 5)


# State.


def test_an_adapted_normalization_keeps_its_statistics():
    data = np.random.default_rng(0).normal(50, 7, (200, 6)).astype("float32")
    norm = layers.Normalization(name="norm")
    norm.adapt(data)
    model = with_dead_units(norm)
    small = shrunk(model)
    expected = (data[:3] - data.mean(0)) / data.std(0)
    found = keras.Model(small.inputs, small.get_layer("norm").output)(data[:3])
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-3)
    assert largest_difference(model, small, data[:3]) <= 1e-6
    small.get_layer("norm").finalize_state()
    assert largest_difference(model, small, data[:3]) <= 1e-6


def test_a_normalization_keeps_statistics_set_in_any_way():
    given = layers.Normalization(mean=np.arange(6.0), variance=np.full(6, 4.0), name="given")
    loaded = layers.Normalization(name="loaded")
    model = with_dead_units(lambda x: loaded(given(x)))
    loaded.set_weights([np.full(6, 2.0), np.full(6, 9.0), np.array(5)])
    loaded.mean = ops.convert_to_tensor(np.full((1, 6), 3.0, "float32"))  # not what is in weights
    assert largest_difference(model, shrunk(model)) <= 1e-6


@pytest.mark.skipif(
    not hasattr(keras.ops, "array_split"), reason="older Keras builds its outputs one wide"
)
def test_a_discretization_keeps_its_boundaries():
    layer = layers.Discretization(num_bins=4, output_mode="one_hot", name="bins")
    layer.adapt(np.arange(100.0))
    assert layer.bin_boundaries
    model = with_dead_units(lambda x: layers.Flatten()(layer(x)), shape=(1,))
    small = shrunk(model)
    assert small.get_layer("bins").bin_boundaries == layer.bin_boundaries
    assert largest_difference(model, small, np.array([[3.0], [60.0], [99.0]])) <= 1e-6


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strings are TensorFlow's")
@pytest.mark.parametrize("given", [True, False], ids=["given", "adapted"])
@pytest.mark.parametrize("kind", ["StringLookup", "TextVectorization", "tf_idf"])
def test_a_vocabulary_is_kept(kind, given):
    words = np.array([["a"], ["b b c"], ["c"], ["b"]])
    known = {"vocabulary": ["b", "c", "a"]} if given else {}
    if kind == "StringLookup":
        layer = layers.StringLookup(output_mode="multi_hot", **known)
    elif kind == "TextVectorization":
        layer = layers.TextVectorization(output_mode="multi_hot", **known)
    else:
        weights = {"idf_weights": [0.5, 1.0, 2.0]} if given else {}
        layer = layers.TextVectorization(output_mode="tf_idf", **known, **weights)
    if not given:
        layer.adapt(words)
    model = with_dead_units(layer, shape=(1,), dtype="string")
    with pytest.warns(UserWarning, match="not checked, since its inputs are strings"):
        small = shrunk(model)
    x = keras.ops.convert_to_tensor(np.array([["b b c"], ["c"], ["none"]]))
    assert largest_difference(model, small, x) == 0
    shrunk(model, sample=np.array([["b"], ["c"]]))


def test_random_generators_go_on_where_they_were():
    layer = layers.Dropout(0.5, seed=3)
    model = with_dead_units(layer)
    x = np.ones((4, 6), "float32")
    model(x, training=True)
    small = shrunk(model)
    for one, two in zip(model.non_trainable_variables, small.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(two))
    np.testing.assert_allclose(
        to_numpy(model(x, training=True)), to_numpy(small(x, training=True)), atol=1e-6
    )


def test_both_models_can_be_used_in_turns():
    model = with_dead_units(layers.Dropout(0.5))
    model.compile("sgd", "mse", metrics=["mae"])
    x = np.ones((4, *model.input_shape[1:]), "float32")
    model.fit(x, np.ones((4, *model.output_shape[1:])), verbose=0)
    small = shrink(model)
    for each in (model, small, model, small):  # JAX frees the state that a step has replaced
        each.predict_on_batch(x)
        each.evaluate(x, np.ones((4, *model.output_shape[1:])), verbose=0)


def test_the_states_of_a_recurrent_layer_are_kept():
    inputs = keras.Input((5, 6), batch_size=3)
    lstm = layers.LSTM(6, stateful=True, name="lstm")
    dense = layers.Dense(8, "relu", name="wide")
    model = randomize(keras.Model(inputs, layers.Dense(2)(dense(lstm(inputs)))))
    kernel = np.array(dense.kernel)
    kernel[:, 5:] = 0
    kernel[4:] = 0
    recurrent = np.array(lstm.cell.recurrent_kernel)
    recurrent[4:].reshape(2, 4, 6)[:, :, :4] = 0
    lstm.cell.recurrent_kernel.assign(recurrent)  # two units are read by each other only
    dense.kernel.assign(kernel)
    dense.bias.assign(np.zeros(8))
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype("float32")
    model(x)
    before = [to_numpy(v).copy() for v in model.variables]
    small = shrunk(model)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, to_numpy(variable))
    assert small.get_layer("lstm").units == 4
    for _ in range(2):
        np.testing.assert_allclose(to_numpy(model(x)), to_numpy(small(x)), atol=1e-5)


def test_attributes_set_after_construction_are_kept():
    model = with_dead_units(layers.Dropout(0.1, name="drop"))
    wide, drop = model.get_layer("wide"), model.get_layer("drop")
    drop.rate = 0.7
    wide.supports_masking = False
    wide.note = {"seen": [1, 2]}
    wide.activation = lambda x, least=0.1: ops.maximum(x, least)
    wide.bias.trainable = False
    wide.bias.constraint = keras.constraints.NonNeg()
    wide.kernel.regularizer = keras.regularizers.L2(0.5)
    model.class_names = ["no", "yes"]
    small = shrink(model)
    copy = small.get_layer("wide")
    assert copy.units == 5
    assert small.get_layer("drop").rate == 0.7
    assert not copy.supports_masking
    assert copy.note == {"seen": [1, 2]}
    assert copy.activation is wide.activation
    assert not copy.bias.trainable
    assert isinstance(copy.bias.constraint, keras.constraints.NonNeg)
    assert copy.kernel.regularizer.l2 == 0.5
    assert small.class_names == ["no", "yes"]
    assert small.built


def test_spectral_norms_keep_their_vectors():
    model = with_dead_units(layers.SpectralNormalization(layers.Dense(6), name="norm"))
    small = shrunk(model)
    old, new = model.get_layer("norm"), small.get_layer("norm")
    np.testing.assert_array_equal(to_numpy(old.vector_u), to_numpy(new.vector_u))
    assert largest_difference(model, small) <= 1e-6


class Counting(keras.layers.Layer):
    """State that is no variable, saved in a way of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.memory = {}

    def call(self, inputs):
        return inputs + self.memory.get("shift", 0.0)

    def save_own_variables(self, store):
        store["shift"] = np.array(self.memory.get("shift", 0.0))

    def load_own_variables(self, store):
        self.memory["shift"] = float(store["shift"])


def test_state_of_a_kind_of_its_own_is_kept():
    layer = Counting(name="counting")
    model = with_dead_units(layer)
    layer.memory["shift"] = 4.0
    small = shrunk(model)
    assert small.get_layer("counting").memory == {"shift": 4.0}
    assert small.get_layer("counting").memory is not layer.memory


# What is shared.


class Tied(keras.layers.Layer):
    """A head that reads the table of an embedding."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def build(self, input_shape):
        self.bias = self.add_weight(shape=(self.embedding.input_dim,), initializer="normal")

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.embedding.embeddings)) + self.bias

    def get_config(self):
        embedding = keras.saving.serialize_keras_object(self.embedding)
        return {**super().get_config(), "embedding": embedding}

    @classmethod
    def from_config(cls, config):
        embedding = keras.saving.deserialize_keras_object(config.pop("embedding"))
        return cls(embedding, **config)


HEADS = {
    "layer": Tied,
    "closure": lambda embedding: layers.Lambda(
        lambda x: ops.matmul(x, ops.transpose(embedding.embeddings))
    ),
}


@pytest.mark.filterwarnings("ignore:keras_hoyer has no rule")
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_tied_head_stays_tied(head):
    tokens = keras.Input((4,), dtype="int32")
    embedding = layers.Embedding(10, 6, name="embedding")
    dense = layers.Dense(8, "relu", name="wide")
    x = layers.Dense(6)(dense(embedding(tokens)))
    model = randomize(keras.Model(tokens, head(embedding)(x)))
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 5:], bias[5:] = 0, 0
    dense.set_weights([kernel, bias])
    table = np.array(embedding.embeddings)
    table[:, 4:] = 0  # these would go if the head did not read the table
    embedding.embeddings.assign(table)
    small = shrunk(model)
    assert small.count_params() < model.count_params()
    assert largest_difference(model, small) <= 1e-5
    copy = small.get_layer("embedding").embeddings
    assert copy is not embedding.embeddings
    # A change of the table moves the head, and does not reach the old model.
    before = to_numpy(small(np.zeros((1, 4), "int32")))
    changed = np.array(table)
    changed[9] += 1
    copy.assign(changed)
    after = to_numpy(small(np.zeros((1, 4), "int32")))
    assert np.abs(after - before)[..., 9].min() > 0
    np.testing.assert_array_equal(to_numpy(embedding.embeddings), table)


GLOBAL = layers.Dense(6, name="global")


def test_a_layer_shared_with_a_global_function_stays_shared():
    model = with_dead_units(lambda x: layers.Lambda(lambda y: GLOBAL(y) + y)(GLOBAL(x)))
    with pytest.warns(UserWarning, match="in common.*global"):
        small = shrunk(model)
    assert small.get_layer("global") is GLOBAL
    assert largest_difference(model, small) <= 1e-6


def test_a_layer_inside_a_wrapper_and_outside_is_one():
    inputs = keras.Input((5, 6))
    dense = layers.Dense(6, "relu")
    x = layers.TimeDistributed(dense)(inputs) + dense(inputs)
    wide = layers.Dense(8, "relu", name="wide")
    model = randomize(keras.Model(inputs, layers.Dense(2)(wide(x))))
    kernel, bias = (np.array(w) for w in wide.get_weights())
    kernel[:, 5:], bias[5:] = 0, 0
    wide.set_weights([kernel, bias])
    kernel, bias = (np.array(w) for w in dense.get_weights())
    kernel[:, 3:], bias[3:] = 0, 0
    dense.set_weights([kernel, bias])
    small = shrunk(model)
    assert largest_difference(model, small) <= 1e-6
    assert len(small.weights) == len(model.weights)


def test_a_layer_inside_two_models_is_one():
    shared = layers.Dense(6, "relu")
    models = [keras.Sequential([keras.Input((6,)), shared, layers.Dense(6)]) for _ in range(2)]
    model = with_dead_units(lambda x: models[0](x) + models[1](models[0](x)))
    small = shrunk(model)
    assert len(small.weights) == len(model.weights)
    assert largest_difference(model, small) <= 1e-5


# Layers that change and cannot be built anew.


def test_a_layer_that_changes_and_has_no_config_is_named():
    class Plain(layers.Dense):
        def __init__(self, units, bend, **kwargs):
            super().__init__(units, **kwargs)
            self.bend = bend

        def get_config(self):
            raise NotImplementedError("no config here")

    inputs = keras.Input((6,))
    dense = Plain(8, lambda x: x, name="plain")
    model = keras.Model(inputs, layers.Dense(2)(dense(inputs)))
    kernel = np.array(dense.kernel)
    kernel[:, 5:] = 0
    dense.kernel.assign(kernel)
    with pytest.raises(ShrinkError, match=r"Plain 'plain'.*no config here"):
        shrink(model)


def test_a_layer_that_changes_and_has_a_wrong_config_is_named():
    class Wrong(layers.Dense):
        def get_config(self):
            return {**super().get_config(), "units": 7}

        @classmethod
        def from_config(cls, config):
            return cls(**{**config, "units": 7})

    inputs = keras.Input((6,))
    dense = Wrong(8, name="wrong")
    model = keras.Model(inputs, layers.Dense(2)(dense(inputs)))
    kernel = np.array(dense.kernel)
    kernel[:, 5:] = 0
    dense.kernel.assign(kernel)
    with pytest.raises(ShrinkError, match=r"Wrong 'wrong'.*Expected: \[\(6, 5\), \(5,\)\]"):
        shrink(model)


MESH = """
import keras, numpy as np, keras_hoyer
distribution = keras.distribution
mesh = distribution.DeviceMesh((1, 2), ("batch", "model"), distribution.list_devices("cpu"))
layouts = distribution.LayoutMap(mesh)
layouts["wide/kernel"] = (None, "model")
distribution.set_distribution(
    distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch"))
for keep in (4, 5):
    wide = keras.layers.Dense(8, name="wide")
    model = keras.Sequential([keras.Input((6,)), wide, keras.layers.Dense(3)])
    kernel = np.array(wide.kernel)
    kernel[:, keep:] = 0
    wide.kernel.assign(kernel)
    print(keras_hoyer.shrink(model).layers[0].kernel.value.sharding.spec)
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX lays models out over a mesh")
def test_a_width_that_a_mesh_does_not_divide_is_said():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", MESH], env=environment, capture_output=True, text=True, check=False
    )
    assert "'model'" in done.stdout
    assert "ShrinkError: Dense 'wide'" in done.stderr
    assert "multiple_of" in done.stderr


# Compile settings.


def test_losses_and_metrics_of_ones_own_are_carried_over():
    def loss(y, p):
        return ops.mean(ops.abs(p - y))

    model = with_dead_units(lambda x: x)
    model.compile(
        keras.optimizers.Adam(0.5), loss, metrics=[keras.metrics.MeanSquaredError("mse"), loss]
    )
    model.optimizer.learning_rate = 0.25
    x, y = np.ones((4, 6), "float32"), np.ones((4, 2), "float32")
    before = model.evaluate(x, y, verbose=0)
    small = shrunk(model)
    np.testing.assert_allclose(small.evaluate(x, y, verbose=0), before, rtol=1e-5)
    assert small.loss is loss
    assert isinstance(small.optimizer, keras.optimizers.Adam)
    assert small.optimizer is not model.optimizer
    assert float(to_numpy(small.optimizer.learning_rate)) == 0.25


def test_a_train_step_of_ones_own_is_said_to_be_left_behind():
    class Trained(keras.Model):
        def train_step(self, *args):
            return super().train_step(*args)

    base = with_dead_units(lambda x: x)
    model = Trained(base.inputs, base.outputs)
    with pytest.warns(UserWarning, match="`train_step` of Trained"):
        shrunk(model)


def test_weights_that_a_class_changes_when_it_loads_them_stay():
    class Rescaling(layers.Layer):
        """Its own loading makes something else of the values, as for another resolution."""

        def build(self, shape):
            self.table = self.add_weight(shape=(shape[-1],), initializer="ones", name="table")

        def call(self, x):
            return ops.sort(x * self.table, axis=-1)

        def save_own_variables(self, store):
            store["0"] = ops.convert_to_numpy(self.table)

        def load_own_variables(self, store):
            self.table.assign(np.asarray(store["0"]) * 2)

    x = inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(6)(Rescaling()(x))))
    kernel, bias = (np.array(w) for w in model.layers[2].get_weights())
    kernel[:, :3], bias[:3] = 0, 0
    model.layers[2].set_weights([kernel, bias])
    small = shrink(model)
    assert small.layers[2].units == 3
    table = ops.convert_to_numpy(small.layers[1].table)
    np.testing.assert_array_equal(table, np.ones(4, "float32"))
