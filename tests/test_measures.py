"""The measures against their formulas in exact or float64 arithmetic."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import keras
import numpy as np
import pytest

from keras_hoyer import measures

MEASURES = (measures.hoyer_sparsity, measures.effective_count, measures.trimming_threshold)

arrays = hnp.arrays(
    np.float64,
    hnp.array_shapes(max_dims=5, max_side=5),
    elements=st.floats(-1e3, 1e3).map(lambda x: 0.0 if abs(x) < 1e-3 else x),
)


@hypothesis.given(arrays)
@hypothesis.settings(deadline=None, derandomize=True)
def test_measures_agree_with_their_formulas(array):
    entries = [abs(x) for x in array.ravel().tolist()]
    count, total, squares = len(entries), sum(entries), sum(x * x for x in entries)
    if total == 0 or count == 1:
        return
    sparsity = (count**0.5 - total / squares**0.5) / (count**0.5 - 1)
    np.testing.assert_allclose(measures.hoyer_sparsity(array), sparsity, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(measures.effective_count(array), total**2 / squares, rtol=1e-9)
    np.testing.assert_allclose(measures.trimming_threshold(array), squares / total, rtol=1e-9)


@hypothesis.given(arrays)
@hypothesis.settings(deadline=None, derandomize=True)
def test_measures_stay_in_their_ranges(array):
    assert 0 <= measures.hoyer_sparsity(array) <= 1
    assert 0 <= measures.effective_count(array) <= array.size * (1 + 1e-12)
    assert 0 <= measures.trimming_threshold(array) <= np.abs(array).max() * (1 + 1e-12)


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1e-12, 1e12, 1e200])
def test_scale_changes_the_threshold_alone(scale):
    array = np.array([4.0, -2.0, 0.0, 1.0])
    assert measures.effective_count(array * scale) == pytest.approx(49 / 21)
    expected = measures.hoyer_sparsity(array)
    assert measures.hoyer_sparsity(array * scale) == pytest.approx(expected)
    assert measures.trimming_threshold(array * scale) == pytest.approx(3 * scale)


def test_special_arrays():
    assert [measure(np.zeros((3, 2))) for measure in MEASURES] == [1.0, 0.0, 0.0]
    assert [measure([-5.0]) for measure in MEASURES] == [0.0, 1.0, 5.0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_tensors_and_variables_of_any_float_are_measured(dtype):
    values = [3.0, 0.0, -1.0]
    for array in (
        keras.ops.cast(keras.ops.convert_to_tensor(values), dtype),
        keras.Variable(np.array(values), dtype=dtype),
    ):
        assert measures.trimming_threshold(array) == 2.5


def test_sums_of_many_pieces_are_whole():
    array = np.full((3 << 20) + 5, 0.1, "float32")
    assert measures.effective_count(array) == pytest.approx(array.size, rel=1e-9)
    assert measures.hoyer_sparsity(array) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("array", [[], [1.0, float("nan")], [float("-inf"), 0.0]])
def test_empty_and_not_finite_arrays_are_errors(array):
    for measure in MEASURES:
        with pytest.raises(ValueError, match="Invalid value for argument `array`"):
            measure(array)
