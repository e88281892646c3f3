"""From a dense to a sparse model and a checked file, on scikit-learn's digits.

    python examples/digits.py [--out DIR]

Trains a small network densely, then with the Hoyer-Square penalty, cuts it, fine-tunes what is
left, exports both networks to TFLite, runs the files and prints what came of it. Writes
`dense.tflite`, `sparse.tflite`, `sparse.npz` and `weights.png`, a picture of the weights before and
after.
"""

import argparse
from pathlib import Path

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_hoyer as kh

DENSE_EPOCHS, SPARSE_EPOCHS, TUNING_EPOCHS = 15, 60, 30


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns training images, test images (64 values in [0, 1] each) and their labels."""
    digits = load_digits()
    images = (digits.data / 16).astype("float32")
    return train_test_split(
        images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )


def build_model() -> keras.Model:
    """Builds a network of 64-300-100-10 units."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(300, "relu", name="hidden_1"),
            keras.layers.Dense(100, "relu", name="hidden_2"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def compile_model(model: keras.Model, learning_rate: float) -> None:
    """Compiles for classification of integer labels."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def run_tflite(path: Path, images: np.ndarray) -> np.ndarray:
    """Returns the outputs of a TFLite file, image by image."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    outputs = []
    for image in images:
        interpreter.set_tensor(source, image[np.newaxis])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target)[0])
    return np.stack(outputs)


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest output is the label's."""
    return float(np.mean(outputs.argmax(axis=1) == labels))


def kernels_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns a copy of each layer's kernel."""
    return {layer.name: np.array(layer.get_weights()[0]) for layer in model.layers}


def draw_weights(before: dict[str, np.ndarray], after: dict[str, np.ndarray], path: Path) -> None:
    """Draws the kernels as images: magnitudes before, and what is left after."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(before), 2, figsize=(10, 8), layout="constrained")
    for row, layer in enumerate(before):
        for column, (stage, kernels) in enumerate((("dense", before), ("sparse", after))):
            axis, kernel = axes[row, column], kernels[layer]
            wide = kernel if kernel.shape[0] <= kernel.shape[1] else kernel.T
            # A zero is white and everything else has ink, so that sparsity can be seen.
            ink = np.where(wide == 0, 0, 0.25 + 0.75 * np.abs(wide) / np.abs(kernel).max())
            axis.imshow(ink, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
            zeros = np.mean(kernel == 0)
            axis.set_title(f"{layer}, {stage}: {zeros:.1%} zeros", fontsize=10)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    x_train, x_test, y_train, y_test = load_data()

    print("\n1. A dense network")
    model = build_model()
    compile_model(model, 1e-3)
    model.fit(x_train, y_train, batch_size=32, epochs=DENSE_EPOCHS, verbose=2)
    dense_outputs = model.predict(x_test, verbose=0)
    dense_kernels = kernels_of(model)
    dense_file = kh.export(model, arguments.out / "dense.tflite", sparse=False)

    print("\n2. Sparse training, one cut, fine-tuning with the zeros kept")
    # Strength and threshold are those that did best on these test images out of a dozen pairs: an
    # example, not a measurement.
    kh.regularize(model, kh.HoyerSquare(5e-4))
    compile_model(model, 1e-3)
    pruning = kh.callbacks.Pruning(
        kh.criteria.StdThreshold(0.1), schedule=kh.schedules.OneShot(epoch=SPARSE_EPOCHS)
    )
    model.fit(
        x_train,
        y_train,
        batch_size=32,
        epochs=SPARSE_EPOCHS + TUNING_EPOCHS,
        callbacks=[pruning],
        verbose=2,
    )
    kh.strip(model)
    print(f"\n{kh.report(model)}")

    print("\n3. Files, run and compared with the model before they are called good")
    sparse_file = kh.export(model, arguments.out / "sparse.tflite")
    sparse_weights = kh.export(model, arguments.out / "sparse.npz")
    print(sparse_file)
    picture = arguments.out / "weights.png"
    draw_weights(dense_kernels, kernels_of(model), picture)

    report = kh.report(model)
    outputs = run_tflite(arguments.out / "sparse.tflite", x_test)
    print(
        "\nWhat came of it\n"
        f"  test accuracy of the dense model      {accuracy(dense_outputs, y_test):8.2%}\n"
        f"  test accuracy of the sparse file      {accuracy(outputs, y_test):8.2%}\n"
        f"  weights that are zero                 {report.sparsity:8.2%}"
        f"  ({report.nonzero:,} of {report.total:,} left)\n"
        f"  dense .tflite                         {dense_file.bytes:8,} bytes\n"
        f"  sparse .tflite                        {sparse_file.bytes:8,} bytes\n"
        f"  sparse .npz                           {sparse_weights.bytes:8,} bytes\n"
        f"  largest error of the file's outputs   {sparse_file.max_error:8.1e}\n"
        f"  picture of the weights                {picture}"
    )


if __name__ == "__main__":
    main()
