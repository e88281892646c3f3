"""Masks as constraints: what they do to a weight, to its average, and in a config."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_hoyer.masks import KeepZeros

MASK = np.array([[True, False], [False, True], [True, True]])


def restored(constraint, w):
    return keras.ops.convert_to_numpy(constraint(w))


def has_negative_zero(array):
    return bool(np.any((array == 0) & np.signbit(array)))


def test_masked_weights_become_positive_zero_whatever_they_were():
    w = np.array([[1.0, -1.0], [np.inf, -0.5], [np.nan, -2.0]], "float32")
    got = restored(KeepZeros({"kernel": MASK}), w)
    np.testing.assert_array_equal(got, np.where(MASK, w, np.float32(0)))
    assert not has_negative_zero(got)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_keeps_the_weights_dtype(dtype):
    variable = keras.Variable(np.ones((3, 2)), dtype=dtype, name="kernel")
    result = KeepZeros({"kernel": MASK})(variable)
    assert keras.backend.standardize_dtype(result.dtype) == dtype


def test_the_users_own_constraint_is_applied_before_the_mask():
    # UnitNorm of the rows would be another one if zeros were restored first.
    w = np.array([[3.0, 4.0], [1.0, 1.0], [6.0, 8.0]], "float32")
    keep = KeepZeros({"kernel": MASK}, keras.constraints.UnitNorm(axis=1))
    expected = np.where(MASK, w / np.linalg.norm(w, axis=1, keepdims=True), 0)
    np.testing.assert_allclose(restored(keep, w), expected, rtol=1e-5)


def test_parts_that_share_a_constraint_get_their_own_masks():
    keep = KeepZeros({"query/kernel": MASK, "key/kernel": ~MASK})
    with keras.name_scope("attention"), keras.name_scope("query"):
        query = keras.Variable(np.ones((3, 2)), name="kernel")
    with keras.name_scope("attention"), keras.name_scope("key"):
        key = keras.Variable(np.ones((3, 2)), name="kernel")
    with keras.name_scope("attention"), keras.name_scope("value"):
        value = keras.Variable(np.ones((3, 2)), name="kernel")
    np.testing.assert_array_equal(restored(keep, query), MASK)
    np.testing.assert_array_equal(restored(keep, key), ~MASK)
    np.testing.assert_array_equal(restored(keep, value), np.ones((3, 2)))


def test_a_mask_that_is_set_again_replaces_the_first():
    keep = KeepZeros({"kernel": MASK})
    keep.set_mask("kernel", ~MASK)
    np.testing.assert_array_equal(restored(keep, np.ones((3, 2), "float32")), ~MASK)
    np.testing.assert_array_equal(keep.get_mask("kernel"), ~MASK)
    assert keep.get_mask("bias") is None


@settings(max_examples=25, deadline=None)
@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=1, max_dims=5, max_side=5)),
    max_norm=st.floats(0.1, 5),
)
def test_config_survives_json_bit_by_bit(mask, max_norm):
    keep = KeepZeros({"a/kernel": mask, "kernel": ~mask}, keras.constraints.MaxNorm(max_norm))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(keep)))
    back = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(back.get_mask("a/kernel"), mask)
    np.testing.assert_array_equal(back.get_mask("kernel"), ~mask)
    assert back.constraint.max_value == max_norm


def test_config_of_a_mask_takes_at_most_a_byte_for_four_weights():
    mask = np.random.default_rng(0).random((300, 200)) < 0.5  # the worst case
    size = len(json.dumps(KeepZeros({"kernel": mask}).get_config()))
    assert size < mask.size / 4


def test_says_so_if_the_weight_has_another_shape():
    with pytest.raises(ValueError, match=r"mask of weight 'kernel' has shape \(3, 2\).*\(3, 1\)"):
        KeepZeros({"kernel": MASK})(np.ones((3, 1), "float32"))
