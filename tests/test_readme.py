"""What the README shows is what a user can type."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


def quick_start() -> str:
    section = README.read_text().split("## Quick start")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    # The same lines on less data, in fewer epochs.
    for shown, run in (("epochs=90", "epochs=3"), ("epoch=60", "epoch=1")):
        assert shown in code
        code = code.replace(shown, run)
    return code


def test_quick_start_trains_prunes_and_exports(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pretrained = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    names = {
        "pretrained": pretrained,
        "x": rng.random((200, 784), dtype="float32"),
        "y": rng.integers(0, 10, 200),
    }
    exec(quick_start(), names)

    assert pretrained.get_layer("head").kernel_regularizer.factor == 1e-4
    assert (tmp_path / "model.tflite").stat().st_size == names["result"].bytes
    assert np.mean(names["model"].layers[0].kernel.numpy() == 0) > 0.01
    assert "sparsity" in capsys.readouterr().out


def test_the_two_commands_stand_at_the_top_and_exist():
    top = README.read_text()[:1200]
    makefile = (README.parent / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in top
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_every_public_name_is_in_the_readme():
    import keras_hoyer as kh

    text = README.read_text()
    missing = [name for name in kh.__all__ if name not in text]
    assert missing == []
