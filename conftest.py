"""What the docstrings' examples may use without an import, and how JAX compiles in tests."""

import importlib.metadata
import os

import pytest

# Before JAX is imported: most of a test's time is compiling, and what runs once gains nothing by
# being optimized. `JAX_COMPILATION_CACHE_DIR` keeps what was compiled for the next run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ.get("KERAS_BACKEND") == "jax":
    version = importlib.metadata.version("jaxlib").split(".")[:2]
    # The older code generator compiles in half the time. A version that lacks the flag would end.
    if (0, 6) <= tuple(map(int, version)) <= (0, 10):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict) -> None:
    import keras
    import numpy as np

    import keras_hoyer

    doctest_namespace.update(keras=keras, np=np, keras_hoyer=keras_hoyer)
    keras.utils.set_random_seed(0)
