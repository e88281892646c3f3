"""Layers of KerasHub: rules that say how channels go through them, and configs that fail."""

import keras
import numpy as np
import pytest

import keras_hoyer as kh

try:
    import keras_hub
except Exception:  # its dependencies may be missing while it is there itself
    pytest.skip("KerasHub cannot be imported", allow_module_level=True)

GROUPED = {
    "vocabulary_size": 20,
    "num_layers": 1,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}


def _outputs(model, inputs):
    outputs = model(inputs, training=False)
    return np.concatenate(
        [keras.ops.convert_to_numpy(y).reshape(-1) for y in keras.tree.flatten(outputs)]
    )


def _randomize(model):
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(0.3 * generator.normal(size=variable.shape) + (variable.ndim == 1))


def _shrunk(model, *samples, layers=None):
    """The smaller model, after its outputs were compared on the samples."""
    _randomize(model)
    criterion = kh.criteria.TargetSparsity(0.5, scope="layer")
    kh.prune(model, criterion, kh.patterns.Channel(), layers=layers)
    small = kh.shrink(model)
    for sample in samples:
        np.testing.assert_allclose(
            _outputs(small, sample), _outputs(model, sample), rtol=1e-4, atol=1e-5
        )
    assert small.count_params() < model.count_params()
    return small


def _tokens(batch, length):
    ids = np.random.default_rng(length).integers(1, 20, (batch, length))
    return {"token_ids": ids, "padding_mask": np.ones((batch, length), "int32")}


def _norms():
    from keras_hub.src.models.llama.llama_layernorm import LlamaLayerNorm
    from keras_hub.src.models.qwen.qwen_layernorm import QwenLayerNorm
    from keras_hub.src.models.t5.t5_layer_norm import T5LayerNorm

    return [LlamaLayerNorm, QwenLayerNorm, T5LayerNorm]


@pytest.mark.parametrize("norm", _norms(), ids=lambda cls: cls.__name__)
def test_channels_go_through_rms_norms(norm):
    """Zeros add nothing to the mean of squares, which then divides by fewer: the scale follows."""
    inputs = keras.Input((6,))
    x = keras.layers.Dense(10, use_bias=False)(inputs)
    outputs = keras.layers.Dense(3)(norm(epsilon=0.1)(x))
    model = keras.Model(inputs, outputs)
    sample = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")
    small = _shrunk(model, sample, sample[:2])
    assert small.layers[1].units == 5
    assert [tuple(w.shape) for w in small.layers[2].weights] == [(5,)]


def test_rows_of_a_position_table_go_with_the_tokens_channels():
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(20, 8)(inputs)
    x = x + keras_hub.layers.PositionEmbedding(12)(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    _randomize(model)
    table, rows = model.layers[1], model.layers[2]
    for variable in (table.embeddings, rows.position_embeddings):
        values = np.array(keras.ops.convert_to_numpy(variable))
        values[:, 3:] = 0
        variable.assign(values)
    small = kh.shrink(model)
    assert small.layers[2].position_embeddings.shape == (12, 3)
    for length in (5, 9):
        sample = np.arange(2 * length).reshape(2, length) % 20
        np.testing.assert_allclose(_outputs(small, sample), _outputs(model, sample), atol=1e-5)


def test_cached_attention_loses_heads_and_widths():
    inputs = keras.Input((None, 6))
    x = keras.layers.Dense(8)(inputs)
    x = keras_hub.layers.CachedMultiHeadAttention(4, 4)(x, x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    samples = [np.random.default_rng(n).normal(size=(2, n, 6)).astype("float32") for n in (4, 7)]
    small = _shrunk(model, *samples)
    assert isinstance(small.layers[2], keras_hub.layers.CachedMultiHeadAttention)


def test_a_pruned_llama_stays_one_though_its_decoders_config_fails(tmp_path):
    model = keras_hub.models.LlamaBackbone(**GROUPED)
    small = _shrunk(model, _tokens(2, 5), _tokens(3, 7))
    assert type(small) is keras_hub.models.LlamaBackbone
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(_outputs(loaded, _tokens(2, 5)), _outputs(small, _tokens(2, 5)))


def test_a_smaller_vit_is_saved_though_its_layers_configs_fail(tmp_path):
    model = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12
    )
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    small = _shrunk(model, images, images[:1])
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(_outputs(loaded, images), _outputs(small, images))


def test_a_users_rule_comes_before_the_one_that_ships():
    from keras_hub.src.models.llama.llama_layernorm import LlamaLayerNorm

    from keras_hoyer.graph.registry import find_rule, register_rule

    norm = LlamaLayerNorm()
    shipped, follows = find_rule(norm)
    assert shipped is not None
    try:
        own = register_rule(LlamaLayerNorm)(lambda graph, layer, x: x)
        assert find_rule(norm)[0] is own
    finally:
        register_rule(LlamaLayerNorm, follows_constants=follows)(shipped)
