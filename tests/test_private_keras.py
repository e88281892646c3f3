"""The private names of Keras do what the package expects of them."""

import keras

from keras_hoyer import _keras


def test_the_optimizer_whose_step_is_computed_is_known_to_a_constraint():
    seen = []

    class Watch(keras.constraints.Constraint):
        def __call__(self, w):
            seen.append(_keras.current_optimizer())
            return keras.ops.convert_to_tensor(w)

    optimizer = keras.optimizers.SGD(0.1)
    variable = keras.Variable([1.0, 2.0])
    variable.constraint = Watch()
    optimizer.apply([keras.ops.ones(2)], [variable])
    assert seen == [optimizer]
    assert _keras.current_optimizer() is None


def test_a_lambda_is_built_from_its_config_where_it_is_trusted():
    layer = keras.layers.Lambda(lambda x: x + 1)
    with _keras.trusting():
        copy = keras.layers.Lambda.from_config(layer.get_config())
    assert float(copy(keras.ops.ones((1, 1)))[0, 0]) == 2


def test_a_callback_finds_the_others_of_its_fit():
    found = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.append(_keras.running_callbacks())

    callbacks = keras.callbacks.CallbackList([Look(), keras.callbacks.Callback()])
    callbacks.on_train_begin()
    assert found == [callbacks.callbacks]
    assert _keras.running_callbacks() is None


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x, training=None):
        return self.dense(x)


def test_the_arguments_that_keras_hands_to_every_layer_are_known():
    layer = keras.layers.Dense(2)
    assert "training" in _keras.context_arguments(layer)
    layer(keras.Input((3,)), training=False)  # dropped, as `call` has none
    assert "units" not in _keras.context_arguments(layer)


def test_a_model_remembers_what_it_was_built_with_and_called_on():
    model = Net()
    assert _keras.build_shapes(model) == {}
    model(keras.ops.ones((2, 3)))
    assert list(_keras.build_shapes(model).values()) == [(2, 3)]
    assert _keras.last_call(model) is None
    x = keras.Input((3,))
    model(x, training=False)
    args, kwargs = _keras.last_call(model)
    assert args[0] is x and kwargs["training"] is False


def test_a_call_that_does_not_follow_the_graph_is_known():
    class Own(keras.Model):
        def call(self, x):
            return x

    x = keras.Input((3,))
    plain = keras.Model(x, keras.layers.Dense(2)(x))
    assert _keras.follows_its_graph(plain)
    assert _keras.follows_its_graph(keras.Sequential([x, keras.layers.Dense(2)]))
    assert not _keras.follows_its_graph(Own(x, keras.layers.Dense(2)(x)))
    assert not _keras.follows_its_graph(Net())


def test_the_inputs_of_a_functional_model_keep_their_structure():
    x = keras.Input((3,), name="x")
    assert _keras.input_structure(keras.Model({"x": x}, x * 2)).keys() == {"x"}
    assert _keras.input_structure(Net()) is None


def test_a_mask_of_a_symbolic_tensor_is_known():
    x = keras.Input((5, 3))
    masked = keras.layers.Masking()(x)
    assert _keras.has_mask(masked)
    assert _keras.has_mask(keras.layers.Dense(2)(masked))
    assert not _keras.has_mask(x)
    assert not _keras.has_mask(keras.ops.relu(masked))


def test_a_model_without_a_call_is_known():
    assert _keras.has_call(Net())
    assert _keras.has_call(keras.Sequential())
    assert not _keras.has_call(type("Held", (keras.Model,), {})())
    assert not _keras.has_call(keras.layers.Layer())
