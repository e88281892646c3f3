"""The paper's element-wise pipeline on MNIST: dense, sparse, cut, fine-tuned.

    python examples/mnist_lenet.py --net 300-100
    python examples/mnist_lenet.py --net lenet-5 --data mnist.npz

Trains LeNet-300-100 or LeNet-5 (20-50-500) densely, then with the Hoyer-Square penalty, cuts each
kernel below a share of its standard deviation, and fine-tunes with the zeros kept: the protocol of
Yang, Wen and Li, "DeepHoyer" (ICLR 2020), with fewer epochs. Of the training images 5,000 are held
out, which show how it goes; test accuracy is read once, at the end.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np

import keras_hoyer as kh

Split = tuple[np.ndarray, np.ndarray]


def load_data(file: Path | None) -> tuple[Split, Split, Split]:
    """Returns images in [0, 1] and labels, for training, validation and test."""
    if file is None:
        (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        with np.load(file) as data:
            x, y, x_test, y_test = (
                data[name] for name in ("x_train", "y_train", "x_test", "y_test")
            )
    x, x_test = (images[..., np.newaxis].astype("float32") / 255 for images in (x, x_test))
    return (x[:-5000], y[:-5000]), (x[-5000:], y[-5000:]), (x_test, y_test)


def build_model(net: str) -> keras.Model:
    """Builds LeNet-300-100 (266,200 kernel weights) or LeNet-5 (430,500)."""
    layers = keras.layers
    if net == "300-100":
        body = [layers.Flatten(), layers.Dense(300, "relu"), layers.Dense(100, "relu")]
    else:
        body = [
            layers.Conv2D(20, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, "relu"),
        ]
    return keras.Sequential([keras.Input((28, 28, 1)), *body, layers.Dense(10)])


def compile_model(model: keras.Model, learning_rate: float) -> None:
    """Compiles for classification of integer labels."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", choices=["300-100", "lenet-5"], default="300-100")
    parser.add_argument("--data", type=Path, help="an mnist.npz; default: keras.datasets.mnist")
    parser.add_argument("--factor", type=float, default=1e-4, help="of the penalty")
    parser.add_argument("--ratio", type=float, default=0.1, help="threshold / standard deviation")
    parser.add_argument("--dense-epochs", type=int, default=20)
    parser.add_argument("--sparse-epochs", type=int, default=90)
    parser.add_argument("--tuning-epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/mnist"), help="folder for the files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    train, validation, test = load_data(arguments.data)
    options = {"batch_size": 100, "validation_data": validation, "verbose": 2}

    print("\n1. Dense training")
    model = build_model(arguments.net)
    compile_model(model, 1e-3)
    model.fit(*train, epochs=arguments.dense_epochs, **options)
    dense_accuracy = model.evaluate(*test, verbose=0)[1]

    print("\n2. Sparse training with the penalty, the cut, fine-tuning with the zeros kept")
    kh.regularize(model, kh.HoyerSquare(arguments.factor))
    compile_model(model, 1e-3)
    cut = kh.callbacks.Pruning(
        kh.criteria.StdThreshold(arguments.ratio), kh.schedules.OneShot(arguments.sparse_epochs)
    )
    slow_down = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: 1e-3 if epoch < arguments.sparse_epochs else 1e-4
    )
    epochs = arguments.sparse_epochs + arguments.tuning_epochs
    model.fit(*train, epochs=epochs, callbacks=[cut, slow_down], **options)
    sparse_accuracy = model.evaluate(*test, verbose=0)[1]
    report = kh.report(kh.strip(model))
    exported = kh.export(model, arguments.out / f"{arguments.net}.tflite")

    print(f"\n{report}\n\n{exported}")
    figures = {
        "net": arguments.net,
        "seed": arguments.seed,
        "factor": arguments.factor,
        "ratio": arguments.ratio,
        "dense_test_accuracy": dense_accuracy,
        "sparse_test_accuracy": sparse_accuracy,
        "nonzero": report.nonzero,
        "compression": report.total / report.nonzero,
        "tflite_bytes": exported.bytes,
        "dense_tflite_bytes": exported.dense_bytes,
    }
    (arguments.out / f"{arguments.net}.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"\n{report.nonzero:,} of {report.total:,} weights left ({figures['compression']:.1f}x), "
        f"test accuracy {sparse_accuracy:.2%}, of the dense model {dense_accuracy:.2%}"
    )


if __name__ == "__main__":
    main()
