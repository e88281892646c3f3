"""Open sizes of a model's inputs: a file keeps them, or takes those of the data and says so."""

import dataclasses
from collections.abc import Callable

import numpy as np

from keras_hoyer.exporters.results import ExportError, ExportResult
from keras_hoyer.exporters.signatures import Signature


def write(
    signature: Signature,
    data: list[np.ndarray] | None,
    attempt: Callable[[Signature], ExportResult],
) -> ExportResult:
    """Makes a file with the sizes open; where that fails, with the sizes of the data.

    Args:
        signature: what the model takes; the batch, which comes first, is not looked at.
        data: representative inputs, or `None`.
        attempt: makes a file for a signature, or raises an `ExportError`.

    Returns:
        The result, with a note if sizes were fixed.

    Raises:
        ExportError: the first attempt's, with what would help or what else was tried.
    """
    names = [spec.name for spec in signature.inputs if None in spec.shape[1:]]
    try:
        return attempt(signature)
    except ExportError as error:
        runs = any(candidate.right for candidate in error.candidates)
        if not names or runs or error.step == "outputs of the model":
            raise
        failure = error
    if data is None:
        raise failure.extended(
            f"Sizes of {', '.join(names)} are open, which may be the cause: give "
            "`representative_data`, whose sizes are then tried, or build the model with an "
            "`Input` that fixes them."
        ) from failure
    fixed = tuple(
        dataclasses.replace(spec, shape=(spec.shape[0], *array.shape[1:]))
        for spec, array in zip(signature.inputs, data, strict=True)
    )
    try:
        result = attempt(dataclasses.replace(signature, inputs=fixed))
    except ExportError as error:
        raise error.extended(
            f"These are the sizes of the data; with those of {', '.join(names)} left open it "
            "failed as well."
        ) from failure
    shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in fixed if spec.name in names)
    note = f"sizes that the model leaves open are fixed to those of the data: {shapes}"
    return dataclasses.replace(result, notes=(*result.notes, note))
