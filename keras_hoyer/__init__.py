"""Sparse training, pruning, shrinking and checked export for Keras 3."""

import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "L1",
    "ExportError",
    "GroupHoyer",
    "GroupHoyerSquare",
    "GroupLasso",
    "GroupMCP",
    "GroupSCAD",
    "GroupTransformedL1",
    "Hoyer",
    "HoyerSquare",
    "PathNorm",
    "ShrinkError",
    "TotalVariation",
    "TransformedL1",
    "callbacks",
    "check_sparse_inference",
    "compare",
    "count_flops",
    "criteria",
    "export",
    "glm",
    "keep_zeros",
    "load_sparse_weights",
    "measures",
    "patterns",
    "proximal",
    "prune",
    "recalibrate",
    "register_rule",
    "regularize",
    "report",
    "schedules",
    "scores",
    "shrink",
    "strip",
]


def _is_the_program() -> bool:
    """Whether this process is `keras-hoyer ...` or `python -m keras_hoyer ...`.

    Both import this file before they see their arguments, and Keras takes seconds to import.
    """
    typed: list[str] = getattr(sys, "argv", None) or [""]
    program, *arguments = typed
    if program == "-m":  # stands there until Python has found the module that it was asked to run
        return sys.orig_argv[-len(arguments) - 1] == __name__
    return os.path.splitext(os.path.basename(program))[0] == "keras-hoyer"


# Importing the package registers its classes with Keras, so that saved models can be loaded. The
# program waits until its arguments are right; its names come at their first use, see __getattr__.
if TYPE_CHECKING or not _is_the_program():
    from keras_hoyer._public import *

if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from keras_hoyer import _public  # noqa: PLC0415

        return getattr(_public, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
