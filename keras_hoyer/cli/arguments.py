"""Arguments that several commands have, and what they are checked by before anything is loaded."""

import argparse
import math
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_hoyer._destination import check_destination
from keras_hoyer._extras import check_package

DEFAULT_LAYERS = "all dense, convolutional, recurrent and attention layers"


def add_file(parser: argparse.ArgumentParser) -> None:
    """The model that a command works on."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a .keras file")


def add_keras_output(parser: argparse.ArgumentParser) -> None:
    """A model to write."""
    parser.add_argument(
        "-o",
        "--output",
        type=_keras_path,
        metavar="OUT.keras",
        required=True,
        help="the .keras file to write; may be FILE itself, which is replaced only by a whole file",
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """A choice of layers."""
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="NAME",
        help=f"names of layers, after FILE; default: {DEFAULT_LAYERS}",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Samples."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DATA",
        help="samples to run the models on: .npy, or .npz with an array for each input; default: "
        "random ones",
    )


def add_page(parser: argparse.ArgumentParser) -> None:
    """A page to write beside the answer."""
    parser.add_argument(
        "--html",
        type=Path,
        metavar="PAGE.html",
        help="also write a page to look at, with pictures: one file, light or dark",
    )


def check_page(path: Path | None) -> None:
    """Raises unless a page can be drawn and put there, if one is asked for."""
    if path is None:
        return
    check_package("matplotlib", "plot", "--html")
    check_writable(path, "html")


def add_tolerance(
    parser: argparse.ArgumentParser, value: float | None, default: str = "%(default)s"
) -> None:
    """How far apart two models may be."""
    parser.add_argument(
        "--tolerance",
        type=number("a number that is not negative", lambda x: x >= 0),
        default=value,
        metavar="X",
        help=f"largest difference that is allowed, of the largest output; default: {default}",
    )


def number(expected: str, valid: Callable[[float], bool]) -> Callable[[str], float]:
    """The type of an argument that is a finite number within limits."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and valid(value)):
            raise argparse.ArgumentTypeError(f"Expected {expected}. Received: {text}")
        return value

    return read


def count(text: str) -> int:
    """The type of an argument that counts something, from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"Expected an integer, 0 or more. Received: {text}")
    return int(text)


def read_data(path: Path | None) -> Any:
    """The samples in a file; `None` without one. See data.py."""
    if path is None:
        return None
    check_readable(path)
    from keras_hoyer.cli import data  # NumPy is only needed here

    return data.read_data(path)


def check_model(path: Path) -> None:
    """Raises unless there is a file that can be a `.keras` file."""
    check_readable(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Expected a .keras file. Received: {path}, which is none or is damaged")


def check_readable(path: Path) -> None:
    """Raises unless there is a file that may be read."""
    if path.is_dir():
        raise IsADirectoryError(f"Expected a file. Received: {path}, a folder")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"The file {path} may not be read")


def check_writable(path: Path, argument: str = "filepath") -> None:
    """Raises unless a file can be put at `path`: it takes hours until there is something to put."""
    folder = check_destination(path, argument).parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PermissionError(
            "Expected a file in a folder that can be written. "
            f"Received: `{argument}={str(path)!r}` ({error})"
        ) from error


def _keras_path(text: str) -> Path:
    if not text.endswith(".keras"):
        raise argparse.ArgumentTypeError(f"Expected a file that ends in .keras. Received: {text}")
    return Path(text)
