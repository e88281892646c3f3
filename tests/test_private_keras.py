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
