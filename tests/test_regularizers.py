"""The penalties against their formulas in float64 NumPy, written here as plain loops."""

import itertools
import json

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from gradients import hessian_product, value_and_gradient

import keras_hoyer as kh
from keras_hoyer import regularizers
from keras_hoyer.regularizers import weights

# JAX compiles each operation for each shape: fewer examples, each compiled as a whole.
JAX = keras.backend.backend() == "jax"

settings = hypothesis.settings(
    max_examples=12 if JAX else 40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)

POWERS = {"Hoyer": 1, "HoyerSquare": 2, "GroupHoyer": 1, "GroupHoyerSquare": 2}
GROUP_PENALTIES = (
    kh.GroupHoyer,
    kh.GroupHoyerSquare,
    kh.GroupLasso,
    kh.GroupMCP,
    kh.GroupSCAD,
    kh.GroupTransformedL1,
)
PENALTIES = [
    kh.Hoyer(1.0),
    kh.HoyerSquare(1.0),
    kh.GroupHoyer(1.0),
    kh.GroupHoyerSquare(1.0, axis=(-2, -1)),
    kh.GroupHoyerSquare(1.0, pattern=kh.patterns.Block((4, 1))),
    kh.GroupLasso(1.0, axis=(0, 1)),
    kh.TransformedL1(1.0, a=0.5),
    kh.L1(0.3),
    kh.GroupMCP(1.0, threshold=0.8, gamma=2.5),
    kh.GroupMCP(1.0, pattern=kh.patterns.Block((4, 1))),
    kh.GroupSCAD(1.0, axis=(-2, -1), threshold=0.5),
    kh.GroupTransformedL1(0.3, a=300.0),
]
SCALE_INVARIANT = PENALTIES[:5]
NON_SMOOTH_AT_ZERO = (kh.GroupHoyer, kh.GroupHoyerSquare, kh.GroupLasso)

each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=repr)


def of_magnitudes(penalty, magnitudes):
    """The penalty's formula for a list of magnitudes, or of the groups' norms."""
    total = sum(magnitudes)
    if isinstance(penalty, (kh.GroupLasso, kh.L1)):
        return total
    if isinstance(penalty, kh.GroupMCP):
        return sum(integral(m, lambda t: penalty.threshold - t / penalty.gamma) for m in magnitudes)
    if isinstance(penalty, kh.GroupSCAD):
        knee, a = penalty.threshold, penalty.a
        return sum(
            integral(m, lambda t: np.minimum(knee, (a * knee - t) / (a - 1)), knots=[knee])
            for m in magnitudes
        )
    if isinstance(penalty, (kh.TransformedL1, kh.GroupTransformedL1)):
        return sum((penalty.a + 1) * m / (penalty.a + m) for m in magnitudes)
    if total == 0:
        return 0.0
    return (total / np.sqrt(sum(m**2 for m in magnitudes))) ** POWERS[type(penalty).__name__]


def integral(end, slope, knots=()):
    """Of a slope that is linear between knots and 0 from where it would be negative."""
    ends = [0.0, *(knot for knot in knots if knot < end), end]
    total = 0.0
    for low, high in itertools.pairwise(ends):
        above, below = slope(low), slope(high)
        if below < 0:
            high, below = low + (high - low) * max(above, 0) / (max(above, 0) - below), 0.0
        total += (high - low) * (max(above, 0) + below) / 2
    return total


def groups_of(penalty, shape):
    """For each kind of group, a list of groups, each a list of indices into a kernel."""
    indices = list(np.ndindex(*shape))
    if getattr(penalty, "pattern", None) is not None:
        block = (1,) * (len(shape) - len(penalty.pattern.shape)) + penalty.pattern.shape
        keys = [
            lambda i: tuple(position // extent for position, extent in zip(i, block, strict=True))
        ]
    elif isinstance(penalty, regularizers.GroupPenalty):
        axes = penalty.axis if isinstance(penalty.axis, tuple) else (penalty.axis,)
        keys = [lambda i, axis=axis: i[axis] for axis in axes]
    else:
        keys = [lambda i: i]
    return [
        [list(group) for _, group in itertools.groupby(sorted(indices, key=key), key)]
        for key in keys
    ]


def expected_value(penalty, kernel):
    """The penalty in float64."""
    kernel = np.asarray(kernel, "float64")
    value = 0.0
    for groups in groups_of(penalty, kernel.shape):
        norms = [np.sqrt(sum(kernel[i] ** 2 for i in group)) for group in groups]
        value += of_magnitudes(penalty, norms)
    return penalty.factor * value


def expected_gradient(penalty, kernel):
    """Central finite differences of `expected_value`, extrapolated to fourth order."""
    kernel = np.asarray(kernel, "float64")
    gradient = np.zeros(kernel.shape)
    for i in np.ndindex(*kernel.shape):
        step = 1e-3 * max(abs(kernel[i]), 1e-3)

        def difference(step, i=i):
            moved = [kernel.copy(), kernel.copy()]
            moved[0][i] += step
            moved[1][i] -= step
            return (expected_value(penalty, moved[0]) - expected_value(penalty, moved[1])) / (
                2 * step
            )

        gradient[i] = (4 * difference(step) - difference(2 * step)) / 3
    return gradient


def assert_same_gradient(actual, expected, rtol=1e-5, terms=0.0):
    """To `rtol` of the entry, of the largest entry or of the terms that cancel in an entry."""
    atol = rtol * max(np.abs(expected).max(), terms)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def kernel_of(shape, seed=0, zeros=0.0):
    """A random kernel with a share of zeros, and all other magnitudes above 0.05."""
    random = np.random.default_rng(seed)
    kernel = random.normal(size=shape)
    kernel = np.sign(kernel) * (np.abs(kernel) + 0.05)
    return np.where(random.random(shape) < zeros, 0.0, kernel).astype("float32")


@st.composite
def shapes(draw, max_size=48):
    """Shapes of rank 1 to 5."""
    rank = draw(st.integers(1, 5))
    shape = []
    for _ in range(rank):
        shape.append(draw(st.integers(1, max(1, min(6, max_size // int(np.prod(shape or [1])))))))
    return tuple(draw(st.permutations(shape)))


@st.composite
def group_penalties_and_shapes(draw):
    """A group penalty over axes or blocks, with the shape of a kernel that it fits."""
    shape = draw(shapes())
    rank = len(shape)
    make = draw(st.sampled_from(GROUP_PENALTIES))
    factor = draw(st.sampled_from([1.0, 0.01, 3.0]))
    if draw(st.booleans()):
        length = draw(st.integers(1, rank))
        divisors = [[d for d in range(1, s + 1) if s % d == 0] for s in shape[-length:]]
        block = kh.patterns.Block(tuple(draw(st.sampled_from(d)) for d in divisors))
        return make(factor, pattern=block), shape
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    axes = tuple(axis - draw(st.sampled_from([0, rank])) for axis in axes)
    return make(factor, axis=axes[0] if len(axes) == 1 else axes), shape


@settings
@hypothesis.given(
    penalty=st.sampled_from(
        [kh.Hoyer(0.3), kh.HoyerSquare(2.0), kh.TransformedL1(0.5, a=0.7), kh.L1(2.0)]
    ),
    shape=shapes(),
    seed=st.integers(0, 1000),
    zeros=st.sampled_from([0.0, 0.5]),
)
def test_element_penalties_agree_with_their_formulas(penalty, shape, seed, zeros):
    kernel = kernel_of(shape, seed, zeros)
    value, gradient = value_and_gradient(penalty, kernel, jit=JAX)
    np.testing.assert_allclose(value, expected_value(penalty, kernel), rtol=1e-5)
    # |w| has no derivative at 0, where the central difference and the penalty both take 0.
    terms = value / max(np.abs(kernel).max(), 1e-30)
    assert_same_gradient(gradient, expected_gradient(penalty, kernel), terms=terms)


@settings
@hypothesis.given(case=group_penalties_and_shapes(), seed=st.integers(0, 1000))
def test_group_penalties_agree_with_their_formulas(case, seed):
    penalty, shape = case
    kernel = kernel_of(shape, seed)
    value, gradient = value_and_gradient(penalty, kernel, jit=JAX)
    np.testing.assert_allclose(value, expected_value(penalty, kernel), rtol=1e-5)
    terms = value / max(np.abs(kernel).max(), 1e-30)
    assert_same_gradient(gradient, expected_gradient(penalty, kernel), terms=terms)


@settings
@hypothesis.given(
    case=group_penalties_and_shapes(),
    dead=st.integers(0, 1000),
)
def test_zero_groups_change_neither_value_nor_gradient_of_others(case, dead):
    penalty, shape = case
    kernel = kernel_of(shape)
    for groups in groups_of(penalty, shape):
        for i in groups[dead % len(groups)]:
            kernel[i] = 0
    value, gradient = value_and_gradient(penalty, kernel, jit=JAX)
    np.testing.assert_allclose(value, expected_value(penalty, kernel), rtol=1e-5, atol=1e-30)
    assert (gradient[kernel == 0] == 0).all()
    expected = expected_gradient(penalty, kernel)
    terms = value / max(np.abs(kernel).max(), 1e-30)
    assert_same_gradient(gradient, np.where(kernel == 0, 0, expected), terms=terms)


def test_a_full_block_of_rank_five_is_supported():
    penalty = kh.GroupHoyerSquare(1.0, pattern=kh.patterns.Block((2, 2, 2, 2, 2)))
    kernel = kernel_of((4, 4, 4, 4, 4))
    value, gradient = value_and_gradient(penalty, kernel)
    np.testing.assert_allclose(value, expected_value(penalty, kernel), rtol=1e-5)
    step = 1e-2 * np.random.default_rng(0).normal(size=kernel.shape)
    ahead, behind = expected_value(penalty, kernel + step), expected_value(penalty, kernel - step)
    np.testing.assert_allclose(np.vdot(gradient, step), (ahead - behind) / 2, rtol=1e-3)


def test_both_axes_of_a_conv_kernel_are_the_papers_filter_and_channel_penalty():
    kernel = kernel_of((3, 3, 4, 6))  # height, width, channels, filters
    filters = [np.sqrt((kernel[:, :, :, f].astype("float64") ** 2).sum()) for f in range(6)]
    channels = [np.sqrt((kernel[:, :, c, :].astype("float64") ** 2).sum()) for c in range(4)]
    expected = sum(filters) ** 2 / sum(f**2 for f in filters)
    expected += sum(channels) ** 2 / sum(c**2 for c in channels)
    value = kh.GroupHoyerSquare(0.1, axis=(-2, -1))(kernel)
    np.testing.assert_allclose(float(value), 0.1 * expected, rtol=1e-5)


def test_axes_of_equal_length_are_not_confused():
    penalty = kh.GroupHoyerSquare(1.0, axis=(-2, -1))
    for shape in [(3, 3), (2, 3, 3), (1, 2, 3, 3), (3, 3, 3, 3)]:
        kernel = kernel_of(shape)
        _, gradient = value_and_gradient(penalty, kernel)
        assert_same_gradient(gradient, expected_gradient(penalty, kernel))


def test_papers_axes_of_a_pytorch_kernel_are_the_first_two():
    kernel = kernel_of((3, 3, 4, 6))
    transposed = np.transpose(kernel, (3, 2, 0, 1))  # filters, channels, height, width
    ours = kh.GroupHoyerSquare(1.0, axis=(-2, -1))(kernel)
    theirs = kh.GroupHoyerSquare(1.0, axis=(0, 1))(transposed)
    np.testing.assert_allclose(float(ours), float(theirs), rtol=1e-5)


def test_hoyer_square_shrinks_below_and_grows_above_the_trimming_threshold():
    kernel = np.array([0.1, -0.2, 1.0, -2.0], "float32")
    threshold = kh.measures.trimming_threshold(kernel)
    _, gradient = value_and_gradient(kh.HoyerSquare(1.0), kernel)
    assert (gradient * np.sign(kernel) > 0).tolist() == (np.abs(kernel) < threshold).tolist()
    assert abs((gradient * kernel).sum()) < 1e-5


@each_penalty
def test_an_all_zero_kernel_costs_nothing_and_stays(penalty):
    value, gradient = value_and_gradient(penalty, np.zeros((8, 4), "float32"))
    assert value == 0
    assert (gradient == 0).all()


@each_penalty
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_and_gradients_are_finite(penalty, dtype):
    for magnitude in (1e-45, 1e-39, 1e-20, 1e-18, 1e-7, 1.0, 3e4, 1e15):
        if dtype == "float16" and magnitude > 65504:
            continue  # not a float16 number
        for nonzero in ((2, 1), (slice(None), 1), ...):  # one entry, one group, all
            kernel = np.zeros((8, 4), "float32")
            kernel[nonzero] = -magnitude
            value, gradient = value_and_gradient(penalty, kernel, dtype)
            assert np.isfinite(value), (magnitude, nonzero)
            assert np.isfinite(gradient).all(), (magnitude, nonzero)


@each_penalty
def test_mixed_magnitudes_near_the_smallest_floats_are_finite(penalty):
    kernel = 10.0 ** np.random.default_rng(0).uniform(-45, -15, (16, 4))
    kernel[kernel < 1e-30] = 0
    value, gradient = value_and_gradient(penalty, kernel.astype("float32"))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("penalty", SCALE_INVARIANT, ids=repr)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_scale_does_not_change_the_value(penalty, scale, zeros):
    kernel = kernel_of((16, 8), zeros=zeros)
    value, gradient = value_and_gradient(penalty, kernel)
    scaled_value, scaled_gradient = value_and_gradient(penalty, kernel * np.float32(scale))
    np.testing.assert_allclose(scaled_value, value, rtol=1e-4)
    assert_same_gradient(scaled_gradient * scale, gradient, rtol=1e-4)


@each_penalty
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_kernels_are_computed_in_float32(penalty, dtype):
    # The sum of squares is beyond float16, the count of them beyond bfloat16's digits.
    kernel = np.round(kernel_of((64, 8)) * 64) * 2
    value, gradient = value_and_gradient(penalty, kernel, dtype)
    kernel = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(kernel, dtype), "float32"))
    exact_value, exact_gradient = value_and_gradient(penalty, kernel)
    np.testing.assert_allclose(value, exact_value, rtol=1e-6)
    assert_same_gradient(gradient, exact_gradient, rtol=1e-2)


@each_penalty
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch does not use XLA")
def test_xla_gives_the_same(penalty):
    kernel = kernel_of((16, 8), zeros=0.3)
    value, gradient = value_and_gradient(penalty, kernel)
    jit_value, jit_gradient = value_and_gradient(penalty, kernel, jit=True)
    np.testing.assert_allclose(jit_value, value, rtol=1e-5)
    assert_same_gradient(jit_gradient, gradient)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "penalty", [kh.Hoyer(1.0), kh.HoyerSquare(0.5), kh.GroupHoyerSquare(1.0, axis=(0, 1))], ids=repr
)
def test_large_kernels_agree_with_float64(penalty, jit):
    if jit and keras.backend.backend() == "torch":
        pytest.skip("torch does not use XLA")
    kernel = kernel_of((2048, 1024), zeros=0.5)
    value, gradient = value_and_gradient(penalty, kernel, jit=jit)
    exact = kernel.astype("float64")
    expected, slopes = 0.0, 0.0
    if isinstance(penalty, kh.GroupHoyerSquare):
        for axis in (0, 1):
            norms = np.sqrt((exact**2).sum(axis=axis, keepdims=True))
            ratio = norms.sum() / (norms**2).sum()
            expected += ratio * norms.sum()
            slopes = slopes + 2 * ratio * exact * (1 / norms - ratio)
    else:
        power = POWERS[type(penalty).__name__]
        total, squares = np.abs(exact).sum(), (exact**2).sum()
        expected = (total / np.sqrt(squares)) ** power
        slopes = power * expected / total * (np.sign(exact) - total / squares * exact)
    np.testing.assert_allclose(value, penalty.factor * expected, rtol=1e-5)
    assert_same_gradient(gradient, penalty.factor * slopes)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a TensorFlow path")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_fused_gradient_is_the_plain_one(monkeypatch, dtype):
    kernel = kernel_of((64, 32), zeros=0.3)
    plain = value_and_gradient(kh.HoyerSquare(0.1), kernel, dtype)
    calls = []
    monkeypatch.setattr(weights, "_FUSED_SIZE", 1)
    fused_gradient = weights._fused_signed_gradient()
    monkeypatch.setattr(
        weights, "_fused_signed_gradient", lambda: calls.append(1) or fused_gradient
    )
    fused = value_and_gradient(kh.HoyerSquare(0.1), kernel, dtype)
    assert calls
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-6)
    assert_same_gradient(fused[1], plain[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("policy", "penalty"),
    [
        ("float32", kh.HoyerSquare(0.1)),
        ("float32", kh.GroupHoyerSquare(0.1, axis=(-2, -1))),
        ("mixed_float16", kh.GroupHoyerSquare(0.1, axis=(-2, -1))),
        ("mixed_bfloat16", kh.GroupHoyerSquare(0.1, axis=(-2, -1))),
        ("float16", kh.GroupHoyerSquare(0.1, axis=(-2, -1))),
    ],
    ids=repr,
)
def test_a_zero_group_stays_through_training(policy, penalty):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, kernel_regularizer=penalty, dtype=policy)]
    )
    kernel = kernel_of((6, 4))
    kernel[:, 1] = kernel[2] = 0
    model.layers[0].kernel.assign(kernel)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, "mse")
    # Inputs of zero leave the penalty alone to move the kernel.
    model.fit(np.zeros((8, 6)), np.ones((8, 4)), epochs=5, batch_size=2, verbose=0)
    trained = keras.ops.convert_to_numpy(keras.ops.cast(model.layers[0].kernel, "float32"))
    assert np.isfinite(trained).all()
    assert (trained[:, 1] == 0).all()
    assert (trained[2] == 0).all()
    assert not np.allclose(trained, kernel, atol=1e-3)


def test_jit_compiled_training_follows_the_penalty():
    losses = []
    for jit in (False, True):
        if jit and keras.backend.backend() == "torch":
            continue
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(4, kernel_regularizer=kh.HoyerSquare(0.01))]
        )
        model.compile("sgd", "mse", jit_compile=jit)
        x, y = np.ones((8, 6), "float32"), np.ones((8, 4), "float32")
        losses.append(model.fit(x, y, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[-1], losses[0], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


@each_penalty
def test_config_gives_back_every_argument(penalty):
    config = json.loads(json.dumps(penalty.get_config()))
    restored = type(penalty).from_config(config)
    assert restored.get_config() == penalty.get_config()
    assert vars(restored) == vars(penalty)
    kernel = kernel_of((8, 4))
    assert float(restored(kernel)) == float(penalty(kernel))


def every_regularized_slot(penalty):
    """A model that has the penalty in each kind of slot."""
    layers = keras.layers
    images = keras.Input((8, 8, 4))
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Conv2D(4, 3, kernel_regularizer=penalty, bias_regularizer=kh.Hoyer(0.1))(images)
    x = layers.DepthwiseConv2D(3, depthwise_regularizer=penalty)(x)
    x = layers.SeparableConv2D(4, 3, depthwise_regularizer=penalty, pointwise_regularizer=penalty)(
        x
    )
    x = layers.GlobalAveragePooling2D()(x)
    y = layers.Embedding(8, 4, embeddings_regularizer=penalty)(tokens)
    y = layers.LSTM(4, kernel_regularizer=penalty, recurrent_regularizer=penalty)(y)
    return keras.Model([images, tokens], layers.Dense(4)(layers.Concatenate()([x, y])))


@pytest.mark.parametrize("penalty", [PENALTIES[1], PENALTIES[4]], ids=repr)
@pytest.mark.parametrize("extension", ["keras", "h5", "clone"])
def test_saved_and_cloned_models_keep_their_penalties(penalty, extension, tmp_path):
    model = every_regularized_slot(penalty)
    assert len(model.losses) == 8
    if extension == "clone":
        restored = keras.models.clone_model(model)
        restored.set_weights(model.get_weights())
    else:
        model.save(tmp_path / f"model.{extension}")
        restored = keras.saving.load_model(tmp_path / f"model.{extension}")
    expected = [float(loss) for loss in model.losses]
    np.testing.assert_allclose([float(loss) for loss in restored.losses], expected, rtol=1e-6)
    for layer, other in zip(model.layers, restored.layers, strict=True):
        for slot in ("kernel", "depthwise", "pointwise", "embeddings", "recurrent"):
            regularizer = getattr(layer, f"{slot}_regularizer", None)
            assert repr(getattr(other, f"{slot}_regularizer", None)) == repr(regularizer)


def test_weights_files_hold_no_penalty(tmp_path):
    model = every_regularized_slot(kh.HoyerSquare(0.1))
    model.save_weights(tmp_path / "model.weights.h5")
    other = every_regularized_slot(None)
    other.load_weights(tmp_path / "model.weights.h5")
    assert len(other.losses) == 1  # the bias
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("factor", [-1e-4, float("nan"), float("inf"), 1e39, "1", None, True])
def test_a_factor_out_of_range_is_an_error(factor):
    others = (kh.Hoyer, kh.HoyerSquare, kh.TransformedL1, kh.L1, kh.TotalVariation, kh.PathNorm)
    for make in (*others, *GROUP_PENALTIES):
        with pytest.raises(ValueError, match="Invalid value for argument `factor`"):
            make(factor)


@pytest.mark.parametrize("a", [0, -1.0, float("nan"), 1e-40, 1e40, "1"])
def test_a_transformation_out_of_range_is_an_error(a):
    with pytest.raises(ValueError, match="Invalid value for argument `a`"):
        kh.TransformedL1(1.0, a=a)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (kh.GroupMCP, "threshold"),
        (kh.GroupMCP, "gamma"),
        (kh.GroupSCAD, "threshold"),
        (kh.GroupSCAD, "a"),
        (kh.GroupTransformedL1, "a"),
    ],
)
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), 1e20, "1"])
def test_a_shape_of_a_concave_penalty_out_of_range_is_an_error(make, name, value):
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        make(1.0, **{name: value})


@pytest.mark.parametrize("axis", [(), (0, 0), 0.5, "0", True, None, (0, None)])
def test_a_wrong_axis_is_an_error_at_once(axis):
    for make in GROUP_PENALTIES:
        with pytest.raises(ValueError, match="Invalid value for argument `axis`"):
            make(1.0, axis=axis)


@pytest.mark.parametrize("axis", [2, -3, (0, 5), (1, -1)])
def test_an_axis_that_the_kernel_lacks_or_repeats_is_an_error_at_the_first_call(axis):
    penalty = kh.GroupHoyerSquare(1.0, axis=axis)
    with pytest.raises(ValueError, match=r"`axis`.*shape \(4, 3\)|`axis`.*-2 and 1"):
        penalty(np.ones((4, 3), "float32"))


@pytest.mark.parametrize("pattern", [kh.patterns.Unstructured(), (4, 1), kh.patterns.Block])
def test_only_blocks_are_groups(pattern):
    with pytest.raises(ValueError, match="Invalid value for argument `pattern`"):
        kh.GroupHoyer(1.0, pattern=pattern)


def test_axis_and_pattern_together_are_an_error():
    with pytest.raises(ValueError, match="`axis` and `pattern`"):
        kh.GroupHoyer(1.0, axis=0, pattern=kh.patterns.Block((4, 1)))


@pytest.mark.parametrize("shape", [(6, 3), (4,)])
def test_a_block_that_does_not_divide_the_kernel_is_an_error(shape):
    with pytest.raises(ValueError, match=r"does not divide a kernel of shape \("):
        kh.GroupHoyer(1.0, pattern=kh.patterns.Block((4, 1)))(np.ones(shape, "float32"))


@pytest.mark.parametrize("penalty", [p for p in PENALTIES if not isinstance(p, kh.L1)], ids=repr)
def test_second_derivatives_agree_with_differences_of_the_gradient(penalty):
    kernel = kernel_of((8, 3), zeros=0.0)
    direction = np.random.default_rng(1).normal(size=kernel.shape).astype("float32")
    found = hessian_product(penalty, kernel, direction)
    step = 1e-4 * direction.astype("float64")
    above, below = (expected_gradient(penalty, kernel + sign * step) for sign in (1, -1))
    assert_same_gradient(found, (above - below) / 2e-4, rtol=1e-3)


def test_l1_has_no_second_derivative():
    kernel = kernel_of((8, 3))
    assert (hessian_product(kh.L1(0.3), kernel, np.ones_like(kernel)) == 0).all()


@each_penalty
def test_second_derivatives_are_finite_beside_zero_weights_and_groups(penalty):
    kernel = kernel_of((8, 3))
    kernel[:, 1] = 0
    kernel[4:] = 0
    assert np.isfinite(hessian_product(penalty, kernel, np.ones_like(kernel))).all()


ACTIVITY = {
    "dense": lambda penalty: keras.layers.Dense(8, activity_regularizer=penalty),
    "convolution": lambda penalty: keras.layers.Conv1D(
        8, 2, padding="same", activity_regularizer=penalty
    ),
}


@pytest.mark.parametrize("kind", ACTIVITY)
@pytest.mark.parametrize(
    "penalty",
    [
        kh.HoyerSquare(0.1),
        kh.Hoyer(0.1, normalize=True),
        kh.TransformedL1(0.1),
        kh.GroupHoyerSquare(0.1, axis=(-2, -1), normalize=True),
        kh.GroupHoyer(0.1, pattern=kh.patterns.Block((4,))),
        kh.GroupLasso(0.1),
        kh.L1(0.1),
        kh.GroupMCP(0.1),
    ],
    ids=repr,
)
def test_outputs_are_penalized_in_batches_of_any_size(penalty, kind):
    keras.utils.set_random_seed(0)
    shape = (6,) if kind == "dense" else (4, 6)
    model = keras.Sequential([keras.Input(shape), ACTIVITY[kind](penalty), keras.layers.Flatten()])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(7, *shape)).astype("float32")
    outputs = model.predict(x, verbose=0)
    model.fit(x, outputs, batch_size=4, epochs=1, verbose=0)
    outputs = model.predict(x, verbose=0)
    found = 0
    # An evaluation's loss is the mean over its batches, by their sizes.
    for part, size in ((slice(0, 4), 4), (slice(4, 7), 3)):
        values = outputs[part].reshape(-1, *shape[:-1], 8)
        found += size * formula(penalty, values) * share_of_outputs(size)
    loss = model.evaluate(x, outputs, batch_size=4, verbose=0)
    assert loss == pytest.approx(found / 7, rel=1e-4)


def share_of_outputs(size):
    """What Keras multiplies the penalty of a batch with: newer versions divide by its size."""

    class One(keras.regularizers.Regularizer):
        def __call__(self, x):
            return keras.ops.ones(())

    layer = keras.layers.Dense(1, activity_regularizer=One())
    layer(np.ones((size, 1), "float32"))
    return float(layer.losses[0])


def formula(penalty, values):
    """`expected_value`, divided as `normalize` says, each kind of group by its number."""
    if not getattr(penalty, "normalize", False):
        return expected_value(penalty, values)
    total = 0.0
    for groups in groups_of(penalty, values.shape):
        norms = [np.sqrt(sum(float(values[i]) ** 2 for i in group)) for group in groups]
        total += of_magnitudes(penalty, norms) / len(norms)
    return penalty.factor * total


@pytest.mark.parametrize(
    "penalty",
    [
        kh.Hoyer(0.5, normalize=True),
        kh.HoyerSquare(0.5, normalize=True),
        kh.GroupHoyer(0.5, axis=(0, 1), normalize=True),
        kh.GroupHoyerSquare(0.5, pattern=kh.patterns.Block((2, 1)), normalize=True),
    ],
    ids=repr,
)
def test_normalized_penalties_are_shares_of_the_number_of_groups(penalty):
    kernel = kernel_of((6, 4), zeros=0.2)
    value, gradient = value_and_gradient(penalty, kernel)
    assert value == pytest.approx(formula(penalty, kernel), rel=1e-5)
    plain = type(penalty).from_config({**penalty.get_config(), "normalize": False})
    count = formula(plain, kernel) / formula(penalty, kernel)
    if len(groups_of(penalty, kernel.shape)) == 1:
        assert_same_gradient(gradient * count, value_and_gradient(plain, kernel)[1])
    assert type(penalty).from_config(penalty.get_config()).normalize is True


@pytest.mark.parametrize("value", [1, "yes", None])
def test_normalize_has_to_be_a_bool(value):
    with pytest.raises(ValueError, match="argument `normalize`"):
        kh.HoyerSquare(normalize=value)


def test_blocks_along_an_open_axis_are_refused():
    with pytest.raises(ValueError, match="does not divide"):
        kh.GroupHoyer(1.0, pattern=kh.patterns.Block((4, 1))).spans((None, 8))
