"""`keras-hoyer --version`: what a report of a fault needs to say, found without importing it."""

import argparse
import contextlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import keras_hoyer

# Keras' backends and the packages that may bring them.
BACKENDS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly"),
    "jax": ("jax",),
    "torch": ("torch",),
}


class ShowVersions(argparse.Action):
    """Prints the versions and ends the program."""

    def __init__(self, option_strings: list[str], dest: str, **_: Any) -> None:
        text = "print the versions of keras-hoyer, Keras and its backend"
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=text)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints and ends."""
        parser.exit(message=f"{versions()}\n")


def versions() -> str:
    """The versions, in a line."""
    backend = _backend()
    names = BACKENDS.get(backend, (backend,))
    return (
        f"keras-hoyer {keras_hoyer.__version__} (Keras {_version('keras')}, backend {backend} "
        f"{_version(*names)}, Python {platform.python_version()})"
    )


def _version(*packages: str) -> str:
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "not installed"


def _backend() -> str:
    """What Keras will choose: the environment, its configuration file, TensorFlow."""
    configured = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        folder = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
        configured = json.loads(Path(folder, "keras.json").read_text()).get("backend")
    return os.environ.get("KERAS_BACKEND") or configured or "tensorflow"
