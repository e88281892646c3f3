"""Sparse weight files: what comes back, and what is refused."""

import json
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_hoyer.exporters import (
    ExportError,
    export,
    load_sparse_weights,
    scipy_matrices,
    sparse_file,
    sparse_weights,
)


class Bag(keras.Model):
    """A model that holds given arrays as weights and computes nothing of interest."""

    def __init__(self, arrays):
        super().__init__()
        for i, array in enumerate(arrays):
            variable = self.add_weight(
                shape=array.shape,
                dtype=array.dtype.name,
                name=f"w{i}",
                initializer="zeros",
                trainable=False,  # PyTorch trains no integers
            )
            variable.assign(array)
        self.built = True

    def call(self, x):
        return x


def bits(array):
    return np.ascontiguousarray(array).tobytes()


def weights_of(model):
    return [sparse_weights.values_of(w) for w in model.weights]


def sparse_array(rng, shape, dtype, density):
    array = rng.standard_normal(shape) * (rng.random(shape) < density)
    array = np.asarray(np.where(array == 0, 0.0, array)).astype(dtype)
    return array


def small_model(units=6):
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(5, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(units),
        ]
    )


def prune(model, sparsity, rng):
    for w in model.trainable_weights:
        if len(w.shape) > 1:
            w.assign(sparse_array(rng, tuple(w.shape), "float32", 1 - sparsity))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), max_size=5).map(tuple),
    dtype=st.sampled_from(["float32", "float16", "bfloat16", "int32", "uint8", "bool"]),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_every_shape_and_dtype_comes_back_bit_for_bit(
    tmp_path_factory, shape, dtype, density, seed
):
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    array = sparse_array(np.random.default_rng(seed), shape, numpy_dtype, density)
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    export(Bag([array]), path)
    other = Bag([np.ones(shape, numpy_dtype)])
    load_sparse_weights(other, path)
    (got,) = weights_of(other)
    assert got.dtype == numpy_dtype
    assert bits(got) == bits(array)


def test_safetensors_hold_the_same_and_refuse_the_same(tmp_path):
    pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    model, other = small_model(), small_model()
    prune(model, 0.9, rng)
    path = tmp_path / "w.safetensors"
    result = export(model, path)
    assert {t.storage for t in result.tensors} >= {"dense", "bitmask"}
    load_sparse_weights(other, path)
    assert [bits(a) for a in weights_of(model)] == [bits(a) for a in weights_of(other)]
    content = path.read_bytes()
    for damaged in (content[:-10], content[:20], b"", content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        assert_refused(other, path, "damaged")


def test_special_values_come_back_and_negative_zero_becomes_positive(tmp_path):
    tiny = np.array([1], "uint32").view("float32")[0]
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, tiny, -tiny, 1], "float32")
    model = Bag([array])
    export(model, tmp_path / "w.npz")
    assert bits(keras.ops.convert_to_numpy(model.weights[0])) == bits(array)  # left alone
    load_sparse_weights(model, tmp_path / "w.npz")
    wanted = array.copy()
    wanted[3] = 0.0
    (got,) = weights_of(model)
    assert bits(got) == bits(wanted)


def test_a_pruned_model_comes_back_into_a_second_one(tmp_path):
    rng = np.random.default_rng(0)
    model, other = small_model(), small_model()
    prune(model, 0.9, rng)
    result = export(model, tmp_path / "w.npz")
    assert result.max_error == 0
    assert result.bytes == (tmp_path / "w.npz").stat().st_size
    assert result.dense_bytes == sum(w.nbytes for w in weights_of(model))
    kernel = next(t for t in result.tensors if t.shape == (80, 6))
    assert kernel.sparsity == np.mean(weights_of(model)[-2] == 0)
    load_sparse_weights(other, tmp_path / "w.npz")
    assert [bits(a) for a in weights_of(model)] == [bits(a) for a in weights_of(other)]
    x = rng.standard_normal((3, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), other.predict(x, verbose=0))


def decode_by_the_documentation(path):
    """A second reader, written from the description of the format alone."""
    with np.load(path) as stored:
        header = json.loads(bytes(stored["header"]))
        flat = {
            name: np.frombuffer(planes.T.tobytes(), f"<u{len(planes)}")
            for name, planes in stored.items()
            if name != "header"
        }
    assert (header["format"], header["version"]) == ("keras_hoyer sparse weights", 1)
    used = dict.fromkeys(flat, 0)

    def take(name, n):
        used[name] += n
        return flat[name][used[name] - n : used[name]]

    arrays = []
    for entry in header["tensors"]:
        size = int(np.prod(entry["shape"]))
        values = take(f"values.{entry['stored']}", entry["count"]).view(entry["stored"])
        if entry["encoding"] == "dense":
            dense = values
        elif entry["encoding"] == "bitmask":
            mask = take("mask", (size + 7) // 8)
            kept = iter(values)
            dense = [next(kept) if mask[i // 8] >> (i % 8) & 1 else 0 for i in range(size)]
        else:
            columns = entry["shape"][-1]
            pointers = take("indptr", size // columns + 1)
            indices = take("indices", entry["count"])
            dense = np.zeros(size, entry["stored"])
            for row in range(size // columns):
                for k in range(pointers[row], pointers[row + 1]):
                    dense[row * columns + indices[k]] = values[k]
        arrays.append(np.array(dense, entry["dtype"]).reshape(entry["shape"]))
    return header, arrays


def test_the_file_is_laid_out_as_documented(tmp_path):
    rng = np.random.default_rng(1)
    arrays = [
        sparse_array(rng, (200, 300), "float32", 0.0005),
        sparse_array(rng, (30, 40), "float32", 0.3),
        sparse_array(rng, (3, 3, 4, 5), "float16", 0.4),
        sparse_array(rng, (7,), "float32", 1),
        sparse_array(rng, (), "float32", 1),
    ]
    export(Bag(arrays), tmp_path / "w.npz")
    header, decoded = decode_by_the_documentation(tmp_path / "w.npz")
    encodings = [entry["encoding"] for entry in header["tensors"]]
    assert encodings == ["csr", "bitmask", "bitmask", "dense", "dense"]
    assert [bits(a) for a in decoded] == [bits(a) for a in arrays]


def test_dense_on_request_takes_more(tmp_path):
    array = sparse_array(np.random.default_rng(0), (100, 100), "float32", 0.3)
    sparse = export(Bag([array]), tmp_path / "w.npz")
    dense = export(Bag([array]), tmp_path / "w.npz", sparse=False)
    assert dense.tensors[0].storage == "dense"
    assert sparse.bytes < dense.bytes


def test_lenet_300_100_at_98_percent_zeros_takes_at_most_28_kb(tmp_path):
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((784,)), *(keras.layers.Dense(n) for n in (300, 100, 10))]
    )
    for layer in model.layers:
        kernel = rng.standard_normal(layer.kernel.shape).astype("float32")
        kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.98)] = 0
        layer.set_weights([kernel, rng.standard_normal(layer.bias.shape)])
    assert export(model, tmp_path / "w.npz").bytes <= 28_000
    assert export(model, tmp_path / "w.npz", quantize="float16").bytes <= 17_000


def test_float16_rounds_once_and_says_by_how_much(tmp_path):
    rng = np.random.default_rng(0)
    array = sparse_array(rng, (40, 50), "float32", 0.5)
    model, other = Bag([array]), Bag([np.zeros_like(array)])
    result = export(model, tmp_path / "w.npz", quantize="float16")
    wanted = array.astype("float16").astype("float32")
    load_sparse_weights(other, tmp_path / "w.npz")
    assert bits(weights_of(other)[0]) == bits(wanted)
    assert result.max_error == pytest.approx(np.abs(wanted - array).max() / np.abs(array).max())


@pytest.mark.parametrize("largest", [1e5, 1e-9])
def test_float16_refuses_weights_that_do_not_fit(tmp_path, largest):
    (tmp_path / "w.npz").write_bytes(b"older")
    with pytest.raises(ExportError, match="do not fit into float16"):
        export(Bag([np.full((3, 3), largest, "float32")]), tmp_path / "w.npz", quantize="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]
    assert (tmp_path / "w.npz").read_bytes() == b"older"


@pytest.fixture
def exported(tmp_path):
    model = small_model()
    prune(model, 0.8, np.random.default_rng(0))
    export(model, tmp_path / "w.npz")
    return model, tmp_path / "w.npz"


def assert_refused(model, path, reason):
    before = [bits(a) for a in weights_of(model)]
    with pytest.raises(ValueError, match=reason) as caught:
        load_sparse_weights(model, path)
    assert "Nothing was changed" in str(caught.value)
    assert [bits(a) for a in weights_of(model)] == before


def test_a_truncated_file_is_refused(exported):
    model, path = exported
    content = path.read_bytes()
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        assert_refused(model, path, "damaged or truncated")


def test_a_damaged_file_is_refused_or_harmless(exported):
    _, path = exported
    other = small_model()
    content = path.read_bytes()
    wanted = decode_by_the_documentation(path)[1]
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        before = [bits(a) for a in weights_of(other)]
        try:
            load_sparse_weights(other, path)
        except ValueError:
            refused += 1
            assert [bits(a) for a in weights_of(other)] == before
        else:
            assert [bits(a) for a in weights_of(other)] == [bits(a) for a in wanted]
    assert refused > 40


def rewritten(path, change):
    """Writes the archive again with some members changed, all checksums of the zip being right."""
    with np.load(path) as stored:
        members = dict(stored.items())
    header = json.loads(bytes(members.pop("header")))
    change(header, members)
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), "uint8"), **members)


def test_contradictions_inside_an_intact_archive_are_refused(exported):
    model, path = exported
    content = path.read_bytes()

    def flip_a_value(header, members):
        members["values.float32"][0, 0] ^= 1

    def drop_the_mask(header, members):
        del members["mask"]

    def cut_the_values(header, members):
        members["values.float32"] = members["values.float32"][:, :-1]

    def add_a_value(header, members):
        members["values.float32"] = np.pad(members["values.float32"], ((0, 0), (0, 1)))

    def drop_a_key(header, members):
        del header["tensors"][0]["shape"]

    for change, reason in [
        (flip_a_value, "checksum"),
        (drop_the_mask, "mask"),
        (cut_the_values, "damaged"),
        (add_a_value, "more in it"),
        (drop_a_key, "shape"),
    ]:
        path.write_bytes(content)
        rewritten(path, change)
        assert_refused(model, path, reason)


def test_another_version_or_format_is_refused(exported):
    model, path = exported
    rewritten(path, lambda header, members: header.update(version=2))
    assert_refused(model, path, "version is 2, this keras_hoyer reads 1")
    np.savez(path, weights=np.zeros(3))
    assert_refused(model, path, "no file of sparse weights")
    path.write_text("hello")
    assert_refused(model, path, "no such file at all")


def test_another_model_is_refused_by_name(exported):
    _, path = exported
    assert_refused(small_model(units=7), path, r"kernel .*\(80, 6\).*would go into .*\(80, 7\)")
    assert_refused(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), path, "model has 2"
    )
    half = Bag([np.zeros((3, 3), "float16")])
    export(Bag([np.zeros((3, 3), "float32")]), path)
    assert_refused(half, path, "float32.*float16")


def test_a_missing_file_and_an_unbuilt_model_are_named(exported, tmp_path):
    model, path = exported
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        load_sparse_weights(model, tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match="model that is built"):
        load_sparse_weights(keras.Sequential([keras.layers.Dense(3)]), path)


def test_a_file_that_reads_back_differently_is_not_handed_over(tmp_path, monkeypatch):
    write = sparse_file.write_npz

    def write_wrongly(path, header, arrays):
        write(path, header, arrays)
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
            archive.writestr("header.npy", b"")

    monkeypatch.setattr(sparse_file, "write_npz", write_wrongly)
    with pytest.raises(ExportError, match="'check'"):
        export(small_model(), tmp_path / "w.npz")
    assert not list(tmp_path.iterdir())


def test_scipy_matrices_compute_what_the_layer_does(tmp_path):
    pytest.importorskip("scipy")
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(9, name="d")])
    prune(model, 0.7, np.random.default_rng(0))
    export(model, tmp_path / "w.npz")
    (path, matrix), *others = scipy_matrices(tmp_path / "w.npz").items()
    assert path.endswith("d/kernel") and not others
    assert matrix.nnz == np.count_nonzero(weights_of(model)[0])
    x = np.random.default_rng(1).standard_normal((4, 20)).astype("float32")
    np.testing.assert_allclose(x @ matrix, model.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


def test_empty_tensors_and_scalars_come_back(tmp_path):
    arrays = [np.zeros(shape, "float32") for shape in ((0,), (0, 3), (3, 0), (2, 0, 3), ())]
    model = Bag(arrays)
    for sparse in ("auto", False):
        export(model, tmp_path / "w.npz", sparse=sparse)
        load_sparse_weights(model, tmp_path / "w.npz")
        assert [w.shape for w in weights_of(model)] == [a.shape for a in arrays]
    pytest.importorskip("scipy")
    shapes = [matrix.shape for matrix in scipy_matrices(tmp_path / "w.npz").values()]
    assert shapes == [(0, 3), (3, 0), (0, 3)]


def test_a_load_that_fails_midway_puts_everything_back(exported, monkeypatch):
    _, path = exported
    other = small_model()
    other.weights[0].assign(-other.weights[0] * 0)  # -0.0 comes back as such
    before = [bits(keras.ops.convert_to_numpy(w)) for w in other.weights]
    broken = other.weights[3]
    assign = type(broken).assign
    failed = []

    def run_out(self, value):
        if self is broken and not failed:
            failed.append(True)
            raise MemoryError("no room on the device")
        return assign(self, value)

    monkeypatch.setattr(type(broken), "assign", run_out)
    with pytest.raises(MemoryError):
        load_sparse_weights(other, path)
    assert failed
    assert [bits(keras.ops.convert_to_numpy(w)) for w in other.weights] == before
    load_sparse_weights(other, path)


class Lazy(keras.Model):
    """A model that calls one of its layers only when asked to."""

    def __init__(self):
        super().__init__()
        self.always = keras.layers.Dense(2)
        self.later = keras.layers.Dense(3)

    def call(self, x, both=False):
        return self.later(self.always(x)) if both else self.always(x)


def test_a_layer_that_is_not_built_yet_is_named(tmp_path):
    model, other = Lazy(), Lazy()
    model(np.zeros((1, 4), "float32"), both=True)
    other(np.zeros((1, 4), "float32"))
    export(model, tmp_path / "w.npz")
    assert_refused(other, tmp_path / "w.npz", rf"model has 2; {other.later.name} of it are not")
    other(np.zeros((1, 4), "float32"), both=True)
    load_sparse_weights(other, tmp_path / "w.npz")


def test_shared_layers_are_stored_once_and_equal_paths_are_told_apart(tmp_path):
    shared = keras.layers.Dense(4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    export(model, tmp_path / "w.npz")
    assert len(decode_by_the_documentation(tmp_path / "w.npz")[1]) == 2
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2, 3)).astype("float32") for _ in range(3)]
    bag = Bag(arrays)
    for variable in bag.weights:
        variable._path = "same/w"
    export(bag, tmp_path / "w.npz")
    pytest.importorskip("scipy")
    matrices = scipy_matrices(tmp_path / "w.npz")
    assert list(matrices) == ["same/w", "same/w (2)", "same/w (3)"]
    for matrix, array in zip(matrices.values(), arrays, strict=True):
        np.testing.assert_array_equal(matrix.toarray(), array)


def test_a_device_that_never_ends_is_no_file(exported):
    model, _ = exported
    for path in ("/dev/zero", "/"):
        with pytest.raises(ValueError, match="Expected a file"):
            load_sparse_weights(model, path)
