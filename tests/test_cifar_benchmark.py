import io

import cifar
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
    batch, labels = cifar.Augmented(images, np.arange(128), seed=0)[0]
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


def test_a_run_goes_all_the_way_to_a_smaller_network(tmp_path):
    rng = np.random.default_rng(0)

    def images(count):
        return rng.normal(size=(count, 32, 32, 3)).astype("float32"), rng.integers(0, 10, count)

    run = cifar.Run(8, "noise", "GroupHoyerSquare", 1e-4, 0.5, "global", (0, 0, 2, 0), 0, 128)
    line = cifar.result(run, (images(128), images(8), images(8)), tmp_path)
    assert 0.4 < line["flops_left"] <= 0.5
    assert line["flops"] < sum(kh.count_flops(cifar.build_resnet(8)).values())
    file = tmp_path / "cifar.jsonl"
    results.append(file, line)
    assert results.done_before(file, cifar.Run) == {run}
