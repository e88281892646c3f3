"""What the scores have in common that look at data."""

from collections.abc import Sequence
from typing import Any

from keras_hoyer._checks import check_count
from keras_hoyer._data import check_data
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
