"""Lines of results: one appended for each run, so that a benchmark can be stopped and resumed."""

import dataclasses
import json
from pathlib import Path
from typing import TypeVar

Run = TypeVar("Run")


def append(file: Path, line: dict) -> None:
    """Adds a line to the results."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def done_before(file: Path, kind: type[Run]) -> set[Run]:
    """The runs that have a line; `kind` is the dataclass whose fields say what a run is."""
    if not file.exists():
        return set()
    names = [field.name for field in dataclasses.fields(kind)]
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    return {
        kind(**{k: tuple(v) if isinstance(v := line[k], list) else v for k in names})
        for line in lines
    }
