"""Files that were damaged, or made to do harm. `benchmarks/hostile_files.py` tries many more."""

import tracemalloc

import hostile_files
import numpy as np
import pytest
from hostile_bombs import BOMBS
from hostile_mutations import members_of, mutants, npy_of, zip_of

from keras_hoyer.exporters import export, limits, load_sparse_weights, scipy_matrices
from keras_hoyer.exporters.arrays import read_arrays

COUNTS = {"npz": 150, "safetensors": 150, "keras": 60, "data.npy": 200, "data.npz": 200}

# These take long to make, or are large; the benchmark has them.
SLOW = (
    "deflated",
    "header-deflated",
    "header-of-npy",
    "further",
    "compression",
    "many",
    "wide",
    "long",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("hostile")
    hostile_files.write_originals(folder)
    return folder


@pytest.mark.parametrize("format", hostile_files.FORMATS)
def test_nothing_but_a_value_error_comes_of_a_damaged_file(folder, format):
    read = hostile_files.READERS[format](folder)
    original = folder / f"original.{format}"
    assert read(original) == "read"
    path = folder / f"mutant.{format}"
    outcomes = []
    for content in mutants(original.read_bytes(), format, COUNTS[format], seed=1):
        path.write_bytes(content)
        outcomes.append(read(path))  # raises whatever must not come of it
    assert outcomes.count("ValueError") > COUNTS[format] / 5


@pytest.mark.parametrize("format", hostile_files.FORMATS)
def test_a_file_that_says_it_is_huge_is_refused_before_it_takes_memory(folder, format):
    read = hostile_files.READERS[format](folder)
    original = folder / f"original.{format}"
    read(original)
    path = folder / f"bomb.{format}"
    for name, make in BOMBS[format](original.read_bytes()):
        if name.startswith(SLOW):
            continue
        path.write_bytes(make())
        tracemalloc.start()
        try:
            outcome = read(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert outcome == "ValueError" or (name, format) == ("zip-size", "npz"), name
        assert peak < path.stat().st_size + 50e6, name


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_deflated_is_not_inflated_beyond_what_is_expected(folder, monkeypatch):
    zeros, size = np.zeros((1, 2**26), "uint8"), 2**26
    members = members_of((folder / "original.npz").read_bytes())
    read = hostile_files.weights_reader(folder)
    for name in ("mask.npy", "header.npy", "further.npy"):
        content = zip_of({**members, name: npy_of(zeros)})
        (folder / "deflated.npz").write_bytes(content)
        assert peak_of(lambda: read(folder / "deflated.npz")) < size / 2, name
    monkeypatch.setattr(limits, "HARMLESS_BYTES", 2**20)
    (folder / "deflated.npz").write_bytes(zip_of({"x.npy": npy_of(zeros)}))

    def read_data():
        with pytest.raises(ValueError, match="it says that it holds 67,108,864 bytes"):
            read_arrays(folder / "deflated.npz")

    assert peak_of(read_data) < size / 2


def test_a_file_of_a_larger_model_is_refused_before_its_weights_are_read(folder):
    import keras

    for encoding in ("auto", False):
        large = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(2000, use_bias=False)])
        large.set_weights([np.zeros((1000, 2000), "float32")])
        export(large, folder / "large.npz", sparse=encoding)
        small = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(8, use_bias=False)])

        def load(small=small):
            with pytest.raises(ValueError, match="belongs to another model"):
                load_sparse_weights(small, folder / "large.npz")

        assert peak_of(load) < 2e6


def test_matrices_of_a_file_that_says_it_is_huge_are_refused(folder):
    pytest.importorskip("scipy")
    for name, make in BOMBS["npz"]((folder / "original.npz").read_bytes()):
        if name.startswith(("bitmask", "csr", "dense")):
            (folder / "matrices.npz").write_bytes(make())
            with pytest.raises(ValueError, match="Cannot load sparse weights"):
                scipy_matrices(folder / "matrices.npz")
    with pytest.raises(ValueError, match="`max_bytes`"):
        scipy_matrices(folder / "original.npz", max_bytes=1000)
    assert scipy_matrices(folder / "original.npz", max_bytes=100_000)


def test_arrays_come_back_whatever_they_are(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4)),
        "b": np.asfortranarray(rng.normal(size=(3, 4)).astype("float32")),
        "c": np.zeros((0, 5), "int8"),
        "d": np.array(7),
        "e": np.array([True, False]),
        "f": np.array(["ä", "longer"]),
        "zeros": np.zeros((1000, 100)),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "b.npz", **arrays)
    for name in ("a.npz", "b.npz"):
        back = read_arrays(tmp_path / name)
        assert list(back) == list(arrays)
        for key, array in arrays.items():
            assert back[key].dtype == array.dtype
            np.testing.assert_array_equal(back[key], array)
    for key, array in arrays.items():
        np.save(tmp_path / f"{key}.npy", array)
        np.testing.assert_array_equal(read_arrays(tmp_path / f"{key}.npy"), array)
        back = read_arrays(tmp_path / f"{key}.npy")
        assert back.flags.writeable and back.flags.f_contiguous == array.flags.f_contiguous


def test_what_are_no_arrays_is_refused_by_name(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([None, {}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("objects.npy", "text.npy", "empty.npy", ""):
        with pytest.raises(ValueError, match=f"(?s)Expected .*{name or 'folder'}"):
            read_arrays(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npy")
