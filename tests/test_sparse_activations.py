"""The example on sparse activations: what it measures, and its picture."""

import keras
import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
import sparse_activations

pytestmark = pytest.mark.benchmark


def test_the_share_of_zeros_is_that_of_the_relus_on_test_images(monkeypatch, tmp_path):
    made = []
    build = sparse_activations.build
    monkeypatch.setattr(sparse_activations, "build", lambda p: made.append(build(p)) or made[0])
    monkeypatch.setattr(sparse_activations, "BATCH", 299)
    result = sparse_activations.train(lambda: keras.regularizers.L1(1e-3), seed=0, epochs=1)
    x, y = sparse_activations.load_data()
    relus = [layer.output for layer in made[0].layers if layer.name.startswith("relu")]
    outputs = keras.Model(made[0].inputs, [*relus, made[0].layers[-1].output])(x[1347:])
    *values, logits = (keras.ops.convert_to_numpy(output) for output in outputs)
    zeros = sum(int((value == 0).sum()) for value in values) / sum(v.size for v in values)
    assert result.zeros == pytest.approx(zeros, abs=1e-4)
    assert result.test == pytest.approx(100 * np.mean(logits.argmax(-1) == y[1347:]), abs=0.3)
    found = {name: {1.0: result} for name in sparse_activations.PENALTIES}
    sparse_activations.draw(result, found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
