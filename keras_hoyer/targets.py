"""Targets that a cut does not reach, said with what stands in the way."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_hoyer._checks import warn
from keras_hoyer.criteria import Criterion
from keras_hoyer.masks import known_mask
from keras_hoyer.units import ModelUnits
from keras_hoyer.weights import Weight

_NEAR = 0.005  # a target missed by less is met


def warn_of_limits(
    criterion: Criterion,
    progress: float,
    units: ModelUnits,
    keep: Sequence[np.ndarray],
    masks: Mapping[Weight, np.ndarray],
) -> None:
    """Warns if a cut does not reach what was asked for, or if nobody can tell; once for `units`.

    Args:
        criterion: What was asked for.
        progress: Part of the way that was to be gone.
        units: The units.
        keep: Boolean arrays, true where a unit stays.
        masks: Mask of each weight that was cut.
    """
    target = criterion.target(progress)
    found = "" if target is None else missed_target(target, units, keep, masks)
    if criterion.counts_flops and units.flops is not None and units.flops.at_least:
        found = f"The target counts only the multiply-adds that are known. {units.flops.at_least}"
    if found and not units.told:
        units.told = True
        warn(found)


def missed_target(
    target: float, units: ModelUnits, keep: Sequence[np.ndarray], masks: Mapping[Weight, np.ndarray]
) -> str:
    """What to say of a share of units that was asked for, or "" if the cut comes to it.

    Two shares are compared with it. That of the units: fewer go where some have to stay. And that
    of the weights in all kernels that were asked for, where some of these have no channels that
    could be removed.

    Args:
        target: Share of the units that was to be cut.
        units: The units.
        keep: Boolean arrays, true where a unit stays.
        masks: Mask of each weight that was cut.
    """
    total = sum(kept.size for kept in keep)
    cut = sum(int(kept.size - np.count_nonzero(kept)) for kept in keep)
    # Each kernel may round its part of the target.
    if cut < target * total - max(len(units) / 2, _NEAR * total):
        reason = f"{units.pattern} lets no more go"
    elif units.unreached:
        reason = ""
    else:
        return ""
    size = sum(math.prod(kernel.shape) for kernel in units.kernels)
    zeros = sum(_zeros(kernel, masks) for kernel in units.kernels)
    text = (
        f"Asked to cut {target:.1%}, this cut reaches {cut / total:.1%} of the units that can go, "
        f"and {zeros / size:.1%} of the weights in the kernels that were asked for."
    )
    if units.unreached:
        beyond = sum(math.prod(kernel.shape) for kernel in units.unreached.reasons) / size
        if not reason and (beyond * target < 2 * _NEAR or zeros / size > target - _NEAR):
            return ""
        described = units.unreached.describe()
        text += f" No cut can reach {beyond:.1%} of these weights: {described}."
    return f"{text} {reason}." if reason else text


def _zeros(kernel: Weight, masks: Mapping[Weight, np.ndarray]) -> int:
    found = [mask for weight, mask in masks.items() if weight.variable is kernel.variable]
    mask = found[0] if found else known_mask(kernel)
    return 0 if mask is None else int(mask.size - np.count_nonzero(mask))
