"""Which groups matter? Group-sparse linear models on made-up data, and on a real table.

    python examples/which_groups_matter.py [--out DIR]

Left, 200 rows and 80 groups of 5 columns of which 10 are active: what each penalty finds, the
strength chosen on further rows. Right, scikit-learn's table of breast tumours: 30 columns are 10
measurements, each with its mean, its error and its worst value, so a measurement that is left out
need not be taken. Writes `which_groups_matter.png`.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # the models here need none of them
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import matplotlib
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from keras_hoyer.glm import GroupGLM, group_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PENALTIES = ("lasso", "adaptive_lasso", "mcp", "transformed_l1", "l_half")
SHOWN = ("lasso", "transformed_l1")
GROUPS, SIZE, ACTIVE, ROWS, SNR = 80, 5, 10, 200, 3.0


def made_up(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, twice as many rows as are for training, a response, and the true coefficients."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(2 * ROWS, GROUPS * SIZE))
    beta = np.zeros((GROUPS, SIZE))
    beta[random.choice(GROUPS, ACTIVE, replace=False)] = random.normal(size=(ACTIVE, SIZE))
    signal = x @ beta.ravel()
    noise = random.normal(size=len(x)) * signal.std() / np.sqrt(SNR)
    return x, signal + noise, beta.ravel()


def norms(coefficients: np.ndarray) -> np.ndarray:
    """The L2 norm of each group."""
    return np.linalg.norm(coefficients.reshape(-1, SIZE), axis=1)


def compare_penalties(axes: plt.Axes) -> None:
    """Prints what each penalty finds, and draws the groups' norms."""
    x, y, truth = made_up()
    groups = np.repeat(np.arange(GROUPS), SIZE)
    active = np.flatnonzero(norms(truth))
    order = np.argsort(-norms(truth), kind="stable")
    axes.bar(range(GROUPS), norms(truth)[order], color="0.8", width=1.0, label="truth")
    print(f"{'penalty':15} error  groups  of them false  seconds")
    for penalty in PENALTIES:
        started = time.perf_counter()
        path = group_path(
            x[:ROWS], y[:ROWS], groups=groups, penalty=penalty, tol=1e-5, max_iter=1000
        )
        best = max(path, key=lambda model: model.score(x[ROWS:], y[ROWS:]))
        error = np.linalg.norm(best.coef_ - truth) / np.linalg.norm(truth)
        false = len(set(best.groups_) - set(active))
        seconds = time.perf_counter() - started
        print(f"{penalty:15} {error:5.3f}  {len(best.groups_):6}  {false:13}  {seconds:7.1f}")
        if penalty in SHOWN:
            marker = "ox"[SHOWN.index(penalty)]
            found = norms(best.coef_)[order]
            axes.plot(np.flatnonzero(found), found[found > 0], marker, label=penalty, mfc="none")
    axes.set(
        xlabel="group, by its true size",
        ylabel="norm of its coefficients",
        title=f"{ACTIVE} of {GROUPS} groups are active",
    )
    axes.legend()


def which_measurements(axes: plt.Axes) -> None:
    """Draws how well tumours are told apart by few measurements; prints the order they enter."""
    table = load_breast_cancer()
    names = [name.removeprefix("mean ") for name in table.feature_names[:10]]
    x = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    train_x, test_x, train_y, test_y = train_test_split(
        x, table.target, test_size=0.4, random_state=0, stratify=table.target
    )
    groups = np.arange(30) % 10  # means, errors and worst values stand one after the other
    for penalty in SHOWN:
        path = group_path(
            train_x,
            train_y,
            family="binomial",
            penalty=penalty,
            groups=groups,
            ridge=1e-3,  # the two classes can almost be separated
            n_strengths=20,
        )
        best: dict[int, float] = {}
        for model in path:
            count = len(model.groups_)
            best[count] = max(best.get(count, 0.0), model.score(test_x, test_y))
        counts = sorted(best)
        axes.plot(counts, [best[count] for count in counts], "o-", label=penalty)
        print(f"\n{penalty}: accuracy on rows it has not seen, by the number of measurements")
        print("  ".join(f"{count}: {best[count]:.3f}" for count in counts))
        print(f"the first ones: {', '.join(first_ones(path, names))}")
    axes.set(xlabel="measurements of 10", ylabel="accuracy on other rows", title="Breast tumours")
    axes.legend()


def first_ones(path: list[GroupGLM], names: list[str]) -> list[str]:
    """The first five measurements that enter as the penalty becomes weaker."""
    entered: dict[int, None] = {}
    for model in path:
        entered.update(dict.fromkeys(model.groups_.tolist()))
    return [names[group] for group in list(entered)[:5]]


def main() -> None:
    """Fits, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # A path goes on where a step has met its limit, and the best of its models is what counts.
    warnings.simplefilter("ignore")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    compare_penalties(left)
    which_measurements(right)
    figure.savefig(out / "which_groups_matter.png", dpi=120)
    print(f"\n{out / 'which_groups_matter.png'}")


if __name__ == "__main__":
    main()
