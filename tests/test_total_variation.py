"""Total variation against plain loops and finite differences, in float64."""

import itertools

import keras
import numpy as np
import pytest
from gradients import hessian_product, value_and_gradient

import keras_hoyer as kh

SHAPES = {"signals": (2, 7, 3), "images": (2, 4, 5, 2), "volumes": (1, 3, 4, 2, 2)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
both = pytest.mark.parametrize("isotropic", [True, False])


def by_loops(x, isotropic, first=False):
    """The sum over entries of how much the next ones differ."""
    spatial = range(2, x.ndim) if first else range(1, x.ndim - 1)
    total = 0.0
    for index in np.ndindex(*x.shape):
        steps = []
        for axis in spatial:
            if index[axis] + 1 < x.shape[axis]:
                ahead = list(index)
                ahead[axis] += 1
                steps.append(x[tuple(ahead)] - x[index])
        total += np.sqrt(sum(s**2 for s in steps)) if isotropic else sum(map(abs, steps))
    return total


def outputs_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@each_shape
@both
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_value_and_gradient_agree_with_plain_loops(shape, isotropic, data_format):
    x = outputs_of(shape)
    first = data_format == "channels_first"
    penalty = kh.TotalVariation(1.0, isotropic=isotropic, data_format=data_format)
    value, gradient = value_and_gradient(penalty, x)
    assert value == pytest.approx(by_loops(x, isotropic, first), rel=1e-5)
    wide = x.astype("float64")
    for index in itertools.islice(np.ndindex(*shape), 0, None, 5):
        moved = [wide.copy(), wide.copy()]
        moved[0][index] += 1e-5
        moved[1][index] -= 1e-5
        above, below = (by_loops(m, isotropic, first) for m in moved)
        assert gradient[index] == pytest.approx((above - below) / 2e-5, abs=2e-4)


@both
def test_constant_outputs_cost_nothing_and_have_no_gradient(isotropic):
    for magnitude in (0.0, 3.0, 1e-42):
        x = np.full((2, 4, 4, 1), magnitude, "float32")
        value, gradient = value_and_gradient(kh.TotalVariation(1.0, isotropic), x)
        assert value == 0
        assert (gradient == 0).all()


@both
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_gradients_beside_flat_parts_are_finite(isotropic, dtype):
    x = np.zeros((1, 6, 6, 1), "float32")
    x[0, 2:4, 2:4] = 7
    x[0, 5, 5] = 1e-7
    value, gradient = value_and_gradient(kh.TotalVariation(1.0, isotropic), x, dtype)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert (gradient[0, 2:4, 2:4] >= 0).all()


def test_second_derivatives_are_finite():
    x = outputs_of((1, 4, 4, 1))
    x[0, :2] = 0
    assert np.isfinite(hessian_product(kh.TotalVariation(1.0), x, np.ones_like(x))).all()


def test_one_axis_alone_is_the_same_both_ways():
    x = outputs_of((3, 9, 2))
    one, other = (float(kh.TotalVariation(1.0, isotropic)(x)) for isotropic in (True, False))
    assert one == pytest.approx(other, rel=1e-5)


def test_normalized_it_is_a_mean_over_the_entries():
    x = outputs_of((2, 4, 5, 2))
    whole = float(kh.TotalVariation(0.5)(x))
    assert float(kh.TotalVariation(0.5, normalize=True)(x)) == pytest.approx(whole / x.size)


@both
def test_it_smooths_outputs_in_fit_and_survives_saving(isotropic, tmp_path):
    keras.utils.set_random_seed(0)
    penalty = kh.TotalVariation(0.01, isotropic=isotropic, normalize=False)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 3, activity_regularizer=penalty)]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = outputs_of((12, 8, 8, 1))
    before = model.predict(x, verbose=0)
    model.fit(x, before, batch_size=5, epochs=20, verbose=0)
    assert by_loops(model.predict(x, verbose=0), isotropic) < 0.9 * by_loops(before, isotropic)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].activity_regularizer.get_config() == penalty.get_config()
    kh.strip(loaded)
    assert loaded.layers[0].activity_regularizer is None


def test_what_has_no_spatial_axes_is_an_error():
    with pytest.raises(ValueError, match=r"spatial axes.*shape \(4, 3\)"):
        kh.TotalVariation(1.0)(np.ones((4, 3), "float32"))
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 3)])
    with pytest.raises(ValueError, match="activity_regularizer"):
        kh.regularize(model, kh.TotalVariation(1.0))


@pytest.mark.parametrize(
    ("name", "value"), [("isotropic", 1), ("normalize", "no"), ("data_format", "NHWC")]
)
def test_arguments_out_of_range_are_errors(name, value):
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        kh.TotalVariation(1.0, **{name: value})
