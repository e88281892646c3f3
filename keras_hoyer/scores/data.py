"""What the scores have in common that look at data."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_hoyer._checks import check_count
from keras_hoyer._data import Batch, batches_of, check_data, count_batches
from keras_hoyer._progress import Step, step
from keras_hoyer.scores.base import Score
from keras_hoyer.weights import Weight


class DataScore(Score):
    """Base class of the scores that look at data.

    Args:
        data: What to look at.
        batches: Number of batches to read at most. Defaults to `None`: all.
        batch_size: Number of samples of a batch, where `data` are arrays. Defaults to 32.

    Raises:
        ValueError: If an argument is of the wrong kind.
    """

    def __init__(self, data: Any, batches: int | None = None, batch_size: int = 32) -> None:
        check_data(data)
        if batches is not None:
            check_count("batches", batches, 1)
        check_count("batch_size", batch_size, 1)
        self.data = data
        self.batches = batches
        self.batch_size = batch_size

    def read(self, model: keras.Model) -> Iterator[Batch]:
        """The batches of the data, for a model."""
        return batches_of(model, self.data, self.batch_size, self.batches)

    def progress(self) -> contextlib.AbstractContextManager[Step]:
        """A scope in which the batches that are done are told of if they take long."""
        total = count_batches(self.data, self.batch_size, self.batches)
        return step(f"{type(self).__name__}: batch", total)

    def get_config(self) -> dict[str, Any]:
        """Refuses: data are no part of a config."""
        raise NotImplementedError(
            f"`{type(self).__name__}` holds data, which no config can hold. Make it again where it "
            "is needed."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.data).__name__})"


def name_all(weights: Sequence[Weight]) -> str:
    """The paths of kernels, for messages."""
    return ", ".join(f"'{weight.path}'" for weight in weights)
