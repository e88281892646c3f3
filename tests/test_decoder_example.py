"""The example of a decoder: what it makes of a model that is small enough for a test."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from cutting import randomize

import keras_hoyer as kh

try:
    import keras_hub  # noqa: F401
except Exception:  # its dependencies may be missing while it is there itself
    pytest.skip("KerasHub cannot be imported", allow_module_level=True)

FILE = Path(__file__).parent.parent / "examples" / "decoder.py"


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("decoder", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "GENERATED", 20)
    return module


def test_pieces_of_a_text_come_with_the_letters_after_them(example):
    text = example.load_text()[:1000]
    tokens, following = example.pieces(text)
    assert tokens["token_ids"].shape == following.shape == (15, 64)
    np.testing.assert_array_equal(tokens["token_ids"][:, 1:], following[:, :-1])
    written = "".join(map(chr, text))
    for row, last in zip(tokens["token_ids"], following[:, -1], strict=True):
        assert "".join(map(chr, [*row, last])) in written


@pytest.mark.filterwarnings("ignore:Not cut", "ignore:No cut can reach")
def test_the_small_decoder_generates_and_is_as_unsure_as_the_cut_one(example):
    model = randomize(example.build_model(32))
    kh.prune(model, kh.criteria.TargetFlops(0.5), kh.patterns.Channel(uniform=True))
    small = kh.shrink(model)
    assert type(small) is type(model)
    flops, left = (sum(kh.count_flops(m).values()) for m in (model, small))
    assert 0.4 < left / flops <= 0.5
    data = example.pieces(example.load_text()[:1000])
    assert example.perplexity(small, data) == pytest.approx(example.perplexity(model, data), 1e-3)
    (text,) = example.generate(small, 1)
    assert text.startswith(example.PROMPT) and len(text) == 20
