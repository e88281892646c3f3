"""Value objects: what the four choices (pattern, score, criterion, schedule) have in common."""

from typing import Any, TypeVar

import keras

serializable = keras.saving.register_keras_serializable(package="keras_hoyer")

Self = TypeVar("Self", bound="Value")


class Value:
    """An object that is its constructor's arguments, kept under their own names."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return dict(vars(self))

    @classmethod
    def from_config(cls: type[Self], config: dict[str, Any]) -> Self:
        """Builds the object that `get_config` described."""
        return cls(**config)
