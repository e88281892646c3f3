"""What is written while `fit` runs, read back and compared with NumPy."""

import importlib.util
import sys

import keras
import numpy as np
import pytest

import keras_hoyer as kh

HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
needs_tensorboard = pytest.mark.skipif(not HAS_TENSORBOARD, reason="tensorboard is not installed")


def dense_net(*units, **arguments):
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(n, name=f"dense_{i}", **arguments) for i, n in enumerate(units)]
    model = keras.Sequential([keras.Input((6,)), *hidden])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def fit(model, *callbacks, epochs=3, **arguments):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(32, model.output_shape[-1]))
    x = rng.normal(size=(32, 6))
    return model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks, **arguments)


def read(folder):
    """From each name to its values by step, in the order they were written."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found = {}
    for path in sorted(folder.iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = make_ndarray(value.tensor)
    return found


class Look(keras.callbacks.Callback):
    """The weights at the end of each epoch, as NumPy sees them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([np.array(layer.get_weights()[0]) for layer in self.model.layers])


@needs_tensorboard
def test_what_is_written_is_what_the_kernels_are(tmp_path):
    model = dense_net(8, 3, kernel_regularizer=kh.HoyerSquare(1e-3))
    look = Look()
    pruning = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(1))
    fit(model, pruning, kh.callbacks.SparsityLogger(tmp_path / "logs"), look)
    found = read(tmp_path / "logs")
    for epoch, kernels in enumerate(look.seen):
        for number, kernel in enumerate(kernels):
            name, values = f"dense_{number}/kernel", np.abs(kernel.astype("float64")).ravel()
            effective = values.sum() ** 2 / np.square(values).sum()
            root = np.sqrt(values.size)
            assert found[f"sparsity/{name}"][epoch] == pytest.approx((values == 0).mean())
            assert found[f"effective_number/{name}"][epoch] == pytest.approx(effective, rel=1e-5)
            hoyer = (root - np.sqrt(effective)) / (root - 1)
            assert found[f"hoyer/{name}"][epoch] == pytest.approx(hoyer, rel=1e-4)
            counts = found[f"weights/{name}"][epoch][:, 2]
            assert counts.sum() == np.count_nonzero(values)
        every = np.concatenate([np.abs(kernel.astype("float64")).ravel() for kernel in kernels])
        assert found["sparsity/total"][epoch] == pytest.approx((every == 0).mean())
        effective = every.sum() ** 2 / np.square(every).sum()
        assert found["effective_number/total"][epoch] == pytest.approx(effective, rel=1e-5)
    # The penalty goes with the cut.
    assert found["factor/dense_0/kernel"] == {0: pytest.approx(1e-3)}


@needs_tensorboard
def test_a_factor_that_is_set_by_itself_is_written_as_it_is_set(tmp_path):
    class Factor(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            regularizer = self.model.layers[0].kernel.regularizer
            seen.append(getattr(getattr(regularizer, "steered", None), "value", None))

    seen = []
    model = dense_net(8, 3, kernel_regularizer=kh.HoyerSquare("auto"))
    pruning = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(2))
    fit(model, pruning, kh.callbacks.SparsityLogger(tmp_path), Factor())
    assert seen[0] > 0 and seen[2] is None
    wanted = {epoch: pytest.approx(value) for epoch, value in enumerate(seen[:2])}
    assert read(tmp_path)["factor/dense_0/kernel"] == wanted


@needs_tensorboard
def test_layers_histograms_and_further_calls_of_fit_are_as_asked(tmp_path):
    model = dense_net(8, 3)
    logger = kh.callbacks.SparsityLogger(tmp_path, layers=["dense_1"], histogram_freq=2)
    fit(model, logger)
    fit(model, logger, epochs=5, initial_epoch=3)
    found = read(tmp_path)
    assert {name.partition("/")[2] for name in found} == {"dense_1/kernel", "total"}
    assert sorted(found["sparsity/total"]) == [0, 1, 2, 3, 4]
    assert sorted(found["weights/dense_1/kernel"]) == [0, 2, 4]


@needs_tensorboard
def test_a_kernel_that_is_not_finite_ends_no_training(tmp_path):
    model = dense_net(8, 3)
    model.layers[0].kernel.assign(np.full((6, 8), np.inf))
    fit(model, kh.callbacks.SparsityLogger(tmp_path), epochs=1)
    found = read(tmp_path)
    assert found["sparsity/dense_0/kernel"][0] == 0
    assert "hoyer/dense_0/kernel" not in found and "effective_number/total" not in found


def test_wrong_arguments_and_a_missing_package_are_said_at_once(monkeypatch):
    with pytest.raises(ValueError, match="`histogram_freq`"):
        kh.callbacks.SparsityLogger("logs", histogram_freq=-1)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"keras-hoyer\[tensorboard\]"):
        kh.callbacks.SparsityLogger("logs")


@pytest.mark.parametrize("kind", ["Pruning", "BudgetPruning"])
def test_multiply_adds_are_logged_and_told_where_channels_are_cut(kind, capsys):
    model = dense_net(16, 16, 3)
    choices = {"pattern": kh.patterns.Channel(), "verbose": 1}
    if kind == "Pruning":
        schedule = kh.schedules.OneShot(1)
        callback = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.5), schedule, **choices)
    else:
        callback = kh.callbacks.BudgetPruning(1e9, monitor="loss", mode="min", begin=1, **choices)
    history = fit(model, callback, epochs=2).history
    whole = sum(kh.count_flops(model).values())
    left = sum(kh.count_flops(kh.shrink(model)).values())
    assert history["flops"] == [whole, left] and left < whole
    report = kh.report(model)
    [line] = [line for line in capsys.readouterr().out.splitlines() if kind in line]
    assert line == (
        f"Epoch 2: {kind} left {report.nonzero:,} of {report.total:,} weights, {left:,} of "
        f"{whole:,} multiply-adds ({report.sparsity:.2%} zero)."
    )


def test_without_channels_no_multiply_adds_are_logged_and_silence_is_the_default(capsys):
    criterion, schedule = kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(1)
    history = fit(dense_net(8, 3), kh.callbacks.Pruning(criterion, schedule)).history
    assert "flops" not in history and capsys.readouterr().out == ""
    fit(dense_net(8, 3), kh.callbacks.Pruning(criterion, schedule, verbose=1))
    assert capsys.readouterr().out.split() == (
        ["Epoch", "2:", "Pruning", "left", "36", "of", "72", "weights", "(50.00%", "zero)."]
    )
    with pytest.raises(ValueError, match=r"`verbose`\. Expected one of 0, 1"):
        kh.callbacks.Pruning(criterion, schedule, verbose=3)
