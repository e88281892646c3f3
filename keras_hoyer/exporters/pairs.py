"""Two models on the same inputs: these belong together by their names, else by their order."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_hoyer.exporters import signatures
from keras_hoyer.exporters.sides import Side
from keras_hoyer.exporters.timing import Timing, time_by_turns

Calls = list[list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models and what each is called on.

    Attributes:
        sides: the two.
        calls: the inputs of all calls, for each of the two.
        first: the inputs of a single call, of one sample or of a batch where its size is fixed.
        samples: number of samples in all calls.
    """

    sides: tuple[Side, Side]
    calls: tuple[Calls, Calls]
    first: tuple[list[np.ndarray], list[np.ndarray]]
    samples: int

    def time(self, turns: int, seconds: float = float("inf")) -> Timing:
        """Times the single call of both by turns.

        Args:
            turns: how often each has its turn at most.
            seconds: for about how long each is run at most.
        """
        prepared = [side.prepare(x) for side, x in zip(self.sides, self.first, strict=True)]
        on_one_thread = all(side.on_one_thread for side in self.sides)
        return time_by_turns(prepared, turns, seconds, on_one_thread)


def pair_of(a: Side, b: Side, data: Any = None) -> Pair:
    """Two models and inputs for both.

    Args:
        a: the first one, in the order of whose inputs data come.
        b: the second one.
        data: samples as for `export`; by default 32 random ones.

    Raises:
        ValueError: if the two do not take the same inputs, or the data do not fit.
    """
    signature, order = _join(a, b)
    if data is None:
        samples = signatures.CHECK_SAMPLES
        arrays = signatures.random_arrays(a.model or b.model, signature, samples)
        arrays = _within_ranges(arrays, a, range(len(order)))
        arrays = _within_ranges(arrays, b, order)
    else:
        arrays = signatures.arrays_of(signature, data)
    batch = signature.inputs[0].shape[0]
    samples = len(arrays[0]) // (batch or 1) * (batch or 1)
    size = batch or signatures.CHECK_SAMPLES
    calls = [
        [array[i : min(i + size, samples)] for array in arrays] for i in range(0, samples, size)
    ]
    first = [array[: batch or 1] for array in arrays]
    return Pair(
        sides=(a, b),
        calls=(calls, [_for(b, order, call) for call in calls]),
        first=(first, _for(b, order, first)),
        samples=samples,
    )


def _join(a: Side, b: Side) -> tuple[signatures.Signature, list[int]]:
    """The inputs of `a` with the sizes that either fixes, and where those of `b` are in them."""
    ours, theirs = a.signature.inputs, b.signature.inputs
    names = [spec.name for spec in ours]
    same = sorted(names) == sorted(spec.name for spec in theirs)
    order = [names.index(spec.name) if same else i for i, spec in enumerate(theirs)]
    joined = list(ours)
    fits = len(ours) == len(theirs)
    for i, their in zip(order, theirs, strict=True) if fits else ():
        our = ours[i]
        pairs = list(zip(our.shape, their.shape, strict=False))
        fits &= len(our.shape) == len(their.shape) and _kind(our) == _kind(their)
        fits &= all(None in pair or len(set(pair)) == 1 for pair in pairs)
        shape = tuple(m if n is None else n for n, m in pairs)
        joined[i] = dataclasses.replace(our, shape=shape)
    if not fits:
        raise ValueError(
            f"Expected two models with the same inputs. Received: {a.name} with "
            f"{_described(ours)} and {b.name} with {_described(theirs)}"
        )
    return dataclasses.replace(a.signature, inputs=tuple(joined)), order


def _within_ranges(arrays: list[np.ndarray], side: Side, order: Sequence[int]) -> list[np.ndarray]:
    """Random inputs that a file in integers can tell apart."""
    limited = list(arrays)
    for i, spec in zip(order, side.signature.inputs, strict=True):
        if spec.name in side.ranges:
            limited[i] = np.clip(arrays[i], *side.ranges[spec.name]).astype(arrays[i].dtype)
    return limited


def _kind(spec: signatures.ModelInput) -> str:
    """Floats of all sizes are the same numbers; an int8 stands for something else."""
    return "float" if "float" in spec.dtype else spec.dtype


def _described(inputs: tuple[signatures.ModelInput, ...]) -> str:
    return ", ".join(f"{spec.name}: {spec.shape} {spec.dtype}" for spec in inputs)


def _for(side: Side, order: list[int], arrays: list[np.ndarray]) -> list[np.ndarray]:
    inputs = side.signature.inputs
    return [arrays[i].astype(spec.dtype) for i, spec in zip(order, inputs, strict=True)]
