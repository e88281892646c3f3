"""Where the penalties push: the gradient picture of the DeepHoyer paper, drawn by our own code.

    python benchmarks/penalty_fields.py

Draws the descent directions of L1 and Hoyer-Square over two weights (Hoyer has the same), and the
slope for each weight of a larger kernel with the trimming threshold. Writes `penalty_fields.png`
into `benchmarks/results`. Gradients are those that TensorFlow takes of the regularizers.
"""

import numpy as np
from kit.results import FOLDER

PENALTIES = {"L1": "L1", "Hoyer-Square": "HoyerSquare"}


def values_and_gradients(penalty: object, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a regularizer at each row of `points`."""
    import tensorflow as tf

    values, gradients = [], []
    for point in points.astype("float32"):
        variable = tf.Variable(point)
        with tf.GradientTape() as tape:
            value = penalty(variable)
        values.append(float(value))
        gradients.append(tape.gradient(value, variable).numpy())
    return np.array(values), np.array(gradients)


def main() -> None:
    """Draws."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    import keras_hoyer as kh

    axis = np.linspace(0.05, 2, 27)
    first, second = np.meshgrid(axis, axis)
    points = np.stack([first.ravel(), second.ravel()], axis=1)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    for plot, (title, name) in zip(axes, PENALTIES.items(), strict=False):
        values, gradients = values_and_gradients(getattr(kh, name)(1.0), points)
        down = -gradients.T.reshape(2, *first.shape)
        plot.contourf(first, second, values.reshape(first.shape), 20, cmap="Blues", alpha=0.7)
        plot.streamplot(first, second, *down, color="0.2", density=0.8, linewidth=0.8)
        plot.set(title=title, xlabel="weight 1", ylabel="weight 2", aspect="equal")
    kernel = np.sort(np.abs(np.random.default_rng(0).normal(size=100)))
    for title, name in PENALTIES.items():
        _, [slope] = values_and_gradients(getattr(kh, name)(1.0), kernel[np.newaxis])
        axes[2].plot(kernel, slope / np.abs(slope).max(), label=title)
    threshold = kh.measures.trimming_threshold(kernel)
    axes[2].axvline(threshold, color="0.6", linestyle="--", label="trimming threshold")
    axes[2].axhline(0, color="0.8")
    axes[2].set(title="slope for each of 100 weights", xlabel="size of the weight")
    axes[2].set_ylabel("slope, largest 1")
    axes[2].legend(fontsize=8)
    figure.savefig(FOLDER / "penalty_fields.png", dpi=110)


if __name__ == "__main__":
    main()
