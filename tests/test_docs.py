"""The pages of docs/: their code runs, their links lead somewhere, what they quote is said."""

import ast
import re
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BACKEND = keras.backend.backend()

# Pages of which every Python block runs from top to bottom; blocks with a title are of others.
RUN = (
    "from-paper",
    "from-tfmot",
    "from-torch-pruning",
    "looking",
    "loops",
    "shrink",
    "start",
    "training",
)
NEEDS = {"looking": ("matplotlib",), "start": ("sklearn", "ai_edge_litert")}
# The lines of a page in fewer epochs.
QUICKER = ((r"epochs=\d+", "epochs=2"), (r"epoch=\d+", "epoch=1"), (r"begin=20", "begin=1"))
OF_A_BACKEND = {"TensorFlow": "tensorflow", "JAX": "jax", "PyTorch": "torch"}


def sections(page):
    """Title and text of each section that has one, in front of them what has none."""
    first, *rest = re.split(r"^##? (.*)\n", (DOCS / f"{page}.md").read_text(), flags=re.MULTILINE)
    return [("", first), *zip(rest[::2], rest[1::2], strict=True)]


def code_of(page):
    """A page's code; of sections that are named after a backend that of this one."""
    texts = [text for title, text in sections(page) if OF_A_BACKEND.get(title) in (None, BACKEND)]
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", "".join(texts), re.DOTALL | re.MULTILINE))
    if page != "loops":
        for shown, run in QUICKER:
            code = re.sub(shown, run, code)
    return code


@pytest.mark.parametrize("page", RUN)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    if page == "start" and BACKEND != "tensorflow":
        pytest.skip("as the README's quick start, which runs on every backend")
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code_of(page), names)
    if page == "loops":
        kernel = keras.ops.convert_to_numpy(names["model"].layers[0].kernel)
        assert (kernel == 0).mean() > 0.5
    if page == "shrink":
        assert names["small"].count_params() < names["model"].count_params()


def linked():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RESULTS.md", *DOCS.rglob("*.md")]
    return sorted(page for page in pages if page.exists())


def anchors_of(page):
    """What headings of a page are called in links."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", linked(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def said_by_the_package():
    """All words of the package, as one text without variable parts."""
    words = []
    for module in (ROOT / "keras_hoyer").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.append(node.value)
    return re.sub(r"\s+", " ", " ".join(words))


def test_what_troubleshooting_quotes_is_what_the_package_says():
    text = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"`([^`\n]*\.\.\.[^`\n]*|[A-Z][^`\n]* [^`\n]*\.)`", text)
    assert len(quoted) > 50
    said = said_by_the_package().replace("`", "")
    missing = [
        part
        for quote in quoted
        for part in map(str.strip, quote.split("..."))
        if len(part) > 3 and part not in said and "(" not in part
    ]
    assert missing == []


def literal(node):
    """The words of an expression that makes a text, as far as they stand there."""
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return re.sub(r"[`\s]+", " ", " ".join(c for c in constants if isinstance(c, str)))


@pytest.mark.default_backend
def test_troubleshooting_has_each_warning_of_the_package():
    text = (DOCS / "troubleshooting.md").read_text()
    quoted = [part.strip() for q in re.findall(r"`([^`\n]+)`", text) for part in q.split("...")]
    quoted = [part for part in quoted if len(part) > 7]
    missing = []
    for module in (ROOT / "keras_hoyer").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "warn":
                said = literal(node.args[0])
                if len(said) > 20 and not any(part in said for part in quoted):
                    missing.append(f"{module.name}, line {node.lineno}: {said}")
    assert missing == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = [
        path.name
        for path in DOCS.rglob("*.md")
        if path.relative_to(DOCS).as_posix() not in navigation
    ]
    assert missing == []


@pytest.mark.benchmark
def test_the_table_of_distribution_is_made_from_the_committed_json():
    import json

    import distribution

    document = json.loads((ROOT / "benchmarks/results/distribution.json").read_text())
    assert distribution.table(document) in (DOCS / "distributed.md").read_text()


@pytest.mark.default_backend
def test_changelog_and_citation_name_the_version_of_the_package():
    import keras_hoyer as kh

    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text()
    assert newest[1] == kh.__version__
    assert f"\nversion: {newest[1]}\ndate-released: {newest[2]}\n" in citation


@pytest.mark.benchmark
def test_the_tables_of_group_penalties_are_made_from_the_committed_lines():
    import group_glm

    assert group_glm.tables() in (DOCS / "which_groups_matter.md").read_text()
