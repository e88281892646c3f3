"""A residual network at half its multiply-adds: trained for it, cut, shrunk, and run.

    python examples/shrink_resnet.py [--flops 0.5] [--out DIR]

Trains a small ResNet on scikit-learn's digits with the Group-Hoyer-Square penalty over coupled
channels, cuts channels until the target is reached, shrinks the network and fine-tunes the small
one. Then both networks are exported to TFLite, and their files are timed side by side. A few
minutes on two CPU cores.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_hoyer as kh

layers = keras.layers


def normalize(x: keras.KerasTensor) -> keras.KerasTensor:
    """Batch normalisation whose statistics settle within the few steps of this example."""
    return layers.BatchNormalization(momentum=0.9)(x)


def residual_block(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    """Two 3x3 convolutions beside a shortcut."""
    y = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
    y = layers.ReLU()(normalize(y))
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
    y = normalize(y)
    if strides != 1 or x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, strides, use_bias=False)(x)
        x = normalize(x)
    return layers.ReLU()(layers.Add()([x, y]))


def build_model() -> keras.Model:
    """Builds a ResNet-14 of 16, 32 and 64 channels for images of 16 x 16."""
    inputs = keras.Input((8, 8, 1))
    x = layers.UpSampling2D(2, interpolation="bilinear")(inputs)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(normalize(x))
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(2):
            x = residual_block(x, filters, strides=2 if stage and not block else 1)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def compile_model(model: keras.Model, learning_rate: float) -> None:
    """Compiles for classification of integer labels."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def latencies(paths: list[Path], runs: int = 200) -> list[float]:
    """Median milliseconds of one inference of each file on one thread, the files in turn."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = [Interpreter(model_path=str(path), num_threads=1) for path in paths]
    for interpreter in interpreters:
        interpreter.allocate_tensors()
    times = np.empty((runs, len(paths)))
    for run in range(runs):
        for column, interpreter in enumerate(interpreters):
            start = time.perf_counter()
            interpreter.invoke()
            times[run, column] = time.perf_counter() - start
    return [float(milliseconds) for milliseconds in np.median(times, axis=0) * 1000]


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flops", type=float, default=0.5, help="share of multiply-adds to keep")
    parser.add_argument("--out", type=Path, default=Path("out/shrink_resnet"), help="folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    options = {"batch_size": 32, "verbose": 2}

    print("\n1. A dense network")
    model = build_model()
    compile_model(model, 1e-3)
    model.fit(x_train, y_train, epochs=12, **options)
    dense_accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    dense_flops = sum(kh.count_flops(model).values())
    dense_file = kh.export(model, arguments.out / "dense.tflite", sparse=False)

    print("\n2. Sparse training over coupled channels, then the cut")
    kh.regularize(model, kh.GroupHoyerSquare(1e-3), groups="coupled")
    compile_model(model, 1e-3)
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetFlops(arguments.flops), kh.schedules.OneShot(10), kh.patterns.Channel()
    )
    model.fit(x_train, y_train, epochs=14, callbacks=[pruning], **options)

    print("\n3. The small network, fine-tuned")
    small = kh.strip(kh.shrink(model))
    compile_model(small, 3e-4)
    small.fit(x_train, y_train, epochs=6, **options)
    small_file = kh.export(small, arguments.out / "small.tflite", sparse=False)

    small_flops = sum(kh.count_flops(small).values())
    dense_time, small_time = latencies([dense_file.path, small_file.path])
    print(
        "\nWhat came of it             dense        small\n"
        f"  test accuracy          {dense_accuracy:8.2%}     "
        f"{small.evaluate(x_test, y_test, verbose=0)[1]:8.2%}\n"
        f"  multiply-adds        {dense_flops:10,}   {small_flops:10,}"
        f"   {small_flops / dense_flops:.1%}\n"
        f"  parameters           {model.count_params():10,}   {small.count_params():10,}"
        f"   {small.count_params() / model.count_params():.1%}\n"
        f"  bytes of the file    {dense_file.bytes:10,}   {small_file.bytes:10,}"
        f"   {small_file.bytes / dense_file.bytes:.1%}\n"
        f"  milliseconds         {dense_time:10.3f}   {small_time:10.3f}"
        f"   {small_time / dense_time:.1%}"
    )


if __name__ == "__main__":
    main()
