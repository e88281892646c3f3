"""Nets as keras.io's examples write them: blocks as layers of their own."""

from collections.abc import Callable

import keras

NETS: dict[str, Callable[[], keras.Model]] = {}
