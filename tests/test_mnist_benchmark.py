import dataclasses
import json

import keras
import methods
import mnist
import numpy as np
import plans
import pytest
from kit import nets, results

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(
    ("net", "widths", "expected"),
    [
        ("300-100", [353, 45, 11], 16_490),
        ("300-100", [784, 300, 100], 266_200),
        ("lenet-5", [5, 12, 139, 13], 169_937),
        ("lenet-5", [20, 50, 800, 500], 2_293_000),
    ],
)
def test_flops_are_those_of_the_published_tables(net, widths, expected):
    assert nets.flops(net, widths) == expected


@pytest.mark.parametrize("net", ["300-100", "lenet-5"])
def test_nets_have_the_paper_s_size_and_drop_nothing_after_dense_training(net):
    plain, dropping = nets.lenet(net), nets.lenet(net, dropout=True)
    assert sum(np.prod(kernel.shape) for kernel in nets.kernels_of(plain)) == nets.KERNELS[net]
    shapes = [weight.shape for weight in dropping.trainable_weights]
    assert shapes == [weight.shape for weight in plain.trainable_weights]
    assert any(isinstance(layer, keras.layers.Dropout) for layer in dropping.layers)


def test_images_shift_with_zeros_moving_in():
    image = np.arange(1, 785, dtype="float32").reshape(1, 784)
    down = mnist.shifted(image, 1, 0).reshape(28, 28)
    right = mnist.shifted(image, 0, 1).reshape(28, 28)
    whole = image.reshape(28, 28)
    np.testing.assert_array_equal(down[1:], whole[:-1])
    assert not down[0].any()
    np.testing.assert_array_equal(right[:, 1:], whole[:, :-1])
    assert not right[:, 0].any()


@pytest.mark.parametrize("share", [0.5, 0.062])
def test_a_unit_goes_with_its_inputs_in_the_next_kernel(share):
    keras.utils.set_random_seed(0)
    model = nets.lenet("300-100")
    first, second, last = nets.kernels_of(model)
    values = keras.ops.convert_to_numpy(second).copy()
    values[:, 5:] *= 1e-4  # the units to keep are the first ones
    second.assign(values)
    methods.zero_units(model, share)
    widths = nets.live_widths(model)
    assert 0.9 * share < nets.flops("300-100", widths) / 266_200 <= share
    first, second, last = (keras.ops.convert_to_numpy(k) != 0 for k in (first, second, last))
    np.testing.assert_array_equal(first.any(0), second.any(1))
    np.testing.assert_array_equal(second.any(0), last.any(1))
    assert last.any(1)[:5].all()
    assert (first == first.any(1)[:, np.newaxis] * first.any(0)).all()


def test_a_run_that_has_a_line_is_known_again(tmp_path):
    run = plans.Run("300-100", "ours", "gradual", penalty="HoyerSquare", factor=1e-4, amount=4630)
    file = tmp_path / "results" / "mnist.jsonl"
    assert results.done_before(file, plans.Run) == set()
    results.append(file, {**dataclasses.asdict(run), "nonzero": 4630})
    assert results.done_before(file, plans.Run) == {run}
    assert dataclasses.replace(run, seed=1) not in results.done_before(file, plans.Run)
    assert json.loads(file.read_text())["nonzero"] == 4630


def noise_file(folder, count):
    """A file as MNIST's, with that many training images."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in (("train", count), ("test", 100)):
        arrays[f"x_{split}"] = rng.integers(0, 255, (size, 28, 28), "uint8")
        arrays[f"y_{split}"] = rng.integers(0, 10, size, "uint8")
    np.savez(folder / "mnist.npz", **arrays)
    return folder / "mnist.npz"


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A small file as MNIST's, and a folder where runs find what others have trained."""
    folder = tmp_path_factory.mktemp("noise")
    return noise_file(folder, 5200), folder


def test_the_protocols_hold_out_what_they_say(tmp_path):
    file = noise_file(tmp_path, 60_000)
    train, watch, test = mnist.load_data(file, "300-100", "ours")
    assert (len(train[0]), len(watch[0]), len(test[0])) == (55_000, 5000, 100)
    train, watch, _ = mnist.load_data(file, "300-100", "paper")
    assert (len(train[0]), len(watch[0])) == (60_000, 100)


def test_block_runs_cut_whole_blocks_and_keep_as_many_weights_as_asked_for(noise):
    options = {"penalty": "GroupHoyerSquare", "factor": 2e-4, "amount": 13_308}
    run = plans.Run("300-100", "ours", "blocks", **options, epochs=(1, 1, 2, 1))
    pipeline = mnist.Pipeline(run, *noise)
    pipeline.train_all()
    kept = 0
    for kernel in nets.kernels_of(pipeline.model):
        blocks = keras.ops.convert_to_numpy(kernel).reshape(-1, 4, kernel.shape[-1]) != 0
        assert (blocks.all(axis=1) == blocks.any(axis=1)).all()
        kept += blocks.sum()
    assert kept == 13_308


@pytest.mark.parametrize("method", ["gradual", "once", "threshold"])
def test_runs_keep_as_many_weights_as_asked_for(method, noise):
    options = {"penalty": "HoyerSquare", "factor": 1e-4, "amount": 4630}
    run = plans.Run("300-100", "ours", method, **options, epochs=(1, 1, 2, 1))
    pipeline = mnist.Pipeline(run, *noise)
    pipeline.train_all()
    kernels = [keras.ops.convert_to_numpy(k) for k in nets.kernels_of(pipeline.model)]
    assert sum(np.count_nonzero(kernel) for kernel in kernels) == 4630


def test_the_threshold_s_rule_compares_weights_with_their_kernel_s_deviation():
    keras.utils.set_random_seed(0)
    model = nets.lenet("300-100")
    kernels = nets.kernels_of(model)
    kernels[1].assign(1000 * keras.ops.convert_to_numpy(kernels[1]))
    ratio = methods.std_ratio(model, 10_000)
    arrays = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    kept = [np.count_nonzero(np.abs(array) > ratio * array.std()) for array in arrays]
    assert sum(kept) == 10_000
    # All are uniform, so of each the same share stays, whatever its scale.
    shares = [count / array.size for count, array in zip(kept, arrays, strict=True)]
    np.testing.assert_allclose(shares, 10_000 / 266_200, rtol=0.5)


def test_channel_runs_end_with_a_small_net_that_fills_the_target(noise):
    options = {"penalty": "GroupHoyerSquare", "factor": 3e-4, "amount": 0.05}
    run = plans.Run("lenet-5", "ours", "channels", **options, epochs=(1, 1, 3, 1))
    pipeline = mnist.Pipeline(run, *noise)
    pipeline.train_all()
    first, second, flat, hidden = nets.live_widths(pipeline.model)
    kernels = [kernel.shape for kernel in nets.kernels_of(pipeline.model)]
    assert kernels == [(5, 5, 1, first), (5, 5, first, second), (flat, hidden), (hidden, 10)]
    widest = 0.05 * nets.flops("lenet-5", nets.WIDTHS["lenet-5"])
    assert 0.97 * widest < nets.flops("lenet-5", [first, second, flat, hidden]) <= widest
    assert not any(layer.kernel_regularizer for layer in pipeline.model.layers if layer.weights)


def test_weight_decay_trains_like_an_l2_penalty_on_the_kernels():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 5)), rng.normal(size=(64, 3))

    def trained(optimizer, regularizer=None):
        keras.utils.set_random_seed(1)
        layer = keras.layers.Dense(3, kernel_regularizer=regularizer, bias_initializer="ones")
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    decayed = trained(mnist.AdamL2(0.01, decay=0.3))
    penalized = trained(keras.optimizers.Adam(0.01), keras.regularizers.L2(0.15))
    plain = trained(keras.optimizers.Adam(0.01))
    for one, other in zip(decayed, penalized, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(decayed[0] - plain[0]).max() > 1e-3
