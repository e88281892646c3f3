"""`keras_hoyer.compare`: two models, or files, side by side."""

import re

import keras
import numpy as np
import pytest

import keras_hoyer as kh
from keras_hoyer.exporters import timing


def net(units=4):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(units, name="out")], name="net")


def shifted(model, by):
    other = keras.models.clone_model(model)
    other.set_weights([w + by * (w.ndim == 1) for w in model.get_weights()])
    return other


def test_models_in_memory_and_their_files_are_the_same(tmp_path):
    model, path = net(), tmp_path / "net.keras"
    model.save(path)
    x = np.random.default_rng(0).normal(size=(20, 8)).astype("float32")
    for one, other in ((model, path), (str(path), model)):
        result = kh.compare(one, other, x, runs=2)
        assert result.max_difference == 0
        assert result.samples == 20
        assert sorted(result.names) == sorted(["model 'net'", str(path)])
        assert sorted(result.bytes) == sorted([4 * model.count_params(), path.stat().st_size])
        assert all(low <= high for low, high in result.quartiles)
    assert "half of them" in str(result)


def test_the_difference_and_the_agreement_are_those_of_the_outputs():
    model = net()
    other = shifted(model, np.array([0.5, 0, 0, 0], "float32"))
    x = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    result = kh.compare(model, other, x, runs=0)
    want, got = model.predict(x, verbose=0), other.predict(x, verbose=0)
    assert result.max_difference == pytest.approx(np.abs(want - got).max())
    assert result.equal_argmax == np.mean(want.argmax(1) == got.argmax(1))
    assert result.milliseconds is None and "milliseconds" not in str(result)
    assert not result.within_tolerance and kh.compare(model, other, x, 1.0, runs=0).within_tolerance


def test_the_ratio_is_that_of_turns_so_that_a_slow_machine_slows_both():
    base = np.array([1.0, 5.0, 1.0, 3.0, 1.0])
    found = timing.summarized([base, base / 4])
    assert found.ratio == 0.25 and found.ratio_quartiles == (0.25, 0.25)
    assert found.milliseconds == (1.0, 0.25) and found.quartiles[0] == (1.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None,), "Expected a Keras model, or the path of"),
        (("weights.npz",), "`load_sparse_weights`"),
        (("none.tflite",), "There is no file none.tflite"),
        ((keras.Sequential([keras.layers.Dense(2)]),), "Expected a model that is built"),
        ((net(), None, -1.0), "`tolerance`"),
        ((net(), None, None, -1), "`runs`"),
    ],
)
def test_what_cannot_be_compared_is_said(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kh.compare(net(), *arguments)
