"""Masks in a config: what comes back, and that what is no mask takes no memory."""

import base64
import json
import tracemalloc
import zlib

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_hoyer as kh
from keras_hoyer._packing import PackedMask
from keras_hoyer.masks import KeepZeros


def bits_of(size, fill=0):
    """So many bytes, as the bits of a mask."""
    deflater = zlib.compressobj(9)
    block = bytes([fill]) * 2**20
    parts = [deflater.compress(block) for _ in range(size // len(block))]
    parts += [deflater.compress(block[: size % len(block)]), deflater.flush()]
    return base64.b64encode(b"".join(parts)).decode()


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)))
def test_every_mask_comes_back(mask):
    config = json.loads(json.dumps(PackedMask.pack(mask).to_config()))
    back = PackedMask.from_config(config).unpack()
    assert back.dtype == bool and back.shape == mask.shape
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize("density", [0, 0.001, 0.5, 1])
def test_a_large_mask_comes_back(density):
    mask = np.random.default_rng(0).random((3000, 4001)) < density
    back = PackedMask.from_config(PackedMask.pack(mask).to_config()).unpack()
    np.testing.assert_array_equal(back, mask)


@given(st.data())
def test_no_other_number_of_bits_will_do(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    size = -(-int(np.prod(shape)) // 8)
    other = data.draw(st.integers(0, 120).filter(lambda n: n != size))
    with pytest.raises(ValueError, match="the bits of the shape"):
        PackedMask.from_config({"shape": shape, "bits": bits_of(other)})


def test_bits_behind_the_last_one_are_refused():
    assert PackedMask.from_config({"shape": [3], "bits": bits_of(1, 0b11100000)}).unpack().all()
    with pytest.raises(ValueError, match="more than 3 bits"):
        PackedMask.from_config({"shape": [3], "bits": bits_of(1, 0b00010000)})


@pytest.mark.parametrize(
    "shape",
    [
        *(None, 3, "3", [-16, -24], [2.0], [True], ["3"], [[3]], [2**32], [2**20, 2**20]),
        *([10**400] * 9, [1] * 33, [0, 2**62, 2**62], [float("nan")], {"0": 3}),
    ],
)
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(ValueError, match="Expected a shape"):
        PackedMask.from_config({"shape": shape, "bits": bits_of(1)})


@pytest.mark.parametrize(
    "bits",
    [
        *(None, 5, b"AAAA", "", "=", "é", "AAAA", [1]),
        base64.b64encode(zlib.compress(bytes(1))[:-2]).decode(),
        base64.b64encode(zlib.compress(bytes(1)) + b"x").decode(),
        base64.b64encode(zlib.compress(bytes(1)) * 2).decode(),
    ],
)
def test_what_are_no_bits_is_refused(bits):
    with pytest.raises(ValueError, match=r"its bits as text|the bits of the shape"):
        PackedMask.from_config({"shape": [8], "bits": bits})


@pytest.mark.parametrize(
    ("shape", "size"), [([2**29], 2**26), ([8], 2**26), ([2**31], 1), ([2**27], 2**24)]
)
def test_a_mask_takes_no_memory_before_its_weight_is_known(shape, size):
    masks = {"kernel": {"shape": shape, "bits": bits_of(size)}}
    tracemalloc.start()
    try:
        constraint = KeepZeros(masks)
        with pytest.raises(ValueError, match="has shape"):
            constraint(np.ones((16, 24), "float32"))
        with pytest.raises(ValueError, match="has shape"):
            constraint.get_mask("kernel", (16, 24))
    except ValueError as error:
        assert "the bits of the shape" in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50e6


def test_what_is_no_config_of_masks_is_refused():
    for config in ({}, {"masks": {}, "other": 1}, {"masks": [1]}, {"masks": None}):
        with pytest.raises(ValueError, match=r"KeepZeros|`masks`"):
            KeepZeros.from_config(config)


def cut_model():
    model = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(24, name="d"), keras.layers.Dense(3)]
    )
    model.compile("sgd", "mse")
    kh.prune(model, kh.criteria.TargetSparsity(0.5))
    return model


def test_a_loaded_model_keeps_its_zeros_and_can_be_cut_again(tmp_path):
    # The first step is traced before anything else has looked at the masks.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 16)), rng.normal(size=(32, 3))
    model = cut_model()
    cut = [np.asarray(w) == 0 for w in model.get_weights()]
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.fit(x, y, verbose=0)
    for zeros, weight in zip(cut, loaded.get_weights(), strict=True):
        if weight.ndim > 1:
            np.testing.assert_array_equal(np.asarray(weight) == 0, zeros)
    kh.prune(loaded, kh.criteria.TargetSparsity(0.9))
    loaded.fit(x, y, verbose=0)
    assert kh.report(loaded).sparsity == pytest.approx(0.9, abs=0.01)


def test_a_model_that_was_loaded_is_saved_with_the_same_masks(tmp_path):
    model = cut_model()
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    ours, theirs = (m.get_layer("d").kernel_constraint.get_config() for m in (model, loaded))
    assert ours == theirs
    keras.models.clone_model(loaded)


def test_loading_a_model_whose_mask_has_too_few_bits_says_so(tmp_path):
    model = cut_model()
    layer = model.get_layer("d")
    layer.kernel_constraint.get_config = lambda: {
        "masks": {"kernel": {"shape": [16, 24], "bits": bits_of(0)}},
        "constraint": None,
    }
    model.save(tmp_path / "m.keras")
    # Keras turns what goes wrong in a layer's config into an error of its own.
    with pytest.raises((ValueError, TypeError), match=r"the bits of the shape \(16, 24\)"):
        keras.models.load_model(tmp_path / "m.keras")
