import json
from pathlib import Path

import export_methods as methods
import keras
import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.benchmark
FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_blocks_are_cut_where_they_fit_and_single_weights_elsewhere():
    model, samples = methods.prepared(methods.mlp, lambda m: methods.blocks(m, 0.9, 16))
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers]
    assert [np.mean(kernel == 0) for kernel in kernels] == pytest.approx([0.9] * 3, abs=1e-3)
    whole = kernels[0].reshape(-1, 16, 300) != 0
    assert (whole.all(axis=1) == whole.any(axis=1)).all()
    outputs = keras.ops.convert_to_numpy(model(samples))
    assert 0.1 < np.abs(outputs).max() < 100


def test_files_are_compared_with_the_first_one(tmp_path):
    model, samples = methods.prepared(methods.mlp, lambda m: methods.blocks(m, 0.9, 4))
    for number, sparse in enumerate((False, True)):
        file = methods.file_of(tmp_path, "mlp", number)
        methods.export(model, samples, file, sparse=sparse)
    files = {"dense": methods.file_of(tmp_path, "mlp", 0), "blocks": file}
    measured = methods.compare_latencies(files, rounds=3)["files"]
    assert measured["dense"]["ratio"] == 1
    assert 0 < measured["blocks"]["quartiles"][0] <= measured["blocks"]["quartiles"][1]


def test_picture_and_table_are_made_from_the_committed_json(tmp_path):
    document = json.loads((FOLDER / "results" / "export_methods.json").read_text())
    assert methods.table(document) in (FOLDER.parent / "docs" / "export.md").read_text()
    pytest.importorskip("matplotlib")
    methods.draw(document, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
