"""What the README shows is what a user can type."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


def quick_start() -> str:
    """All of the README's code, the same lines in fewer epochs."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    for shown, run in (("epochs=30", "epochs=2"), ("epoch=20", "epoch=1")):
        assert shown in code
        code = code.replace(shown, run)
    return code


def test_the_quick_start_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(quick_start(), names)

    model, small, x = names["model"], names["small"], names["x"][:50]
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)
    assert small.count_params() < 0.8 * model.count_params()
    assert not any("keras_hoyer" in str(layer.get_config()) for layer in small.layers)
    assert (tmp_path / "small.tflite").stat().st_size == names["result"].bytes
    assert "sparsity" in capsys.readouterr().out


@pytest.mark.benchmark
def test_the_figures_below_the_picture_are_those_of_the_committed_runs():
    import demo

    document = json.loads((README.parent / "benchmarks/results/demo.json").read_text())
    rows = demo.means(document)
    dense, int8 = rows["dense"], rows["int8"]
    lost = 100 * (dense["accuracy"] - int8["accuracy"])
    assert (
        f"1/{dense['bytes'] / int8['bytes']:.0f} of the bytes, takes 1/{1 / int8['ratio']:.0f} of "
        f"the time and loses {lost:.1f} points"
    ) in README.read_text()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) < 120


def test_the_two_commands_stand_at_the_top_and_exist():
    top = README.read_text()[:1200]
    makefile = (README.parent / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in top
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_every_public_name_is_in_the_list_of_names():
    import keras_hoyer as kh

    text = (README.parent / "docs" / "names.md").read_text()
    missing = [name for name in kh.__all__ if name not in text]
    assert missing == []
