"""Value and gradient of a scalar function on the current backend, for tests."""

import keras
import numpy as np


def value_and_gradient(function, array, dtype="float32", jit=False):
    """The function's value and its gradient at an array, as float64 NumPy values."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        value, gradient = _tensorflow(function, array, dtype, jit)
    elif backend == "jax":
        value, gradient = _jax(function, array, dtype, jit)
    else:
        value, gradient = _torch(function, array, dtype)
    assert keras.backend.standardize_dtype(gradient.dtype) == dtype
    return _to_numpy(value), _to_numpy(gradient)


def _to_numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")), "float64")


def _tensorflow(function, array, dtype, jit):
    import tensorflow as tf

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return value, tape.gradient(value, x)

    return (
        tf.function(run, jit_compile=jit)(tf.cast(tf.constant(array), dtype))
        if jit
        else run(tf.cast(tf.constant(array), dtype))
    )


def _jax(function, array, dtype, jit):
    import jax

    run = jax.value_and_grad(function)
    return (jax.jit(run) if jit else run)(jax.numpy.asarray(array, dtype))


def _torch(function, array, dtype):
    x = keras.ops.convert_to_tensor(array, dtype=dtype).clone().requires_grad_(True)
    value = function(x)
    value.backward()
    return value.detach(), x.grad


def hessian_product(function, array, direction):
    """The Hessian of a scalar function at an array, times a direction, in float64 NumPy."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(array)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = function(x)
            slope = tf.reduce_sum(inner.gradient(value, x) * direction)
        return _to_numpy(outer.gradient(slope, x))
    if backend == "jax":
        import jax

        gradient = jax.grad(function)
        return _to_numpy(
            jax.grad(lambda x: (gradient(x) * direction).sum())(jax.numpy.array(array))
        )
    import torch

    x = torch.tensor(array, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    return _to_numpy(torch.autograd.grad((gradient * torch.tensor(direction)).sum(), x)[0])
