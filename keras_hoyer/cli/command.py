"""What a command is, and what it hands back."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_hoyer.cli.console import Console


class UsageError(Exception):
    """Arguments that do not go together; the message says what does."""


@dataclass(frozen=True)
class Answer:
    """What a command has to say.

    Attributes:
        values: for scripts, as JSON values.
        text: for people.
        code: the exit code.
    """

    values: dict[str, Any]
    text: str
    code: int = 0


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: what is typed for it.
        help: what it does, in a line of the list of commands.
        text: what it does, above its own arguments.
        example: a line that runs.
        add_arguments: gives a parser its arguments.
        check: raises a `UsageError` for arguments that do not go together, and a `ValueError` or an
            `OSError` for files that cannot be read or written; without Keras.
        run: does it.
    """

    name: str
    help: str
    text: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    check: Callable[[argparse.Namespace], None]
    run: Callable[[argparse.Namespace, Console], Answer]
