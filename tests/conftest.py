"""Settings that all tests share."""

import gc

import hypothesis
import keras
import numpy as np
import pytest

# No deadline: the first call of a backend's operation may take seconds.
hypothesis.settings.register_profile("keras_hoyer", max_examples=50, deadline=None)
hypothesis.settings.load_profile("keras_hoyer")

# What these compute is compared to the last digits, or near the smallest floats.
OPTIMIZED = {"test_regularizers", "test_proximal", "test_total_variation", "test_path_norm"}


def pytest_collection_modifyitems(items):
    """What no backend changes is tested on the default one alone."""
    if keras.backend.backend() != "tensorflow":
        skip = pytest.mark.skip(reason="tested on TensorFlow")
        for item in items:
            if any(item.get_closest_marker(name) for name in ("benchmark", "default_backend")):
                item.add_marker(skip)


def pytest_collection_finish():
    """What is imported by now stays, so the garbage collector need not go through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=keras.backend.backend() == "jax", scope="module")
def _programs_that_run_once_are_not_optimized(request):
    """XLA takes longer to optimize most tests' programs than to run them."""
    import jax

    optimized = request.module.__name__.split(".")[-1] in OPTIMIZED
    jax.config.update("jax_disable_most_optimizations", not optimized)


@pytest.fixture(autouse=keras.backend.backend() == "jax", scope="session")
def _initial_weights_of_numpy():
    """NumPy draws initial weights: JAX would compile a program for each shape that it draws."""
    drawn = keras.initializers.VarianceScaling.__call__

    def draw(self, shape, dtype=None):
        if not isinstance(self.seed, int):
            return drawn(self, shape, dtype)
        fan_in, fan_out = fans(shape)
        size = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = (self.scale / max(1.0, size)) ** 0.5
        rng = np.random.default_rng(self.seed)
        limit = 3**0.5 * deviation
        values = (
            rng.uniform(-limit, limit, shape)
            if self.distribution == "uniform"
            else rng.normal(0, deviation, shape)
        )
        return keras.ops.convert_to_tensor(values, dtype=dtype or keras.config.floatx())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", draw)
        yield


def fans(shape):
    """What goes into and out of a unit."""
    if len(shape) < 2:
        return (shape or (1,))[0], (shape or (1,))[0]
    field = int(np.prod(shape[:-2]))
    return field * shape[-2], field * shape[-1]
