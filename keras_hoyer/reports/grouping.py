"""Which layers' channels hang together, laid out as lines and columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_hoyer.reports.account import GroupReport
from keras_hoyer.reports.results import Report


@dataclass(frozen=True)
class GroupChart:
    """A line for each layer, a column for each group of channels.

    Attributes:
        layers: Names of the layers, in the model's order.
        groups: The groups.
        marks: For each group the lines of the layers that make its channels, that go along, and
            that read them.
        fixed: For lines whose layer makes channels of which none can be removed, why.
    """

    layers: Sequence[str]
    groups: Sequence[GroupReport]
    marks: Sequence[tuple[list[int], list[int], list[int]]]
    fixed: dict[int, str]


def chart_of(report: Report) -> GroupChart:
    """Lays out the groups of a report."""
    named = [n for g in report.groups for part in _parts(g) for n in part]
    reasons: dict[str, list[str]] = {}
    layers: dict[str, None] = {}
    for kernel in report.layers:
        # A layer may have several kernels, and parts with names of their own.
        owners = [name for name in named if kernel.name.startswith(f"{name}/")]
        layer = max(owners, key=len, default=kernel.name.rpartition("/")[0])
        layers[layer] = None
        for group in report.groups:
            layers.update(dict.fromkeys(group.along if layer in group.made_by else ()))
        if kernel.outputs_fixed:
            reasons.setdefault(layer, []).append(kernel.outputs_fixed)
    layers.update(dict.fromkeys(named))
    lines = {name: line for line, name in enumerate(layers)}
    marks = []
    for group in report.groups:
        made, along, read = ([lines[name] for name in part] for part in _parts(group))
        marks.append((made, along, read))
    fixed = {lines[name]: "; ".join(dict.fromkeys(why)) for name, why in reasons.items()}
    return GroupChart(list(layers), report.groups, marks, fixed)


def _parts(group: GroupReport) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    return group.made_by, group.along, group.read_by
