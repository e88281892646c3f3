"""The notebooks in examples/: their code runs, and they carry no outputs."""

import inspect
import json
from pathlib import Path

import keras
import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# The same lines on less, in fewer epochs, without a download.
QUICKER = {
    "quick_start": [("epochs=30", "epochs=2"), ("epoch=20", "epoch=1")],
    "pretrained": [
        ('WEIGHTS = "imagenet"', "WEIGHTS = None"),
        ("SIZE, EPOCHS = 96, 10", "SIZE, EPOCHS = 32, 1"),
        ("5 * EPOCHS", "2"),
        ("begin=EPOCHS // 2", "begin=1"),
        ("[:40]", "[:8]"),
    ],
    "reading_a_report": [("epochs=5", "epochs=1")],
}


def cells(path):
    return json.loads(path.read_text())["cells"]


def code_of(path):
    code = "\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code")
    for shown, run in QUICKER[path.stem]:
        assert shown in code
        code = code.replace(shown, run)
    return code


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    for cell in cells(path):
        assert not cell.get("outputs") and cell.get("execution_count") is None


def small_body(shape, **options):
    """Stands for the large network, and takes what that takes."""
    inspect.signature(MOBILENET).bind(shape, **options)
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="body")


MOBILENET = keras.applications.MobileNet


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore:Nothing was pruned", "ignore:This cut keeps less")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("ai_edge_litert")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.applications, "MobileNet", small_body)
    names = {}
    exec(code_of(path), names)
    if "small" in names:
        assert names["small"].count_params() <= names["model"].count_params()
        assert names["result"].path.exists()
