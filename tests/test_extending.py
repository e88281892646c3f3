"""docs/extending.md: its code runs as it stands, and what it makes is taken everywhere."""

import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_hoyer as kh
from keras_hoyer.exporters import formats

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


def sections() -> dict[str, str]:
    """The code below each heading."""
    parts = re.split(r"^#+ (.*)\n", PAGE.read_text(), flags=re.MULTILINE)
    blocks = re.compile(r"```python\n(.*?)```", re.DOTALL)
    return {
        title: "\n".join(blocks.findall(body))
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's code, run from top to bottom, leaves behind."""
    folder = tmp_path_factory.mktemp("page")
    names, printed, models = {}, {}, {}
    known = dict(formats.FORMATS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for title, code in sections().items():
            said = []
            names["print"] = lambda *values, said=said: said.append(values)
            exec(code, names)
            printed[title], models[title] = said, names.get("model")
    formats.FORMATS.clear()
    formats.FORMATS.update(known)
    return {"names": names, "printed": printed, "models": models, "folder": folder}


def test_the_page_shows_one_of_each_in_about_ten_lines():
    code = sections()
    expected = ["A pattern", "A score", "A criterion", "A schedule", "A penalty", "A layer's rule"]
    assert list(code)[1:] == [*expected, "An export format"]
    lines = {
        title: len(re.findall(r"^.*\S.*$", text, re.MULTILINE)) for title, text in code.items()
    }
    assert max(lines[title] for title in expected[:5]) <= 16


def test_what_the_page_says_comes_out(page):
    printed = page["printed"]
    assert (
        printed["A pattern"][0][0]
        + (page["models"]["A pattern"].get_layer("last").kernel.numpy() != 0).any(axis=1).sum()
        == 15
    )
    assert printed["A criterion"] == [(60,)]
    (sparsity,) = printed["A schedule"][0]
    assert sparsity == pytest.approx([0, 0.5 * (170 + 10) / 240, (170 + 10) / 240], abs=0.01)
    assert printed["A penalty"] == [(2,)]
    assert printed["A layer's rule"] == [(5,)]
    assert printed["An export format"] == [((page["folder"] / "weights.npy").stat().st_size,)]


def test_a_score_of_ones_own_ranks_as_it_says(page):
    model = page["models"]["A score"]
    cut = [layer.kernel.numpy() for layer in model.layers]
    assert sum((kernel != 0).sum() for kernel in cut) == 24
    assert all(np.abs(kernel).max() > 0 for kernel in cut)


def test_all_four_go_together_in_both_callbacks(page):
    own = page["names"]
    x, y = np.ones((8, 20)), np.ones((8, 4))
    for callback in (
        kh.callbacks.Pruning(
            own["Best"](5), own["Steps"]((1,)), own["Row"](), score=own["Relative"]()
        ),
        kh.callbacks.BudgetPruning(
            1e9, 0.0, "loss", begin=1, pattern=own["Row"](), score=own["Relative"]()
        ),
    ):
        model = own["small_model"]()
        model.compile("sgd", "mse")
        model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
        rows = [(layer.kernel.numpy() != 0).any(axis=1) for layer in model.layers]
        assert not all(row.all() for row in rows)
        for layer, row in zip(model.layers, rows, strict=True):
            assert np.all((layer.kernel.numpy() != 0) == row[:, None])


def test_ones_own_are_saved(page, tmp_path):
    own = page["names"]
    for value in (own["Row"](), own["Best"](30), own["Steps"]((1, 2)), own["Relative"]()):
        again = type(value).from_config(value.get_config())
        assert again == value and type(again) is type(value)
    row = keras.saving.serialize_keras_object(own["Row"]())
    assert keras.saving.deserialize_keras_object(row) == own["Row"]()
    model = kh.regularize(own["small_model"](), own["LogSum"](0.5))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("first").kernel_regularizer.factor == 0.5
    x = np.abs(loaded.get_layer("first").kernel.numpy().astype("float64"))
    assert float(keras.ops.convert_to_numpy(loaded.losses[0])) == pytest.approx(
        0.5 * np.log(1 + x / 0.01).sum(), rel=1e-5
    )


@pytest.mark.parametrize(
    "value",
    [
        kh.criteria.Threshold(0.5),
        kh.criteria.StdThreshold(1),
        kh.criteria.HoyerThreshold(),
        kh.criteria.TargetSparsity(0.5, "layer"),
        kh.criteria.TargetFlops(0.5),
        kh.schedules.OneShot(3),
        kh.schedules.Polynomial(1, 3, power=2),
        kh.scores.Magnitude(),
        kh.patterns.Block((4, 1)),
        kh.patterns.NByM(2, 4),
        kh.patterns.Channel(multiple_of=8),
    ],
    ids=repr,
)
def test_those_that_come_along_are_values_that_keras_saves(value):
    stored = keras.saving.serialize_keras_object(value)
    assert keras.saving.deserialize_keras_object(stored) == value


def test_a_pattern_with_groups_serves_group_penalties():
    class Column(kh.patterns.KernelPattern):
        has_groups = True

        def fits(self, shape):
            return len(shape) == 2

        def split_shape(self, shape):
            return shape, (0,)

    kernel = np.array([[3.0, 0.0], [4.0, 5.0]], "float32")
    assert float(kh.GroupLasso(1.0, pattern=Column())(kernel)) == pytest.approx(10.0)
    with pytest.raises(ValueError, match="no groups to take norms of"):
        kh.GroupLasso(1.0, pattern=kh.patterns.Unstructured())


def test_what_does_not_answer_as_asked_is_named():
    class Flat(kh.criteria.Criterion):
        def keep(self, units, progress=1.0, flops=None):
            return [entry.values.ravel() > 0 for entry in units]

    class Odd(kh.patterns.KernelPattern):
        def fits(self, shape):
            return True

        def scores(self, importance):
            return np.abs(importance)

        def expand(self, keep, shape):
            return keep[:1]

    class Scalar(kh.scores.Score):
        def importance(self, weight):
            return weight.read().sum()

    class Nothing(kh.scores.Score):
        def importance(self, weight):
            return weight.read() * np.nan

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="out")])
    half = kh.criteria.TargetSparsity(0.5)
    with pytest.raises(ValueError, match=r"`Flat.keep` is to return a boolean array"):
        kh.prune(model, Flat())
    with pytest.raises(ValueError, match=r"`Odd.expand` gave a mask of shape \(1, 4\)"):
        kh.prune(model, half, Odd())
    with pytest.raises(ValueError, match=r"`Scalar.importance` gave an array of shape \(\)"):
        kh.prune(model, half, score=Scalar())
    with pytest.raises(
        ValueError, match=r"`Nothing` gives NaN or infinity for kernel 'out/kernel'"
    ):
        kh.prune(model, half, score=Nothing())
    with pytest.raises(ValueError, match="Invalid value for argument `score`"):
        kh.prune(model, half, score="magnitude")
    assert np.all(model.get_layer("out").kernel.numpy() != 0)


def test_a_pattern_of_whole_channels_decides_itself_how_many_stay():
    @dataclass(frozen=True)
    class Powers(kh.patterns.Channel):
        """A power of two of channels stays."""

        def count_kept(self, wanted, channels):
            return min(channels, 1 << (max(wanted, 1) - 1).bit_length())

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(24), keras.layers.Dense(3)])
    for target in (kh.criteria.TargetSparsity(0.2), kh.criteria.TargetFlops(0.5)):
        kh.prune(model, target, Powers())
    assert kh.shrink(model).layers[0].units == 8
