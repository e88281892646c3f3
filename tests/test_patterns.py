"""Patterns: unit scores and masks against plain loops over the units."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_hoyer as kh
from keras_hoyer.patterns import Block, NByM, Unstructured

finite = st.floats(-(2.0**99), 2.0**99, width=32)


def kernels(min_dims=1):
    shapes = hnp.array_shapes(min_dims=min_dims, max_dims=5, max_side=6)
    return shapes.flatmap(lambda shape: hnp.arrays("float32", shape, elements=finite))


@st.composite
def blocked_kernels(draw):
    rank = draw(st.integers(1, 4))
    block = draw(st.lists(st.integers(1, 3), min_size=1, max_size=rank))
    counts = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    lead = rank - len(block)
    shape = counts[:lead] + [c * b for c, b in zip(counts[lead:], block, strict=True)]
    return draw(hnp.arrays("float32", shape, elements=finite)), tuple(block)


def units_of(shape, block):
    """Index of each block, and the slices of its weights."""
    full = (1,) * (len(shape) - len(block)) + block
    counts = [size // extent for size, extent in zip(shape, full, strict=True)]
    for index in itertools.product(*map(range, counts)):
        where = tuple(slice(i * e, (i + 1) * e) for i, e in zip(index, full, strict=True))
        yield index, where


@given(kernels())
def test_unstructured_scores_are_magnitudes(weights):
    expected = np.abs(weights)
    np.testing.assert_array_equal(Unstructured().scores(weights.copy()), expected)
    assert Unstructured().fits(weights.shape)


@given(blocked_kernels())
def test_block_scores_are_the_root_mean_square_of_each_block(case):
    weights, block = case
    pattern = Block(block)
    assert pattern.fits(weights.shape)
    scores = pattern.scores(weights.copy())
    assert scores.dtype == np.float32
    largest = float(np.abs(weights).max())
    for index, where in units_of(weights.shape, block):
        inside = weights[where].astype("float64")
        expected = math.sqrt(np.mean(inside**2))
        # Squares of less than float32's smallest number, relative to the largest weight, vanish.
        assert scores[index] == pytest.approx(expected, rel=1e-5, abs=1e-18 * largest + 1e-44)


@given(blocked_kernels(), st.randoms(use_true_random=False))
def test_block_masks_cover_whole_blocks(case, random):
    weights, block = case
    pattern = Block(block)
    keep = np.zeros(pattern.scores(weights.copy()).shape, bool)
    for index, _ in units_of(weights.shape, block):
        keep[index] = random.random() < 0.5
    mask = pattern.expand(keep, weights.shape)
    assert mask.shape == weights.shape
    for index, where in units_of(weights.shape, block):
        assert np.all(mask[where] == keep[index])


@given(
    blocked=blocked_kernels(),
    exponent=st.sampled_from([-30, -20, 20, 30]),
)
def test_block_scores_scale_with_the_weights_far_beyond_the_range_of_squares(blocked, exponent):
    weights, block = blocked
    weights = np.where(np.abs(weights) < 1, 1, np.sign(weights)).astype("float32")
    scale = np.float32(10.0**exponent)
    scores = Block(block).scores(weights * scale)
    np.testing.assert_allclose(scores, scale, rtol=1e-5)


@given(st.data())
def test_nbym_never_cuts_the_largest_n_of_m_and_the_first_wins_a_tie(data):
    m = data.draw(st.integers(2, 5))
    n = data.draw(st.integers(1, m - 1))
    rank = data.draw(st.integers(1, 4))
    axis = data.draw(st.integers(-rank, rank - 1))
    shape = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    shape[axis] *= m
    # Few values, so that ties abound.
    values = st.sampled_from([0.0, -1.0, 1.0, 2.0, -2.0, 3.0])
    weights = data.draw(hnp.arrays("float32", shape, elements=values))
    pattern = NByM(n, m, axis)
    assert pattern.fits(weights.shape)
    scores = pattern.scores(weights.copy())
    lines, found = np.moveaxis(weights, axis, -1), np.moveaxis(scores, axis, -1)
    for index in np.ndindex(lines.shape[:-1]):
        for start in range(0, lines.shape[-1], m):
            group = np.abs(lines[index][start : start + m])
            stay = sorted(range(m), key=lambda i: (-group[i], i))[:n]
            expected = [np.inf if i in stay else group[i] for i in range(m)]
            np.testing.assert_array_equal(found[index][start : start + m], expected)


def test_nbym_at_its_full_target_leaves_n_of_every_m():
    weights = np.random.default_rng(0).standard_normal((3, 3, 8, 5)).astype("float32")
    units = kh.criteria.UnitScores("kernel", NByM(2, 4).scores(weights.copy()), 1.0)
    (mask,) = kh.criteria.TargetSparsity(0.5).keep([units])
    kept = mask.reshape(3, 3, 2, 4, 5).sum(axis=3)
    assert np.all(kept == 2)


@pytest.mark.parametrize(
    ("pattern", "fits", "misfits"),
    [
        (Block((4, 1)), [(8, 3), (3, 3, 4, 1)], [(6, 3), (4,), (3, 3, 3, 4)]),
        (Block((1, 3)), [(5, 6)], [(5, 4)]),
        (NByM(2, 4), [(8, 3), (3, 3, 4, 1)], [(6, 3), (8,)]),
        (NByM(2, 4, axis=0), [(8, 3), (4,)], [(3, 4)]),
        (NByM(1, 2, axis=2), [(1, 1, 2)], [(2, 2)]),
    ],
)
def test_tells_which_shapes_it_divides(pattern, fits, misfits):
    assert all(pattern.fits(shape) for shape in fits)
    assert not any(pattern.fits(shape) for shape in misfits)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-3, 3))
def test_patterns_are_values_with_configs(n, m, axis):
    assume(n < m)
    for pattern in (Unstructured(), Block((n, m)), NByM(n, m, axis)):
        again = type(pattern).from_config(pattern.get_config())
        assert again == pattern and hash(again) == hash(pattern)


@pytest.mark.parametrize("shape", [(), (0, 1), (-4, 1), (4.0, 1), 4, "41", (True, 1), None])
def test_block_refuses_what_is_no_shape(shape):
    with pytest.raises(ValueError, match="Invalid value for argument `shape`"):
        Block(shape)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (5, 4), (-1, 4), (2.0, 4), ("2", 4)])
def test_nbym_refuses_counts_out_of_range(n, m):
    with pytest.raises(ValueError, match=r"`n`, `m`. Expected integers with 0 < n < m"):
        NByM(n, m)


@pytest.mark.parametrize("axis", [1.5, None, "in", True])
def test_nbym_refuses_what_is_no_axis(axis):
    with pytest.raises(ValueError, match="argument `axis`"):
        NByM(2, 4, axis)
