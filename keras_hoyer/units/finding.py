"""Finding the units of a pattern in a model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_hoyer._checks import warn
from keras_hoyer.criteria import UnitScores
from keras_hoyer.graph.channels import find_channels
from keras_hoyer.graph.costs import Costs
from keras_hoyer.graph.planning import can_say_fewer
from keras_hoyer.graph.tries import Tries
from keras_hoyer.graph.unreached import Unreached
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.masks import known_mask
from keras_hoyer.patterns import Channel, KernelPattern, Pattern
from keras_hoyer.plain import LayerSelection
from keras_hoyer.scores import Score
from keras_hoyer.units.kinds import BY_MAGNITUDE, ChannelUnits, KernelUnits, Units
from keras_hoyer.weights import Weight, find_kernels, find_weights


class FlopsShare:
    """Share of a model's multiply-adds that is left when channels go.

    Args:
        costs: The account of the model's multiply-adds.
        units: The channels of the model.
        fixed: What no cut can reach, in words.
        uniform: Whether equal layers are to stay equal.

    Attributes:
        total: The multiply-adds of the whole model.
    """

    def __init__(
        self, costs: Costs, units: Sequence[ChannelUnits], fixed: str, uniform: bool = False
    ) -> None:
        self._costs = costs
        self._units = units
        self._uniform = uniform
        self.fixed = fixed
        self.at_least = costs.at_least
        self.total = costs.total

    def __call__(self, counts: Sequence[int] | np.ndarray) -> float:
        """Share that is left when so many channels of each are wanted."""
        counts = _alike(self._units, counts) if self._uniform else counts
        pairs = zip(self._units, counts, strict=True)
        return self._costs.share([units.count_kept(count) for units, count in pairs])

    def left(self) -> int:
        """The multiply-adds without the channels that are zero now."""
        alive = [int(np.count_nonzero(units.alive())) for units in self._units]
        return round(self.total * self._costs.share(alive))


class ModelUnits(Sequence[Units]):
    """All units of a pattern in a model.

    Attributes:
        kernels: The kernels that were asked for.
        pattern: What is cut together.
        score: How much a weight matters.
        unreached: For channels, the kernels that have none; else `None`.
        flops: For channels, the share of the multiply-adds that is left; else `None`.
        told: Whether a missed target was spoken of: once for all cuts is enough.
    """

    def __init__(
        self,
        units: Sequence[Units],
        kernels: Sequence[Weight],
        pattern: Pattern,
        score: Score,
        unreached: Unreached | None = None,
        flops: FlopsShare | None = None,
    ) -> None:
        self._units = units
        self.kernels = kernels
        self.pattern = pattern
        self.score = score
        self.unreached = unreached
        self.flops = flops
        self.told = False

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: Any) -> Any:
        return self._units[index]

    def restrict(
        self, keep: Sequence[np.ndarray], scores: Sequence[UnitScores], multiple_of: int = 1
    ) -> list[np.ndarray]:
        """What a criterion wants to keep as the pattern allows it.

        Where equal layers are to stay equal, each keeps as many as they do on average.

        Args:
            keep: What the criterion wants to keep.
            scores: What the units score.
            multiple_of: Of channels, their number is rounded up to a multiple of it.
        """
        entries: Sequence[Any] = self._units
        triples = list(zip(entries, keep, scores, strict=True))
        if not self.pattern.uniform and multiple_of == 1:
            return [entry.restrict(kept, scored.values) for entry, kept, scored in triples]
        if not self.pattern.uniform:
            wanted = [multiple_of * -(-int(np.count_nonzero(kept)) // multiple_of) for kept in keep]
        else:
            wanted = _alike(entries, [int(np.count_nonzero(kept)) for kept in keep])
        return [
            entry.restrict(kept, scored.values, count)
            for (entry, kept, scored), count in zip(triples, wanted, strict=True)
        ]

    def masks(self, keep: Sequence[np.ndarray]) -> dict[Weight, np.ndarray]:
        """Mask of each weight where these units stay; what was cut before stays cut."""
        masks: dict[Weight, np.ndarray] = {}
        for entry, kept in zip(self._units, keep, strict=True):
            for weight, mask in entry.masks(kept).items():
                known = masks.get(weight, known_mask(weight))
                masks[weight] = mask if known is None else mask & known
        return masks

    def flops_left(self) -> int | None:
        """For channels, the multiply-adds without those that are zero now; else `None`."""
        return None if self.flops is None else self.flops.left()

    def scored(self) -> Sequence[Weight]:
        """All kernels whose importance the score is asked for."""
        kernels = (kernel for e in self._units for kernel in e.kernels(self.score.of_outputs))
        return list(dict.fromkeys(kernels))

    def scores(self, model: keras.Model) -> list[UnitScores]:
        """The scores of all units, as the model and the data are now."""
        score = self.score.measured(model, self.scored())
        return [entry.score(score) for entry in self._units]


def find_units(
    model: keras.Model,
    pattern: Pattern,
    layers: LayerSelection = None,
    score: Score = BY_MAGNITUDE,
) -> ModelUnits:
    """Finds the units of a pattern in a model; warns of kernels that have none.

    Raises:
        ValueError: If the model is not built, a layer name does not exist, there is nothing to
            prune, the pattern does not divide a kernel, or the score cannot be had.
    """
    kernels = find_kernels(model, layers)
    if not kernels:
        raise ValueError(
            "There is nothing to prune: no layer that was asked for has a kernel. Expected dense, "
            "convolutional, recurrent or attention layers, or embeddings named in `layers`."
        )
    find = _find_channels if pattern.whole_channels else _find_in_kernels
    units = find(model, pattern, score, kernels, layers)
    score.check(model, units.scored())
    return units


def _find_in_kernels(
    model: keras.Model,
    pattern: Any,
    score: Score,
    kernels: Sequence[Weight],
    layers: LayerSelection,
) -> ModelUnits:
    _check_fit(kernels, pattern)
    return ModelUnits([KernelUnits(kernel, pattern) for kernel in kernels], kernels, pattern, score)


def _find_channels(
    model: keras.Model,
    pattern: Any,
    score: Score,
    kernels: Sequence[Weight],
    layers: LayerSelection,
) -> ModelUnits:
    channels = find_channels(model, kernels, chosen=layers is not None)
    if not channels.groups:
        raise ValueError(
            f"Model '{model.name}' has no channels that can be removed from the layers that "
            f"were asked for. {channels.unreached.message()}"
        )
    weights = {id(weight.variable): weight for weight in find_weights(model)}
    # What was chosen by name counts as the kernels do, such as the experts of a mixture.
    chosen = [replace(kernel, role="kernel") for kernel in kernels if kernel.role == "matrix"]
    weights.update((id(kernel.variable), kernel) for kernel in chosen)
    units = [ChannelUnits(group, pattern, weights) for group in channels.groups]
    if pattern.uniform:
        units = _that_the_class_can_say(channels.graph, units)
    _check_width(units, pattern)
    if channels.unreached:
        warn(channels.unreached.message())
    costs = Costs(channels.graph, [entry.group for entry in units])
    flops = FlopsShare(costs, units, channels.unreached.describe(), pattern.uniform)
    return ModelUnits(units, kernels, pattern, score, channels.unreached, flops)


def _alike(units: Sequence[ChannelUnits], counts: Sequence[int] | np.ndarray) -> list[int]:
    """How many channels of each stay where each layer keeps as many as its stack on average."""
    stacks: dict[tuple[str, int], list[int]] = {}
    for entry, count in zip(units, counts, strict=True):
        stacks.setdefault(entry.stack, []).append(int(count))
    return [round(float(np.mean(stacks[entry.stack]))) for entry in units]


def _that_the_class_can_say(
    graph: ChannelGraph, units: Sequence[ChannelUnits]
) -> list[ChannelUnits]:
    """The channels of which the config of the model's class can say how many are left."""
    sayable: list[ChannelUnits] = []
    left = list(units)
    tries = Tries(graph.model)
    # Several stacks may be as wide as one entry says, as those of encoder and decoder are.
    for key in (_own_stack, _stack_anywhere):
        stacks: dict[Any, list[ChannelUnits]] = {}
        for entry in left:
            stacks.setdefault(key(entry), []).append(entry)
        for name, stack in stacks.items():
            if can_say_fewer(graph, [entry.group for entry in stack], tries):
                for entry in stack:
                    entry.stack = name
                sayable += stack
        known = {id(entry) for entry in sayable}
        left = [entry for entry in left if id(entry) not in known]
    left_out = dict.fromkeys(entry.stack[0] for entry in left)
    if not sayable:
        raise ValueError(
            f"Model '{graph.model.name}' has no channels of which the config of its class "
            f"{type(graph.model).__name__} can say how many are left: {', '.join(left_out)}. Cut "
            "without `uniform=True`; `shrink` then makes a functional model."
        )
    if left_out:
        warn(
            f"Not cut, since the config of {type(graph.model).__name__} has no entry that says "
            f"their number alone: the channels of {', '.join(left_out)}. Without `uniform=True` "
            "they are cut, and `shrink` makes a functional model."
        )
    return [entry for entry in units if id(entry) in known]


def _own_stack(entry: ChannelUnits) -> tuple[str, int]:
    return entry.stack


def _stack_anywhere(entry: ChannelUnits) -> tuple[str, int]:
    """The stack without the name of what it is part of."""
    name, channels = entry.stack
    parts = [part.partition("/")[2] for part in name.split(", ")]
    return ", ".join(dict.fromkeys(parts)), channels


def _check_width(units: Sequence[ChannelUnits], pattern: Channel) -> None:
    """Says which channels the pattern keeps altogether."""
    wide = [entry for entry in units if entry.group.channels > 1]
    kept = [entry for entry in wide if entry.count_kept(0) == entry.group.channels]
    named = ", ".join(f"'{entry.name}' ({entry.group.channels})" for entry in kept)
    if kept and len(kept) == len(wide):
        raise ValueError(
            f"{pattern} keeps every channel of {named}, so there is nothing to cut. Expected a "
            "smaller `min_channels` or `multiple_of`."
        )
    if kept:
        warn(f"{pattern} keeps every channel of {named}.")


def _check_fit(kernels: Sequence[Weight], pattern: KernelPattern) -> None:
    misfits = [kernel for kernel in kernels if not pattern.fits(kernel.shape)]
    if misfits:
        named = ", ".join(f"'{kernel.path}' of shape {kernel.shape}" for kernel in misfits)
        fitting = sorted({k.layer.name for k in kernels} - {k.layer.name for k in misfits})
        advice = f"To leave it out, choose the layers that are to be cut: layers={fitting}"
        if not fitting:
            advice = "It divides no other kernel either: choose another pattern."
        raise ValueError(f"{pattern} does not divide kernel {named}. {advice}")
