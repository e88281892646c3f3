import keras
import pytest
from cutting import check_shrinks, largest_difference, random_inputs, randomize, zero_slices
from networks import NETWORKS, channels_first, resnet20

from keras_hoyer.graph.shrink import shrink

JAX = keras.backend.backend() == "jax"  # compiles each operation of each network anew

slow_to_compile = pytest.mark.skipif(
    JAX,
    reason="slow to compile, and has layers of ResNet-20's kinds only",
)


def inputs_of(model):
    inputs = random_inputs(model)
    if isinstance(model.input, dict):
        inputs = dict(zip(sorted(model.input), inputs, strict=True))
    return inputs


@pytest.mark.parametrize("fraction", [0.6] if JAX else [0.3, 0.6])
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_a_network_shrinks(build, fraction):
    model = build()
    check_shrinks(model, fraction, inputs=inputs_of(model))


@pytest.mark.parametrize("seed", range(1 if JAX else 2))
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_zeros_anywhere_leave_the_outputs(build, seed):
    model = randomize(build(), seed)
    zero_slices(model, seed)
    small = shrink(model)
    assert small.count_params() < model.count_params()
    assert largest_difference(model, small, inputs_of(model), network=True) <= 1e-4


@slow_to_compile
def test_a_resnet56_shrinks():
    check_shrinks(resnet20(blocks=9), 0.6)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow convolves channels last on a CPU"
)
def test_channels_first_shrink():
    check_shrinks(channels_first())


@pytest.mark.parametrize(
    "build",
    [
        lambda: keras.applications.MobileNetV2(
            (96, 96, 3), 0.35, weights=None, classifier_activation=None
        ),
        pytest.param(
            lambda: keras.applications.ResNet50(
                input_shape=(64, 64, 3), weights=None, classifier_activation=None
            ),
            marks=slow_to_compile,
        ),
    ],
    ids=["MobileNetV2", "ResNet50"],
)
def test_an_application_shrinks(build):
    check_shrinks(build(), 0.6)
