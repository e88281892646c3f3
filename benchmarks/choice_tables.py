"""Tables of what to choose by: factors, the effective number, penalties, measured latency."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from kit.small_nets import NETS
from kit.tables import table

Line = dict[str, Any]

NAMES = {
    "HoyerSquare": "Hoyer-Square",
    "L1": "L1",
    "TransformedL1": "transformed L1",
    "GroupHoyerSquare": "Group-HS",
    "GroupLasso": "group lasso",
    "none": "none",
}
DEFAULT = 1e-4


def factors_section(lines: Sequence[Line]) -> list[str]:
    """The automatic factor against five fixed ones: LeNet-300-100."""
    text = [
        "`KERAS_BACKEND=jax python benchmarks/factors.py` (all plans: `--plan automatic_short`). "
        "10 epochs of dense training, then so many with Hoyer-Square, one cut of all kernels, 15 "
        "of fine-tuning; labels only, 55,000 images, accuracy of 5,000 held-out ones.",
        "",
    ]
    rows = []
    for (sparse, keep), cuts in grouped(lines, lambda line: (line["epochs"][1], line["keep"])):
        for factor, group in grouped(cuts, lambda line: line["factor"]):
            columns = ("effective", "before", "after_cut", "validation")
            digits = (0, 1, 1, 2)
            values = [spread(group, *column) for column in zip(columns, digits, strict=True)]
            ratio = np.mean([line["keep"] / line["effective"] for line in group])
            name = "auto" if factor == "auto" else f"{factor:g}"
            rows.append([sparse, f"{keep:,}", name, values[0], f"{ratio:.1f}", *values[1:]])
            rows[-1].append(len(group))
    header = ["sparse epochs", "weights kept", "factor", "effective number", "kept / effective"]
    header += ["before the cut, %", "right after, %", "fine-tuned, %", "seeds"]
    return [*text, *automatic_against_fixed(lines), *table(header, rows)]


def automatic_against_fixed(lines: Sequence[Line]) -> list[str]:
    """A sentence for each target: the automatic factor and the best of the fixed ones."""
    told = []
    compared = [line for line in lines if line["plan"] == "automatic"]
    for keep, cuts in grouped(compared, lambda line: line["keep"]):
        groups = dict(grouped(cuts, lambda line: line["factor"]))
        automatic = groups.pop("auto", [])
        best = max(groups, key=lambda factor: mean(groups[factor], "validation"), default=None)
        if automatic and best is not None:
            told.append(
                f"{keep:,} weights: {spread(automatic, 'after_cut', 1)} right after the cut and "
                f"{spread(automatic, 'validation', 2)} fine-tuned, the best of {len(groups)} "
                f"factors ({best:g}) {spread(groups[best], 'after_cut', 1)} and "
                f"{spread(groups[best], 'validation', 2)}"
            )
    return [f'`factor="auto"`: {"; ".join(told)}.', ""] if told else []


def effective_section(lines: Sequence[Line]) -> list[str]:
    """How many runs lose at most half a point, by ratio."""
    text = [
        "`KERAS_BACKEND=jax python benchmarks/effective.py --plan digits` (then `mnist`, "
        "`convolutions`): trained with a penalty, or without one, cut by `EffectiveNumber(ratio)`, "
        "accuracy right after, no fine-tuning. A cell tells in how many of the runs (factors and "
        "seeds) the cut costs at most 0.5 points.",
        "",
    ]
    cuts = [{**line, **cut} for line in lines for cut in line["cuts"]]
    ratios = sorted({cut["ratio"] for cut in cuts})
    told = [
        f"{NAMES[penalty]}: {sum(lost(cut) <= 0.5 for cut in some)} of {len(some)}"
        for penalty, some in grouped(
            (cut for cut in cuts if cut["ratio"] == ratios[-1]), lambda cut: cut["penalty"]
        )
    ]
    text += [f"At the default, ratio {ratios[-1]:g}: {'; '.join(told)}.", ""] if told else []
    rows = []
    for (penalty, scope), some in grouped(cuts, lambda cut: (cut["penalty"], cut["scope"])):
        for net, group in [*grouped(some, lambda cut: cut["net"]), ("all", some)]:
            cells = [[cut for cut in group if cut["ratio"] == ratio] for ratio in ratios]
            within = [f"{sum(lost(cut) <= 0.5 for cut in c)} of {len(c)}" for c in cells]
            worst = max(map(lost, cells[-1]))
            left = np.median([cut["left"] for cut in cells[-1]])
            what = "weights" if scope == "global" and "Group" not in penalty else "channels"
            what += ", by layer" if scope == "layer" else ""
            title = "**all**" if net == "all" else NETS[net].title
            rows.append([NAMES[penalty], what, title, *within, f"{worst:.1f}", f"{left:.0%}"])
    header = ["penalty", "cut", "net", *(f"ratio {ratio:g}" for ratio in ratios)]
    return [*text, *table([*header, "worst loss at the last", "left there, median"], rows)]


def lost(cut: Line) -> float:
    """Points that a cut costs before any fine-tuning."""
    return float(cut["before"] - cut["after_cut"])


def one_factor_section(lines: Sequence[Line]) -> list[str]:
    """What one factor for all costs against the best of six, each setting by itself."""
    text = [
        "`KERAS_BACKEND=jax python benchmarks/penalties.py --plan one_factor`: three scales of the "
        "initial kernels (0.5, 1, 2), two learning rates (0.001, 0.004), a cut to 10% of the "
        "weights, one seed; short trainings. A loss is the validation accuracy after fine-tuning "
        "of the best of six factors, 1e-5 to 3e-3, less that of the factor in question.",
        "",
    ]
    chosen = [line for line in lines if line["plan"] == "one_factor"]
    rows, told = [], []
    measured = defaultdict(set)
    for line in chosen:
        measured[line["penalty"]].add(line["net"])
    for penalty, some in grouped(chosen, lambda line: line["penalty"]):
        losses = losses_of(x for x in some if all(x["net"] in nets for nets in measured.values()))
        best = min(losses, key=lambda factor: np.mean(list(losses[factor].values())))
        told.append(
            f"{NAMES[penalty]}: {DEFAULT:g} for all loses {told_losses(losses[DEFAULT].values())}; "
            f"{best:g}, the best one for all, {told_losses(losses[best].values())}"
        )
        for net, group in grouped(some, lambda line: line["net"]):
            own = losses_of(group)
            row = [NAMES[penalty], NETS[net].title]
            row += [
                f"{np.mean(list(own[f].values())):.1f} / {max(own[f].values()):.1f}" for f in own
            ]
            rows.append([*row, best_factors(group)])
    if not rows:
        return [*text, *table([], [])]
    factors = sorted({line["factor"] for line in chosen})
    header = ["penalty", "net", *(f"{factor:g}" for factor in factors), "best factors"]
    told.append("Both on the nets that have both")
    tale = "Mean and worst loss in points, by factor; at the end the range of the best factors."
    return [*text, f"{'. '.join(told)}.", "", tale, "", *table(header, rows)]


def losses_of(lines: Iterable[Line]) -> dict[float, dict[tuple[Any, ...], float]]:
    """For each factor what it loses in each setting."""
    losses: dict[float, dict[tuple[Any, ...], float]] = defaultdict(dict)
    for setting, cuts in grouped(lines, setting_of):
        best = max(cut["validation"] for cut in cuts)
        for cut in cuts:
            losses[cut["factor"]][setting] = best - cut["validation"]
    return dict(sorted(losses.items()))


def setting_of(line: Line) -> tuple[Any, ...]:
    """All of a line's cut but its factor."""
    return tuple(line[name] for name in ("net", "penalty", "scale", "rate", "keep", "seed"))


def best_factors(lines: Iterable[Line]) -> str:
    """The range of the factors that are best in a setting."""
    best = [
        max(cuts, key=lambda cut: cut["validation"])["factor"]
        for _, cuts in grouped(lines, setting_of)
    ]
    return f"{min(best):g} to {max(best):g}"


def told_losses(losses: Iterable[float]) -> str:
    """Losses in words."""
    values = list(losses)
    within = np.mean([value <= 1 for value in values])
    return (
        f"{np.mean(values):.1f} points in the mean, {max(values):.1f} at worst, at most 1 in "
        f"{within:.0%} of {len(values)} settings"
    )


def penalties_section(lines: Sequence[Line]) -> list[str]:
    """Hoyer-Square with the automatic factor beside each penalty at its best factor."""
    text = [
        "`KERAS_BACKEND=jax python benchmarks/penalties.py --plan penalties_table`: right after "
        "the cut / after fine-tuning, validation accuracy in %, mean over the seeds. A "
        "penalty's best factor, of six, is that of the highest mean after fine-tuning, for each "
        "net.",
        "",
    ]
    chosen = [line for line in lines if line["plan"] == "penalties_table"]
    columns = [
        ("HoyerSquare", True),
        ("HoyerSquare", False),
        ("L1", False),
        ("TransformedL1", False),
    ]
    rows = []
    for (net, keep), cuts in grouped(chosen, lambda line: (line["net"], line["keep"])):
        cells = [cell_of(cuts, *column) for column in columns]
        rows.append([NETS[net].title, f"{keep:.0%}", *cells])
    header = ["net", "left", "Hoyer-Square, automatic"]
    header += [f"{NAMES[name]}, best factor" for name, _ in columns[1:]]
    return [*text, *table(header, rows)]


def cell_of(cuts: Iterable[Line], penalty: str, automatic: bool) -> str:
    """Accuracies of a penalty: with the automatic factor, or the best of the others."""
    groups = dict(
        grouped(
            (c for c in cuts if c["penalty"] == penalty and (c["factor"] == "auto") == automatic),
            lambda cut: cut["factor"],
        )
    )
    if not groups:
        return ""
    best = max(groups, key=lambda factor: mean(groups[factor], "validation"))
    accuracies = f"{mean(groups[best], 'after_cut'):.1f} / {spread(groups[best], 'validation', 1)}"
    return accuracies if automatic else f"{accuracies} ({best:g})"


def latency_section(lines: Sequence[Line]) -> list[str]:
    """What `TargetLatency` came to, and what another timer says."""
    text = [
        "`KERAS_BACKEND=tensorflow python benchmarks/target_latency.py`: LiteRT, one thread, "
        "random weights. 'Timed again' is the median of three repetitions by another timer, by "
        "turns with the dense file.",
        "",
    ]
    rows = [
        [
            f"{line['network']}, {line['pixels']} pixels, seed {line['seed']}",
            line["share"],
            f"{line['measured']['reached']:.3f}",
            f"{line['timed_again']:.3f}",
            f"{np.median([r['files']['small']['ratio_cpu'] for r in line['repetitions']]):.3f}",
            f"{line['flops']:.1%}",
            f"{line['seconds']:.0f} s, {line['measured']['files']} files",
        ]
        for line in lines
    ]
    header = ["network", "share asked", "reached", "timed again", "of the processor's time"]
    return [*text, *table([*header, "multiply-adds left", "search"], rows)]


def grouped(lines: Iterable[Line], key: Callable[[Line], Any]) -> Iterable[tuple[Any, list[Line]]]:
    """Lines of the same key, in the order of the keys."""
    by_text = sorted(lines, key=lambda line: sort_key(key(line)))
    return [(k, list(group)) for k, group in itertools.groupby(by_text, key)]


def sort_key(value: Any) -> tuple[Any, ...]:
    """Sorts numbers before words."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple((isinstance(each, str), each) for each in values)


def mean(lines: Iterable[Line], name: str) -> float:
    """Mean over lines."""
    return float(np.mean([line[name] for line in lines]))


def spread(lines: Sequence[Line], name: str, digits: int) -> str:
    """Mean and standard deviation over seeds."""
    values = [line[name] for line in lines]
    told = f"{np.mean(values):,.{digits}f}"
    return f"{told} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else told
