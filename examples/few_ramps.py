"""Few ramps: what a penalty makes of a shallow ReLU network on one-dimensional data.

    python examples/few_ramps.py [--out DIR]

Such a network is a piecewise linear function: each hidden unit adds a ramp, with a knot where the
unit starts. 200 units learn from 40 noisy points of a function with three knots, with weight decay,
with `PathNorm` and with the Group-Hoyer-Square penalty over coupled channels. Units that are left
with next to nothing are cut, `shrink` takes them off, and the outputs stay. Writes `few_ramps.png`.
Less than a minute on two CPU cores.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import matplotlib
import numpy as np

import keras_hoyer as kh

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POINTS, UNITS, STEPS, NOISE = 40, 200, 5000, 0.05
# The function: its value at -1, its slope there, and how much the slope changes at each knot.
KNOTS, CHANGES = (-0.5, 0.1, 0.6), (3.0, -4.0, 3.5)
# Units whose two weights are less, once they are of the same size, are cut.
THRESHOLD = 0.02


def truth(x: np.ndarray) -> np.ndarray:
    """A function with three knots."""
    return -(x + 1) + sum(c * np.maximum(x - k, 0) for k, c in zip(KNOTS, CHANGES, strict=True))


def with_decay(model: keras.Model) -> None:
    """Weight decay on both kernels."""
    kh.regularize(model, keras.regularizers.L2(5e-4))


def with_path_norm(model: keras.Model) -> None:
    """The path norm, which weight decay is at its least over all scales of the units."""
    kh.regularize(model, kh.PathNorm(1e-3))


def with_group_hoyer(model: keras.Model) -> None:
    """Hoyer-Square of the units' norms, over both kernels."""
    kh.regularize(model, kh.GroupHoyerSquare(1e-3), groups="coupled")


PENALTIES: dict[str, Callable[[keras.Model], None]] = {
    "weight decay": with_decay,
    "PathNorm": with_path_norm,
    "Group-Hoyer-Square": with_group_hoyer,
}


def build(units: int) -> keras.Model:
    """One hidden layer, whose knots are anywhere in [-1, 1]."""
    hidden, out = keras.layers.Dense(units, "relu"), keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((1,)), hidden, out])
    random = np.random.default_rng(0)
    signs, knots = random.choice([-1.0, 1.0], units), random.uniform(-1, 1, units)
    size = units**-0.25
    hidden.set_weights([size * signs[None], -size * signs * knots])
    out.set_weights([size * random.choice([-1.0, 1.0], (units, 1)) * 0.3, np.zeros(1)])
    return model


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, steps: int) -> None:
    """Full-batch steps of Adam with a rate that decays to zero."""
    at_once = min(steps, 200)  # of them an epoch
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps)),
        "mse",
        # PyTorch knows one step at a time only.
        steps_per_execution=1 if keras.backend.backend() == "torch" else at_once,
    )
    rows = np.tile(x, (at_once, 1)), np.tile(y, (at_once, 1))
    model.fit(*rows, batch_size=len(x), epochs=steps // at_once, shuffle=False, verbose=0)


def balance(model: keras.Model) -> None:
    """Gives the two weights of each unit the same size: outputs stay, weight decay is least."""
    hidden, out = model.layers
    (w, b), (v, c) = hidden.get_weights(), out.get_weights()
    sizes = np.sqrt(np.abs(w[0] * v[:, 0]))
    factors = np.divide(sizes, np.abs(w[0]), out=np.zeros_like(sizes), where=w[0] != 0)
    hidden.set_weights([w * factors, b * factors])
    out.set_weights([(np.sign(v[:, 0]) * sizes)[:, None], c])


def knots_of(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Where the units start or end, sorted, and by how much each changes the slope."""
    hidden, out = model.layers
    (w, b), (v, _) = hidden.get_weights(), out.get_weights()
    knots, changes = -b / w[0], np.abs(w[0]) * v[:, 0]
    order = np.argsort(knots)
    order = order[np.abs(knots[order]) < 1]
    return knots[order], changes[order]


def count_places(knots: np.ndarray) -> int:
    """How many knots there are if those closer than 0.02 count once."""
    return int((np.diff(knots, prepend=-np.inf) > 0.02).sum())


def outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What a model predicts."""
    return model.predict(x, batch_size=len(x), verbose=0)


def fit_and_shrink(
    penalize: Callable[[keras.Model], None], x: np.ndarray, y: np.ndarray, steps: int
) -> tuple[keras.Model, dict[str, float]]:
    """The network that is left; its error and sizes, and by how much outputs changed on the way."""
    grid = np.linspace(-1, 1, 401)[:, None]
    model = build(UNITS)
    penalize(model)
    train(model, x, y, steps)
    before = outputs(model, grid)
    balance(model)
    kh.prune(model, kh.criteria.Threshold(THRESHOLD), kh.patterns.Channel())
    cut = outputs(model, grid)
    train(model, x, y, max(steps // 10, 1))  # the zeros stay
    tuned = outputs(model, grid)
    small = kh.shrink(kh.strip(model))
    left = outputs(small, grid)
    hidden, out = small.layers
    path = np.abs(hidden.get_weights()[0][0] * out.get_weights()[0][:, 0]).sum()
    return small, {
        "error": float(np.sqrt(np.mean((left - truth(grid)) ** 2))),
        "path": float(path),
        "units": hidden.units,
        "knots": count_places(knots_of(small)[0]),
        "cut": float(np.abs(cut - before).max()),
        "shrunk": float(np.abs(left - tuned).max()),
    }


def draw(axes: plt.Axes, name: str, small: keras.Model, found: dict[str, float]) -> None:
    """The function of a network, and the knots of its units."""
    grid = np.linspace(-1, 1, 401)[:, None]
    axes.plot(grid, truth(grid), "--", color="0.6", label="truth")
    axes.plot(grid, outputs(small, grid), color="C0", label="network")
    knots, changes = knots_of(small)
    at = outputs(small, knots[:, None])[:, 0]
    for up, color, label in ((True, "C2", "knots, upward"), (False, "C3", "knots, downward")):
        chosen = (changes > 0) == up
        axes.scatter(knots[chosen], at[chosen], 15, color, zorder=3, label=label)
    axes.set(title=f"{name}: {found['units']} units, {found['knots']} knots", xlabel="x")


def main() -> None:
    """Trains, cuts, shrinks, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(-1, 1, (POINTS, 1)), axis=0)
    y = truth(x) + NOISE * random.normal(size=x.shape)
    figure, [panels] = plt.subplots(
        1, len(PENALTIES), figsize=(12, 3.8), sharey=True, layout="constrained", squeeze=False
    )
    print(
        f"{'penalty':20} units  knots  path norm  error  changed by the cut, by `shrink`  seconds"
    )
    for axes, (name, penalize) in zip(panels, PENALTIES.items(), strict=True):
        started = time.perf_counter()
        small, found = fit_and_shrink(penalize, x, y, arguments.steps)
        print(
            f"{name:20} {found['units']:5}  {found['knots']:5}  {found['path']:9.2f}  "
            f"{found['error']:.3f}  {found['cut']:18.1e}, {found['shrunk']:11.1e}  "
            f"{time.perf_counter() - started:7.0f}"
        )
        axes.plot(x, y, ".", color="0.4", label="data")
        draw(axes, name, small, found)
    panels[0].legend(fontsize="small", handlelength=1.2)
    picture = arguments.out / "few_ramps.png"
    figure.savefig(picture, dpi=110)
    print(f"\n{picture}")


if __name__ == "__main__":
    main()
