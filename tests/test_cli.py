"""The command line does to files what the library does to models, and says how it went."""

import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_hoyer as kh
from keras_hoyer.cli import export, main, program, prune
from keras_hoyer.cli.command import Answer
from keras_hoyer.exporters import comparison, exporting, sides
from keras_hoyer.masks import KeepZeros

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Works in an empty folder that holds `model.keras`."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    save(mlp(), "model.keras")


@pytest.fixture
def run(capsys):
    """Runs a line; returns the exit code, stdout and stderr."""

    def run(line):
        try:
            code = main(shlex.split(line))
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run


def mlp(seed=0):
    rng = np.random.default_rng(seed)
    layers = [keras.layers.Dense(32, "relu", name="hidden"), keras.layers.Dense(4, name="out")]
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile("adam", "mse")
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


def save(model, name):
    model.save(name)
    return model


def kernels(name):
    """The kernels in a file, as Keras reads them."""
    model = keras.models.load_model(name, compile=False)
    return [np.asarray(w) for w in model.get_weights() if w.ndim > 1]


def zeros(name):
    return sum(int((kernel == 0).sum()) for kernel in kernels(name))


def forward(name, x):
    """Outputs in NumPy, in double precision."""
    weights = keras.models.load_model(name, compile=False).get_weights()
    w, b, v, c = (weight.astype("float64") for weight in weights)
    return np.maximum(x @ w + b, 0) @ v + c


def samples(count=50, name="samples.npy"):
    x = np.random.default_rng(1).standard_normal((count, 16)).astype("float32")
    np.save(name, x)
    return x


# --- report -------------------------------------------------------------------------------------


def test_report_prints_the_table_of_the_library(run):
    code, out, err = run("report model.keras")
    assert (code, out) == (0, f"{kh.report(keras.models.load_model('model.keras'))}\n")
    assert "loading model.keras" in err


def test_report_and_compare_write_pages(run):
    assert run("report model.keras --html report.html")[0] == 0
    assert "hidden/kernel" in Path("report.html").read_text("utf-8")
    assert run("compare model.keras model.keras --runs 0 --html both.html")[0] == 0
    assert "largest difference" in Path("both.html").read_text("utf-8")
    code, _, err = run("report model.keras --html no/report.html")
    assert code == 1 and "--html no/report.html" in err.replace("'", "")


def test_report_in_json_counts_what_is_in_the_file(run):
    model = keras.models.load_model("model.keras")
    weights = model.get_weights()
    weights[0][:, :3] = 0
    model.set_weights(weights)
    save(model, "model.keras")
    code, out, _ = run("report model.keras --layers hidden --json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["total"], answer["nonzero"]) == (16 * 32, 16 * 29)
    assert [layer["zero_channels"] for layer in answer["layers"]] == [3]


# --- prune --------------------------------------------------------------------------------------


def test_prune_cuts_the_smallest_weights_and_reports(run):
    code, out, _ = run("prune model.keras -o cut.keras --sparsity 0.9")
    assert code == 0
    assert "90.00%" in out
    sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+) (?:bytes|of tr)", out)]
    assert sum(sizes) == os.path.getsize("cut.keras")
    assert zeros("cut.keras") == round(0.9 * 640)
    for before, after in zip(kernels("model.keras"), kernels("cut.keras"), strict=True):
        np.testing.assert_array_equal(after[after != 0], before[after != 0])
        assert np.abs(before[after == 0]).max() < np.abs(after[after != 0]).min()
    assert zeros("model.keras") == 0


def test_prune_in_json_says_what_is_in_the_file(run):
    code, out, _ = run("prune model.keras -o cut.keras --sparsity 0.5 --json")
    answer = json.loads(out)
    assert code == 0
    assert answer["bytes"] + answer["training_state_bytes"] == os.path.getsize("cut.keras")
    assert answer["report"]["total"] - answer["report"]["nonzero"] == zeros("cut.keras") == 320


def test_pruned_models_keep_zeros_and_optimizer_and_stripped_ones_are_plain(run):
    assert run("prune model.keras -o cut.keras --sparsity 0.5")[0] == 0
    assert run("prune model.keras -o plain.keras --sparsity 0.5 --strip")[0] == 0
    cut, plain = (keras.models.load_model(name) for name in ("cut.keras", "plain.keras"))
    assert isinstance(cut.get_layer("hidden").kernel_constraint, KeepZeros)
    assert isinstance(cut.optimizer, keras.optimizers.Adam)
    assert plain.get_layer("hidden").kernel_constraint is None
    assert zeros("plain.keras") == 320


@pytest.mark.parametrize("pattern", ["block:4x1", "2:4", "channel"])
def test_prune_cuts_patterns_whole(run, pattern):
    assert run(f"prune model.keras -o cut.keras --sparsity 0.5 --pattern {pattern}")[0] == 0
    first, second = (kernel == 0 for kernel in kernels("cut.keras"))
    groups = first.reshape(4, 4, 32).sum(axis=1)
    if pattern == "block:4x1":
        assert set(groups.flat) == {0, 4}
        assert first.sum() + second.sum() == 320
    elif pattern == "2:4":
        assert set(groups.flat) == {2}
    else:
        np.testing.assert_array_equal(first.all(axis=0), first.any(axis=0))
        np.testing.assert_array_equal(first.all(axis=0), second.all(axis=1))
        assert first.all(axis=0).sum() == 16


@pytest.mark.parametrize(
    ("option", "threshold"),
    [
        ("--threshold 0.4", lambda w: 0.4),
        ("--std-ratio 0.3", lambda w: 0.3 * w.std(dtype="float64")),
        ("--hoyer-ratio 0.2", lambda w: 0.2 * (w.astype("float64") ** 2).sum() / np.abs(w).sum()),
    ],
)
def test_prune_takes_every_threshold(run, option, threshold):
    assert run(f"prune model.keras -o cut.keras {option}")[0] == 0
    for before, after in zip(kernels("model.keras"), kernels("cut.keras"), strict=True):
        np.testing.assert_array_equal(after == 0, np.abs(before) < threshold(before))


def test_prune_takes_layers_and_scope(run):
    assert run("prune model.keras -o a.keras --sparsity 0.5 --layers out")[0] == 0
    assert run("prune model.keras -o b.keras --sparsity 0.5 --scope layer")[0] == 0
    assert [int((kernel == 0).sum()) for kernel in kernels("a.keras")] == [0, 64]
    assert [int((kernel == 0).sum()) for kernel in kernels("b.keras")] == [256, 64]


def test_prune_may_replace_its_own_input(run):
    assert run("prune model.keras -o model.keras --sparsity 0.5")[0] == 0
    assert zeros("model.keras") == 320


# --- shrink -------------------------------------------------------------------------------------


def test_shrink_says_what_is_left_and_answers_the_same(run):
    assert run("prune model.keras -o cut.keras --pattern channel --flops 0.5")[0] == 0
    code, out, _ = run("shrink cut.keras -o small.keras --json")
    answer = json.loads(out)
    units = kernels("small.keras")[0].shape[1]
    assert code == 0
    assert units == 16
    assert answer["parameters"] == {"before": 676, "after": 17 * units + 4 * (units + 1)}
    assert answer["multiply_adds"] == {"before": 640, "after": 20 * units}
    x = samples()
    np.testing.assert_allclose(forward("small.keras", x), forward("cut.keras", x), atol=1e-12)
    _, out, _ = run("shrink cut.keras -o small.keras")
    assert "multiply-adds: 640 before, 320 after (50.0%)" in out


def test_a_shrunk_model_that_answers_otherwise_is_not_written(run, monkeypatch):
    Path("small.keras").write_text("older")
    monkeypatch.setattr("keras_hoyer.graph.shrink.shrink", lambda model, **_: mlp(seed=1))
    code, out, err = run("shrink model.keras -o small.keras")
    assert (code, out) == (1, "")
    assert "0.0001 is allowed" in err
    assert Path("small.keras").read_text() == "older"


# --- export -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["npz", "safetensors", "keras"])
def test_export_writes_files_that_give_back_the_weights(run, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    assert run("prune model.keras -o cut.keras --sparsity 0.9")[0] == 0
    code, out, _ = run(f"export cut.keras -o out.{ending} --json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["format"], answer["bytes"]) == (ending, os.path.getsize(f"out.{ending}"))
    model = mlp(seed=1)
    if ending == "keras":
        model = keras.models.load_model("out.keras")
    else:
        kh.load_sparse_weights(model, f"out.{ending}")
    for ours, theirs in zip(model.get_weights()[::2], kernels("cut.keras"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_export_passes_all_arguments_on(run, monkeypatch):
    received = {}

    def export(model, path, **arguments):
        received.update(arguments, path=path)
        raise kh.ExportError("check", "no.")

    monkeypatch.setattr("keras_hoyer.exporters.exporting.export", export)
    x = samples()
    line = "export model.keras -o a.bin --format tflite --quantize int8 --io-dtype uint8"
    line = f"{line} --sparse true"
    code, _, err = run(f"{line} --optimize-for latency --data samples.npy --tolerance 0.3")
    assert code == 1
    assert err.splitlines()[-1].startswith("keras-hoyer export: The export failed at the step")
    np.testing.assert_array_equal(received.pop("representative_data"), x)
    assert received == {
        "path": Path("a.bin"),
        "format": "tflite",
        "quantize": "int8",
        "sparse": True,
        "tolerance": 0.3,
        "optimize_for": "latency",
        "io_dtype": "uint8",
    }


def test_a_failed_export_is_one_line_and_leaves_the_older_file(run):
    Path("out.npz").write_text("older")
    model = mlp()
    model.set_weights([1e6 * w for w in model.get_weights()])
    save(model, "large.keras")
    code, out, err = run("export large.keras -o out.npz --quantize float16")
    assert (code, out) == (1, "")
    assert "do not fit into float16" in err.splitlines()[-1]
    assert Path("out.npz").read_text() == "older"


def test_the_lines_of_the_page_run(run):
    pytest.importorskip("ai_edge_litert")
    section = (ROOT / "docs" / "cli.md").read_text()
    lines = re.search(r"```sh\n(.*?)```", section, re.DOTALL).group(1).splitlines()
    assert {line.split()[1] for line in lines} == {"report", "prune", "shrink", "export", "compare"}
    x = samples()
    for line in lines:
        code, out, err = run(line.split("#")[0].removeprefix("keras-hoyer "))
        assert code == 0, err
        assert out
    # The last one compares the small network with its file.
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter("small.tflite").get_signature_runner()
    (got,) = runner(**{next(iter(runner.get_input_details())): x}).values()
    difference = np.abs(got - forward("small.keras", x)).max()
    shown = float(re.search(r"largest difference +(\S+)", out).group(1))
    assert shown == pytest.approx(difference, abs=3e-6)


# --- compare ------------------------------------------------------------------------------------


def shifted(name="other.keras", shift=(0.5, 0, 0, 0)):
    model = keras.models.load_model("model.keras")
    *weights, bias = model.get_weights()
    model.set_weights([*weights, bias + np.array(shift, "float32")])
    return save(model, name)


def test_compare_finds_a_changed_weight_and_says_by_how_much(run):
    shifted()
    x = samples()
    code, out, _ = run("compare model.keras other.keras --data samples.npy --runs 3 --json")
    answer = json.loads(out)
    before, after = forward("model.keras", x), forward("other.keras", x)
    assert code == 1
    assert answer["within_tolerance"] is False
    assert answer["samples"] == 50
    assert answer["max_difference"] == pytest.approx(0.5, abs=1e-5)
    assert answer["mean_difference"] == pytest.approx(0.125, abs=1e-5)
    assert answer["error"] == pytest.approx(0.5 / np.abs(before).max(), rel=1e-4)
    assert answer["equal_argmax"] == np.mean(before.argmax(axis=1) == after.argmax(axis=1))
    both = zip(answer["bytes"], answer["training_bytes"], strict=True)
    assert [sum(pair) for pair in both] == [os.path.getsize(name) for name in answer["paths"]]
    assert min(answer["milliseconds"]) > 0


def test_compare_shows_a_table_and_keeps_to_the_tolerance(run):
    shifted()
    code, out, err = run("compare model.keras other.keras --tolerance 0.9 --runs 0")
    assert code == 0
    assert "within the tolerance of 0.9" in out
    assert "milliseconds" not in out
    assert "loading other.keras" in err
    assert run("compare model.keras model.keras --tolerance 0 --runs 0")[0] == 0


def test_compare_runs_onnx_files(run):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    w, b, v, c = keras.models.load_model("model.keras").get_weights()
    helper = onnx.helper
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size])
        for name, size in (("x", 16), ("y", 4))
    )
    stored = [
        onnx.numpy_helper.from_array(array, name)
        for name, array in {"w": w, "b": b, "v": v, "c": c + 0.25}.items()
    ]
    graph = helper.make_graph(nodes, "graph", [x], [y], stored)
    opset = helper.make_opsetid("", 13)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), "model.onnx")
    code, out, _ = run("compare model.keras model.onnx --runs 3 --json")
    assert code == 1
    assert json.loads(out)["max_difference"] == pytest.approx(0.25, abs=1e-5)
    Path("broken.onnx").write_bytes(b"no graph")
    code, _, err = run("compare broken.onnx model.keras")
    assert code == 1
    assert "broken.onnx cannot be read" in err.splitlines()[-1]


def test_compare_puts_weight_files_into_a_model(run):
    assert run("export model.keras -o weights.npz --quantize float16")[0] == 0
    code, out, _ = run("compare model.keras weights.npz --model model.keras --json --runs 0")
    answer = json.loads(out)
    assert answer["bytes"][1] == os.path.getsize("weights.npz")
    assert 0 < answer["error"] < 1e-2
    assert code == 0
    code, _, err = run("compare model.keras weights.npz")
    assert code == 2
    assert "pass --model" in err


def two_inputs(batch=None):
    a = keras.Input((3,), batch_size=batch, name="a")
    b = keras.Input((5,), batch_size=batch, dtype="int32", name="b")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(4, 2)(b))
    return keras.Model([a, b], keras.layers.Concatenate()([a, embedded]))


def test_compare_takes_several_inputs_by_name_and_fixed_batches(run):
    model = save(two_inputs(), "two.keras")
    fixed = two_inputs(batch=4)
    fixed.set_weights([w + 1 for w in model.get_weights()])
    save(fixed, "fixed.keras")
    rng = np.random.default_rng(0)
    np.savez("data.npz", b=rng.integers(0, 4, (10, 5)), a=rng.random((10, 3), "float32"))
    for data in ("", "--data data.npz"):
        _, out, _ = run(f"compare two.keras fixed.keras {data} --runs 2 --json")
        answer = json.loads(out)
        assert answer["max_difference"] == pytest.approx(1, abs=1e-6)
        assert answer["mean_difference"] == pytest.approx(10 / 13, abs=1e-6)
        assert answer["samples"] == (8 if data else 4)


def test_outputs_that_are_no_class_scores_have_no_argmax():
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.Dense(4)])
    side = sides.KerasSide(Path("model.keras"), model)
    assert comparison.compare(side, side, runs=0).equal_argmax is None


# --- what is of no use but to train on ------------------------------------------------------------


def copy_of(layer):
    return type(layer).from_config(layer.get_config())


def trained(name="trained.keras"):
    """A model with Adam's slots full of figures."""
    model = mlp()
    rng = np.random.default_rng(2)
    model.fit(rng.standard_normal((8, 16)), rng.standard_normal((8, 4)), verbose=0)
    return save(model, name)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bytes_are_those_of_the_model_without_its_training(run, compression):
    model = trained("stored.keras")
    plain = keras.Sequential([keras.Input((16,)), *map(copy_of, model.layers)])
    plain.set_weights(model.get_weights())
    save(plain, "plain_stored.keras")
    for name in ("", "plain_"):
        with (
            zipfile.ZipFile(f"{name}stored.keras") as source,
            zipfile.ZipFile(f"{name}trained.keras", "w", compression) as target,
        ):
            for member in source.namelist():
                target.writestr(member, source.read(member))
    code, out, _ = run("compare trained.keras plain_trained.keras --runs 0 --json")
    answer = json.loads(out)
    assert code == 0
    # How it was compiled stays: about a thousand bytes.
    assert answer["bytes"][0] == pytest.approx(answer["bytes"][1], abs=2000)
    assert answer["bytes"][1] == os.path.getsize("plain_trained.keras")
    assert answer["training_bytes"][0] > 2 * 4 * 640 * (0.8 if compression else 1)
    assert "bytes of training state" in run("compare trained.keras model.keras --runs 0")[1]


# --- tolerances -----------------------------------------------------------------------------------


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the conversion is the same")
@pytest.mark.parametrize(("quantize", "tolerance"), [("dynamic", 0.1), ("int8", 0.2)])
def test_compare_allows_what_export_allows(run, quantize, tolerance):
    pytest.importorskip("ai_edge_litert")
    # Smaller kernels stay in float32 in dynamic files.
    layers = [keras.layers.Dense(128, "relu"), keras.layers.Dense(4)]
    save(keras.Sequential([keras.Input((16,)), *layers]), "model.keras")
    # Random inputs go below 0, which this file in int8 knows nothing of.
    np.save("samples.npy", np.random.default_rng(1).random((200, 16), "float32"))
    line = f"export model.keras -o small.tflite --quantize {quantize} --data samples.npy"
    assert run(line)[0] == 0
    for data in ("", " --data samples.npy"):
        code, out, _ = run(f"compare model.keras small.tflite --runs 0 --json{data}")
        answer = json.loads(out)
        assert code == 0
        assert 1e-4 < answer["error"] < answer["tolerance"] == tolerance
        code, out, _ = run(f"compare model.keras small.tflite --runs 0 --tolerance 1e-6{data}")
        assert code == 1
        assert "ABOVE" in out
        assert ("pass --data" in out) == (not data)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_compare_allows_weights_in_half_precision_what_half_precision_costs(run, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    for quantize, tolerance in (("", 1e-4), ("--quantize float16", 1e-2)):
        assert run(f"export model.keras -o w.{ending} {quantize}")[0] == 0
        _, out, _ = run(f"compare model.keras w.{ending} --model model.keras --json --runs 0")
        answer = json.loads(out)
        assert answer["tolerance"] == tolerance
        assert (answer["error"] > 0) == (quantize != "") and answer["within_tolerance"]


def test_shrink_compares_on_the_samples_that_it_is_given(run):
    samples(7)
    assert run("prune model.keras -o cut.keras --pattern channel --flops 0.5")[0] == 0
    code, out, _ = run("shrink cut.keras -o small.keras --data samples.npy --tolerance 1e-5")
    assert code == 0
    assert "largest difference on the samples of --data" in out
    np.save("samples.npy", np.ones((3, 5)))
    code, _, err = run("shrink cut.keras -o small.keras --data samples.npy")
    assert code == 1
    assert "Invalid value for --data" in err.splitlines()[-1]


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "COMMAND"),
        ("prune model.keras -o a.keras", "one of the arguments --sparsity --threshold"),
        ("prune model.keras --sparsity 0.5", "-o/--output"),
        ("prune model.keras -o a.h5 --sparsity 0.5", "ends in .keras. Received: a.h5"),
        ("prune model.keras -o a.keras --sparsity 0.5 --threshold 1", "not allowed with"),
        ("prune model.keras -o a.keras --sparsity 1.5", "argument --sparsity: Expected a share"),
        ("prune model.keras -o a.keras --sparsity 0.9 --pattern 2:4", "2:4 cuts at most 0.5"),
        ("prune model.keras -o a.keras --sparsity 0.9 --pattern 4:2", "the larger). Received: 4:2"),
        ("prune model.keras -o a.keras --sparsity 0.9 --pattern rows", "Received: rows"),
        ("prune model.keras -o a.keras --threshold 1 --scope layer", "--flops only"),
        ("prune model.keras -o a.keras --flops 0.5", "Expected --pattern channel"),
        ("export model.keras -o a.bin", ".tflite, .onnx"),
        ("export model.keras -o a.tflite --quantize int8", "argument --data"),
        ("export model.keras -o a.tflite --sparse maybe", "Received: maybe"),
        ("export model.keras -o a.npz --tolerance -1", "argument --tolerance: Expected"),
        ("compare model.keras", "FILE"),
        ("compare model.keras model.keras --runs -1", "Received: -1"),
        ("compare model.keras w.npz", "pass --model"),
        ("export model.keras -o a.onnx --quantize float16", "--quantize: Expected none for .onnx"),
        ("export model.keras -o a.npz --quantize int8", "--quantize: Expected float16 for .npz"),
        ("export model.keras -o a.tflite --io-dtype int8", "goes with --quantize int8"),
        ("export model.keras -o a.npz --optimize-for latency", "latency is for .tflite"),
        ("export model.keras -o a.npz --format keras", "argument --format: Expected npz"),
        ("prune model.keras -o a.keras --sparsity nan", "argument --sparsity: Expected a share"),
        ("shrink model.keras -o a.keras --tolerance x", "argument --tolerance: Expected"),
    ],
)
def test_wrong_usage_is_2_and_writes_nothing(run, line, message):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert message in err
    assert os.listdir() == ["model.keras"]


def truncate():
    content = Path("model.keras").read_bytes()
    Path("damaged.keras").write_bytes(content[: len(content) // 2])


def put_nan():
    shifted("nan.keras", shift=(np.nan, 0, 0, 0))


@pytest.mark.parametrize(
    ("line", "message", "prepare"),
    [
        ("report none.keras", "There is no file none.keras", None),
        ("report .", "Received: ., a folder", None),
        ("report damaged.keras", "Received: damaged.keras, which is none or is damaged", truncate),
        ("report samples.npy", "Expected a .keras file", samples),
        ("prune model.keras -o a.keras --sparsity 0.5 --layers x", "no layer named 'x'", None),
        (
            "prune model.keras -o a.keras --sparsity 0.5 --pattern block:5x1",
            "does not divide",
            None,
        ),
        (
            "prune model.keras -o none/a.keras --sparsity 0.5",
            "-o none/a.keras (there is no folder)",
            None,
        ),
        ("export model.keras -o . --format npz", "Received: -o . (a folder)", None),
        ("shrink model.keras -o model.keras/a.keras", "a folder that exists", None),
        pytest.param(
            "export model.keras -o /proc/a.npz",
            "a folder that can be written",
            None,
            marks=pytest.mark.skipif(not os.path.isdir("/proc"), reason="there is no such folder"),
        ),
        ("export model.keras -o a.npz --data none.npy", "There is no file none.npy", None),
        ("export model.keras -o a.npz --data model.keras", "Expected arrays of numbers", None),
        ("compare model.keras none.tflite", "There is no file none.tflite", None),
        ("compare model.keras nan.keras", "NaN or infinite", put_nan),
        ("compare nan.keras model.keras", "NaN or infinite", put_nan),
        ("report model.keras --import no_such_module", "cannot import no_such_module", None),
    ],
)
def test_failures_are_1_and_one_line(run, line, message, prepare):
    if prepare:
        prepare()
    before = sorted(os.listdir())
    code, out, err = run(line)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"keras-hoyer {line.split()[0]}: ")
    assert message in last
    assert "Traceback" not in err
    assert sorted(os.listdir()) == before


def declare(shape, dtype="<f4"):
    """The beginning of a `.npy` file that says it is this large."""
    header = io.BytesIO()
    declared = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, declared)
    return header.getvalue()


@pytest.mark.parametrize("shape", [(10**12, 16), (2**62, 2**62), (100, 16), (-5, 16), (0, 10**30)])
@pytest.mark.parametrize("archive", [False, True])
def test_data_that_hold_less_than_they_say_are_refused(run, shape, archive):
    content = declare(shape) + b"12345678"
    if archive:
        with zipfile.ZipFile("data.npz", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x.npy", content)
    else:
        Path("data.npz").write_bytes(content)
    code, out, err = run("compare model.keras model.keras --data data.npz")
    assert (code, out) == (1, "")
    assert "Received: data.npz" in err.splitlines()[-1]


def test_data_are_read_in_each_order_of_elements_and_byte_order(run):
    x = samples()
    answers = []
    for array in (x, np.asfortranarray(x), x.astype(">f4"), x.astype("float64")):
        np.save("other.npy", array)
        answers.append(run("compare model.keras model.keras --data other.npy --runs 0 --json")[1])
    assert len(set(answers)) == 1
    assert json.loads(answers[0])["samples"] == 50


def test_models_of_other_inputs_or_outputs_are_not_compared(run):
    save(two_inputs(), "two.keras")
    save(keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)]), "three.keras")
    for other, message in (("two", "the same inputs. Received"), ("three", "shape (32, 3)")):
        code, _, err = run(f"compare model.keras {other}.keras")
        assert code == 1
        assert message in err


def test_own_layers_need_the_module_that_registers_them(run, tmp_path, monkeypatch):
    Path("own_layers_of_a_test.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable(package='of_a_test')\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    own = importlib.import_module("own_layers_of_a_test")
    save(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), own.Twice()]), "own.keras")
    sys.modules.pop("own_layers_of_a_test")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    keras.saving.get_custom_objects().pop("of_a_test>Twice")

    code, _, err = run("report own.keras")
    assert code == 1
    assert "Twice" in err.splitlines()[-1]
    assert "--import MODULE" in err.splitlines()[-1]
    code, out, _ = run("report own.keras --import own_layers_of_a_test")
    assert code == 0
    assert "dense" in out


def test_progress_is_said_but_not_beside_json(run):
    assert "loading model.keras ..." in run("report model.keras")[2]
    assert run("report model.keras --json")[2] == ""


def test_json_has_no_figures_that_are_none():
    values = {"a": [np.inf, 1.5], "b": (float("nan"),), "c": "x"}
    assert json.loads(program._as_json(Answer(values, ""))) == {
        "a": [None, 1.5],
        "b": [None],
        "c": "x",
    }


def test_ctrl_c_is_one_line(run, monkeypatch):
    def report(model, layers):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_hoyer.reports.report", report)
    code, out, err = run("report model.keras")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "keras-hoyer report: interrupted"


def test_choices_and_packages_are_those_of_the_library():
    quantizations = {name: (None, *each) for name, each in export.QUANTIZATIONS.items()}
    assert quantizations == exporting.QUANTIZATIONS
    assert set(export.PACKAGES) <= set(quantizations)


@pytest.mark.parametrize("name", prune.AMOUNTS)
def test_amounts_stand_for_criteria(name):
    assert getattr(kh.criteria, prune.AMOUNTS[name])(0.5)


def test_warnings_are_lines_on_stderr(run):
    code, out, err = run("prune model.keras -o a.keras --threshold 100 --json")
    assert code == 0
    assert json.loads(out)["report"]["nonzero"] == 0
    assert re.search(r"^keras-hoyer prune: warning: Pruning leaves no weight in", err, re.MULTILINE)


# --- as installed -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["report", "prune", "shrink", "export", "compare"])
def test_help_teaches(run, command):
    code, out, _ = run(f"{command} --help")
    assert code == 0
    assert f"example:\n  keras-hoyer {command} " in out
    assert "exit codes:" in out
    assert f"    {command}" in run("--help")[1]


START = {
    "module": [sys.executable, "-m", "keras_hoyer"],
    "script": [sys.executable, "keras-hoyer"],
}


def start(how, *arguments, **environment):
    """Runs the program in a process of its own."""
    # What pip makes of the entry point.
    Path("keras-hoyer").write_text("from keras_hoyer.cli import main\nraise SystemExit(main())\n")
    return subprocess.run(
        [*START[how], *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize(
    ("how", "line", "code", "said"),
    [
        ("module", "--help", 0, "exit codes:"),
        ("script", "--help", 0, "exit codes:"),
        ("module", "export --help", 0, "--io-dtype"),
        ("module", "--version", 0, f"keras-hoyer {kh.__version__} (Keras {keras.__version__}, "),
        ("script", "prune model.keras -o a.keras --sparsity 2", 2, "Received: 2"),
        ("module", "export model.keras -o a.npz --quantize int8", 2, "Expected float16"),
        ("module", "report none.keras", 1, "There is no file none.keras"),
        ("module", "shrink model.keras -o none/a.keras", 1, "there is no folder"),
        ("script", "compare model.keras model.keras --data model.keras", 1, "arrays of numbers"),
    ],
)
def test_questions_of_usage_are_answered_without_keras(how, line, code, said):
    # With this backend Keras cannot be imported.
    done = start(how, *line.split(), KERAS_BACKEND="none_such")
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_failure():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*START["module"], "export", "--help"],
        check=False,
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_answer_that_nobody_reads_keeps_its_exit_code(run, monkeypatch):
    class Gone(io.TextIOWrapper):
        def write(self, text):
            raise BrokenPipeError

    with open("gone", "wb") as file:
        monkeypatch.setattr(sys, "stdout", Gone(file))
        assert main(["report", "model.keras"]) == 0
        monkeypatch.undo()


def test_the_program_loads_masks_and_own_modules_and_prints_nothing_but_json(run):
    assert run("prune model.keras -o cut.keras --sparsity 0.5")[0] == 0
    Path("own_penalty_of_a_test.py").write_text(
        "import keras_hoyer as kh\nclass Own(kh.HoyerSquare):\n    least = kh.criteria.Threshold\n"
    )
    done = start("script", *["report", "cut.keras", "--json", "--import", "own_penalty_of_a_test"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nonzero"] == 320


def test_the_installed_program_is_this_one():
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, function = config["project"]["scripts"]["keras-hoyer"].partition(":")
    assert getattr(importlib.import_module(module), function) is main
