"""A part of the matrix of `benchmarks/export_matrix.py`: no cell hands over a wrong file."""

import export_matrix as matrix
import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.benchmark

CELLS = [
    ("mlp", "block4", 0.9, "int8"),
    ("mlp", "block16", 0.98, "int8"),
    ("mlp", "unstructured", 0.98, "float16"),
    ("mlp", "block4", 0.98, "dynamic"),
    ("separable", "unstructured", 0.8, None),
    ("separable", "channels", 0.9, "int8"),
    ("conv1d", "two_of_four", 0.5, "float16"),
    ("attention", "block4", 0.9, None),
    ("recurrent", "inputs", 0.5, "dynamic"),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell)))
def test_each_cell_is_a_right_file(tmp_path, cell):
    net, pattern, sparsity, quantize = cell
    outcome = matrix.cell(matrix.build(net, pattern, sparsity), quantize, tmp_path)
    assert outcome["outcome"] == "right", outcome


def test_the_patterns_cut_what_they_say():
    scores = np.random.default_rng(0).random((3, 3, 8, 16))
    for name, keep in matrix.PATTERNS.items():
        mask = np.broadcast_to(keep(scores, 0.5), scores.shape)
        assert np.mean(mask) == pytest.approx(0.5, abs=0.15), name
    mask = matrix.PATTERNS["two_of_four"](scores, 0.5)
    assert (mask.reshape(3, 3, 2, 4, 16).sum(axis=3) == 2).all()
    mask = matrix.PATTERNS["block4"](scores[0, 0].repeat(2, axis=0), 0.5)
    assert set(mask.reshape(4, 4, 16).sum(axis=1).ravel()) == {0, 4}
