"""Arguments that are checked one way, and warnings that point at the user's own line."""

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def check_number(
    name: str, value: Any, expected: str, valid: Callable[[float], bool] = lambda value: True
) -> None:
    """Raises a `ValueError` unless an argument is a finite number that is valid.

    Args:
        name: Name of the argument.
        value: What was given for it.
        expected: What the message says was expected, such as `"a positive number"`.
        valid: Whether a finite number will do. Defaults to any.

    >>> check_number("ratio", -1.0, "a positive number", lambda value: value > 0)
    Traceback (most recent call last):
    ValueError: Invalid value for argument `ratio`. Expected a positive number. Received: ratio=-1.0
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))
    if not number or not math.isfinite(value) or not valid(value):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={value!r}"
        )


def check_count(name: str, value: Any, least: int) -> None:
    """Raises a `ValueError` unless an argument is an integer, `least` or more.

    >>> check_count("patience", 0, 1)
    Traceback (most recent call last):
    ValueError: Invalid value for argument `patience`. Expected an integer, 1 or more. Received: \
patience=0
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an integer, {least} or more. "
            f"Received: {name}={value!r}"
        )


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises a `ValueError` unless an argument is one of the choices.

    >>> check_choice("scope", "all", ("global", "layer"))
    Traceback (most recent call last):
    ValueError: Invalid value for argument `scope`. Expected one of 'global', 'layer'. Received: \
scope='all'
    """
    # By type as well: 1 is no True.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of "
            f"{', '.join(map(repr, choices))}. Received: {name}={value!r}"
        )


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line of the user's code that called into this package, or into Keras.

    Args:
        message: What the warning says.
        category: Its class. Defaults to `UserWarning`.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_inside(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_inside(filename: str) -> bool:
    """Whether a file belongs to this package or to the libraries that call back into it."""
    libraries = ("keras", "tensorflow", "jax", "torch")
    inside = any(f"{os.sep}site-packages{os.sep}{name}{os.sep}" in filename for name in libraries)
    return inside or filename.startswith((_PACKAGE, "<"))
