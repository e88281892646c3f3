"""Group-sparse linear models: penalties on synthetic data, and the group lasso beside skglm.

`python benchmarks/group_glm.py table 20` makes the runs of 20 repetitions that have no line yet in
`results/group_glm.jsonl`: 200 rows, 400 columns in 80 groups of which 10 are active. The strength
is chosen by the loss on 200 further rows, from a path of 40 (15 where steps are Newton's).
`python benchmarks/group_glm.py skglm` compares objectives and seconds with skglm 0.5, if it is
installed, into `results/group_skglm.json`. `python benchmarks/group_glm.py show` prints the tables,
and `page` writes them into `docs/which_groups_matter.md`.
"""

import dataclasses
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from kit.machine import describe_machine
from kit.results import append, done_before, read_lines
from kit.tables import table

from keras_hoyer.glm import GroupGLM, group_path
from keras_hoyer.glm.families import FAMILIES

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "group_glm.jsonl"
COMPARED = RESULTS / "group_skglm.json"
PAGE = Path(__file__).parents[1] / "docs" / "which_groups_matter.md"
BEGIN, END = "<!-- by benchmarks/group_glm.py page -->", "<!-- end -->"

NAMES = {
    "lasso": "group lasso",
    "adaptive_lasso": "adaptive group lasso",
    "mcp": "MCP",
    "scad": "SCAD",
    "transformed_l1": "transformed L1",
    "log_sum": "log",
    "l_half": "l1/2",
    "hoyer_square": "Hoyer-Square",
}
PENALTIES = tuple(NAMES)
# Of a path. Where each step is several Newton steps, fewer and less exact ones: the statistical
# error is far larger.
NEWTON = {"n_strengths": 15, "tol": 1e-3, "max_iter": 100}
PATHS = {
    "gaussian": {"n_strengths": 40, "tol": 1e-5, "max_iter": 1000},
    # The classes can be separated by as many columns, which takes a ridge.
    "binomial": {"ridge": 1e-2, **NEWTON},
    "poisson": NEWTON,
}
# The curvature of the logistic loss is at most 1/4, so these are as concave beside it as MCP and
# SCAD are by default beside squares.
CONCAVE = {("binomial", "mcp"): {"gamma": 12.0}, ("binomial", "scad"): {"a": 11.8}}
AT_ONCE = 3  # repetitions of all cases, before more of each
SIZES = {"equal": (5,), "mixed": (2, 3, 5, 10)}
LABELS = {"gaussian": "linear", "binomial": "logistic", "poisson": "Poisson"}
CASES = tuple(itertools.product(LABELS, SIZES, (0.0, 0.5), (1.0, 3.0, 10.0)))

Rows = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: all that its result depends on, machine and versions aside.

    Attributes:
        family: Of the response.
        penalty: Its name.
        snr: Of `"gaussian"` the ratio of the signal's variance to the noise's; of `"binomial"` the
            deviation of the linear predictor, of `"poisson"` half of `log(1 + snr)` is.
        correlation: Of neighbouring columns.
        sizes: `"equal"` for groups of 5 columns, `"mixed"` for groups of 2, 3, 5 and 10.
        seed: Of the data.
    """

    family: str
    penalty: str
    snr: float
    correlation: float
    sizes: str
    seed: int


def make_data(
    run: Run, rows: int = 200, groups: int = 80, active: int = 10
) -> tuple[Rows, Rows, np.ndarray, np.ndarray]:
    """Training and validation rows, the true coefficients, and the group of each column.

    Columns have mean 0 and variance 1; neighbouring columns correlate.
    """
    sizes = np.resize(SIZES[run.sizes], groups)
    numbers = np.repeat(np.arange(groups), sizes)
    random = np.random.default_rng(run.seed)
    columns = len(numbers)
    x = random.normal(size=(2 * rows, columns))
    for column in range(1, columns):
        past = run.correlation * x[:, column - 1]
        x[:, column] = past + np.sqrt(1 - run.correlation**2) * x[:, column]
    beta = np.zeros(columns)
    for group in random.choice(groups, active, replace=False):
        beta[numbers == group] = random.normal(size=sizes[group])
    eta = x @ beta
    if run.family == "gaussian":
        y = eta + random.normal(size=eta.size) * eta.std() / np.sqrt(run.snr)
    elif run.family == "binomial":
        beta *= run.snr / eta.std()
        y = (random.random(eta.size) < 1 / (1 + np.exp(-x @ beta))).astype("float64")
    else:
        beta *= np.log1p(run.snr) / eta.std() / 2
        y = random.poisson(np.exp(x @ beta)).astype("float64")
    return (x[:rows], y[:rows]), (x[rows:], y[rows:]), beta, numbers


def measure(run: Run) -> dict:
    """Error of the coefficients relative to their norm, groups, F1 and seconds of a path."""
    train, validation, beta, groups = make_data(run)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = group_path(
            *train,
            shortest=1e-2 if run.penalty != "hoyer_square" else 1e-3,
            family=run.family,
            penalty=run.penalty,
            groups=groups,
            **PATHS[run.family],
            **CONCAVE.get((run.family, run.penalty), {}),
        )
        seconds = time.perf_counter() - started
    x, y = validation
    loss = FAMILIES[run.family].loss
    best = min(path, key=lambda model: loss(x @ model.coef_ + model.intercept_, y).mean())
    true, found = set(groups[beta != 0].tolist()), set(best.groups_.tolist())
    both = len(true & found)
    return {
        "error": float(np.linalg.norm(best.coef_ - beta) / np.linalg.norm(beta)),
        "groups": len(found),
        "true": both,
        "false": len(found) - both,
        "f1": 2 * both / max(len(true) + len(found), 1),
        "seconds": seconds,
    }


def plan(repetitions: int) -> Iterator[Run]:
    """All runs, those of the literature's table first, then a few repetitions after the others."""
    for seed, snr, penalty in itertools.product(range(repetitions), (3.0, 10.0), PENALTIES):
        yield Run("gaussian", penalty, snr, 0.0, "equal", seed)
    for first in range(0, repetitions, AT_ONCE):
        seeds = range(first, min(first + AT_ONCE, repetitions))
        for sizes, seed, case, penalty in itertools.product(SIZES, seeds, CASES, PENALTIES):
            family, own, correlation, snr = case
            if own == sizes:
                yield Run(family, penalty, snr, correlation, sizes, seed)


def make_table(repetitions: int) -> None:
    """Makes the runs that have no line yet."""
    done = done_before(LINES, Run)
    machine = describe_machine()
    for run in dict.fromkeys(plan(repetitions)):
        if run not in done:
            line = {**dataclasses.asdict(run), **measure(run), "machine": machine}
            append(LINES, line)


def tables() -> str:
    """Both tables, as Markdown: the literature's case, and all of them."""
    cases: dict[tuple, list[dict]] = {}
    for line in read_lines(LINES):
        case = tuple(line[name] for name in ("family", "sizes", "correlation", "snr", "penalty"))
        cases.setdefault(case, []).append(line)
    return "\n".join([*table_of_linear(cases), *table_of_all(cases)]).rstrip()


def table_of_linear(cases: dict[tuple, list[dict]]) -> list[str]:
    """Linear models on independent columns, in groups of one size."""
    header, rows = ["penalty"], [[name] for name in NAMES.values()]
    repetitions = set()
    for snr in (3.0, 10.0):
        header += [f"SNR {snr:g}: error", "true + false groups", "F1", "seconds"]
        for row, penalty in zip(rows, PENALTIES, strict=True):
            lines = cases["gaussian", "equal", 0.0, snr, penalty]
            repetitions.add(len(lines))
            row += [
                spread([line["error"] for line in lines], 3),
                f"{mean(lines, 'true'):.1f} + {mean(lines, 'false'):.1f}",
                f"{mean(lines, 'f1'):.2f}",
                f"{statistics.median(line['seconds'] for line in lines):.1f}",
            ]
    return [
        f"Mean and standard deviation over {count(repetitions)} data sets; seconds are the median, "
        "of one core that had other work.",
        "",
        *table(header, rows),
    ]


def table_of_all(cases: dict[tuple, list[dict]]) -> list[str]:
    """Error and F1 of every case, a row each; of the repetitions that all penalties have."""
    rows = []
    for case in CASES:
        lines = [cases.get((*case, penalty), []) for penalty in PENALTIES]
        seeds = set.intersection(*({line["seed"] for line in each} for each in lines))
        if seeds:
            common = [[line for line in each if line["seed"] in seeds] for each in lines]
            cells = (
                f"{spread([line['error'] for line in each], 2)}, {mean(each, 'f1'):.2f}"
                for each in common
            )
            family, sizes, correlation, snr = case
            rows.append([LABELS[family], sizes, correlation, f"{snr:g}", len(seeds), *cells])
    header = ["model", "groups", "correlation", "signal", "n", *NAMES.values()]
    return [
        "Error, mean and standard deviation over `n` data sets, and F1 of the groups:",
        "",
        *table(header, rows),
    ]


def count(numbers: set[int]) -> str:
    """A number, or the range of several."""
    least, most = min(numbers, default=0), max(numbers, default=0)
    return str(least) if least == most else f"{least} to {most}"


def mean(lines: list[dict], name: str) -> float:
    """Mean over the repetitions."""
    return statistics.mean(line[name] for line in lines)


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def write_page() -> None:
    """Puts the tables into the page of the documentation, between its two marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}")


def objective(
    family: str,
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    strength: float,
    coef: np.ndarray,
    intercept: float,
) -> float:
    """The mean loss plus the group lasso, in plain NumPy."""
    eta = x @ coef + intercept
    losses = {
        "gaussian": lambda: (eta - y) ** 2 / 2,
        "binomial": lambda: np.logaddexp(0, eta) - y * eta,
        "poisson": lambda: np.exp(eta) - y * eta,
    }
    sizes = np.bincount(groups)
    norms = np.sqrt(np.bincount(groups, coef**2))
    return float(losses[family]().mean() + strength * (np.sqrt(sizes) * norms).sum())


def fit_skglm(
    family: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray, strength: float, tol: float
) -> tuple[np.ndarray, float, float]:
    """The same problem by skglm; seconds without compiling."""
    from skglm.datafits import LogisticGroup, PoissonGroup, QuadraticGroup
    from skglm.penalties import WeightedGroupL2
    from skglm.solvers import GroupBCD, GroupProxNewton
    from skglm.utils.data import grp_converter

    # `grp_converter` gives indices, then pointers; the datafits take pointers, then indices.
    indices, pointers = grp_converter(np.bincount(groups).tolist(), x.shape[1])
    datafits = {"gaussian": QuadraticGroup, "binomial": LogisticGroup, "poisson": PoissonGroup}
    weights = np.sqrt(np.bincount(groups)).astype("float64")
    signed = np.where(y > 0, 1.0, -1.0) if family == "binomial" else y
    x = np.asfortranarray(x)
    for _ in range(2):
        datafit = datafits[family](pointers, indices)
        penalty = WeightedGroupL2(strength, weights, pointers, indices)
        solver = GroupProxNewton if family == "poisson" else GroupBCD
        solver = solver(tol=tol, fit_intercept=family != "poisson", max_iter=500)
        started = time.perf_counter()
        coef = solver.solve(x, signed, datafit, penalty)[0]
        seconds = time.perf_counter() - started
    columns = x.shape[1]
    return coef[:columns], float(coef[columns:].sum()), seconds


def compare() -> None:
    """Objectives of the three families at tight stopping, and seconds of a large one at 1e-6."""
    found = []
    for family, rows, columns, tol in (
        ("gaussian", 200, 400, 1e-9),
        ("gaussian", 400, 200, 1e-9),
        ("binomial", 200, 400, 1e-9),
        ("binomial", 400, 200, 1e-9),
        ("poisson", 200, 400, 1e-9),
        ("gaussian", 500, 10_000, 1e-6),
    ):
        run = Run(family, "lasso", 3.0, 0.0, "equal", 0)
        (x, y), _, _, groups = make_data(run, rows, columns // 5)
        problem = GroupGLM(family, groups=groups, fit_intercept=family != "poisson")
        top = group_path(
            x, y, n_strengths=1, family=family, groups=groups, fit_intercept=family != "poisson"
        )[0].strength
        for share in (0.5, 0.1):
            problem.set_params(strength=share * top, tol=tol, max_iter=20_000)
            started = time.perf_counter()
            problem.fit(x, y)
            ours = time.perf_counter() - started
            coef, intercept, theirs = fit_skglm(family, x, y, groups, share * top, tol)
            values = [
                objective(family, x, y, groups, share * top, c, b)
                for c, b in ((problem.coef_, problem.intercept_), (coef, intercept))
            ]
            found.append(
                {
                    "family": family,
                    "rows": rows,
                    "columns": columns,
                    "tol": tol,
                    "share": share,
                    "groups": len(problem.groups_),
                    "steps": problem.n_iter_,
                    "objective": values[0],
                    "relative": (values[0] - values[1]) / abs(values[1]),
                    "seconds": ours,
                    "skglm": theirs,
                }
            )
            print(found[-1], flush=True)
    import skglm

    machine = {**describe_machine(), "skglm": skglm.__version__}
    COMPARED.write_text(json.dumps({"machine": machine, "fits": found}, indent=1) + "\n")


if __name__ == "__main__":
    part = sys.argv[1] if len(sys.argv) > 1 else "show"
    if part == "table":
        make_table(int(sys.argv[2]) if len(sys.argv) > 2 else 20)
    elif part == "skglm":
        compare()
    elif part == "page":
        write_page()
    else:
        print(tables())
