"""Warnings point at the user's own line, whatever lies between."""

import warnings

import keras
import numpy as np

import keras_hoyer as kh


def place_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    [found] = [entry for entry in caught if entry.category is UserWarning]
    return found.filename


def make_model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def test_a_warning_during_fit_points_at_the_call_of_fit():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    cut = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(3))
    data = np.ones((4, 4)), np.ones((4, 2))
    place = place_of(lambda: make_model().fit(*data, epochs=5, verbose=0, callbacks=[cut, Stop()]))
    assert place == __file__


def test_a_warning_of_a_function_points_at_its_call():
    model = make_model()
    kh.regularize(model, kh.HoyerSquare(1e-4))
    place = place_of(lambda: kh.prune(model, kh.criteria.TargetSparsity(0.9)))
    assert place == __file__
