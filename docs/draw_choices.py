"""Draws `docs/choices.png`, which way to go: python docs/draw_choices.py."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

QUESTION, ANSWER = "#fff3d6", "#dbe8f6"
# Place of the middle, words, color.
BOXES = {
    "want": (5.0, 5.6, "What do you want?", QUESTION),
    "dense": (3.2, 4.4, "Is most of the work\nin dense layers?", QUESTION),
    "channel": (1.6, 3.0, "patterns.Channel()\nTargetFlops, TargetLatency", ANSWER),
    "block": (5.0, 3.0, "patterns.Block((4, 1))\n80% zeros or more", ANSWER),
    "weights": (8.4, 3.0, "patterns.Unstructured()\nTargetSparsity, BudgetPruning", ANSWER),
    "shrink": (1.6, 1.7, "shrink(model)", ANSWER),
    "int8": (1.6, 0.5, 'export(quantize="int8")', ANSWER),
    "latency": (5.0, 0.5, 'export(optimize_for="latency")', ANSWER),
    "float16": (8.4, 0.5, 'export(), or\nexport(quantize="float16")', ANSWER),
}
ARROWS = (
    ("want", "dense", "less time"),
    ("want", "weights", "fewer bytes"),
    ("dense", "channel", "no, or do\nnot know"),
    ("dense", "block", "yes"),
    ("channel", "shrink", ""),
    ("shrink", "int8", ""),
    ("block", "latency", ""),
    ("weights", "float16", ""),
)


def main() -> None:
    """Draws."""
    figure, axes = plt.subplots(figsize=(10, 5.6), layout="constrained")
    axes.set(xlim=(0, 10), ylim=(0, 6.1))
    axes.axis("off")
    for start, end, words in ARROWS:
        (x, y), (to_x, to_y) = BOXES[start][:2], BOXES[end][:2]
        arrow = {
            "arrowstyle": "-|>",
            "color": "0.35",
            "shrinkA": 22,
            "shrinkB": 22 if x == to_x else 38,
        }
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=arrow)
        middle = (x + to_x) / 2, (y + to_y) / 2
        if words:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(*middle, words, ha="center", va="center", fontsize=10, bbox=box)
    for x, y, words, color in BOXES.values():
        box = {"facecolor": color, "edgecolor": "0.6", "boxstyle": "round,pad=0.5"}
        axes.text(x, y, words, ha="center", va="center", fontsize=11, bbox=box)
    figure.savefig(Path(__file__).with_name("choices.png"), dpi=110)


if __name__ == "__main__":
    main()
