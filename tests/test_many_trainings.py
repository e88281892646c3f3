"""Many small nets that the benchmarks train at once."""

import keras
import numpy as np
import pytest

import keras_hoyer as kh

if keras.backend.backend() != "jax":
    pytest.skip("JAX compiles them", allow_module_level=True)

from kit import many, training


def make(factor):
    penalty = kh.HoyerSquare(factor)
    body = [keras.layers.Dense(4, "relu", kernel_regularizer=penalty), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *body])


def test_nets_that_are_trained_at_once_end_where_fit_ends():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((9, 6)).astype("float32"), generator.integers(0, 3, 9)
    model = make(1.0)
    start = many.state_of(model)
    start[0][0][0] = 0.0
    members = [many.Member(start, factor, rate, seed=7) for factor, rate in ((0, 0.1), (0.01, 0.2))]
    first, last = many.train_many(model, members, x, y, epochs=2, batch=4, hold_zeros=True)
    alone = make(0.01)
    many.set_state(alone, start)
    kh.keep_zeros(alone)
    training.compile_with(alone, keras.optimizers.schedules.CosineDecay(0.2, 4))
    order = np.random.default_rng(7)
    for _ in range(2):
        chosen = order.permutation(9)[:8]
        alone.fit(x[chosen], y[chosen], batch_size=4, shuffle=False, verbose=0)
    for one, other, variable in zip(first[0], last[0], alone.trainable_variables, strict=True):
        np.testing.assert_allclose(other, variable, atol=1e-4)
        assert np.abs(one - other).max() > 1e-2
    assert not last[0][0][0].any()
