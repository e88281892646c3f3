"""What people see of results: tables that fit a screen, in notebooks too, and short reprs."""

import json
from pathlib import Path

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import keras_hoyer as kh
from keras_hoyer import _tables
from keras_hoyer.exporters import Candidate, ExportResult, StoredTensor, comparison
from keras_hoyer.reports import KernelReport, Report

pytestmark = pytest.mark.default_backend


def width(text):
    return max(map(len, text.splitlines()))


# --- tables ---------------------------------------------------------------------------------------

words = st.text("abc <&>", max_size=30)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[words] * n), min_size=1)))
def test_a_text_table_holds_each_cell_in_its_column(rows):
    lines = _tables.text_table(rows, right=[0]).split("\n")
    assert len(lines) == len(rows)
    start = 0
    for column in zip(*rows, strict=True):
        size = max(map(len, column))
        for line, cell in zip(lines, column, strict=True):
            assert line.ljust(start + size)[start : start + size].strip() == cell.strip()
        start += size + len(_tables.GAP)


def test_the_last_column_is_wrapped_to_the_width_and_loses_no_word():
    reason = "the file fails since " + "many words say why " * 10
    text = _tables.text_table([("name", "outcome"), ("dense", reason), ("b", "kept")], width=60)
    assert width(text) <= 60
    lines = text.splitlines()
    assert " ".join(line[7:].strip() for line in lines[1:-1]) == reason.strip()
    assert lines[-1] == "b      kept"


@given(st.text(min_size=1, max_size=80), st.integers(20, 40))
def test_long_names_keep_both_ends(text, size):
    short = _tables.shorten(text, size)
    assert len(short) == min(len(text), size)
    if len(text) > size:
        assert short.startswith(text[:8]) and short.endswith(text[-8:]) and "..." in short


@given(st.integers(0, 10**14 - 1))
def test_short_counts_are_right_to_three_figures(number):
    text = _tables.short_count(number)
    assert len(text) <= 7
    value = float(text.rstrip("MGT").replace(",", ""))
    value *= {"M": 1e6, "G": 1e9, "T": 1e12}.get(text[-1], 1)
    assert value == pytest.approx(number, rel=5.1e-3)


# --- reports --------------------------------------------------------------------------------------


def deep_report(held=58_982_400 - 5_898_240):
    kernel = KernelReport(
        name="encoder/stage_4/block_17/attention/multi_head/query_projection/kernel",
        shape=(3, 3, 1280, 5120),
        total=58_982_400,
        nonzero=5_898_240,
        sparsity=0.9,
        held=held,
        overwritten=0,
        hoyer=0.7,
        effective=4e6,
        channels=5120,
        zero_channels=4000,
        flops=2_890_137_600,
        flops_left=289_013_760,
    )
    sums = {"total": 2 * kernel.total, "nonzero": 2 * kernel.nonzero, "sparsity": 0.9}
    sums.update(held=2 * held, overwritten=0)
    sums.update(flops=2 * kernel.flops, flops_left=2 * kernel.flops_left)
    return Report(layers=(kernel,) * 2, parameters=10**9, **sums)


def test_the_report_of_a_deep_model_fits_120_columns_and_says_what_it_said():
    text = str(deep_report())
    assert width(text) <= 120
    row = text.splitlines()[3]
    for cell in ("encoder", "/kernel", "3x3x1280x5120", "5.90M", "90.00%", "2.89G", "289M"):
        assert cell in row
    assert "118M weights" in text.splitlines()[-1]


def test_a_report_in_a_notebook_is_an_escaped_table():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="out")])
    html = kh.report(model)._repr_html_()
    assert html.startswith("<table>") and html.count("</table>") == 1
    assert "out/kernel" in html and "3 x 2" in html and "<th" in html.split("</tr>")[-2]
    assert _tables.html_lines("<script>") == "<p>&lt;script&gt;</p>"
    assert "&lt;i&gt;" in _tables.html_table([("<i>",), ("x",)])


def test_reprs_are_short_and_hold_plain_figures():
    model = keras.Sequential([keras.Input((8,)), *(layers.Dense(8) for _ in range(20))])
    report = kh.report(model)
    assert repr(report) == "Report(total=1280, nonzero=1280, sparsity=0.0, kernels: 20)"
    assert "np." not in repr(report.layers[0])
    checked = kh.check_sparse_inference(model)
    assert len(repr(checked)) < 100


# --- exports --------------------------------------------------------------------------------------


def result(size=500, dense=1200, storage="csr", kernels=1, format="tflite", **others):
    name = "functional_1/block_12_expand/convolution;" * 5
    tensors = [
        StoredTensor(f"{name}{i}", (64, 32), "float32", storage, 0.8) for i in range(kernels)
    ]
    candidates = (
        Candidate("float32 dense", "crashed with SIGSEGV: " + "because of this " * 20, dense),
        Candidate("float32 sparse", "kept", size, 1e-7, right=True),
    )
    given = {"candidates": candidates, "tensors": tuple(tensors), **others}
    return ExportResult(Path("<m>.tflite"), format, size, dense, 1e-7, 1e-4, **given)


def test_an_export_fits_100_columns():
    few, many = (str(result(kernels=kernels, notes=("word " * 60,))) for kernels in (3, 60))
    assert width(few) <= 100 and width(many) <= 100
    assert few.count("64 x 32") == 3
    (grouped,) = [line for line in many.splitlines() if line.startswith("float32 csr")]
    assert grouped.split()[2:] == ["60", "122,880", "80.0%"]
    assert "because of this because of this" in " ".join(few.split())


@pytest.mark.parametrize(
    ("size", "dense", "storage", "format", "said"),
    [
        (500, 1200, "csr", "tflite", "500 bytes, 2.40 times smaller than dense (1,200)"),
        (1300, 1000, "csr", "tflite", "1,300 bytes, 1.30 times larger than dense (1,000)"),
        (1000, 1010, "csr", "tflite", "1,000 bytes, 1.0% smaller than dense (1,010)"),
        (1000, 1000, "dense", "tflite", "1,000 bytes"),
        (1050, 1000, "dense", "safetensors", "1,050 bytes"),
        (500, 1000, "dense", "keras", "500 bytes, 2.00 times smaller than uncompressed (1,000)"),
    ],
)
def test_sizes_are_compared_where_something_was_made_smaller(size, dense, storage, format, said):
    lines = str(result(size, dense, storage, format=format)).splitlines()
    assert lines[0] == f"<m>.tflite: {said}"


def test_an_export_in_a_notebook_is_escaped_and_its_repr_short():
    shown = result(kernels=30, notes=("a & b",))
    html = shown._repr_html_()
    assert "&lt;m&gt;.tflite" in html and "a &amp; b" in html and html.count("<table>") == 2
    assert len(repr(shown)) < 160


@pytest.mark.parametrize("ending", ["npz", "keras"])
def test_figures_of_results_are_plain(tmp_path, ending):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4), layers.Dense(4)])
    values = kh.export(model, tmp_path / f"m.{ending}").to_dict()
    json.dumps(values)
    assert all(is_plain(value) for value in values.values())


def is_plain(value):
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return type(value) in (int, float, str, bool, type(None))


# --- comparisons ----------------------------------------------------------------------------------


def test_a_comparison_is_short_as_repr_and_escaped_in_notebooks():
    shown = comparison.Comparison(
        names=("a&b.keras", "b.tflite"),
        paths=(Path("a&b.keras"), Path("b.tflite")),
        bytes=(1000, 500),
        training_bytes=(2000, 0),
        milliseconds=(1.0, 0.5),
        samples=32,
        max_difference=0.1,
        mean_difference=0.01,
        error=0.05,
        equal_argmax=1.0,
        tolerance=0.1,
    )
    html = shown._repr_html_()
    assert "a&amp;b.keras" in html and "2.00" in html and "100.00%" in html
    assert "without its 2,000 bytes of training state" in str(shown)
    assert len(repr(shown)) < 140
    assert all(is_plain(value) for value in shown.to_dict().values())
