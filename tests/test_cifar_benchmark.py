import io

import cifar
import keras
import numpy as np
import pytest
from kit import results

import keras_hoyer as kh

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(("depth", "millions"), [(20, 41), (56, 127)])
def test_the_nets_have_the_published_multiply_adds(depth, millions):
    # Published for shortcuts without weights; ours have two 1x1 convolutions.
    flops = sum(kh.count_flops(cifar.build_resnet(depth)).values())
    assert flops == pytest.approx(millions * 1e6, rel=0.01)


def test_augmented_images_are_moved_or_mirrored_and_keep_their_labels():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(128, 32, 32, 3)).astype("float32")
    data = cifar.Augmented(images, np.arange(128), seed=0)
    batch, labels = data[0]
    data.begin(1)
    other = data[0][1]
    data.begin(0)
    assert (data[0][1] == labels).all() and (other != labels).any()
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    moves, mirrored = set(), 0
    for image, label in zip(batch, labels, strict=True):
        found = [
            (down, right, step)
            for down in range(9)
            for right in range(9)
            for step in (1, -1)
            if np.array_equal(padded[label, down : down + 32, right : right + 32][:, ::step], image)
        ]
        assert len(found) == 1
        moves.add(found[0][:2])
        mirrored += found[0][2] == -1
    assert len(moves) > 40
    assert 40 < mirrored < 90


def test_the_rate_rises_and_falls():
    rate = cifar.Rate(0.2, 10, 0.2)
    rates = [float(rate(step)) for step in (0, 1, 2, 6, 10)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.1, 0], atol=1e-7)
    assert float(cifar.Rate(0.2, 10, 0.0)(0)) == pytest.approx(0.2)


def test_images_come_from_jpeg_files_end_to_end():
    image = pytest.importorskip("PIL.Image")
    flat = [np.full((32, 32, 3), value, "uint8") for value in (10, 200)]
    files = []
    for values in flat:
        stream = io.BytesIO()
        image.fromarray(values).save(stream, "JPEG")
        files.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    decoded = cifar.decode(np.frombuffer(b"".join(files), "uint8"), offsets)
    np.testing.assert_allclose(decoded, flat, atol=2)


def test_a_run_goes_all_the_way_to_a_smaller_network_in_one_sitting_or_two(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "BATCH", 16)
    fit = keras.Model.fit  # the nets are trained for a step: compiling takes longer
    monkeypatch.setattr(keras.Model, "fit", lambda self, *a, **k: eager(fit, self, *a, **k))
    rng = np.random.default_rng(0)

    def images(count):
        return rng.normal(size=(count, 32, 32, 3)).astype("float32"), rng.integers(0, 10, count)

    run = cifar.Run(8, "noise", "GroupHoyerSquare", 1e-4, 0.5, "global", (0, 0, 2, 0), 0, 16)
    data = images(16), images(8), images(8)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    line = cifar.result(run, data, tmp_path / "one")
    assert 0.4 < line["flops_left"] <= 0.5
    assert line["flops"] < sum(kh.count_flops(cifar.build_resnet(8)).values())
    file = tmp_path / "cifar.jsonl"
    results.append(file, line)
    assert results.done_before(file, cifar.Run) == {run}

    stopped = cifar.Training(run, cifar.Augmented(*data[0], 0), tmp_path / "two")
    stopped.epoch(0)
    stopped.keep(1)
    one, two = (
        cifar.Training(run, cifar.Augmented(*data[0], 0), tmp_path / folder).go().get_weights()
        for folder in ("one", "two")
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def eager(fit, model, *args, **kwargs):
    model.run_eagerly = True
    return fit(model, *args, **kwargs)
