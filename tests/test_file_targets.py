"""`TargetLatency` and `TargetBytes`: the search, the files that it makes, and what it says."""

import re
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_hoyer as kh
from keras_hoyer import pruning, trials
from keras_hoyer.criteria import search
from keras_hoyer.criteria.base import UnitScores
from keras_hoyer.exporters import ExportError, ExportResult

ONE_CUT = kh.schedules.OneShot(1)


class Counted:
    """A share that follows from how many units stay."""

    def __init__(self, share):
        self.share = share
        self.made = 0

    def __call__(self, keep):
        self.made += 1
        return self.share(sum(int(kept.sum()) for kept in keep))


def ranked(size, seed=0):
    values = np.random.default_rng(seed).random(size).astype("float32")
    return [UnitScores("a", values[: size // 3], 1.0), UnitScores("b", values[size // 3 :], 1.0)]


@given(
    size=st.integers(30, 3000),
    target=st.floats(0.3, 0.95),
    floor=st.floats(0, 0.25),
    power=st.floats(0.5, 2),
)
def test_the_search_comes_just_below_the_share_and_cuts_the_smallest(size, target, floor, power):
    units = ranked(size)
    files = Counted(lambda left: floor + (1 - floor) * (left / size) ** power)
    keep = search.find_cut(search.Ranking(units), target, files, "of it")
    left = sum(int(kept.sum()) for kept in keep)
    step = files.share(left + 1) - files.share(left)
    assert files.share(left) <= target
    assert files.share(left) >= search.NEAR * target - step
    assert files.made <= search.MOST
    values = np.concatenate([entry.values for entry in units])
    stay = np.concatenate(keep)
    assert values[stay].min(initial=np.inf) >= values[~stay].max()


def test_a_share_that_cannot_be_reached_is_said_after_few_files():
    files = Counted(lambda left: 0.6 + 0.4 * left / 500)
    with pytest.raises(ValueError, match=re.escape("50.0% of it cannot be reached")) as error:
        search.find_cut(search.Ranking(ranked(500)), 0.5, files, "of it")
    assert "60.0% were measured" in str(error.value)
    assert files.made <= 5


def small_net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((24,)),
            keras.layers.Dense(60, "relu", name="a"),
            keras.layers.Dense(40, "relu", name="b"),
            keras.layers.Dense(4, name="c"),
        ]
    )


@pytest.fixture
def made(monkeypatch):
    """Files whose time is what their widths, rounded up to whole lanes of 8, multiply to."""
    files = {}

    def export(model, path, **arguments):
        shapes = [layer.kernel.shape for layer in model.layers]
        files[path] = shapes
        path.write_bytes(b"")
        size = model.count_params()
        return ExportResult(path, "tflite", size, size, max_error=0.0, tolerance=1.0)

    def measure(self, file):
        time = sum(rows * 8 * -(-columns // 8) for rows, columns in files[file.path])
        dense = sum(rows * 8 * -(-columns // 8) for rows, columns in files[self._dense.path])
        return trials._Trial(time / dense, dense, time, (0.9 * time / dense, time / dense), 7)

    monkeypatch.setattr(trials, "export", export)
    monkeypatch.setattr(trials._Trials, "_measure", measure)
    return files


def test_the_model_is_cut_to_the_share_that_was_measured(made, capsys):
    model = small_net()
    before = model.get_weights()
    measured = kh.prune(model, kh.criteria.TargetLatency(0.5), kh.patterns.Channel()).measured
    widths = [layer.units for layer in kh.shrink(model).layers]
    assert widths == [shape[1] for shape in list(made.values())[-1]]
    assert all(width % 8 == 0 for width in widths[:-1])
    assert "multiples of 8" in measured.widths
    assert 0.4 < measured.reached <= measured.asked == 0.5
    assert measured.files == len(made) - 1
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new[new != 0], old[new != 0])
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if re.match(r"keras_hoyer: file \d", line)]
    assert len(said) == measured.files
    assert f"{measured.reached:.1%} of the milliseconds" in said[-1]


def test_the_pattern_s_own_widths_are_left_to_it(made):
    model, pattern = small_net(), kh.patterns.Channel(multiple_of=12)
    measured = kh.prune(model, kh.criteria.TargetLatency(0.6), pattern).measured
    first, second, _ = (layer.units for layer in kh.shrink(model).layers)
    assert first % 12 == 0 and (second % 12 == 0 or second == 40)
    assert measured.widths == ""


def test_a_trial_that_fails_leaves_the_model_as_it_was(made, monkeypatch):
    model = small_net()
    before = model.get_weights()

    def fail(*args, **kwargs):
        assert kh.report(model).nonzero < sum(w.size for w in before if w.ndim > 1)
        raise ExportError("convert", "no such operation")

    monkeypatch.setattr(trials, "shrink", fail)
    with pytest.raises(ExportError, match="no such operation"):
        kh.prune(model, kh.criteria.TargetLatency(0.5), kh.patterns.Channel())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert kh.report(model).held == 0


def test_one_cut_within_fit(made):
    model = small_net()
    model.compile("sgd", "mse")
    x, y = np.ones((8, 24)), np.ones((8, 4))
    callback = kh.callbacks.Pruning(kh.criteria.TargetLatency(0.5), ONE_CUT, kh.patterns.Channel())
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    assert callback.measured.reached <= 0.5
    assert history.history["sparsity"][1] > 0.3
    small = kh.shrink(model)
    assert small.count_params() < 0.7 * model.count_params()


def test_channels_go_until_the_smaller_model_s_file_has_the_share(tmp_path):
    model = small_net()
    dense = kh.export(model, tmp_path / "dense.npz").dense_bytes
    target = kh.criteria.TargetBytes(0.6, format="npz")
    measured = kh.prune(model, target, kh.patterns.Channel()).measured
    small = kh.export(kh.shrink(kh.strip(model)), tmp_path / "small.npz")
    assert 0.5 < measured.reached <= 0.6
    assert measured.dense == dense
    assert small.bytes == pytest.approx(measured.left, rel=0.02)


def test_single_weights_go_until_the_sparse_file_has_the_share(tmp_path):
    model = small_net()
    measured = kh.prune(model, kh.criteria.TargetBytes(0.5, format="npz")).measured
    result = kh.export(model, tmp_path / "weights.npz")
    assert result.bytes / result.dense_bytes == measured.reached
    assert 0.47 <= measured.reached <= 0.5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others convert in a process")
@pytest.mark.parametrize(
    "criterion",
    [
        kh.criteria.TargetBytes(0.5, quantize="int8"),
        # So wide that the noise of a machine does not matter.
        kh.criteria.TargetLatency(0.97, format="onnx"),
    ],
    ids=["int8", "onnx"],
)
def test_files_are_made_and_measured(criterion, monkeypatch):
    for package in ("onnx", "onnxruntime", "tf2onnx") if criterion.format == "onnx" else ():
        pytest.importorskip(package)
    monkeypatch.setattr(search, "NEAR", 0.1)  # the first that is small enough will do
    model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(1024), keras.layers.Dense(8)])
    measured = kh.prune(model, criterion, kh.patterns.Channel(multiple_of=8)).measured
    assert measured.reached == pytest.approx(measured.left / measured.dense, rel=0.3)
    assert measured.reached <= criterion.share
    assert (measured.quartiles is None) == (measured.unit == "bytes")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kh.criteria.TargetLatency(1.0), "`share`. Expected a number between 0 and 1"),
        (lambda: kh.criteria.TargetLatency(0.5, format="npz"), "one of 'tflite', 'onnx'"),
        (lambda: kh.criteria.TargetBytes(0.5, format="zip"), "`format`. Expected one of"),
        (lambda: kh.criteria.TargetBytes(0.5, quantize="int4"), "`quantize`. Expected one of"),
        (
            lambda: kh.prune(small_net(), kh.criteria.TargetLatency(0.5)),
            "only whole channels make a model smaller",
        ),
        (
            lambda: kh.callbacks.Pruning(kh.criteria.TargetBytes(0.5, format="onnx"), ONE_CUT),
            "store zeros like any other",
        ),
        (
            lambda: kh.callbacks.Pruning(
                kh.criteria.TargetLatency(0.5, "onnx", "int8"), ONE_CUT, kh.patterns.Channel()
            ),
            "`quantize`. Expected one of [None] for the format 'onnx'",
        ),
    ],
)
def test_what_does_not_go_together_is_said_at_once(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_missing_package_is_named_before_time_is_spent(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    target = kh.criteria.TargetBytes(0.5, format="safetensors")
    with pytest.raises(ImportError, match="safetensors"):
        pruning.check_choices(target, kh.patterns.Unstructured(), kh.scores.Magnitude())


def test_a_target_is_a_value_unless_it_holds_data():
    target = kh.criteria.TargetBytes(0.5, format="npz", quantize="float16")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(target))
    assert copy == target
    with pytest.raises(NotImplementedError, match="holds data"):
        kh.criteria.TargetLatency(0.5, data=np.ones((2, 24))).get_config()


def test_trials_keep_their_warnings_to_themselves(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kh.prune(small_net(), kh.criteria.TargetLatency(0.5), kh.patterns.Channel())
