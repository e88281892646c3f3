"""Cuts that a Hoyer penalty foretells to go wrong."""

from collections.abc import Sequence

import numpy as np

from keras_hoyer import measures
from keras_hoyer._checks import warn
from keras_hoyer.regularizers import GroupHoyer, GroupHoyerSquare, Hoyer, HoyerSquare
from keras_hoyer.units import Units

_HOYER = (Hoyer, HoyerSquare, GroupHoyer, GroupHoyerSquare)
_NAMED = 5


def warn_of_collapse(units: Sequence[Units], keep: Sequence[np.ndarray]) -> None:
    """Warns where a penalized kernel keeps fewer units than it effectively has.

    Hoyer-Square is the effective number of nonzeros, `measures.effective_count`. While training
    has not brought it below what is to stay, the weight that matters is spread over more units
    than that, and the cut takes it.

    Args:
        units: What is about to be cut.
        keep: Boolean arrays, true where a unit stays.
    """
    found = []
    for entry, kept in zip(units, keep, strict=True):
        if not any(isinstance(penalty, _HOYER) for penalty in entry.penalties()):
            continue
        # The penalty knows magnitudes, by whatever score is cut.
        values = entry.score().values
        values = values[np.isfinite(values)]
        effective, stay = round(measures.effective_count(values)), np.count_nonzero(kept)
        if stay < effective:
            found.append(f"'{entry.name}' keeps {stay:,} of {effective:,}")
    if found:
        more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        warn(
            "This cut keeps less than the effective number of nonzeros that the Hoyer penalty has "
            f"come to: {', '.join(found[:_NAMED])}{more}. What matters is still spread over more "
            "than that, so accuracy may collapse, and fine-tuning may not bring it back. Train "
            "longer with the penalty before the cut, with a larger factor, or cut less: the "
            "effective number in `report` should be well below what stays."
        )
