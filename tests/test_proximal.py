"""The proximal operators against the objective that they minimize, in float64 NumPy on a grid."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest

import keras_hoyer as kh
from keras_hoyer import proximal

JAX = keras.backend.backend() == "jax"
# What a computation in the backend's widest dtype may miss the minimum by, in units of x squared.
EXCESS = 2e-6 if JAX else 1e-12

settings = hypothesis.settings(
    max_examples=15 if JAX else 60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


def mcp_penalty(t, threshold=1.0, gamma=3.0):
    inside = threshold * t - t**2 / (2 * gamma)
    return np.where(t <= gamma * threshold, inside, gamma * threshold**2 / 2)


def scad_penalty(t, threshold=1.0, a=3.7):
    middle = (2 * a * threshold * t - t**2 - threshold**2) / (2 * (a - 1))
    end = threshold**2 * (a + 1) / 2
    return np.where(t <= threshold, threshold * t, np.where(t <= a * threshold, middle, end))


SEPARABLE = {
    "l1": lambda t: t,
    "mcp": mcp_penalty,
    "scad": scad_penalty,
    "transformed_l1": lambda t, a=1.0: (a + 1) * t / (a + t),
    "log_sum": lambda t, epsilon=0.1: np.log1p(t / epsilon),
    "l_half": np.sqrt,
}
# Parameters on both sides of what makes each operator jump at the strengths of the tests.
CASES = [
    ("l1", {}),
    ("mcp", {}),
    ("mcp", {"threshold": 0.5, "gamma": 1.2}),
    ("mcp", {"threshold": 2.0, "gamma": 0.1}),
    ("scad", {}),
    ("scad", {"threshold": 0.4, "a": 2.1}),
    ("scad", {"threshold": 1.5, "a": 1.3}),
    ("transformed_l1", {}),
    ("transformed_l1", {"a": 0.05}),
    ("transformed_l1", {"a": 30.0}),
    ("log_sum", {}),
    ("log_sum", {"epsilon": 2.0}),
    ("log_sum", {"epsilon": 0.01}),
    ("l_half", {}),
]
NAMES = [*SEPARABLE, "hoyer", "hoyer_square"]
STRENGTHS = [0.0, 0.01, 0.3, 1.0, 2.7, 3.5, 12.0]

each_operator = pytest.mark.parametrize("name", NAMES)
each_case = pytest.mark.parametrize(("name", "own"), CASES, ids=repr)


def ratio_penalty(t, weights, power):
    """Hoyer's ratio of points along the last axis; 0 at 0."""
    total, squares = (weights * np.abs(t)).sum(-1), (t**2).sum(-1)
    alive = squares > 0
    return np.where(alive, (total / np.sqrt(np.where(alive, squares, 1.0))) ** power, 0.0)


def run(name, x, strength, **arguments):
    """The operator's result in the widest dtype of the backend, as float64."""
    x = [np.asarray(e) for e in x] if isinstance(x, list) else np.asarray(x)
    result = getattr(proximal, name)(x, strength, **arguments)
    if isinstance(result, list):
        return [np.asarray(keras.ops.convert_to_numpy(each), "float64") for each in result]
    return np.asarray(keras.ops.convert_to_numpy(result), "float64")


@each_case
@pytest.mark.parametrize("strength", STRENGTHS)
def test_single_entries_are_minimizers_on_a_grid(name, own, strength):
    x = np.linspace(-9, 9, 361) + 1e-3 * np.random.default_rng(0).normal(size=361)
    found = run(name, x, strength, **own)
    grid = np.concatenate([np.linspace(-9.1, 9.1, 9101), [0.0]])

    def objective(t, x):
        return (t - x) ** 2 / 2 + strength * SEPARABLE[name](np.abs(t), **own)

    least = objective(grid[None], x[:, None]).min(axis=1)
    least = np.minimum(least, objective(x, x))
    assert (objective(found, x) - least).max() <= EXCESS * 81


@each_case
def test_the_result_is_stationary_where_it_is_not_zero(name, own):
    x = np.linspace(0.01, 9, 200)
    for strength in STRENGTHS[1:]:
        found = run(name, x, strength, **own)
        t = found[found > 0]
        step = 1e-6 * t
        p = SEPARABLE[name]
        slope = (p(t + step, **own) - p(t - step, **own)) / (2 * step)
        # Where the quadratic and the concavity nearly cancel, digits go.
        np.testing.assert_allclose(t + strength * slope, x[found > 0], atol=2e-3 if JAX else 1e-5)


@each_case
def test_each_operator_meets_the_step_at_which_it_jumps(name, own):
    """Just above and below the largest x that goes to zero both results are as good."""
    strength = 1.3
    low, high = 0.0, 50.0
    assert run(name, np.array([high]), strength, **own)[0] > 0
    for _ in range(60):
        middle = (low + high) / 2
        if run(name, np.array([middle]), strength, **own)[0] > 0:
            high = middle
        else:
            low = middle
    above = run(name, np.array([high]), strength, **own)[0]
    cost = (above - high) ** 2 / 2 + strength * SEPARABLE[name](np.float64(above), **own)
    assert cost == pytest.approx(high**2 / 2, rel=1e-4 if JAX else 1e-9, abs=1e-9)


@pytest.mark.parametrize(("name", "power"), [("hoyer", 1), ("hoyer_square", 2)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.01, 0.1, 0.3, 0.6, 1.0, 2.0])
def test_ratios_are_minimizers_on_a_grid(name, power, weighted, strength):
    random = np.random.default_rng(3)
    axis = np.linspace(-2.2, 2.2, 56)
    axis = np.append(axis, 0.0)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    points = [random.normal(size=3) for _ in range(12)]
    points += [np.array(p) for p in ([1, 1, 1], [1, 1, 0], [2, 0, 0], [1.5, -1.5, 0.7], [0, 0, 0])]
    for x in points:
        x = np.clip(x, -2, 2).astype("float64")
        weights = random.uniform(0.5, 2, 3) if weighted else np.ones(3)

        def objective(t, x=x, weights=weights):
            return ((t - x) ** 2).sum(-1) / 2 + strength * ratio_penalty(t, weights, power)

        found = run(name, x, strength, weights=weights if weighted else None)
        near = found + 0.02 * random.normal(size=(2000, 3)) * (random.random((2000, 3)) < 0.5)
        least = min(objective(grid).min(), objective(near).min(), objective(x))
        assert objective(found) - least <= EXCESS * 4


def best_by_supports(x, weights, strength, power):
    """The least objective over all supports, each searched along its one free parameter."""
    order, best = np.abs(x), 0.5 * (x**2).sum()
    for size in range(1, x.size + 1):
        for support in itertools.combinations(range(x.size), size):
            chosen = list(support)
            y, w = order[chosen], weights[chosen]
            tau = np.linspace(0, (y / w).max(), 4001)[:-1, None]
            v = np.maximum(y - tau * w, 0)
            t = v * (v @ y / (v**2).sum(-1))[:, None]
            loss = ((t - y) ** 2).sum(-1) / 2 + strength * ratio_penalty(t, w, power)
            best = min(best, loss.min() + 0.5 * (np.delete(order, chosen) ** 2).sum())
    return best


@settings
@hypothesis.given(
    size=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    strength=st.sampled_from([0.003, 0.03, 0.2, 0.7, 2.0]),
    ties=st.booleans(),
    weighted=st.booleans(),
    power=st.sampled_from([1, 2]),
)
def test_ratios_beat_every_support(size, seed, strength, ties, weighted, power):
    random = np.random.default_rng(seed)
    x = random.normal(size=size) * 10 ** random.uniform(-1, 1)
    x = np.round(x) if ties else x
    weights = random.uniform(0.3, 3, size) if weighted else np.ones(size)
    found = run("hoyer" if power == 1 else "hoyer_square", x, strength, weights=weights)
    value = ((found - x) ** 2).sum() / 2 + strength * ratio_penalty(found, weights, power)
    scale = max((x**2).sum(), strength)
    assert value <= best_by_supports(x, weights, strength, power) + EXCESS * scale


@pytest.mark.parametrize(("name", "power"), [("hoyer", 1), ("hoyer_square", 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["normal", "ties", "sparse", "decades"])
def test_ratios_of_many_entries_are_stationary(name, power, dtype, kind):
    """A spurious prefix has weights left that the penalty's gradient would not leave."""
    random = np.random.default_rng(5)
    x = random.normal(size=20_000)
    if kind == "ties":
        x = np.round(x * 8) / 8
    elif kind == "sparse":
        x = x * (random.random(x.size) < 0.01)
    elif kind == "decades":
        x = x * 10 ** random.uniform(-6, 0, x.size)
    # As strong as it takes to leave about a half.
    total, squares = np.abs(x).sum(), (x**2).sum()
    strength = 0.25 * squares**1.5 / total if power == 1 else 0.2 * squares**2 / total**2
    x = x.astype(dtype)
    found = run(name, x, strength)
    x = x.astype("float64")
    assert 0 < np.count_nonzero(found) < np.count_nonzero(x)
    total, squares = np.abs(found).sum(), (found**2).sum()
    value = total**power / squares ** (power / 2)
    kept = found != 0
    gradient = strength * power * value * (np.sign(found) / total - found / squares)
    residual = np.where(kept, found - x + gradient, 0.0)
    wide = dtype == "float64" and not JAX
    scale = np.abs(x).max()
    assert np.abs(residual).max() <= (1e-9 if wide else 2e-4) * scale
    # What went to zero is pulled there by more than it was worth.
    edge = strength * power * value / total
    assert (np.abs(x[~kept]) <= edge + (1e-9 if wide else 2e-4) * scale).all()


@settings
@hypothesis.given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 1000),
    strength=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    shape=st.sampled_from([(7,), (4, 6), (2, 3, 4), (1, 1), (3, 3, 2, 4)]),
    data=st.data(),
)
def test_the_norm_never_grows_and_signs_stay(name, seed, strength, shape, data):
    x = np.random.default_rng(seed).normal(size=shape).astype("float32") * 3
    axis = data.draw(st.sampled_from([None, *range(-len(shape), len(shape))]))
    found = run(name, x, strength, axis=axis)
    assert np.linalg.norm(found) <= np.linalg.norm(x.astype("float64")) * (1 + 1e-6)
    assert (np.sign(found) * np.sign(x) >= 0).all()
    if name not in ("hoyer", "hoyer_square"):
        assert (np.abs(found) <= np.abs(x) * (1 + 1e-6)).all()
    if strength == 0:
        np.testing.assert_allclose(found, x, rtol=1e-6)


@settings
@hypothesis.given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(6,), (4, 6), (2, 3, 4), (3, 3, 2, 4)]),
    weighted=st.booleans(),
    data=st.data(),
)
def test_groups_are_the_operator_on_their_norms(name, seed, shape, weighted, data):
    random = np.random.default_rng(seed)
    x = random.normal(size=shape) * 2
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    groups = np.moveaxis(x, axis, 0).reshape(shape[axis], -1)
    norms = np.linalg.norm(groups, axis=1)
    weights = random.uniform(0.5, 2, norms.size) if weighted else None
    new = run(name, norms, 0.4, weights=weights)
    expected = groups * (new / norms)[:, None]
    found = np.moveaxis(run(name, x, 0.4, axis=axis, weights=weights), axis, 0)
    tolerance = 1e-5 if JAX else 1e-11
    np.testing.assert_allclose(
        found.reshape(groups.shape), expected, rtol=tolerance, atol=tolerance
    )


@each_operator
def test_blocks_are_the_operator_on_their_norms(name):
    x = np.random.default_rng(0).normal(size=(3, 8, 4))
    blocks = x.reshape(3, 2, 4, 2, 2).transpose(0, 1, 3, 2, 4)  # of shape (4, 2)
    norms = np.sqrt((blocks**2).sum((-2, -1)))
    weights = np.random.default_rng(1).uniform(0.5, 2, norms.shape)
    new = run(name, norms, 0.7, weights=weights)
    expected = (blocks * (new / norms)[..., None, None]).transpose(0, 1, 3, 2, 4).reshape(x.shape)
    found = run(name, x, 0.7, pattern=kh.patterns.Block((4, 2)), weights=weights)
    np.testing.assert_allclose(found, expected, atol=1e-5 if JAX else 1e-12)


def test_blocks_of_rank_five_divide_into_ten_axes():
    x = np.random.default_rng(0).normal(size=(4, 4, 4, 4, 4))
    found = run("l1", x, 1e-9, pattern=kh.patterns.Block((2, 2, 2, 2, 2)))
    np.testing.assert_allclose(found, x, rtol=1e-6)


@each_operator
def test_groups_over_several_tensors_are_those_of_the_tensors_put_together(name):
    random = np.random.default_rng(0)
    made, read, scale = random.normal(size=(3, 5)), random.normal(size=(5, 2, 4)), np.ones((5,))
    together = np.concatenate([made.T, read.reshape(5, -1), scale[:, None]], axis=1)
    expected = run(name, together, 1.5, axis=0)
    found = run(name, [made, read, scale], 1.5, axis=[-1, 0, 0])
    tolerance = 1e-5 if JAX else 1e-12
    np.testing.assert_allclose(found[0].T, expected[:, :3], atol=tolerance)
    np.testing.assert_allclose(found[1].reshape(5, -1), expected[:, 3:-1], atol=tolerance)
    np.testing.assert_allclose(found[2], expected[:, -1], atol=tolerance)


@each_operator
@pytest.mark.parametrize("axis", [None, -1])
def test_zeros_are_exact_and_never_negative(name, axis):
    x = np.array([[-1e-3, 3.0, -0.0], [1e-3, -4.0, 0.0]], "float32")
    found = keras.ops.convert_to_numpy(getattr(proximal, name)(x, 0.5, axis=axis))
    assert (found[:, [0, 2]] == 0).all()
    assert (found[:, 1] != 0).all()
    assert not np.signbit(found[:, [0, 2]]).any()
    nothing = keras.ops.convert_to_numpy(getattr(proximal, name)(np.zeros((4, 2)), 0.5, axis=axis))
    assert (nothing == 0).all()


@each_operator
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("magnitude", [1e-45, 1e-30, 1e-20, 1e18])
def test_tiny_and_huge_values_stay_finite_and_do_not_grow(name, axis, magnitude):
    for strength in (0.0, 1e-40, 1e-12, 1e12):
        check_range(name, axis, magnitude, strength)


def check_range(name, axis, magnitude, strength):
    x = np.array([[1.0, -0.5, 0.0], [2.0, 1.5, 1e-3]]) * magnitude
    x = x.astype("float32")
    found = run(name, x, strength, axis=axis)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= np.linalg.norm(x.astype("float64")) * (1 + 1e-5) + 1e-38
    if strength == 0 and magnitude > 1e-38:
        np.testing.assert_allclose(found, x, rtol=1e-5)


@each_operator
@pytest.mark.parametrize("axis", [None, -1])
def test_what_is_not_a_number_stays_so(name, axis):
    x = np.array([[1.0, np.nan], [2.0, 3.0]], "float32")
    for strength in (0.1, 100.0):
        assert np.isnan(run(name, x, strength, axis=axis)[0, 1])


@pytest.mark.skipif(JAX, reason="JAX has no float64 here")
@each_operator
@pytest.mark.parametrize("axis", [None, -1])
def test_float32_gives_what_float64_gives(name, axis):
    x = np.random.default_rng(2).normal(size=(40, 12)) * 2
    for strength in (0.05, 0.8, 6.0):
        wide = run(name, x, strength, axis=axis)
        narrow = run(name, x.astype("float32"), strength, axis=axis)
        same = (wide == 0) == (narrow == 0)  # an entry at an edge may fall to either side
        assert same.mean() > 0.995
        np.testing.assert_allclose(narrow[same], wide[same], atol=5e-5)


@each_operator
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(name, dtype):
    x = keras.ops.cast(np.random.default_rng(2).normal(size=(300, 4)) * 90, dtype)
    found = getattr(proximal, name)(x, 1.0, axis=-1)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    exact = getattr(proximal, name)(keras.ops.cast(x, "float32"), 1.0, axis=-1)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.cast(found, "float32")),
        keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(exact, dtype), "float32")),
    )


@each_operator
def test_they_run_compiled_and_with_a_strength_that_is_a_tensor(name):
    x = np.random.default_rng(2).normal(size=(6, 4)).astype("float32")
    function = getattr(proximal, name)

    def step(x, strength):
        return function(x, strength, axis=-1)

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(step, jit_compile=True)
    elif backend == "jax":
        import jax

        compiled = jax.jit(step)
    else:
        compiled = step
    strength = keras.ops.convert_to_tensor(0.3)
    found = keras.ops.convert_to_numpy(compiled(keras.ops.convert_to_tensor(x), strength))
    np.testing.assert_allclose(found, run(name, x, 0.3, axis=-1), atol=2e-6)


def test_weights_multiply_the_penalty_of_each_entry():
    x = np.array([3.0, -3.0])
    weights = np.array([0.5, 2.0])
    for name in SEPARABLE:
        found = run(name, x, 0.6, weights=weights)
        alone = [run(name, x[[i]], 0.6 * weights[i])[0] for i in range(2)]
        np.testing.assert_allclose(found, alone, rtol=1e-6)


def test_hoyer_square_is_all_zero_up_to_its_bound():
    strength = 0.7
    edge = math.sqrt(2 * strength)
    assert (run("hoyer_square", np.array([edge, edge, 0.3]) * 0.9999, strength) == 0).all()
    assert run("hoyer_square", np.array([edge, 0.2, 0.3]) * 1.0001, strength)[0] > 0


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf"), "1", None, True])
def test_a_strength_out_of_range_is_an_error(strength):
    for name in NAMES:
        with pytest.raises(ValueError, match="Invalid value for argument `strength`"):
            getattr(proximal, name)(np.ones(3), strength)


@pytest.mark.parametrize("axis", [2, -3, (0, 1), 0.5, True])
def test_an_axis_that_numbers_no_groups_is_an_error(axis):
    with pytest.raises(ValueError, match="Invalid value for argument `axis`"):
        proximal.l1(np.ones((3, 2)), 0.1, axis=axis)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": kh.patterns.NByM(2, 4)}, "argument `pattern`"),
        ({"pattern": kh.patterns.Block((2, 1)), "axis": 0}, "`axis` and `pattern`"),
        ({"pattern": kh.patterns.Block((5, 1))}, "does not divide"),
        ({"weights": [1.0, 0.0, 1.0]}, "argument `weights`"),
        ({"weights": [1.0, float("nan"), 1.0]}, "argument `weights`"),
        ({"weights": [1.0, 1.0], "axis": -1}, "argument `weights`.*broadcast"),
        ({"weights": np.ones((2, 4, 3))}, "argument `weights`.*broadcast"),
    ],
    ids=repr,
)
def test_arguments_that_do_not_fit_are_errors(arguments, message):
    for name in NAMES:
        with pytest.raises(ValueError, match=message):
            getattr(proximal, name)(np.ones((4, 3)), 0.1, **arguments)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mcp", {"threshold": 0}),
        ("mcp", {"gamma": -1.0}),
        ("scad", {"a": 1.0}),
        ("scad", {"threshold": "1"}),
        ("transformed_l1", {"a": 0.0}),
        ("log_sum", {"epsilon": float("inf")}),
    ],
    ids=repr,
)
def test_a_parameter_out_of_range_is_an_error(name, own):
    with pytest.raises(ValueError, match=f"Invalid value for argument `{next(iter(own))}`"):
        getattr(proximal, name)(np.ones(3), 0.1, **own)


def test_tensors_with_different_numbers_of_groups_are_an_error():
    with pytest.raises(ValueError, match="as many groups"):
        proximal.l1([np.ones((3, 2)), np.ones((3, 2))], 0.1, axis=[0, 1])
    with pytest.raises(ValueError, match="one int for each of the 2"):
        proximal.l1([np.ones((3, 2)), np.ones((3, 2))], 0.1, axis=[0])
