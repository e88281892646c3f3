"""The conditions of sparse 1x1 convolutions, each broken on its own."""

import keras
import numpy as np
import pytest

from keras_hoyer.exporters import check_sparse_inference, export

layers = keras.layers


def mobile_like(
    *, channels=3, padded=True, keepdims=False, act=layers.ReLU, sparsity=0.9, flatten=False
):
    """A net that meets all conditions unless told otherwise."""
    x = inputs = keras.Input((32, 32, channels))
    x = layers.ZeroPadding2D(1)(x)
    x = act()(layers.Conv2D(8, 3, strides=2, use_bias=False)(x))
    if padded:
        x = layers.ZeroPadding2D(1)(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="valid" if padded else "same")(x)
    x = layers.Conv2D(16, 1, name="point")(x)
    if flatten:
        x = layers.Flatten()(x)
    elif keepdims:
        x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
        x = layers.Flatten()(layers.Conv2D(4, 1, name="head")(x))
    else:
        x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name in ("point", "head"):
            kernel = rng.standard_normal(layer.kernel.shape)
            kernel[rng.random(layer.kernel.shape) < sparsity] = 0
            layer.kernel.assign(kernel)
    return model


def unmet(model):
    report = check_sparse_inference(model)
    return [i for i, condition in enumerate(report.conditions) if not condition.met]


def test_a_net_that_meets_all_conditions():
    report = check_sparse_inference(mobile_like(), target="arm64")
    assert report and "can engage" in str(report)


@pytest.mark.parametrize("change", [{}, {"sparsity": 0.5}, {"flatten": True}])
def test_a_sequential_model_is_judged_as_the_same_functional_one(change):
    model = mobile_like(**change)
    assert unmet(keras.Sequential(model.layers)) == unmet(model)


@pytest.mark.parametrize(
    ("change", "broken", "advice"),
    [
        ({"sparsity": 0.5}, [0], "Prune further: point"),
        ({"channels": 1}, [1], "3 channels instead of 1"),
        ({"padded": False}, [2], "ZeroPadding2D before depthwise"),
        ({"flatten": True}, [3, 4], "Replace flatten"),
        ({"keepdims": True}, [3, 4], "not keepdims=True"),
        ({"act": layers.PReLU}, [4], "Replace p_re_lu"),
    ],
)
def test_each_condition_by_itself(change, broken, advice):
    model = mobile_like(**change)
    assert unmet(model) == broken
    text = str(check_sparse_inference(model))
    assert "cannot engage" in text and advice in text


def test_no_mobilenet_of_keras_applications_qualifies():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)
    assert 0 in unmet(model) and 1 in unmet(model)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="argument `target`"):
        check_sparse_inference(mobile_like(), target="x86-64")
    with pytest.raises(ValueError, match="argument `model`"):
        check_sparse_inference(keras.Sequential([layers.Dense(2)]))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the same on all backends")
def test_export_warns_of_a_pooling_that_gives_zeros_on_arm64(tmp_path):
    pytest.importorskip("ai_edge_litert")
    with pytest.warns(UserWarning, match=r"pool.*ARM64"):
        result = export(mobile_like(keepdims=True), tmp_path / "m.tflite")
    assert any("ARM64" in note for note in result.notes)
    assert not any("ARM64" in note for note in export(mobile_like(), tmp_path / "m.tflite").notes)
