"""The report against counts made by hand."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer import measures


def model_of(dtype="float32"):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv", dtype=dtype),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5, name="out", dtype=dtype),
        ]
    )
    conv = np.random.default_rng(0).normal(size=(3, 3, 2, 4)) + 4
    conv[..., 1] = conv[..., 3] = 0
    conv[0, 0, 0, 0] = -0.0
    model.get_layer("conv").kernel.assign(conv)
    model.get_layer("out").kernel.assign(np.full((64, 5), 0.5))
    return model, conv


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_counts_measures_and_zero_channels_are_right(dtype):
    model, conv = model_of(dtype)
    report = kh.report(model)
    first, last = report.layers
    assert (first.name, first.shape, first.total) == ("conv/kernel", (3, 3, 2, 4), 72)
    assert (first.nonzero, first.sparsity) == (35, 37 / 72)
    assert (first.channels, first.zero_channels) == (4, 2)
    assert first.hoyer == pytest.approx(measures.hoyer_sparsity(conv), rel=2e-2)
    assert first.effective == pytest.approx(conv.sum() ** 2 / (conv**2).sum(), rel=1e-2)
    assert (last.name, last.total, last.zero_channels) == ("out/kernel", 320, 0)
    assert (report.total, report.nonzero, report.sparsity) == (392, 355, 37 / 392)


def test_a_channel_of_a_transposed_or_depthwise_convolution_is_what_feeds_one_output():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            layers.Conv2DTranspose(5, 3),
        ]
    )
    depthwise, transposed = (layer.kernel for layer in model.layers)
    weights = np.ones(depthwise.shape)
    weights[:, :, 1, 0] = 0
    depthwise.assign(weights)
    weights = np.ones(transposed.shape)
    weights[:, :, 2, :] = 0
    transposed.assign(weights)
    counts = [(layer.channels, layer.zero_channels) for layer in kh.report(model).layers]
    assert counts == [(6, 1), (5, 1)]


def test_the_dictionary_is_json():
    report = kh.report(model_of()[0])
    restored = json.loads(json.dumps(report.to_dict()))
    assert restored["total"] == 392
    assert [layer["nonzero"] for layer in restored["layers"]] == [35, 320]


def test_the_table_has_a_line_for_each_kernel_and_the_total():
    model = model_of()[0]
    kh.keep_zeros(model)
    lines = str(kh.report(model, layers=["conv"])).splitlines()
    assert [line.split()[0] for line in lines if "--" not in line] == [
        "kernel",
        "conv/kernel",
        "total",
    ]
    assert "2 of 4" in lines[2]
    assert "51.39%" in lines[-1]


def test_zeros_that_are_held_are_told_from_those_that_are_not():
    model, _ = model_of()
    before = kh.report(model)
    assert (before.held, before.overwritten) == (0, 0)
    assert str(before).splitlines()[-1] == (
        "37 zeros are not held: training can bring them back. `keep_zeros(model)` holds them."
    )
    kh.prune(model, kh.criteria.TargetSparsity(0.75, scope="layer"), layers=["out"])
    some = kh.report(model)
    assert [layer.held for layer in some.layers] == [0, 240]
    assert some.to_dict()["held"] == some.held == 240
    assert some.to_dict()["layers"][1]["held"] == 240
    assert str(some).splitlines()[-1].startswith("37 zeros are not held")
    held = kh.keep_zeros(model)
    assert held.held == held.total - held.nonzero == 277
    assert "total" in str(held).splitlines()[-1]
    assert "held" in str(held).splitlines()[0].split()


def test_weights_that_are_set_over_their_masks_are_counted():
    model, _ = model_of()
    kh.keep_zeros(model)
    conv, bias = model.get_layer("conv").get_weights()
    conv[0, 0, :, 1] = 7
    model.get_layer("conv").set_weights([conv, bias])
    report = kh.report(model)
    assert [layer.overwritten for layer in report.layers] == [2, 0]
    assert (report.held, report.overwritten, report.total - report.nonzero) == (35, 2, 35)
    said = " ".join(str(report).split())  # notes are wrapped
    assert "2 weights are not zero although masks hold them at zero" in said


def test_a_model_without_kernels_has_an_empty_report():
    report = kh.report(keras.Sequential([keras.Input((3,)), layers.ReLU()]))
    assert (report.total, report.nonzero, report.sparsity, report.layers) == (0, 0, 0.0, ())
    assert "total" in str(report)


def test_a_kernel_that_is_not_finite_is_named():
    model, conv = model_of()
    model.get_layer("conv").kernel.assign(np.where(conv == 0, np.nan, conv))
    with pytest.raises(ValueError, match="Kernel 'conv/kernel' holds NaN"):
        kh.report(model)


def test_multiply_adds_are_those_of_the_model_and_of_what_shrink_leaves():
    model, _ = model_of()
    report = kh.report(model)
    assert report.flops == sum(kh.count_flops(model).values()) == 16 * 72 + 64 * 5
    # Two of the four filters are zero; the dense layer's kernel has no zero.
    assert [layer.flops_left for layer in report.layers] == [16 * 36, 64 * 5]
    assert report.parameters == model.count_params()


def test_multiply_adds_left_are_those_of_the_shrunk_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(12, 3), layers.Conv2D(6, 3), layers.Flatten()]
    )
    model.add(layers.Dense(4))
    kh.prune(model, kh.criteria.TargetFlops(0.5), kh.patterns.Channel())
    report = kh.report(model)
    assert kh.report(kh.shrink(model)).flops <= report.flops / 2
    assert report.flops_left == kh.report(kh.shrink(model)).flops


def test_a_model_whose_graph_cannot_be_seen_is_reported_without_multiply_adds():
    class Unseen(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                raise TypeError("only numbers")
            return self.dense(x)

    model = Unseen()
    model(np.ones((1, 3), "float32"))
    report = kh.report(model)
    assert report.total == 6
    assert report.flops is None
    assert "?" in str(report)


def test_the_total_has_the_effective_number_of_all_and_what_it_would_cut():
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10), keras.layers.Dense(5)])
    for layer, scale in zip(model.layers, (1.0, 0.3), strict=True):
        layer.kernel.assign(scale * np.random.default_rng(0).standard_cauchy(layer.kernel.shape))
    report = kh.report(model)
    values = np.concatenate(
        [np.abs(keras.ops.convert_to_numpy(k)).ravel() for k in (x.kernel for x in model.layers)]
    ).astype("float64")
    effective = values.sum() ** 2 / np.square(values).sum()
    assert report.effective == pytest.approx(effective, rel=1e-5)
    kept = kh.prune(model, kh.criteria.EffectiveNumber(1.0)).nonzero
    assert kept == round(effective)
    wanted = round(kh.criteria.EffectiveNumber().ratio * effective)
    said = (
        f"`criteria.EffectiveNumber()` would cut {250 - wanted:,} more weights and keep {wanted:,}."
    )
    assert (said in str(report).replace("\n", " ")) == (wanted < 250)
    again = kh.prune(model, kh.criteria.EffectiveNumber())
    assert "EffectiveNumber" not in str(again)
