"""Denoise a picture with a network that has seen no other: a deep image prior, with and without TV.

    python examples/denoise_untrained.py [--out DIR]

A convolutional network with random weights is fitted to one noisy picture, from a fixed random
input. It learns the picture before it learns the noise, so early on its output is cleaner than what
it is fitted to, and later it is not. `TotalVariation` on the output asks for few differences
between neighbours. Beside them, scikit-image's own TV denoiser, which needs no network. Writes
`denoise_untrained.png`. A minute on one CPU core; needs `pip install scikit-image`, nothing else.
"""

import argparse
import os
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import matplotlib
import numpy as np

import keras_hoyer as kh

matplotlib.use("Agg")
import matplotlib.pyplot as plt

layers = keras.layers

SIZE, NOISE, STEPS, EVERY = 96, 0.1, 1200, 25
WIDTHS, RATE = (16, 32, 64), 1e-2
# Of the mean total variation of a pixel, beside the mean squared error.
FACTOR = 0.05
WEIGHTS = np.geomspace(0.02, 0.5, 15)  # of scikit-image's denoiser


def load_picture() -> np.ndarray:
    """The head of scikit-image's cameraman: float32 of shape (SIZE, SIZE) in [0, 1]."""
    from skimage import data

    part = data.camera()[60 : 60 + 2 * SIZE, 140 : 140 + 2 * SIZE] / 255
    return part.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3)).astype("float32")


def denoise_plainly(noisy: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, float]:
    """scikit-image's TV denoiser at the weight that is best for this picture, and that weight."""
    from skimage.restoration import denoise_tv_chambolle

    found = {weight: denoise_tv_chambolle(noisy, weight) for weight in WEIGHTS}
    weight = max(found, key=lambda weight: psnr(found[weight], picture))
    return found[weight], float(weight)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise ratio of pictures in [0, 1], in dB."""
    return float(-10 * np.log10(np.mean(np.square(one - other))))


def build(size: int, factor: float) -> keras.Model:
    """An hourglass of convolutions, whose output has a penalty on its total variation."""
    x = inputs = keras.Input((size, size, 8))
    x = layers.GaussianNoise(0.03)(x)
    for filters in WIDTHS:
        x = convolved(x, filters, 2)
    for filters in reversed(WIDTHS):
        x = convolved(layers.UpSampling2D(interpolation="bilinear")(x), filters, 1)
    penalty = kh.TotalVariation(factor, normalize=True) if factor else None
    x = layers.Conv2D(1, 1, activation="sigmoid", activity_regularizer=penalty)(x)
    return keras.Model(inputs, x)


def convolved(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    """A convolution, normalised over the picture."""
    x = layers.Conv2D(filters, 3, strides, padding="same")(x)
    return layers.LeakyReLU(0.1)(layers.GroupNormalization(-1)(x))


class Watch(keras.callbacks.Callback):
    """Keeps what the network makes of its input after each epoch.

    Args:
        inputs: The random input.
    """

    def __init__(self, inputs: np.ndarray) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keeps one."""
        self.outputs.append(self.model.predict(self.inputs, verbose=0)[0, :, :, 0])


def fit(noisy: np.ndarray, factor: float, steps: int, every: int) -> list[np.ndarray]:
    """Fits a network to a noisy picture; what it puts out after each `every` steps."""
    keras.utils.set_random_seed(0)
    model = build(len(noisy), factor)
    model.compile(keras.optimizers.Adam(RATE), "mse")
    watch = Watch(np.random.default_rng(1).random((1, *noisy.shape, 8), "float32"))
    # An epoch is so many steps of the same picture.
    x = np.repeat(watch.inputs, every, axis=0)
    y = np.repeat(noisy[np.newaxis, :, :, np.newaxis], every, axis=0)
    model.fit(x, y, batch_size=1, epochs=steps // every, verbose=0, callbacks=[watch])
    return watch.outputs


def draw(
    pictures: dict[str, np.ndarray], curves: dict[str, list[float]], level: float
) -> plt.Figure:
    """The curves over the steps, the level of scikit-image's denoiser, and pictures with titles."""
    figure, axes = plt.subplot_mosaic(
        [["curve", 0, 1, 2], ["curve", 3, 4, 5]],
        width_ratios=[2.4, 1, 1, 1],
        figsize=(11, 4),
        layout="constrained",
    )
    for name, values in curves.items():
        axes["curve"].plot(EVERY * np.arange(1, len(values) + 1), values, label=name)
    axes["curve"].axhline(level, color="0.5", ls="--", label="scikit-image's TV")
    axes["curve"].set(xlabel="step", ylabel="PSNR in dB", title="Against the clean picture")
    axes["curve"].legend(loc="lower right")
    for number, (title, picture) in enumerate(pictures.items()):
        axes[number].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes[number].set_title(title, fontsize=9)
        axes[number].axis("off")
    return figure


def main() -> None:
    """Denoises, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--factor", type=float, default=FACTOR, help="of the total variation")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    picture = load_picture()
    random = np.random.default_rng(0)
    noisy = (picture + NOISE * random.normal(size=picture.shape)).astype("float32")
    plain, weight = denoise_plainly(noisy, picture)
    level = psnr(plain, picture)
    pictures = {
        "clean": picture,
        f"noisy: {psnr(noisy, picture):.1f} dB": noisy,
        f"scikit-image's TV: {level:.1f} dB": plain,
    }
    print(f"noisy: {psnr(noisy, picture):.2f} dB")
    print(f"scikit-image's TV denoiser: {level:.2f} dB, at its best weight of {weight:.2f}")
    curves: dict[str, list[float]] = {}
    for name, factor in (("network alone", 0.0), ("with TotalVariation", arguments.factor)):
        started = time.perf_counter()
        found = fit(noisy, factor, arguments.steps, EVERY)
        values = curves[name] = [psnr(each, picture) for each in found]
        best = int(np.argmax(values))
        print(
            f"{name}: {values[-1]:.2f} dB at the end, at most {values[best]:.2f} dB after "
            f"{EVERY * (best + 1)} steps, in {time.perf_counter() - started:.0f} seconds"
        )
        if factor == 0:
            pictures[f"alone, at best: {values[best]:.1f} dB"] = found[best]
        short = "with TV" if factor else "alone"
        pictures[f"{short}, at the end: {values[-1]:.1f} dB"] = found[-1]
    file = arguments.out / "denoise_untrained.png"
    draw(pictures, curves, level).savefig(file, dpi=90)
    print(f"\n{file}")


if __name__ == "__main__":
    main()
