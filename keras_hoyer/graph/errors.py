"""What is raised where a smaller model cannot be made."""

import keras


class ShrinkError(ValueError):
    """A smaller model could not be made, or gives other outputs; none is handed over."""


def advice() -> str:
    """What a user can do about a layer that is not made again."""
    if keras.distribution.distribution() is None:
        return (
            "Give the class a `get_config` with all arguments of `__init__`, or keep the channels "
            "around it."
        )
    return (
        "Where it is the mesh that does not divide a width: prune with `patterns.Channel("
        "multiple_of=n)`, n being the size of the mesh's axis, or load the model and shrink it "
        "in a process without a distribution."
    )
