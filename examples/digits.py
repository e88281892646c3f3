"""Four files from one network, on scikit-learn's digits: dense, sparse, with fewer channels, int8.

    python examples/digits.py [--out DIR]

Trains a small convolutional network; trains on with the Hoyer-Square penalty and cuts single
weights; cuts whole channels and shrinks; quantizes. How far is cut is chosen on validation images,
by a budget of their accuracy; the test images are looked at once, through the files. Writes
`dense.tflite`, `sparse.tflite`, `small.tflite`, `int8.tflite` and `result.png`, a picture of what
came out and of the weights.
"""

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the terminal what TensorFlow and LiteRT write to it past Python."""
    terminal, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nothing)


with quiet():
    import keras
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    import keras_hoyer as kh

# What cuts may cost on the validation images, while they are made: four of the 450.
BUDGET = 0.009


@dataclass(frozen=True)
class Data:
    """Images of shape (n, 8, 8, 1) with values in [0, 1], and labels, in three parts."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load_data() -> Data:
    """Splits the 1,797 digits."""
    digits = load_digits()
    images = (digits.images / 16).astype("float32")[..., np.newaxis]
    x, x_test, y, y_test = train_test_split(
        images, digits.target, test_size=450, random_state=0, stratify=digits.target
    )
    x, x_val, y, y_val = train_test_split(x, y, test_size=450, random_state=0, stratify=y)
    return Data((x, y), (x_val, y_val), (x_test, y_test))


def build_model() -> keras.Model:
    """Builds a small network of two convolutions and two dense layers."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_2"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, "relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


class ProgressLine(keras.callbacks.Callback):
    """One line for a whole `fit`, redrawn on a terminal."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.live = sys.stdout.isatty()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Redraws the line."""
        self.line = f"{self.what:<28} {epoch + 1:3} epochs"
        if self.live:
            right = f"{logs['val_accuracy']:.1%} of the validation images"
            print(f"\r{self.line}, {right:<35}", end="", flush=True)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Ends the line with what is left of the weights."""
        left = f"{kh.report(self.model).nonzero:,} weights"
        print(f"\r{self.line}, {left:<35}" if self.live else f"{self.line}, {left}", flush=True)


def train(model: keras.Model, data: Data, epochs: int, what: str, *callbacks: Any) -> None:
    """Trains with Adam, the learning rate falling to 0 where nothing is cut."""
    rate: Any = 1e-3
    if not callbacks:
        steps = epochs * -(-len(data.train[0]) // 32)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        *data.train,
        batch_size=32,
        epochs=epochs,
        validation_data=data.validation,
        verbose=0,
        callbacks=[*callbacks, ProgressLine(what)],
    )


def prune(dense: keras.Model, data: Data, penalty: Any, pattern: Any, what: str) -> keras.Model:
    """Trains a copy with a penalty, cuts it within the budget and fine-tunes what is left."""
    model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    kh.regularize(model, penalty, groups="coupled" if pattern.whole_channels else None)
    cut = kh.callbacks.BudgetPruning(BUDGET, begin=15, step=0.5, min_step=0.2, pattern=pattern)
    train(model, data, 60, f"{what}: penalty, then cuts", cut)
    train(model, data, 10, f"{what}: fine-tuning")
    return model


class File:
    """A `.tflite` file that is run, one image at a time on one thread."""

    def __init__(self, result: Any) -> None:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter

            self.interpreter = Interpreter(model_path=str(result.path), num_threads=1)
            self.interpreter.allocate_tensors()
        self.bytes, self.error = result.bytes, result.max_error
        self.place = self.interpreter.get_input_details()[0]["index"]
        self.result = self.interpreter.get_output_details()[0]["index"]
        self.seconds: list[float] = []

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the ten outputs for one image."""
        self.interpreter.set_tensor(self.place, image[np.newaxis])
        start = time.perf_counter()
        self.interpreter.invoke()
        self.seconds.append(time.perf_counter() - start)
        return self.interpreter.get_tensor(self.result)[0]

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of the images that it recognises."""
        return float(np.mean([self(image).argmax() for image in images] == labels))


def train_all(data: Data) -> dict[str, keras.Model]:
    """Returns the dense, the sparse and the shrunk network."""
    dense = build_model()
    train(dense, data, 12, "dense")
    sparse = prune(dense, data, kh.HoyerSquare(1e-4), kh.patterns.Unstructured(), "sparse")
    cut = prune(dense, data, kh.GroupHoyerSquare(1e-4), kh.patterns.Channel(), "channels")
    return {"dense": dense, "sparse": kh.strip(sparse), "small": kh.strip(kh.shrink(cut))}


def export_all(models: dict[str, keras.Model], data: Data, out: Path) -> dict[str, File]:
    """Writes all networks as files, and the shrunk one in int8 besides."""
    files = {}
    for name, model, quantize in (
        *((name, model, None) for name, model in models.items()),
        ("int8", models["small"], "int8"),
    ):
        with quiet(), contextlib.redirect_stdout(None):
            result = kh.export(
                model,
                out / f"{name}.tflite",
                quantize=quantize,
                representative_data=data.train[0][:200],
            )
        print(f"  {result.path}", flush=True)
        files[name] = File(result)
    return files


def measure(files: dict[str, File], data: Data) -> dict[str, dict[str, float]]:
    """Runs all files on the test images, one by one, and times them by turns."""
    rows = {
        name: {
            "accuracy": file.accuracy(*data.test),
            "bytes": file.bytes,
            "error": file.error,
        }
        for name, file in files.items()
    }
    for file in files.values():
        file.seconds.clear()
    for image in data.test[0]:
        for file in files.values():
            file(image)
    for name, file in files.items():
        rows[name]["milliseconds"] = 1e3 * statistics.median(file.seconds)
    return rows


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """Prints a line for each file."""
    dense = rows["dense"]
    print(f"\n{'file':<10}  test accuracy    bytes   of dense      ms   of dense  largest error")
    for name, row in rows.items():
        print(
            f"{name:<10}{row['accuracy']:>15.2%}"
            f"{row['bytes']:>9,.0f}{row['bytes'] / dense['bytes']:>11.3f}"
            f"{row['milliseconds']:>8.4f}{row['milliseconds'] / dense['milliseconds']:>11.2f}"
            f"{row['error']:>15.1e}"
        )


def draw(models: dict[str, keras.Model], rows: dict[str, dict[str, float]], path: Path) -> None:
    """Draws what the files are like, and the largest kernel of each model on one scale."""
    with quiet():
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(10, 6.4), layout="constrained")
    for axis, (title, what, unit, shown) in zip(
        axes[0],
        (
            ("kilobytes of the file", "bytes", 1e3, "{:.0f}"),
            ("microseconds an image", "milliseconds", 1e-3, "{:.1f}"),
            ("test accuracy, %", "accuracy", 1e-2, "{:.1f}"),
        ),
        strict=True,
    ):
        values = [row[what] / unit for row in rows.values()]
        bars = axis.barh(list(rows), values, color="#3b75af")
        axis.bar_label(bars, [shown.format(value) for value in values], padding=3)
        axis.set(title=title, xticks=[])
        axis.margins(x=0.2)
        axis.invert_yaxis()
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    kernels = {name: kernel_of(model, "hidden") for name, model in models.items()}
    height, width = kernels["dense"].shape
    largest = np.abs(kernels["dense"]).max()
    for axis, (name, kernel) in zip(axes[1], kernels.items(), strict=True):
        # Zeros are white, all else has ink; what was shrunk away is missing.
        ink = np.where(kernel == 0, 0, 0.3 + 0.7 * np.minimum(np.abs(kernel) / largest, 1))
        axis.imshow(ink, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axis.set_title(f"{name}: {np.count_nonzero(kernel):,} weights of 'hidden'", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def kernel_of(model: keras.Model, layer: str) -> np.ndarray:
    """A kernel as a matrix."""
    kernel = keras.ops.convert_to_numpy(model.get_layer(layer).kernel)
    return kernel.reshape(-1, kernel.shape[-1])


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    data = load_data()
    print(
        f"{len(data.train[0]):,} digits to train on, {len(data.validation[0])} to choose by, "
        f"{len(data.test[0])} to test at the end\n"
    )

    models = train_all(data)
    print("\nFiles, each run and compared with its model before it is called good:", flush=True)
    rows = measure(export_all(models, data, out), data)
    print_table(rows)
    draw(models, rows, out / "result.png")
    print(f"\nA picture of this and of the weights: {out / 'result.png'}")


if __name__ == "__main__":
    main()
