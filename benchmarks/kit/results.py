"""Files of results: a line for each run, or one document, written so that a stop loses nothing."""

import dataclasses
import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from kit.machine import describe_machine

Run = TypeVar("Run")
FOLDER = Path(__file__).parents[1] / "results"


def append(file: Path, line: dict) -> None:
    """Adds a line to the results."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def read_lines(file: Path) -> list[dict]:
    """The lines of a file of results; none if there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def told(line: dict) -> dict:
    """A line without its traceback, which names folders of the machine."""
    return {name: value for name, value in line.items() if name != "traceback"}


def done_before(file: Path, kind: type[Run]) -> set[Run]:
    """The runs that have a line; `kind` is the dataclass whose fields say what a run is."""
    names = [field.name for field in dataclasses.fields(kind)]
    return {
        kind(**{k: tuple(v) if isinstance(v := line[k], list) else v for k in names})
        for line in read_lines(file)
    }


def write(file: Path, document: dict) -> None:
    """Writes a document whole or not at all."""
    _replace(file, json.dumps(document, indent=1))


def read_cells(file: Path) -> list[dict]:
    """The cells of a document; none if there is no such file."""
    return json.loads(file.read_text())["cells"] if file.exists() else []


def write_cells(file: Path, packages: Iterable[str], header: dict, cells: Iterable[dict]) -> None:
    """Writes a document of many small cells, a line each.

    Args:
        file: Where it goes.
        packages: Whose versions are noted.
        header: What else stands before the cells.
        cells: The cells.
    """
    versions = {name: version(name) for name in packages}
    head = json.dumps({"versions": versions, "machine": describe_machine(), **header})
    lines = ",\n".join(map(json.dumps, cells))
    _replace(file, f'{head[:-1]}, "cells": [\n{lines}\n]}}')


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(f"{text}\n")
    os.replace(part, file)


def rounded(value: Any, digits: int) -> Any:
    """A number, or a list of numbers, as plain floats with so many digits."""
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return round(float(value), digits)
