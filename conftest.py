"""What the docstrings' examples may use without an import."""

import keras
import numpy as np
import pytest

import keras_hoyer


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict) -> None:
    doctest_namespace.update(keras=keras, np=np, keras_hoyer=keras_hoyer)
    keras.utils.set_random_seed(0)
