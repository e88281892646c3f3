"""Criteria: which units stay, against sorted lists and the formulas in float64."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_hoyer.criteria import (
    EffectiveNumber,
    HoyerThreshold,
    StdThreshold,
    TargetFlops,
    TargetSparsity,
    Threshold,
    UnitScores,
)

# Ties, zeros, units that must stay, denormals and huge values.
special = st.sampled_from([0.0, 0.5, 0.5, 1.0, np.inf, 1e-45, 1e-30, 3e38])
scores = hnp.arrays(
    "float32",
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=st.one_of(special, st.floats(0, 1e6, width=32)),
)
finite_scores = hnp.arrays(
    "float32", hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(0, 2**20, width=32)
)


def entries(arrays):
    return [UnitScores(f"kernel_{i}", values, 1.0) for i, values in enumerate(arrays)]


def smallest_first(arrays, count):
    """The units that a stable sort puts first are cut; units that must stay never are."""
    flat = [float(v) for values in arrays for v in values.ravel()]
    order = sorted(range(len(flat)), key=lambda i: flat[i])
    keep = np.ones(len(flat), bool)
    keep[[i for i in order[:count] if flat[i] != math.inf]] = False
    ends = np.cumsum([values.size for values in arrays])[:-1]
    parts = np.split(keep, ends)
    return [part.reshape(values.shape) for part, values in zip(parts, arrays, strict=True)]


@given(st.lists(scores, min_size=1, max_size=4), st.floats(0, 0.999))
@example([np.zeros((2, 3), "float32")], 0.5)
@example([np.full(4, np.inf, "float32"), np.ones(4, "float32")], 0.5)
def test_global_target_cuts_what_a_stable_sort_puts_first(arrays, sparsity):
    keep = TargetSparsity(sparsity).keep(entries(arrays))
    count = round(sparsity * sum(values.size for values in arrays))
    for got, expected in zip(keep, smallest_first(arrays, count), strict=True):
        np.testing.assert_array_equal(got, expected)


@given(st.lists(scores, min_size=1, max_size=4), st.floats(0, 0.999))
def test_layer_target_cuts_the_same_share_of_each(arrays, sparsity):
    keep = TargetSparsity(sparsity, scope="layer").keep(entries(arrays))
    for values, got in zip(arrays, keep, strict=True):
        (expected,) = smallest_first([values], round(sparsity * values.size))
        np.testing.assert_array_equal(got, expected)


@given(st.lists(finite_scores, min_size=1, max_size=4), st.floats(0, 0.999), st.floats(0, 1))
def test_target_is_hit_to_within_one_unit(arrays, sparsity, progress):
    keep = TargetSparsity(sparsity).keep(entries(arrays), progress)
    total = sum(values.size for values in arrays)
    cut = total - sum(int(part.sum()) for part in keep)
    assert abs(cut - sparsity * progress * total) <= 0.5 + 1e-9


def test_ties_over_many_pieces_are_broken_by_layer_and_index():
    arrays = [np.full((1500, 1000), 0.25, "float32"), np.full((1000, 1000), 0.25, "float32")]
    first, second = TargetSparsity(0.7).keep(entries(arrays))
    assert not first.any()
    assert second.ravel().argmax() == 250_000 and second.sum() == 750_000


@given(finite_scores, st.floats(2**-20, 2**20, width=32), st.floats(0, 1))
def test_threshold_cuts_below_its_value(values, value, progress):
    (keep,) = Threshold(value).keep(entries([values]), progress)
    limit = np.float32(value * progress)
    for score, stays in zip(values.ravel(), keep.ravel(), strict=True):
        assert stays == (score >= limit and score > 0)


@given(finite_scores, st.floats(0.01, 3), st.floats(0, 100))
def test_std_threshold_cuts_below_its_share_of_the_standard_deviation(values, ratio, std):
    (keep,) = StdThreshold(ratio).keep([UnitScores("kernel", values, std)])
    cut = (values < np.float32(ratio * std)) | (values == 0)
    np.testing.assert_array_equal(keep, ~cut)


@given(finite_scores, st.floats(0.1, 2))
def test_hoyer_threshold_cuts_below_its_share_of_the_trimming_threshold(values, ratio):
    (keep,) = HoyerThreshold(ratio).keep(entries([values]))
    wide = values.astype("float64").ravel()
    total = wide.sum()
    limit = ratio * (wide @ wide) / total if total else 0.0
    near = np.abs(values - limit) <= 1e-6 * limit  # rounding may go either way
    np.testing.assert_array_equal((keep == ((values >= limit) & (values > 0))) | near, True)


def test_hoyer_threshold_does_not_count_units_that_must_stay():
    values = np.array([np.inf, 1.0, 3.0, np.inf], "float32")
    (keep,) = HoyerThreshold().keep(entries([values]))  # (1 + 9) / (1 + 3) = 2.5
    assert keep.tolist() == [True, False, True, True]
    (keep,) = HoyerThreshold().keep(entries([np.full(3, np.inf, "float32")]))
    assert keep.all()


@pytest.mark.parametrize("criterion", [Threshold(0.5), StdThreshold(1), HoyerThreshold()])
def test_thresholds_rise_with_the_schedule_and_what_is_zero_goes_first(criterion):
    values = np.array([0.0, *np.geomspace(0.01, 2, 50)], "float32")
    kept = [criterion.keep(entries([values]), p)[0].sum() for p in (0.0, 0.3, 0.6, 1.0)]
    assert kept[0] == 50
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "0.1", None, True, [0.1]])
@pytest.mark.parametrize("criterion", [Threshold, StdThreshold, HoyerThreshold])
def test_thresholds_refuse_what_is_not_positive(criterion, value):
    with pytest.raises(ValueError, match=r"Invalid value for argument `(value|ratio)`"):
        criterion(value)


@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1, math.nan, math.inf, "0.9", None, True])
def test_target_refuses_what_is_no_share(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity`. Expected a number in \[0, 1\)"):
        TargetSparsity(sparsity)


def test_target_refuses_an_unknown_scope():
    with pytest.raises(ValueError, match=r"'global', 'layer'. Received: scope='block'"):
        TargetSparsity(0.5, scope="block")


def test_target_flops_leaves_the_room_to_channels_that_are_alive():
    zeros, cost = [0, 0, 0, 1], np.array([1, 2, 1])
    units = entries([np.array(v, "float32") for v in (zeros, [1, 2, 3, 4], [1, 2, 3, 4, 5])])
    criterion = TargetFlops(6.5 / 17, scope="layer")
    keep = criterion.keep(units, flops=lambda counts: float(cost @ counts) / 17)
    assert [list(np.flatnonzero(stay)) for stay in keep] == [[3], [3], [2, 3, 4]]


def effective(arrays):
    flat = np.concatenate([values.astype("float64").ravel() for values in arrays])
    flat = flat[np.isfinite(flat)]
    return flat.sum() ** 2 / np.square(flat).sum() if flat.any() else 0.0


@given(st.lists(finite_scores, min_size=1, max_size=4), st.floats(0.2, 4))
def test_effective_number_keeps_so_many_times_that_number_of_all(arrays, ratio):
    units = entries(arrays)
    total = sum(values.size for values in arrays)
    wanted = min(total, max(1, round(ratio * effective(arrays))))
    keep = EffectiveNumber(ratio).keep(units)
    # Rounding may go either way where the number lies half between two.
    assert abs(sum(int(kept.sum()) for kept in keep) - wanted) <= 1
    cut = total - sum(int(kept.sum()) for kept in keep)
    for got, expected in zip(keep, smallest_first(arrays, cut), strict=True):
        np.testing.assert_array_equal(got, expected)


@given(st.lists(finite_scores, min_size=1, max_size=3), st.floats(0.2, 4))
def test_effective_number_by_layer_asks_each_for_its_own(arrays, ratio):
    keep = EffectiveNumber(ratio, scope="layer").keep(entries(arrays))
    for values, got in zip(arrays, keep, strict=True):
        (alone,) = EffectiveNumber(ratio).keep(entries([values]))
        np.testing.assert_array_equal(got, alone)


def test_effective_number_goes_part_of_the_way_and_does_not_count_what_must_stay():
    values = np.array([np.inf, 1.0, 1.0, 0.0, 1e-6, 1e-6, np.inf, 1e-6, 1e-6, 1e-6], "float32")
    (half,) = EffectiveNumber(1.0).keep(entries([values]), 0.5)
    (whole,) = EffectiveNumber(1.0).keep(entries([values]))
    assert (half.sum(), whole.sum()) == (7, 4)
    assert whole[[0, 1, 2, 6]].all()
    (stay,) = EffectiveNumber(1.0).keep(entries([np.full(3, np.inf, "float32")]))
    assert stay.all()


def test_effective_number_compares_channels_relative_to_their_layer():
    wide = UnitScores("wide", np.array([2.0, 2.0, 0.02], "float32"), 1.0, reference=2.0)
    narrow = UnitScores("narrow", np.array([0.1, 0.1, 0.001], "float32"), 1.0, reference=0.1)
    keep = EffectiveNumber(1.0).keep([wide, narrow])
    assert [kept.tolist() for kept in keep] == [[True, True, False]] * 2


def test_effective_number_of_weights_without_a_penalty_cuts_nothing():
    values = np.abs(np.random.default_rng(0).normal(size=(50, 40))).astype("float32")
    (keep,) = EffectiveNumber().keep(entries([values]))
    assert keep.all()


@pytest.mark.parametrize("ratio", [0, -1, math.nan, math.inf, "3", None, True])
def test_effective_number_refuses_what_is_no_ratio(ratio):
    with pytest.raises(ValueError, match=r"`ratio`. Expected a positive number"):
        EffectiveNumber(ratio)
    with pytest.raises(ValueError, match="`scope`"):
        EffectiveNumber(3.0, scope="all")
