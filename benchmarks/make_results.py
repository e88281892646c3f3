"""Makes RESULTS.md and its pictures from the JSON in benchmarks/results, and from nothing else.

python benchmarks/make_results.py
"""

import itertools
import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import numpy as np
from choice_tables import (
    effective_section,
    factors_section,
    latency_section,
    one_factor_section,
    penalties_section,
)
from kit import beyond, results
from kit.results import FOLDER
from kit.tables import table
from methods import METHODS
from plans import PLANS

mpl.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker

PAGE = Path(__file__).parent.parent / "RESULTS.md"
DENSE_FLOPS = {"300-100": 266_200, "lenet-5": 2_293_000}
TITLES = {"300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
CURVES = {method.name: method.title for method in METHODS.values() if method.title}
STRUCTURED = [method.name for method in METHODS.values() if method.structured]
STYLES = {
    "HoyerSquare": {"color": "C0", "marker": "o"},
    "L1": {"color": "C1", "marker": "s"},
    "TransformedL1": {"color": "C2", "marker": "D"},
    "Hoyer": {"color": "C3", "marker": "v"},
    "none": {"color": "C4", "marker": "^"},
}
NAMES = {
    "HoyerSquare": "Hoyer-Square",
    "TransformedL1": "transformed L1",
    "GroupHoyerSquare": "Group-HS",
    "GroupLasso": "group lasso",
    "none": "magnitude only",
}


def read_lines(name: str) -> list[dict]:
    """The lines of a file of results; none if there is no such file."""
    return results.read_lines(FOLDER / name)


def by_setting(runs: list[dict]) -> list[list[dict]]:
    """Groups runs that differ in their seed alone."""
    groups = defaultdict(dict)
    names = (
        "net",
        "protocol",
        "method",
        "penalty",
        "factor",
        "amount",
        "teacher",
        "shifts",
        "dropout",
        "weight_decay",
    )
    for run in runs:
        key = (*(run[name] for name in names), *run["epochs"])
        groups[key][run["seed"]] = run
    return [list(seeds.values()) for seeds in groups.values()]


def spread(values: list[float], scale: float = 1, digits: int = 2) -> str:
    """Mean and standard deviation over seeds; values that are all the same as one."""
    values = [value * scale for value in values]
    mean = f"{np.mean(values):,.{digits}f}"
    return mean if len(set(values)) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def describe(run: dict) -> str:
    """What a run did, in words."""
    how = METHODS[run["method"]].describe(run)
    if run["method"] == "dense":
        return f"{how}, with dropout" if run["dropout"] else how
    taught = {"labels": "", "dense": ", distilled"}[run["teacher"]]
    shifted = ", shifted images" if run["shifts"] else ""
    decay = f", weight decay {run['weight_decay']:g}" if run["weight_decay"] else ""
    return f"{describe_penalty(run)}, {how}{taught}{shifted}{decay}"


def describe_penalty(run: dict) -> str:
    """A run's penalty and its factor."""
    name = NAMES.get(run["penalty"], run["penalty"])
    return name if run["penalty"] == "none" else f"{name} {run['factor']:g}"


def element_tables(net: str, runs: list[dict], published: dict) -> list[str]:
    """The two tables of a net's element-wise runs, a protocol each."""
    chosen = [
        group
        for group in by_setting(runs)
        if group[0]["net"] == net and group[0]["method"] not in STRUCTURED
    ]
    chosen.sort(key=lambda group: -np.mean([run["nonzero"] for run in group]))
    lines = [f"### {TITLES[net]}, the paper's protocol", ""]
    lines += ["Best test epoch, one seed, nothing held out.", ""]
    rows = [
        [row["method"], row["nonzero"], row["ratio"], row["accuracy"], row["source"]]
        for row in published[net]
    ]
    for group in chosen:
        run = group[0]
        if run["protocol"] == "paper":
            rows.append(
                [
                    f"**ours**: {describe(run)}",
                    spread([r["nonzero"] for r in group], digits=0),
                    spread([r["compression"] for r in group], digits=1) + "x",
                    spread([r["best_test"] for r in group], 100),
                    f"measured, seed {', '.join(str(r['seed']) for r in group)}",
                ]
            )
    lines += table(["method", "nonzero", "ratio", "test accuracy, %", "source"], rows)
    lines += [f"### {TITLES[net]}, our protocol", ""]
    ours = [group for group in chosen if group[0]["protocol"] == "ours"]
    told = worth_telling(ours)
    lines += [
        "5,000 images held out, test accuracy read once, at the last epoch. Of "
        f"{len(ours)} settings, these are the {len(told)} that no other of the same method and "
        "penalty beats in validation accuracy with as few weights, and those of several seeds; "
        "the JSON has all.",
        "",
    ]
    rows = [
        [
            describe(group[0]),
            spread([r["nonzero"] for r in group], digits=0),
            spread([r["compression"] for r in group], digits=1) + "x",
            spread([r["validation"] for r in group], 100),
            spread([r["test"] for r in group], 100),
            len(group),
        ]
        for group in told
    ]
    header = ["method", "nonzero", "ratio", "validation, %", "test, %", "seeds"]
    return lines + table(header, rows)


def worth_telling(groups: list[list[dict]]) -> list[list[dict]]:
    """Settings on the front of their method and penalty, or of several seeds; method by method."""
    kinds = defaultdict(list)
    for group in groups:
        kinds[group[0]["method"], group[0]["penalty"]].append(group)
    on_front = [group for kind in kinds.values() for group in front(kind)]
    told = [group for group in groups if group in on_front or len(group) > 1]
    order = list(METHODS)
    return sorted(told, key=lambda group: order.index(group[0]["method"]))


def structured_tables(net: str, runs: list[dict], published: dict) -> list[str]:
    """The table of a net's structured runs."""
    rows = [
        [row["method"], row["widths"], row["flops"], row["accuracy"], "", row["source"]]
        for row in published[f"structured {net}"]
    ]
    chosen = [
        group
        for group in by_setting(runs)
        if group[0]["net"] == net and group[0]["method"] in STRUCTURED
    ]
    for group in chosen:
        run = group[0]
        ours = run["protocol"] == "ours"
        accuracy = spread([r["test" if ours else "best_test"] for r in group], 100)
        rows.append(
            [
                f"**ours**: {describe(run)}",
                "-".join(map(str, run["widths"])),
                f"{run['flops'] / 1000:.1f}k ({run['flops'] / DENSE_FLOPS[net]:.1%})",
                "" if ours else accuracy,
                accuracy if ours else "",
                f"measured, seed {', '.join(str(r['seed']) for r in group)}",
            ]
        )
    header = ["method", "widths", "FLOPs", "best test epoch, %", "our protocol, %", "source"]
    lines = [f"### {TITLES[net]}", ""]
    lines += ["Widths are those of the first seed. Biases are not counted.", ""]
    return lines + table(header, rows)


def front(groups: list[list[dict]]) -> list[list[dict]]:
    """The settings that no other of their size or smaller beats in validation accuracy."""
    chosen, best = [], -1.0
    for group in sorted(groups, key=lambda group: (mean(group, "nonzero"), -mean(group))):
        if mean(group) > best:
            chosen.append(group)
            best = mean(group)
    return chosen[::-1]


def mean(group: list[dict], name: str = "validation") -> float:
    """Mean over the seeds."""
    return float(np.mean([run[name] for run in group]))


def cifar_table(lines: list[dict]) -> list[str]:
    """The table of the networks on CIFAR-10."""
    groups = defaultdict(list)
    for line in lines:
        names = ("depth", "images", "penalty", "factor", "share", "scope", "epochs", "score")
        groups[str([line[name] for name in names])].append(line)
    rows = [
        [
            f"ResNet-{group[0]['depth']}",
            group[0]["images"],
            "dense"
            if group[0]["share"] == 1
            else f"{describe_penalty(group[0])}, {group[0]['scope']}, {group[0]['score']}",
            spread([1 - line["flops_left"] for line in group], 100, 1),
            spread([line["validation"] for line in group], 100),
            spread([line["test"] for line in group], 100),
            len(group),
        ]
        for group in groups.values()
    ]
    header = ["net", "images", "channels cut after", "FLOPs removed, %"]
    return table([*header, "validation, %", "test, %", "seeds"], rows)


def draw_curves(net: str, runs: list[dict]) -> None:
    """Draws accuracy against nonzero weights: a panel for each method, a curve for each penalty."""
    ours = [run for run in runs if (run["net"], run["protocol"]) == (net, "ours")]
    panels = {}
    for method, title in CURVES.items():
        penalties = defaultdict(list)
        for group in by_setting([run for run in ours if run["method"] == method]):
            penalties[group[0]["penalty"]].append(group)
        if penalties:
            panels[title] = penalties
    rows = -(-len(panels) // 2)
    figure, grid = plt.subplots(
        rows,
        2,
        figsize=(11, 0.4 + 3.7 * rows),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    # Less accurate, a net is of no use to anyone.
    floor = max(run["test"] for run in ours) - 0.02
    for axes, (title, penalties) in zip(grid.flat, panels.items(), strict=False):
        for penalty, groups in sorted(penalties.items()):
            curve = [group for group in front(groups) if mean(group, "test") > floor]
            if not curve:
                continue
            axes.plot(
                [mean(group, "nonzero") for group in curve],
                [100 * mean(group, "test") for group in curve],
                markersize=5,
                label=NAMES.get(penalty, penalty),
                **STYLES[penalty],
            )
            for run in (run for group in curve if len(group) > 1 for run in group):
                color = STYLES[penalty]["color"]
                axes.plot(run["nonzero"], 100 * run["test"], ".", color=color, alpha=0.4)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set_xlabel("nonzero weights")
        axes.set_ylabel("test accuracy at the last epoch, %")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(FOLDER / f"curves-{net}.png", dpi=110)
    plt.close(figure)


def automatic_table(runs: list[dict]) -> list[str]:
    """The automatic choice against the best of each sweep by hand, seed by seed."""
    rows, pairs = [], defaultdict(list)
    for run, method in itertools.product(runs, CURVES):
        sweep = [
            other
            for other in runs
            if other["method"] == method
            and all(other[name] == run[name] for name in ("net", "protocol", "seed", "penalty"))
        ]
        if run["method"] != "budget" or len(sweep) < 12:
            continue
        good = [other for other in sweep if other["validation"] >= run["validation"]]
        best = min(good, key=lambda other: other["nonzero"], default=None)
        pairs[run["net"], run["penalty"], run["factor"], method].append((run, best, sweep))
        rows.append(
            [
                TITLES[run["net"]],
                describe_penalty(run),
                run["seed"],
                f"{run['nonzero']:,}",
                f"{100 * run['validation']:.2f} / {100 * run['test']:.2f}",
                epochs_of([run]),
                f"{method}, {len(sweep)} runs",
                "none" if best is None else f"{best['nonzero']:,}",
                ""
                if best is None
                else f"{100 * best['validation']:.2f} / {100 * best['test']:.2f}",
                epochs_of(sweep),
            ]
        )
    header = ["net", "penalty", "seed", "nonzero", "val / test, %", "epochs", "sweep by hand"]
    header += ["its sparsest at that validation", "val / test, %", "epochs"]
    lines = table(header, rows)
    for (net, *_, method), found in pairs.items():
        if len(found) > 1 and all(best is not None for _, best, _ in found):
            share = sum(epochs_of([run]) for run, _, _ in found) / sum(
                epochs_of(sweep) for *_, sweep in found
            )
            lines += [
                f"{TITLES[net]}, {describe_penalty(found[0][0])}, over {len(found)} seeds: "
                f"{np.mean([run['nonzero'] for run, _, _ in found]):,.0f} weights at "
                f"{100 * np.mean([run['test'] for run, _, _ in found]):.2f}% (test), against "
                f"{np.mean([best['nonzero'] for _, best, _ in found]):,.0f} at "
                f"{100 * np.mean([best['test'] for _, best, _ in found]):.2f}% of the best of "
                f"the sweep ({method}), in {share:.0%} of its epochs.",
                "",
            ]
    return lines


def epochs_of(runs: list[dict]) -> int:
    """Epochs after dense training; runs that share their sparse training count it once."""
    sparse = {(run["factor"], run["teacher"], run["epochs"][1]) for run in runs}
    return sum(key[2] for key in sparse) + sum(r["cut_epochs"] + r["epochs"][3] for r in runs)


def shrink_table(rows: list[dict]) -> list[str]:
    """How the shrunk networks of `keras.applications` compare, a line for each family's worst."""
    shrunk = [row for row in rows if "failure" not in row]
    beyond = [row for row in shrunk if row["error"] > 1e-4]
    within = len(shrunk) - len(beyond)
    lines = [
        f"{len({row['name'] for row in rows})} networks, 30% and 60% of the channels cut: "
        f"{len(shrunk)} of {len(rows)} shrink, {within} give the same outputs to 1e-4 of the "
        f"largest in float32 (median {np.median([row['error'] for row in shrunk]):.1e}); the "
        f"slowest takes {max(row['seconds'] for row in shrunk):.0f} s.",
        "",
    ]
    lines += table(
        ["beyond 1e-4 in float32", "cut", "error", "of rounding alone", "error in float64"],
        [
            [
                row["name"],
                f"{row['fraction']:.0%}",
                *(f"{row[name]:.1e}" for name in ("error", "rounding", "error_float64")),
            ]
            for row in beyond
        ],
    )
    if beyond:
        lines += [
            "With random statistics these networks blow up the smallest change. 'Of rounding "
            "alone' is what the network that was not shrunk makes of inputs that differ in their "
            "last digit; in float64 (224 pixels) the shrunk one agrees.",
            "",
        ]
    failed = [f"{row['name']} ({row['failure']})" for row in rows if "failure" in row]
    return [*lines, *([f"Not shrunk: {'; '.join(failed)}.", ""] if failed else [])]


# A setting of each row of the summary, in words and as fields of its runs.
SUMMARY = [
    ("LeNet-300-100, cut until a budget of 0.2 points is used up", "budget", "HoyerSquare", 0.002),
    ("LeNet-300-100, weights cut gradually", "gradual", "HoyerSquare", 4630.0),
    ("LeNet-300-100, weights cut once", "once", "HoyerSquare", 4630.0),
    ("LeNet-300-100, weights cut gradually", "gradual", "HoyerSquare", 2315.0),
    ("LeNet-300-100, weights cut gradually", "gradual", "TransformedL1", 2315.0),
    ("LeNet-300-100, inputs and units cut by the script", "structured", "GroupHoyerSquare", 0.062),
    ("LeNet-5, weights cut gradually", "gradual", "HoyerSquare", 3500.0),
    ("LeNet-5, channels cut and shrunk", "channels", "GroupHoyerSquare", 0.074),
    ("LeNet-5, channels cut and shrunk", "channels", "GroupHoyerSquare", 0.029),
]


# Sections of the appendix, and the results that they are made from.
CHOICES = {
    "The automatic factor": (factors_section, "factors.jsonl"),
    "Cuts to a multiple of the effective number": (effective_section, "effective.jsonl"),
    "One factor for all": (one_factor_section, "penalties.jsonl"),
    "Which penalty to take": (penalties_section, "penalties.jsonl"),
    "`TargetLatency`": (latency_section, "target_latency.jsonl"),
}


def hub_table(summary: dict) -> list[str]:
    """What became of KerasHub's tiny models: how many reach the bar, and a line for each."""
    lines = summary["models"]
    whole = [line for line in lines if "error" not in line]
    right = [line for line in whole if max(line["differences"]) <= 1e-4]
    reached = [line for line in right if line["lost"] >= 0.15]
    kept = [line for line in right if line["small_class"] == line["class"]]
    text = [
        f"{len(lines)} tiny models of KerasHub {summary['keras_hub']} on {summary['backend']}, "
        f"random weights, {summary['sparsity']:.0%} of the channels cut in each layer: "
        f"{len(whole)} are penalized, pruned, reported, shrunk, saved, loaded and trained without "
        "an error, "
        f"{len(right)} of them with outputs within 1e-4 of the masked model's on two batches, and "
        f"{len(reached)} lose at least 15% of what is not embedding. {len(kept)} stay of their "
        "own class.",
        "",
    ]
    refused = [line["model"] for line in lines if "nothing_goes" in line]
    if refused:
        text[0] += (
            f" Of {', '.join(refused)} no channel can go, which pruning says in an error; single "
            "weights were cut instead."
        )
    earlier = sum(line.get("earlier", False) for line in lines)
    if earlier:
        text[0] += f" {earlier} of the lines come from an earlier state of the code."
    rows = []
    for line in sorted(lines, key=lambda line: -line.get("lost", -1)):
        if "error" in line:
            rows.append([line["model"], "", "", "", "", f"error in '{line['stage']}'"])
            continue
        rows.append(
            [
                line["model"],
                f"{line['parameters']:,} to {line['smaller']:,}",
                f"{line['lost']:.0%}",
                f"{1 - line['smaller_flops'] / max(line['flops'], 1):.0%}",
                f"{max(line['differences']):.0e}",
                line["small_class"],
            ]
        )
    header = ["model", "parameters", "less, without tables", "less FLOPs", "error", "class"]
    return text + table(header, rows)


def own_layers_table(summary: dict) -> list[str]:
    """Nets of own layers beside the same nets written inline."""
    lines = summary["nets"]
    whole = [line for line in lines if "error" not in line]
    alike = [
        line
        for line in whole
        if all(one == two for one, two in (line[x] for x in ("flops", "smaller", "smaller_flops")))
    ]
    largest = max(max(line["differences"]) for line in whole)
    kept = sum(line["zeros_kept"] for line in whole)
    text = [
        f"{len(lines)} nets in the style of keras.io, each with layers of its own and inline, "
        f"{summary['sparsity']:.0%} of the channels cut in each layer: {len(alike)} become as "
        "small as their inline twins and count as many FLOPs, before and after. The outputs are "
        f"within {largest:.0e} of the masked model's on two batches; {kept} keep all zeros after "
        "saving, loading, `keep_zeros` and a step of AdamW.",
        "",
    ]
    rows = [
        [
            line["net"],
            line["parameters"],
            *([f"error: {line['error'][:60]}", "", "", ""] if "error" in line else _become(line)),
        ]
        for line in lines
    ]
    return text + table(["net", "parameters", "smaller", "inline", "error", "class"], rows)


def _become(line: dict) -> list[str]:
    own, inline = line["smaller"]
    return [f"{own:,}", f"{inline:,}", f"{max(line['differences']):.0e}", line["small_class"]]


def hub_files_table(summary: dict) -> list[str]:
    """The files of KerasHub's tiny models: how many are right, and what stops the others."""
    text, rows = [], []
    for format in dict.fromkeys(line["format"] for line in summary["files"]):
        lines = [line for line in summary["files"] if line["format"] == format]
        right = [line for line in lines if line.get("error_of_unseen", 1) <= 1e-4]
        fixed = sum(bool(line["notes"]) for line in right)
        text.append(
            f"`.{format}`: of {len(lines)} pruned and shrunk backbones {len(right)} become files "
            "that answer within 1e-4 of the masked model, inputs given by name; "
            f"{fixed} of them with the shapes of the data, as open ones do not convert."
        )
        rows += [[line["model"], format, _stopped(line)] for line in lines if line not in right]
    text = [" ".join(text), ""]
    return text + (table(["no file of", "format", "what stops it"], rows) if rows else [])


def _stopped(line: dict) -> str:
    """What stopped an export, in short."""
    text = " ".join(line.get("error", f"outputs differ by {line.get('error_of_unseen')}").split())
    for start in ("not converted: ", "not handed over: "):
        text = text.partition(start)[2] or text
    return (text[:200] + " ..." if len(text) > 200 else text).replace("|", "/")


def summary_table(runs: list[dict]) -> list[str]:
    """The figures to take away, each the best factor by validation of those with three seeds."""
    rows = []
    for title, method, penalty, amount in SUMMARY:
        net = next(net for net, name in TITLES.items() if title.startswith(f"{name},"))
        groups = [
            group
            for group in by_setting(runs)
            if len(group) == 3
            and [group[0][name] for name in ("net", "protocol", "method", "penalty", "amount")]
            == [net, "ours", method, penalty, amount]
        ]
        group = max(groups, key=mean)
        run = group[0]
        flops = f"{run['flops'] / DENSE_FLOPS[net]:.1%} of the multiply-adds"
        weights = f"{mean(group, 'nonzero'):,.0f} weights ({mean(group, 'compression'):.0f}x)"
        left = flops if method in STRUCTURED else weights
        rows.append([title, describe_penalty(run), left, spread([r["test"] for r in group], 100)])
    return table(["what", "penalty", "left", "test accuracy, %"], rows)


def beyond_sections() -> list[str]:
    """Scores, trained nets, and other tools, a table each."""
    lines = ["## Scores: channels of a trained net cut once", ""]
    lines += ["`benchmarks/channel_scores.py`: digits, accuracy right after the cut, in %.", ""]
    lines += beyond.channel_score_table(read_lines("channel_scores.jsonl"))
    lines += ["## Trained nets from packages", ""]
    lines += [
        "`benchmarks/pretrained.py`: agreement with the dense net on pictures that neither scores "
        "nor fine-tuning have seen; time of the processor of the LiteRT file, over the dense "
        "one's. A score that cannot be had is left out.",
        "",
        "![agreement against multiply-adds](benchmarks/results/pretrained.png)",
        "",
    ]
    lines += beyond.pretrained_table(read_lines("pretrained.jsonl"))
    lines += ["## What a score costs", ""]
    lines += [
        "`benchmarks/score_cost.py`: 100M weights, 8 batches of 32, one core; time of the "
        "processor, memory as a multiple of the model's.",
        "",
    ]
    lines += beyond.score_cost_table(read_lines("score_cost.jsonl"))
    lines += ["## Beside other tools", ""]
    lines += ["`benchmarks/side_by_side.py`: digits, what is compared says its first lines.", ""]
    return lines + beyond.side_by_side_tables(read_lines("side_by_side.jsonl"))


def page() -> str:
    """The page: what to take away, then all there is."""
    runs = read_lines("mnist.jsonl")
    published = json.loads((FOLDER / "published.json").read_text())
    lines = ["# Results", ""]
    lines += [
        "Made by `python benchmarks/make_results.py` from the JSON in `benchmarks/results`. Three "
        "seeds, everything chosen on 5,000 held-out training images, test accuracy read once, at "
        "the last epoch. The appendix has the recipes, all tables, the paper's protocol and the "
        "published figures beside ours.",
        "",
    ]
    lines += summary_table(runs)
    lines += ["## Accuracy against weights", ""]
    lines += [
        "Of each penalty the settings that none of the same penalty beats in *validation* accuracy "
        "with as few weights; drawn is their test accuracy, down to 2 points below the best. Small "
        "dots are single seeds.",
        "",
    ]
    for net, title in TITLES.items():
        lines += [f"![{title}](benchmarks/results/curves-{net}.png)", ""]
    lines += ["## The automatic choice", ""]
    lines += [line for line in automatic_table(runs) if line and not line.startswith("|")]
    applications = json.loads((FOLDER / "applications.json").read_text())["results"]
    lines += ["", "## Shrinking `keras.applications`", "", shrink_table(applications)[0], ""]
    hub = json.loads((FOLDER / "keras_hub.json").read_text())
    files = json.loads((FOLDER / "keras_hub_files.json").read_text())
    own = json.loads((FOLDER / "own_layers.json").read_text())
    lines += ["## KerasHub", "", hub_table(hub)[0], ""]
    for other in ("tensorflow", "jax"):
        summary = json.loads((FOLDER / f"keras_hub_{other}.json").read_text())
        lines += [hub_table(summary)[0], ""]
    lines += [hub_files_table(files)[0], ""]
    lines += ["## Layers of one's own", "", own_layers_table(own)[0], ""]
    lines += ["# Appendix", ""]
    made = [f"- `{plan.name}`: {plan.asks} ({len(plan.runs)} runs)" for plan in PLANS.values()]
    introduction = (FOLDER / "introduction.md").read_text().replace("PLANS", "\n".join(made))
    lines += [*introduction.splitlines(), ""]
    hours = sum(run["seconds"] for run in runs) / 3600
    lines += [f"The {len(runs)} runs on MNIST took {hours:.1f} hours, most on one core.", ""]
    lines += ["What was tried besides, and gave nothing: [docs/notes.md](docs/notes.md).", ""]
    lines += ["## Element-wise", ""]
    for net in TITLES:
        lines += element_tables(net, runs, published)
    lines += ["## Structured", ""]
    for net in TITLES:
        lines += structured_tables(net, runs, published)
    lines += ["### ResNet-20 and ResNet-56, CIFAR-10", ""]
    lines += ["From `benchmarks/cifar.py`; our protocol.", ""]
    lines += cifar_table(read_lines("cifar.jsonl"))
    lines += beyond_sections()
    lines += ["## All of `keras.applications`", ""]
    lines += shrink_table(applications)
    lines += ["## All models of KerasHub", ""]
    lines += hub_table(hub)
    lines += ["### Files of them", ""]
    lines += hub_files_table(files)
    lines += ["## All nets of own layers", ""]
    lines += own_layers_table(own)
    lines += ["## The automatic choice, seed by seed", ""]
    lines += automatic_table(runs)
    penalties = read_lines("penalties.jsonl")
    for title, section, rows in (
        ("The automatic factor", factors_section, read_lines("factors.jsonl")),
        (
            "Cuts to a multiple of the effective number",
            effective_section,
            read_lines("effective.jsonl"),
        ),
        ("One factor for all", one_factor_section, penalties),
        ("Which penalty to take", penalties_section, penalties),
        ("`TargetLatency`", latency_section, read_lines("target_latency.jsonl")),
    ):
        lines += [f"## {title}", "", *section(rows)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Writes the page and its pictures."""
    for net in TITLES:
        draw_curves(net, read_lines("mnist.jsonl"))
    beyond.draw_pretrained(read_lines("pretrained.jsonl"), FOLDER / "pretrained.png", plt)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
