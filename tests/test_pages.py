"""The pages against the figures that they show, read with Python's own HTML parser."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_hoyer as kh
from keras_hoyer import pages
from keras_hoyer.exporters import comparison
from keras_hoyer.exporters.results import Candidate, ExportResult, StoredTensor
from keras_hoyer.pages import pictures
from keras_hoyer.reports.histograms import histogram_of

VOID = {"meta", "link", "br", "img", "input", "hr"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


class Page(html.parser.HTMLParser):
    """What is on a page; an error if a tag is not closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.wanted, self.links = [], [], [], []
        self.tables, self.texts, self.tags = {}, {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.wanted += (attributes.get("aria-labelledby") or "").split()
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        tag = self.open[-1] if self.open else ""
        self.texts.setdefault(tag, []).append(data)
        if tag == "caption":
            self.caption = data
        elif {"td", "th"} & set(self.open[-2:]):
            self.rows[-1][-1] += data


def check_page(path):
    """Reads a page that has to be whole, with ids that are unique, and that asks for nothing."""
    text = path.read_text("utf-8")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.wanted) <= set(page.ids)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}  # names of SVG
    assert {f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", text)} <= {
        f"#{name}" for name in page.ids
    }
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-labelledby"]
    return page


@pytest.fixture(scope="module")
def model():
    """A residual block with a normalization, and a head that keeps its outputs."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    z = layers.Conv2D(6, 3, padding="same", name="inner")(y)
    z = layers.Conv2D(8, 1, name="outer")(layers.BatchNormalization(name="norm")(z))
    z = layers.GlobalAveragePooling2D()(layers.Add()([y, z]))
    net = keras.Model(x, layers.Dense(4, name="logits")(z), name="net")
    kh.prune(net, kh.criteria.TargetFlops(0.6), kh.patterns.Channel())
    return net


@pytest.fixture(scope="module")
def report(model):
    return kh.report(model)


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    target = tmp_path_factory.mktemp("pages") / "report.html"
    assert report.to_html(target) == target
    return target


def test_the_page_of_a_report_shows_its_figures(report, path):
    page = check_page(path)
    assert page.texts["h1"] == ["What is left of net"] == page.texts["title"][:1]
    header, *rows, total = page.tables["Kernels"]
    assert len(rows) == len(report.layers) == 4
    for row, layer in zip(rows, report.layers, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert cells["kernel"] == layer.name
        assert cells["nonzero"] == f"{layer.nonzero:,}"
        assert cells["multiply-adds"] == f"{layer.flops:,}"
    assert total[0] == "total" and f"{report.total:,}" in total
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
    drawn = " ".join(page.texts["text"])
    for layer in report.layers:
        assert drawn.count(layer.name) >= 3 and f"{layer.sparsity:.1%}" in drawn


def test_the_page_says_which_layers_hang_together_and_why_one_is_fixed(model, report, path):
    page = check_page(path)
    rows = page.tables["Channel groups"][1:]
    assert [row[3:] for row in rows] == [
        ["stem, outer", "", "inner, logits"],
        ["inner", "norm", "outer"],
    ]
    small = kh.shrink(model)
    for name, row in zip(("stem", "inner"), rows, strict=True):
        left = small.get_layer(name).filters
        assert int(row[1]) - int(row[2]) == left < int(row[1])
    assert page.tables["Layers that keep all their channels"][1:] == [
        ["logits", "fixed by the model's outputs"]
    ]
    assert "fixed by the model's outputs" in page.texts["text"]


def test_columns_can_be_sorted_by_keyboard_and_tables_be_scrolled(path):
    tags = check_page(path).tags
    heads = [attributes for tag, attributes in tags if tag == "th" and "aria-sort" in attributes]
    assert [a["aria-sort"] for a in heads] == ["none"] * len(heads) and len(heads) >= 11
    assert sum(tag == "button" and a.get("type") == "button" for tag, a in tags) == len(heads)
    for tag, attributes in tags:
        if tag == "div" and "wide" in (attributes.get("class") or ""):
            assert attributes["tabindex"] == "0" and attributes["role"] == "region"
            assert attributes.get("aria-label") or attributes.get("aria-labelledby")


def test_figures_are_drawn_as_they_are(report):
    sizes, zeros, costs = report.plot().axes
    lines = [line.get_xdata()[0] for line in sizes.get_lines()]
    assert lines == pytest.approx([layer.threshold for layer in report.layers])
    widths = [patch.get_width() for patch in zeros.patches[len(report.layers) :]]
    assert widths == pytest.approx([layer.sparsity for layer in report.layers])
    widths = [patch.get_width() for patch in costs.patches]
    wanted = [layer.flops for layer in report.layers] + [k.flops_left for k in report.layers]
    assert widths == pytest.approx(wanted)
    assert report.plot()._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_histograms_count_as_numpy_does(scale):
    values = np.random.default_rng(0).normal(size=(40, 30)) * scale
    values[::3] = 0
    found = histogram_of(values.astype("float32"))
    magnitudes = np.abs(values[values != 0]).astype("float32")
    # Off the edges, which rounding may move.
    edges = np.array(found.edges) * (1 + 1e-6)
    counts, _ = np.histogram(np.maximum(magnitudes, edges[0]), edges)
    assert sum(found.counts) == magnitudes.size
    assert np.abs(counts - found.counts).max() <= 1
    assert histogram_of(np.zeros(3)).counts == ()


def test_with_data_the_page_has_the_activations(model, tmp_path):
    report = kh.report(model, data=np.ones((4, 8, 8, 3), "float32"))
    path = report.to_html(tmp_path / "r.html")
    assert ("Activations" in check_page(path).tables) == bool(report.activations)
    active = keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu", name="a")])
    report = kh.report(active, data=np.ones((4, 3), "float32"))
    rows = check_page(report.to_html(path)).tables["Activations"]
    assert rows[1][:3] == ["a", "4", f"{report.activations[0].zeros:.2%}"]


def test_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert('1')</script>&\"`"
    net = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a<b>&c")], name="net")
    net.name = evil
    page = check_page(kh.report(net).to_html(tmp_path / "r.html"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "".join(page.texts["h1"]) == f"What is left of {evil}"
    assert page.tables["Kernels"][1][0] == "a<b>&c/kernel"


def test_models_without_kernels_or_a_graph_have_pages(tmp_path):
    class Unseen(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                raise TypeError("only numbers")
            return self.dense(x)

    unseen = Unseen()
    unseen(np.ones((1, 3), "float32"))
    page = check_page(kh.report(unseen).to_html(tmp_path / "a.html"))
    assert any("cannot be seen" in text for text in page.texts["p"])
    bare = keras.Sequential([keras.Input((3,)), layers.ReLU()])
    check_page(kh.report(bare).to_html(tmp_path / "b.html"))
    assert bare.name in (tmp_path / "b.html").read_text("utf-8")


def test_exports_and_comparisons_have_pages(tmp_path):
    result = ExportResult(
        path=Path("<m>.tflite"),
        format="tflite",
        bytes=500,
        dense_bytes=1200,
        max_error=0.01,
        tolerance=0.2,
        candidates=(
            Candidate("dense", "larger", 1200, 0.01, 0.5, True),
            Candidate("sparse", "kept", 500, 0.01, 0.25, True),
            Candidate("broken", "could not be written"),
        ),
        tensors=tuple(StoredTensor(f"t{i}", (4, 3), "int8", "csr", 0.75) for i in range(30)),
        notes=("One `note`.",),
    )
    page = check_page(result.to_html(tmp_path / "result.html"))
    assert [row[0] for row in page.tables["Candidates"]] == [
        "candidate",
        "dense",
        "sparse",
        "broken",
    ]
    assert len(page.tables["Tensors"]) == 31 and page.tables["Tensors"][1][3:] == ["12", "75.0%"]
    assert "note" in page.texts["code"]
    widths = [[patch.get_width() for patch in axes.patches] for axes in result.plot().axes]
    assert widths == [[1200, 500, 0, 500], [0.5, 0.25, 0, 0.25]]

    both = comparison.Comparison(
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
    page = check_page(both.to_html(tmp_path / "both.html"))
    assert page.texts["h1"] == ["a&b.keras and b.tflite"]
    assert page.tables["Sizes"][1] == ["bytes", "1,000", "500", "2.00"]
    assert [len(axes.patches) for axes in both.plot().axes] == [4, 4]
    one, other = (keras.Sequential([keras.Input((3,)), layers.Dense(2)], name=n) for n in "mn")
    page = check_page(kh.compare(one, other, runs=0).to_html(tmp_path / "memory.html"))
    assert page.texts["h1"] == ["model 'm' and model 'n'"]


def test_an_older_page_stays_until_there_is_a_whole_one(report, path, monkeypatch):
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pages.page, "_sections", lambda parts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pages.write(path, "title", [])
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    with pytest.raises(ValueError, match=r"`filepath`\. Expected a file"):
        report.to_html(path.parent)


def test_without_matplotlib_the_error_names_the_extra(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"Report\.plot needs matplotlib.*keras-hoyer\[plot\]"):
        report.plot()
    with pytest.raises(ImportError, match=r"keras-hoyer\[plot\]"):
        report.to_html(tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_colours_can_be_told_apart_in_light_and_dark():
    style = (Path(pages.__file__).parent / "page.css").read_text()
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in style.split("@media")[:2]]
    assert len(themes) == 2 and set(themes[0]) == set(themes[1])
    assert {key: themes[0][key] for key in pictures.COLORS} == pictures.COLORS
    for theme in themes:
        for paper in ("paper", "raised"):
            for ink in ("ink", "quiet", "mark"):
                assert contrast(theme[ink], theme[paper]) >= 4.5
            assert contrast(theme["strong"], theme[paper]) >= 3
        assert contrast(theme["strong"], theme["pale"]) >= 3


def contrast(one, other):
    """The contrast ratio of WCAG 2."""

    def luminance(color):
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_sorts_the_table_and_has_nothing_to_complain_of(report, path, tmp_path):
    probe = """<script>
      const told = [];
      addEventListener("error", (event) => told.push(event.message));
      const rows = () => [...document.querySelector("tbody").rows];
      const names = () => rows().map((row) => row.cells[0].textContent);
      const press = (i) => document.querySelectorAll("th button")[i].click();
      const order = [];
      for (const i of [3, 3, 0]) { press(i); order.push(names()); }
      const sorts = [...document.querySelectorAll("th")].map((h) => h.getAttribute("aria-sort"));
      const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
      const seen = performance.getEntriesByType("resource").length;
      document.title = JSON.stringify({ order, sorts, wide, seen, told });
    </script></body>"""
    copy = tmp_path / "copy.html"
    copy.write_text(path.read_text("utf-8").replace("</body>", probe), "utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/u"]
    done = subprocess.run(
        [BROWSER, *options, "--window-size=400,800", "--dump-dom", copy.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    sizes = {layer.name: layer.nonzero for layer in report.layers}
    down, up, by_name = found["order"]
    assert [sizes[name] for name in down] == sorted(sizes.values(), reverse=True)
    assert [sizes[name] for name in up] == sorted(sizes.values())
    assert by_name == sorted(sizes)
    assert found["sorts"][0] == "ascending" and set(found["sorts"][1:11]) == {"none"}
    assert not found["wide"] and found["seen"] == 0 and found["told"] == []
