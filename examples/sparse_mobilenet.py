"""A MobileNet-like network whose 1x1 convolutions are 80% zeros, as ARM64 runs them fast.

    python examples/sparse_mobilenet.py [--out DIR]

XNNPACK, which runs TFLite files on phones, skips the zeros of 1x1 convolutions on ARM64, if more
than two thirds of them are zero and the graph suits it: a 3x3 first convolution of stride 2 on 3
channels, `ZeroPadding2D` and "valid" padding wherever the stride is 2, a global average pooling at
the end. This network is built that way, trained on scikit-learn's digits, cut in its 1x1
convolutions only, and checked with `check_sparse_inference` before it is exported. On x86 the file
is small, and no faster than a dense one. About two minutes on two CPU cores.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_hoyer as kh

layers = keras.layers


def separable_block(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    """A 3x3 depthwise and a 1x1 convolution, each normalised."""
    if strides == 2:
        x = layers.ZeroPadding2D(1)(x)
    padding = "valid" if strides == 2 else "same"
    x = layers.DepthwiseConv2D(3, strides, padding=padding, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2D(filters, 1, use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def build_model() -> keras.Model:
    """Builds a small MobileNet for images of 32 x 32 x 3."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, strides=2, use_bias=False)(layers.ZeroPadding2D(1)(inputs))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    for filters, strides in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x = separable_block(x, filters, strides)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """The digits as colour images of 32 x 32, and their labels."""
    digits = load_digits()
    images = np.kron(digits.images / 16, np.ones((1, 4, 4)))
    return np.repeat(images[..., np.newaxis], 3, axis=-1).astype("float32"), digits.target


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sparsity", type=float, default=0.8, help="of the 1x1 convolutions")
    parser.add_argument("--out", type=Path, default=Path("out/sparse_mobilenet"), help="folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    images, labels = load_images()
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.25, random_state=0, stratify=labels
    )
    model = build_model()
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    options = {"batch_size": 32, "verbose": 2}

    print("\n1. A dense network")
    model.fit(x_train, y_train, epochs=12, **options)
    dense_accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    dense_file = kh.export(model, arguments.out / "dense.tflite", sparse=False)

    print("\n2. Zeros in the 1x1 convolutions, more with each epoch, then fine-tuning")
    pointwise = [
        layer.name
        for layer in model.layers
        if type(layer) is layers.Conv2D and layer.kernel_size == (1, 1)
    ]
    kh.regularize(model, kh.HoyerSquare(1e-4), layers=pointwise)
    # In each layer: on ARM64 every one of them needs its two thirds.
    target = kh.criteria.TargetSparsity(arguments.sparsity, scope="layer")
    pruning = kh.callbacks.Pruning(target, kh.schedules.Polynomial(0, 8), layers=pointwise)
    model.fit(x_train, y_train, epochs=14, callbacks=[pruning], **options)
    kh.strip(model)

    print("\n3. What the runtime makes of it")
    print(kh.check_sparse_inference(model, target="arm64"))
    sparse_file = kh.export(model, arguments.out / "sparse.tflite")
    print(
        "\nWhat came of it             dense       sparse\n"
        f"  test accuracy          {dense_accuracy:8.2%}     "
        f"{model.evaluate(x_test, y_test, verbose=0)[1]:8.2%}\n"
        f"  bytes of the file    {dense_file.bytes:10,}   {sparse_file.bytes:10,}\n"
        f"  output error         {dense_file.max_error:10.1e}   {sparse_file.max_error:10.1e}"
    )


if __name__ == "__main__":
    main()
