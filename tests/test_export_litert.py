"""`.tflite` files: right by themselves, and never handed over when they are wrong."""

import keras
import numpy as np
import pytest

from keras_hoyer.exporters import (
    ExportError,
    export,
    litert_convert,
    litert_encoding,
    litert_file,
    load_sparse_weights,
    processes,
)

litert_interpreter = pytest.importorskip("ai_edge_litert.interpreter")
layers = keras.layers

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="converts in this process"
)


def prune(model, sparsity, block=1, seed=0):
    """Random kernels with zeros in blocks along the first axis, negative zeros among them."""
    rng = np.random.default_rng(seed)
    for w in model.trainable_weights:
        if len(w.shape) > 1:
            kernel = rng.standard_normal(w.shape) / np.sqrt(np.prod(w.shape[:-1]))
            rows = -(-w.shape[0] // block)
            mask = rng.random((rows, *w.shape[1:])) >= sparsity
            mask = np.repeat(mask, block, axis=0)[: w.shape[0]]
            w.assign(np.where(mask, kernel, -0.0))
        elif "bias" in w.name or "beta" in w.name:
            w.assign(rng.standard_normal(w.shape))
    return model


def mlp(*units, inputs=784):
    hidden = [layers.Dense(n, "relu") for n in units[:-1]]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(units[-1])])


def forward_in_float64(model, x):
    for layer in model.layers:
        kernel, bias = (w.astype("float64") for w in layer.get_weights())
        x = x @ kernel + bias
        x = np.maximum(x, 0) if layer is not model.layers[-1] else x
    return x


def run_file(path, *arrays):
    """Runs a file in this process, the inputs in the order of their names."""
    runner = litert_interpreter.Interpreter(str(path)).get_signature_runner()
    names = sorted(runner.get_input_details())
    return runner(**dict(zip(names, arrays, strict=True)))


@pytest.fixture(scope="module")
def sparse_mlp(tmp_path_factory):
    model = prune(mlp(300, 100, 10), 0.9)
    return model, export(model, tmp_path_factory.mktemp("mlp") / "m.tflite")


@on_tensorflow
def test_a_sparse_mlp_is_smaller_and_computes_the_same(sparse_mlp):
    model, result = sparse_mlp
    assert result.path.stat().st_size == result.bytes < result.dense_bytes / 6
    x = np.random.default_rng(1).standard_normal((5, 784)).astype("float32")
    wanted = forward_in_float64(model, x)
    got = run_file(result.path, x)["output_0"]
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert result.max_error < 1e-5


@on_tensorflow
def test_the_result_tells_what_was_tried_and_what_is_in_the_file(sparse_mlp):
    model, result = sparse_mlp
    assert [(c.name, c.outcome) for c in result.candidates] == [
        ("float32 dense", "right, but not smaller"),
        ("float32 sparse", "kept"),
    ]
    zeros = sorted(np.mean(layer.get_weights()[0] == 0) for layer in model.layers)
    assert sorted(t.sparsity for t in result.tensors) == pytest.approx(zeros)
    assert {t.storage for t in result.tensors} == {"csr"}
    table = str(result)
    assert "float32 sparse" in table and f"{result.bytes:,}" in table and "kept" in table
    assert result.to_dict()["candidates"][1]["outcome"] == "kept"


@on_tensorflow
def test_blocks_of_four_are_stored_as_blocks(tmp_path):
    result = export(prune(mlp(300, 100, 10), 0.98, block=4), tmp_path / "m.tflite")
    assert {t.storage for t in result.tensors} == {"block (4,)"}
    assert result.bytes <= 32_000


@on_tensorflow
def test_random_zeros_are_not_taken_for_blocks(tmp_path):
    result = export(prune(mlp(300, 100, 10), 0.98), tmp_path / "m.tflite")
    assert {t.storage for t in result.tensors} == {"csr"}
    assert result.bytes <= 40_000


@on_tensorflow
def test_too_few_zeros_are_not_encoded(tmp_path):
    model = prune(mlp(300, inputs=300), 0.3)
    result = export(model, tmp_path / "m.tflite")
    assert result.bytes == result.dense_bytes
    assert [c.outcome for c in result.candidates] == ["kept", "not tried: no tensor gets smaller"]
    with pytest.raises(ExportError, match=r"'check'.*no candidate is right"):
        export(model, tmp_path / "other.tflite", sparse=True)
    assert export(model, tmp_path / "m.tflite", sparse=False).bytes == result.bytes


@on_tensorflow
@pytest.mark.parametrize("quantize", [None, "float16", "int8"])
@pytest.mark.parametrize("inputs", [96, 100, 101, 103])
def test_no_row_is_lost_where_a_block_does_not_divide_the_kernel(tmp_path, quantize, inputs):
    rng = np.random.default_rng(inputs)
    model = mlp(64, 10, inputs=inputs)
    prune(model, 0.9, block=16)
    kernel = model.layers[0].kernel.numpy()
    kernel[-5:] = rng.standard_normal((5, 64))  # the last rows carry most of the output
    model.layers[0].kernel.assign(kernel)
    x = rng.standard_normal((40, inputs)).astype("float32")
    result = export(model, tmp_path / "m.tflite", quantize=quantize, representative_data=x)
    wanted = forward_in_float64(model, x)
    got = run_file(result.path, x)["output_0"]
    limit = {None: 1e-5, "float16": 5e-3, "int8": 0.05}[quantize]
    assert np.abs(got - wanted).max() < limit * np.abs(wanted).max()
    assert not any("above" in c.outcome for c in result.candidates)


@on_tensorflow
@pytest.mark.parametrize(
    ("quantize", "dtypes", "share"),
    [
        ("float16", {"float16 csr"}, 0.1),
        ("dynamic", {"int8 dense", "float32 block (4,)"}, 1),
        ("int8", {"int8 dense", "int8 block (16,)"}, 0.25),
    ],
)
def test_quantized_files_are_right_and_never_larger_than_dense(tmp_path, quantize, dtypes, share):
    model = prune(mlp(300, 100, 10), 0.98, block=4)
    x = np.random.default_rng(1).standard_normal((60, 784)).astype("float32")
    result = export(model, tmp_path / "m.tflite", quantize=quantize, representative_data=x)
    assert result.bytes <= share * result.dense_bytes
    assert {f"{t.dtype} {t.storage}" for t in result.tensors} == dtypes
    wanted = forward_in_float64(model, x)
    error = np.abs(run_file(result.path, x)["output_0"] - wanted).max() / np.abs(wanted).max()
    assert error < {"float16": 2e-3, "dynamic": 0.03, "int8": 0.05}[quantize]
    # Quantization is symmetric: what was zero is zero.
    zeros = sorted(np.mean(layer.get_weights()[0] == 0) for layer in model.layers)
    assert all(
        t.sparsity >= zero - 1e-9
        for t, zero in zip(sorted(result.tensors, key=lambda t: t.sparsity), zeros, strict=True)
    )


@on_tensorflow
def test_the_fastest_file_is_kept_on_request(tmp_path, monkeypatch):
    model = prune(mlp(1024, 10, inputs=1024), 0.95, block=4)
    result = export(model, tmp_path / "m.tflite", optimize_for="latency")
    dense, sparse = result.candidates
    assert sparse.milliseconds < dense.milliseconds
    assert result.bytes == sparse.bytes and "ms" in str(result)

    def slower(arguments, timeout, environment=None):
        failure = run_process(arguments, timeout, environment)
        if arguments[1] == "time":
            _, _, _, times, dense, sparse = arguments
            with open(times, "w") as file:
                file.write(f'{{"{dense}": 1.0, "{sparse}": 1.2}}')
        return failure

    run_process = processes.run_process
    monkeypatch.setattr(processes, "run_process", slower)
    result = export(model, tmp_path / "m.tflite", optimize_for="latency")
    assert result.bytes == result.dense_bytes
    assert result.candidates[1].outcome == "right, but slower or larger"


@on_tensorflow
def test_few_zeros_are_not_stored_as_blocks_for_latency(tmp_path):
    model = prune(mlp(200, 10, inputs=400), 0.6, block=4)
    small = export(model, tmp_path / "m.tflite")
    fast = export(model, tmp_path / "m.tflite", optimize_for="latency")
    assert "block (4,)" in {t.storage for t in small.tensors}
    assert "block (4,)" not in {t.storage for t in fast.tensors}


@on_tensorflow
def test_zeros_are_positive_in_the_file(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(12, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    prune(model, 0.2)
    model.layers[1].gamma.assign(-np.ones(12))  # folding it turns 0 into -0.0
    export(model, tmp_path / "m.tflite", sparse=False)
    constants = list(litert_file._constants((tmp_path / "m.tflite").read_bytes()))
    zeros = np.concatenate([values[values == 0] for _, values in constants])
    assert len(zeros) > 100
    assert not np.signbit(zeros).any()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(11, 8)
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(self.embed(inputs["ids"])), self.dense(inputs["x"])


class TwoArguments(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, left, right):
        return {"left": self.dense(left), "right": self.dense(right)}


def subclassed():
    model = Subclassed()
    model({"ids": np.zeros((2, 5), "int32"), "x": np.zeros((2, 5, 8), "float32")})
    return model


def two_arguments():
    model = TwoArguments()
    model(np.zeros((2, 5)), np.zeros((2, 5)))
    return model


def several_inputs_and_outputs():
    a, b = keras.Input((4,), name="zeta"), keras.Input((5,), name="al pha")
    joined = layers.Concatenate()([a, b])
    return keras.Model([a, b], {"z": layers.Dense(3)(joined), "y": layers.Dense(3)(joined)})


def nested_and_shared():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, "relu"), layers.BatchNormalization()]
    )
    inputs = keras.Input((4,))
    return keras.Model(inputs, inner(inner(inputs)))


def attention():
    inputs = keras.Input((6, 8))
    return keras.Model(inputs, inputs + layers.MultiHeadAttention(2, 4)(inputs, inputs))


def convolutions():
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.Conv2DTranspose(4, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, "softmax"),
        ]
    )


def words():
    """Indices that arrive as floats, as by default in Keras."""
    pooled = [layers.GlobalAveragePooling1D(), layers.Dense(2)]
    return keras.Sequential([keras.Input((7,)), layers.Embedding(13, 6), *pooled])


def unrolled():
    lstm = layers.LSTM(4, return_sequences=True)
    return keras.Sequential([keras.Input((5, 3)), lstm, layers.GRU(3), layers.Dense(2)])


def looped():
    return keras.Sequential([keras.Input((None, 3)), layers.Bidirectional(layers.GRU(4))])


def fixed_batch():
    return keras.Sequential([keras.Input(batch_shape=(4, 16)), layers.Dense(8), layers.Dense(4)])


@on_tensorflow
@pytest.mark.parametrize(
    "build",
    [
        subclassed,
        several_inputs_and_outputs,
        nested_and_shared,
        attention,
        convolutions,
        words,
        unrolled,
        looped,
        fixed_batch,
    ],
)
def test_all_kinds_of_models(tmp_path, build):
    model = prune(build(), 0.6)
    before = [w.numpy().tobytes() for w in model.weights]
    result = export(model, tmp_path / "m.tflite")
    assert result.max_error < 1e-5
    assert [w.numpy().tobytes() for w in model.weights] == before
    assert not any(getattr(layer, "unroll", False) for layer in model.layers)
    assert any("unrolled" in note for note in result.notes) == (build is unrolled)
    assert any("batch is fixed at one" in note for note in result.notes) == (build is looped)


@on_tensorflow
def test_the_names_and_the_order_of_several_inputs(tmp_path):
    model = prune(several_inputs_and_outputs(), 0)
    rng = np.random.default_rng(0)
    zeta, alpha = (rng.standard_normal((3, n)).astype("float32") for n in (4, 5))
    result = export(model, tmp_path / "m.tflite", representative_data=[zeta, alpha])
    assert not any("random inputs" in note for note in result.notes)
    runner = litert_interpreter.Interpreter(str(result.path)).get_signature_runner()
    got = runner(zeta=zeta, al_pha=alpha)
    wanted = model.predict([zeta, alpha], verbose=0)
    for name in ("y", "z"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-6)


@on_tensorflow
def test_one_array_in_a_list_is_the_data_of_one_input(tmp_path):
    model = mlp(4, inputs=3)
    for data in ([np.ones((5, 3))], np.ones((5, 3)), [[1, 2, 3], [4, 5, 6]]):
        assert export(model, tmp_path / "m.tflite", representative_data=data).max_error < 1e-5


@on_tensorflow
def test_several_call_arguments(tmp_path):
    data = {"left": np.ones((3, 5), "float32"), "right": np.full((3, 5), 2, "float32")}
    result = export(two_arguments(), tmp_path / "m.tflite", representative_data=data)
    assert result.max_error < 1e-5


@on_tensorflow
@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "mixed_bfloat16"])
def test_half_precision_models_are_exported_in_float32(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        convolution = [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.Flatten()]
        model = keras.Sequential([keras.Input((8, 8, 3)), *convolution, layers.Dense(3)])
    finally:
        keras.config.set_dtype_policy("float32")
    prune(model, 0.5)
    result = export(model, tmp_path / "m.tflite")
    assert result.max_error < 1e-5
    assert {t.dtype for t in result.tensors} == {"float32"}
    assert any("in float32" in note for note in result.notes)
    assert {layer.dtype_policy.name for layer in model.layers} == {policy}


@on_tensorflow
def test_penalties_and_constraints_have_no_bearing(tmp_path):
    plain = mlp(16, 4, inputs=8)
    penalized = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, "relu", kernel_regularizer="l2", kernel_constraint="non_neg"),
            layers.Dense(4, activity_regularizer="l1"),
        ]
    )
    prune(plain, 0.5)
    penalized.set_weights(plain.get_weights())
    sizes = [export(m, tmp_path / "m.tflite").bytes for m in (plain, penalized)]
    assert sizes[0] == pytest.approx(sizes[1], abs=200)  # names of layers are of different length


def test_a_model_pruned_by_keras_hoyer_with_all_attached(tmp_path):
    import keras_hoyer as kh

    model = mlp(64, 10, inputs=96)
    kh.regularize(model, kh.HoyerSquare(1e-4))
    kh.prune(model, kh.criteria.TargetSparsity(0.9), pattern=kh.patterns.Block((4, 1)))
    result = export(model, tmp_path / "m.tflite")
    assert result.max_error < 1e-5
    assert max(t.sparsity for t in result.tensors) > 0.9
    assert "block (4,)" in {t.storage for t in result.tensors}
    other = mlp(64, 10, inputs=96)
    load_sparse_weights(other, export(model, tmp_path / "w.npz").path)
    x = np.ones((2, 96), "float32")
    np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))


# --- files that are wrong -----------------------------------------------------------------------


def converted(model, path):
    export(model, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def victim():
    return prune(mlp(300, 4, inputs=300), 0.9)


@pytest.fixture(scope="module")
def crashing(victim, tmp_path_factory):
    """A file whose column indices point far behind the end of a row."""
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(converted(victim, tmp_path_factory.mktemp("crash") / "m.tflite"))
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    for t in range(graph.TensorsLength()):
        sparsity = graph.Tensors(t).Sparsity()
        if sparsity is not None:
            table = sparsity.DimMetadata(1)
            if table.ArrayIndicesType() == schema.SparseIndexVector.Uint16Vector:
                vector = schema.Uint16Vector()
                vector.Init(table.ArrayIndices().Bytes, table.ArrayIndices().Pos)
                vector.ValuesAsNumpy()[:] = 65535
    return bytes(content)


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """A file that counts to a billion."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, 300), name="input_0")])
    def count(x):
        _, y = tf.while_loop(lambda i, y: i < 2**30, lambda i, y: (i + 1, tf.sin(y)), (0, x[:, :4]))
        return {"output_0": y}

    module = tf.Module()
    module.count = count
    folder = tmp_path_factory.mktemp("hang")
    tf.saved_model.save(module, str(folder), signatures={"serving_default": count})
    return tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    return converted(
        prune(mlp(300, 4, inputs=300), 0.9, seed=1), tmp_path_factory.mktemp("wrong") / "m.tflite"
    )


@pytest.fixture(scope="module")
def not_finite(wrong, tmp_path_factory):
    content = bytearray(wrong)
    for _, values in litert_file._constants(content):
        values[...] = np.nan
    return bytes(content)


def inject(monkeypatch, content, into):
    """Puts a broken file in the place of the sparse candidate, or of all."""
    monkeypatch.setattr(litert_encoding, "encode", lambda dense, largest_share: content)
    if into == "all":
        monkeypatch.setattr(litert_convert, "converted", lambda *args: content)
        monkeypatch.setattr(litert_file, "make_zeros_positive", lambda content: None)


FAILURES = [
    ("crashing", "crashed with SIG"),
    ("hanging", "hung: stopped after 5 s"),
    ("wrong", "wrong: its error is above"),
    ("not_finite", "holds NaN"),
]


@on_tensorflow
@pytest.mark.parametrize("failure", FAILURES)
def test_a_broken_candidate_loses_and_the_right_one_is_kept(
    tmp_path, monkeypatch, request, victim, failure
):
    broken, outcome = failure
    inject(monkeypatch, request.getfixturevalue(broken), "sparse")
    if broken == "hanging":
        monkeypatch.setattr(processes, "RUN_TIMEOUT", 5)
    result = export(victim, tmp_path / "m.tflite")
    dense, sparse = result.candidates
    assert outcome in sparse.outcome and not sparse.right
    assert dense.outcome == "kept" and result.bytes == dense.bytes
    x = np.ones((1, 300), "float32")
    wanted = forward_in_float64(victim, x)
    np.testing.assert_allclose(run_file(result.path, x)["output_0"], wanted, rtol=1e-4, atol=1e-4)


@on_tensorflow
@pytest.mark.parametrize("content", ["wrong", "garbage"])
def test_no_right_candidate_leaves_no_file_and_an_older_one_untouched(
    tmp_path, monkeypatch, request, victim, content
):
    broken = b"garbage" * 100 if content == "garbage" else request.getfixturevalue(content)
    inject(monkeypatch, broken, "all")
    assert not list(tmp_path.iterdir())
    for older in (None, b"older"):
        if older:
            (tmp_path / "m.tflite").write_bytes(older)
        with pytest.raises(ExportError, match=r"'check'.*no candidate is right") as caught:
            export(victim, tmp_path / "m.tflite")
        assert caught.value.step == "check"
        assert len(caught.value.candidates) == 2
        assert "float32 sparse" in str(caught.value)
        assert [p.read_bytes() for p in tmp_path.iterdir()] == ([older] if older else [])


@on_tensorflow
def test_a_sparse_file_must_be_as_right_as_the_dense_one(tmp_path, monkeypatch, victim):
    """A wide tolerance does not let a file pass that lost some weights."""
    damaged = mlp(300, 4, inputs=300)
    damaged.set_weights(victim.get_weights())
    kernel = victim.layers[0].kernel.numpy()
    kernel[:8] = 0
    damaged.layers[0].kernel.assign(kernel)
    inject(monkeypatch, converted(damaged, tmp_path / "other.tflite"), "sparse")
    result = export(victim, tmp_path / "m.tflite", tolerance=1.0)
    dense, sparse = result.candidates
    assert 0.01 < sparse.max_error < 1 and "1.5 times that of the dense file" in sparse.outcome
    assert dense.outcome == "kept"


@on_tensorflow
def test_a_tolerance_that_no_file_meets(tmp_path, victim):
    with pytest.raises(ExportError, match="above the tolerance of 0"):
        export(victim, tmp_path / "m.tflite", tolerance=0, sparse=False)
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_an_operation_that_litert_lacks_is_named(tmp_path):
    inputs = keras.Input((5, 5))
    inverse = layers.Lambda(keras.ops.inv, name="my_inverse")(inputs)
    with pytest.raises(ExportError, match=r"no builtin operation for MatrixInverse") as caught:
        export(keras.Model(inputs, inverse), tmp_path / "m.tflite")
    assert caught.value.step == "convert"
    assert "my_inverse" in str(caught.value)
    assert "Replace the layer" in str(caught.value)


def test_a_model_that_gives_nan_itself_cannot_be_checked(tmp_path):
    model = mlp(4, inputs=3)
    model.layers[0].bias.assign(np.full(4, np.nan))
    with pytest.raises(ExportError, match="Keras model itself gives NaN"):
        export(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_every_backend_writes_a_right_file(tmp_path):
    result = export(prune(mlp(64, 10, inputs=100), 0.9), tmp_path / "m.tflite")
    assert result.max_error < 1e-5
    assert result.bytes < result.dense_bytes / 2
    assert {t.storage for t in result.tensors} == {"csr"}


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="converts in a process")
def test_a_class_that_the_converting_process_cannot_load_is_an_error(tmp_path):
    class Local(keras.layers.Layer):
        def call(self, x):
            return x + 1

    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Local()])
    with pytest.raises(ExportError, match=r"'convert'.*register_keras_serializable"):
        export(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
