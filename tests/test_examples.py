"""The examples that have pages: on less, in a moment, they do what the pages say."""

import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.default_backend

FOLDER = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(example, monkeypatch, folder, *arguments):
    monkeypatch.setattr(sys, "argv", [example.__name__, "--out", str(folder), *arguments])
    example.main()
    assert (folder / f"{example.__name__}.png").stat().st_size > 10_000


def test_few_ramps_takes_dead_units_off_and_leaves_the_outputs(tmp_path, monkeypatch, capsys):
    example = load("few_ramps")
    model = example.build(6)
    hidden, out = model.layers
    (w, b), (v, c) = hidden.get_weights(), out.get_weights()
    v[:2] *= 1e-6  # two units that do next to nothing
    out.set_weights([v, c])
    x = np.linspace(-1, 1, 9)[:, None]
    example.balance(model)
    expected = np.maximum(x @ w + b, 0) @ v + c
    np.testing.assert_allclose(example.outputs(model, x), expected, atol=1e-6)
    # Now weight decay is the path norm.
    squares = sum((layer.get_weights()[0] ** 2).sum() for layer in model.layers)
    np.testing.assert_allclose(squares / 2, (np.abs(w[0]) * np.abs(v[:, 0])).sum(), rtol=1e-5)
    np.testing.assert_allclose(np.sort(-b / w[0]), example.knots_of(model)[0], atol=1e-5)

    monkeypatch.setattr(example, "build", lambda units: model)
    monkeypatch.setattr(example, "PENALTIES", {"PathNorm": example.with_path_norm})
    run(example, monkeypatch, tmp_path, "--steps", "1")
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:2] == ["PathNorm", "4"]
    assert float(row[-2]) < 1e-6  # what `shrink` changed


def test_an_untrained_network_is_fitted_with_and_without_total_variation(
    tmp_path, monkeypatch, capsys
):
    example = load("denoise_untrained")
    picture = np.tile(np.repeat([0.2, 0.8], 4), (8, 1)).astype("float32")
    monkeypatch.setattr(example, "load_picture", lambda: picture)
    monkeypatch.setattr(example, "denoise_plainly", lambda noisy, picture: (noisy, 0.1))
    monkeypatch.setattr(example, "EVERY", 2)
    monkeypatch.setattr(example, "WIDTHS", (4,))
    run(example, monkeypatch, tmp_path, "--steps", "4", "--factor", "1000")
    said = capsys.readouterr().out
    assert "network alone" in said and "with TotalVariation" in said
    model = example.build(8, 2.0)
    image = keras.ops.convert_to_numpy(model(np.random.default_rng(0).random((1, 8, 8, 8))))[0]
    down = np.diff(image, axis=0, append=image[-1:])
    right = np.diff(image, axis=1, append=image[:, -1:])
    np.testing.assert_allclose(float(model.losses[0]), 2 * np.hypot(down, right).mean(), rtol=1e-4)
