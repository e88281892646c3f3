"""Layers that compute with something else than their kernel are refused, by name and with a way."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer.plain import check_plain, find_adapted

HALF = kh.criteria.TargetSparsity(0.5, scope="layer")


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x))


def dense_model():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, "relu", name="first"),
            layers.Dense(5, "relu", name="second"),
            layers.Dense(3, name="last"),
        ]
    )


def of_one(layer, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


def attention():
    inputs = keras.Input((5, 8))
    layer = layers.MultiHeadAttention(2, 4, name="layer")
    model = keras.Model(inputs, layer(inputs, inputs))
    layer._query_dense.enable_lora(2)
    return model


def with_lora(layer, shape, dtype="float32"):
    model = of_one(layer, shape, dtype)
    layer.enable_lora(2)
    return model


def inside():
    inner = dense_model()
    inner.get_layer("second").enable_lora(2)
    inner.get_layer("second").name = "layer"
    return keras.Sequential([keras.Input((8,)), inner])


def time_distributed():
    layer = layers.TimeDistributed(layers.Dense(4, name="layer"), name="around")
    model = of_one(layer, (5, 8))
    layer.layer.enable_lora(2)
    return model


LORA = {
    "Dense": lambda: with_lora(layers.Dense(4, name="layer"), (8,)),
    "Dense by argument": lambda: of_one(layers.Dense(4, name="layer", lora_rank=2), (8,)),
    "EinsumDense": lambda: with_lora(layers.EinsumDense("ab,bc->ac", 4, name="layer"), (8,)),
    "Conv2D": lambda: with_lora(layers.Conv2D(4, 3, name="layer"), (6, 6, 3)),
    "attention": attention,
    "TimeDistributed": time_distributed,
    "nested": inside,
}


def verbs():
    return {
        "prune": lambda model: kh.prune(model, HALF),
        "channels": lambda model: kh.prune(model, HALF, kh.patterns.Channel()),
        "keep_zeros": kh.keep_zeros,
        "regularize": lambda model: kh.regularize(
            model, kh.HoyerSquare(1e-4), layers=lambda layer: True
        ),
        "report": kh.report,
        "check": check_plain,
    }


@pytest.mark.parametrize("kind", LORA)
def test_lora_is_refused_with_the_order_of_things(kind):
    model = LORA[kind]()
    for verb in verbs().values():
        with pytest.raises(ValueError, match=r"Layers '.*layer.*' compute with LoRA.*merge LoRA, "):
            verb(model)


def test_the_callbacks_refuse_lora_before_training():
    model = dense_model()
    model.get_layer("first").enable_lora(2)
    model.compile("adam", "mse")
    before = [w.copy() for w in model.get_weights()]
    for callback in (
        kh.callbacks.Pruning(HALF, kh.schedules.OneShot(1)),
        kh.callbacks.BudgetPruning(0.1, monitor="val_loss", begin=1),
    ):
        with pytest.raises(ValueError, match="Layers 'first' compute with LoRA"):
            model.fit(np.ones((4, 8)), np.ones((4, 3)), verbose=0, callbacks=[callback])
    for now, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, was)


def test_layers_beside_those_with_lora_are_pruned_by_name():
    model = dense_model()
    model.get_layer("first").enable_lora(2)
    assert kh.prune(model, HALF, layers=["second", "last"]).sparsity == pytest.approx(0.5, abs=0.05)
    assert kh.report(model, lambda layer: layer.name == "second").held == 15
    with pytest.raises(ValueError, match="'first' compute with LoRA"):
        kh.report(model, ["first"])


def test_kernels_with_lora_get_no_penalty_and_are_named():
    model = dense_model()
    model.get_layer("first").enable_lora(2)
    with pytest.warns(UserWarning, match=r"compute with LoRA: first/kernel\."):
        kh.regularize(model, kh.HoyerSquare(1e-4))
    assert model.get_layer("first").kernel_regularizer is None
    assert isinstance(model.get_layer("second").kernel_regularizer, kh.HoyerSquare)
    with pytest.raises(ValueError, match="'first' compute with LoRA"):
        kh.regularize(model, kh.HoyerSquare(1e-4), layers=["first"])


def test_lora_of_an_embedding_is_refused_where_the_embedding_is_named():
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(6, 4, name="words"), layers.Dense(4)]
    )
    model.get_layer("words").enable_lora(2)
    assert kh.prune(model, HALF).sparsity == 0.5
    for verb in (kh.report, kh.keep_zeros):
        with pytest.raises(ValueError, match=r"'words' compute with LoRA.*`embeddings` in place"):
            verb(model, ["words"])
    with pytest.raises(ValueError, match="'words' compute with LoRA"):
        check_plain(model)


def test_the_lines_of_the_message_merge_lora(tmp_path):
    model = dense_model()
    for name in ("first", "second"):
        model.get_layer(name).enable_lora(2)
    x = np.random.default_rng(0).standard_normal((16, 8)).astype("float32")
    for name in ("first", "second"):
        layer = model.get_layer(name)
        layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 0.1))
    before = outputs(model, x)
    with pytest.raises(ValueError) as error:
        kh.report(model)
    assert "Layers 'first', 'second' compute" in str(error.value)
    lines = re.search(r"`(merged = .*?)`", str(error.value)).group(1)
    for name in ("first", "second"):
        exec(lines, {"layer": model.get_layer(name)})
    model.save(tmp_path / "model.keras")
    merged = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(outputs(merged, x), before, atol=1e-5)
    assert len(merged.trainable_variables) == 6
    # From here on all is as ever: prune, shrink, quantize.
    kh.prune(merged, HALF, kh.patterns.Channel())
    expected = outputs(merged, x)
    small = kh.shrink(merged)
    np.testing.assert_allclose(outputs(small, x), expected, atol=1e-5)
    small.quantize("int8")
    assert np.abs(outputs(small, x) - expected).max() < 0.2


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_layers_are_refused_with_the_order_of_things(mode):
    model = dense_model()
    kh.prune(model, HALF)
    model.quantize(mode)
    for verb in verbs().values():
        with pytest.raises(
            ValueError, match=r"'first', 'second', 'last' are quantized.*prune, shr"
        ):
            verb(model)
    with pytest.raises(ValueError, match="'second' are quantized"):
        kh.report(model, ["second"])


def test_shrink_keeps_such_layers_and_names_them():
    model = dense_model()
    kh.prune(model, HALF, kh.patterns.Channel())
    kh.strip(model)
    model.get_layer("second").enable_lora(2)
    x = np.random.default_rng(0).standard_normal((4, 8)).astype("float32")
    with pytest.warns(UserWarning, match=r"layers second\. The order is: merge LoRA, prune, shri"):
        small = kh.shrink(model)
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-5)
    model = dense_model()
    model.quantize("int8")
    with pytest.warns(UserWarning, match="layers first, second, last"):
        small = kh.shrink(model)
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-5)


def test_layers_that_are_built_quantized_are_refused():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, dtype="int8_from_float32")])
    with pytest.raises(ValueError, match="are quantized"):
        kh.report(model)


def test_what_stands_beside_the_kernel_is_found_by_path():
    model = keras.Sequential([keras.Input((8,)), dense_model(), layers.Dense(2, name="head")])
    assert find_adapted(model) == {}
    model.layers[0].get_layer("second").enable_lora(2)
    model.get_layer("head").quantize("int8")
    name = model.layers[0].name
    assert find_adapted(model) == {f"{name}/second": "lora", "head": "int8"}
    assert find_adapted(model, ["head"]) == {"head": "int8"}
    assert find_adapted(model, lambda layer: layer.name == "second") == {f"{name}/second": "lora"}


def test_strip_takes_the_masks_off_that_a_quantized_layer_keeps_in_its_config():
    model = dense_model()
    kh.prune(model, HALF)
    model.quantize("int8")
    kh.strip(model)
    assert "keras_hoyer" not in str(model.get_config())


def test_zeros_are_kept_in_float8_where_the_kernel_is_a_float_still():
    model = dense_model()
    model.quantize("float8")
    cut = kh.prune(model, HALF)
    model.compile("adam", "mse", run_eagerly=keras.backend.backend() == "torch")
    model.fit(np.ones((8, 8)), np.ones((8, 3)), verbose=0)
    now = kh.report(model)
    assert (now.held, now.overwritten) == (cut.held, 0)
    with pytest.raises(ValueError, match="are quantized"):
        check_plain(model)


def test_zeros_are_kept_inside_spectral_normalization(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.SpectralNormalization(layers.Dense(6, name="inner"), name="around"),
            layers.Dense(2, name="last"),
        ]
    )
    cut = kh.prune(model, HALF)
    assert [kernel.name for kernel in cut.layers] == ["around/inner/kernel", "last/kernel"]
    before = keras.ops.convert_to_numpy(model.layers[0].layer.kernel)
    model.compile("adam", "mse")
    model.fit(np.ones((8, 8)), np.ones((8, 2)), epochs=2, verbose=0)
    now = keras.ops.convert_to_numpy(model.layers[0].layer.kernel)
    assert not now[before == 0].any()
    assert (now[before != 0] != before[before != 0]).all()
    model.save(tmp_path / "model.keras")
    assert kh.report(keras.models.load_model(tmp_path / "model.keras")).held == cut.held
