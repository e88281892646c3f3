"""Settings that all tests share."""

import hypothesis
import keras
import pytest

# No deadline: the first call of a backend's operation may take seconds.
hypothesis.settings.register_profile("keras_hoyer", max_examples=50, deadline=None)
hypothesis.settings.load_profile("keras_hoyer")


def pytest_collection_modifyitems(items):
    """Tests of the benchmarks run on the default backend alone: they say nothing of the others."""
    if keras.backend.backend() != "tensorflow":
        skip = pytest.mark.skip(reason="the benchmarks are tested on TensorFlow")
        for item in items:
            if item.get_closest_marker("benchmark"):
                item.add_marker(skip)
