"""What is said while something takes long."""

import io
import sys
import threading
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_hoyer as kh
from keras_hoyer import _progress

pytestmark = pytest.mark.default_backend


class Stream(io.StringIO):
    """A stream that is a terminal, or none, and can be waited for."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def wait_for(self, text):
        end = time.monotonic() + 20
        while text not in self.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
        assert text in self.getvalue()


@pytest.fixture
def stream(request, monkeypatch):
    found = Stream(getattr(request, "param", False))
    # Not in `sys` itself, where pytest puts its own between a fixture and its test.
    monkeypatch.setattr(_progress, "sys", SimpleNamespace(stderr=found, modules=sys.modules))
    monkeypatch.setattr(_progress, "PERIOD", 0.01)
    return found


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_progress, "PATIENCE", 0.01)


def test_what_is_short_is_not_spoken_of_and_leaves_no_thread(stream, monkeypatch):
    monkeypatch.setattr(_progress, "PATIENCE", 60)  # whatever else this machine does
    before = threading.active_count()
    with _progress.step("outer"), _progress.step("inner", 3):
        assert _progress.now() == "outer: inner 0 of 3"
    assert stream.getvalue() == "" and threading.active_count() == before
    assert _progress.now() == ""


def test_a_log_has_a_line_for_each_part_that_takes_long(stream, impatient):
    with _progress.step("outer"):
        stream.wait_for("keras_hoyer: outer ...\n")
        with _progress.step("inner"):
            stream.wait_for("keras_hoyer: outer: inner ...\n")
    assert stream.getvalue().count("\n") == 2


@pytest.mark.parametrize("stream", [True], indirect=True)
def test_a_terminal_has_one_line_that_counts_and_goes(stream, impatient):
    with _progress.step("reading batch", 3) as progress:
        for number in progress.count(range(3)):
            stream.wait_for(f"\rkeras_hoyer: reading batch {number} of 3, ")
    assert "\n" not in stream.getvalue()
    *_, last, end = stream.getvalue().split("\r")
    assert end == "" and last.isspace() and len(last) >= len("keras_hoyer: reading batch 2 of 3")


@pytest.mark.parametrize("stream", [True], indirect=True)
def test_what_is_to_stay_stands_above_the_line(stream, impatient):
    with _progress.step("a"):
        stream.wait_for("keras_hoyer: a, ")
        _progress.say("this stays")
    [kept] = [line for line in stream.getvalue().split("\r") if "\n" in line]
    assert kept == "keras_hoyer: this stays\n"


@pytest.mark.parametrize("stream", [True], indirect=True)
def test_a_line_is_no_longer_than_the_terminal(stream, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert len(_progress.Line().change("x" * 100)) == len("\r") + 39


def test_who_wants_silence_has_it(stream, impatient):
    keras.config.disable_interactive_logging()
    try:
        with _progress.step("one"):
            assert not _watchers()
    finally:
        keras.config.enable_interactive_logging()
    with _progress.silent(), _progress.step("two"):
        assert not _watchers()
    assert stream.getvalue() == ""


def _watchers():
    return [t for t in threading.enumerate() if getattr(t, "_target", None) is _progress._watch]


def test_nothing_goes_on_after_an_error():
    def broken():
        yield 1
        raise RuntimeError

    with (
        pytest.raises(RuntimeError) as kept,
        _progress.step("a"),
        _progress.step("b") as progress,
    ):
        list(progress.count(broken()))
    assert kept and _progress.now() == ""


def test_what_looks_at_data_counts_their_batches():
    heard = []

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            heard.append(_progress.now())
            return np.ones((4, 3), "float32"), np.ones((4, 2), "float32")

    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()], name="net"
    )
    model.compile("sgd", "mse")
    kh.recalibrate(model, Batches())
    assert heard == [f"recalibrating: batch {number} of 3" for number in range(3)]
    for score in (kh.scores.Activation, kh.scores.Taylor):
        heard.clear()
        kh.prune(model, kh.criteria.TargetSparsity(0.5), score=score(Batches(), batches=2))
        wanted = [f"pruning net: {score.__name__}: batch {number} of 2" for number in range(2)]
        assert heard[:2] == wanted
    assert _progress.now() == ""
