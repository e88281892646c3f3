"""The program: from what was typed to an exit code."""

import argparse
import importlib
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from keras_hoyer._destination import ending_in_order
from keras_hoyer.cli import console as consoles
from keras_hoyer.cli.command import Answer, Command, UsageError
from keras_hoyer.cli.compare import COMPARE
from keras_hoyer.cli.console import Console
from keras_hoyer.cli.export import EXPORT
from keras_hoyer.cli.prune import PRUNE
from keras_hoyer.cli.report import REPORT
from keras_hoyer.cli.shrink import SHRINK
from keras_hoyer.cli.versions import ShowVersions
from keras_hoyer.exporters.results import ExportError

COMMANDS = (REPORT, PRUNE, SHRINK, EXPORT, COMPARE)

INTERRUPTED = 130  # what a shell expects: 128 and the number of the signal

ENDING = f"""
exit codes:
  0    done
  1    it failed, or compare found a difference above the tolerance
  2    wrong usage
  {INTERRUPTED}  interrupted (Ctrl-C); files are whole or as they were

KERAS_BACKEND chooses the backend: tensorflow, jax or torch.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what follows the program's name. Defaults to `sys.argv`.

    Returns:
        The exit code: 0 if all went well, 1 if the command failed or `compare` found a difference,
        130 if it was interrupted.

    Raises:
        SystemExit: with 2 on wrong usage, with 0 after `--help` and `--version`.
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:
        consoles.answer("", end="")
        raise
    command: Command = options.command
    console = Console(options.parser.prog, quiet=options.json)
    try:
        command.check(options)
        with ending_in_order(), console.keep_stdout_clean():
            # Registers our classes, which models in files may have; see keras_hoyer/__init__.py.
            with console.step("starting Keras"), console.hide_chatter():
                importlib.import_module("keras_hoyer._public")
            _import_modules(options.modules)
            answer = command.run(options, console)
    except UsageError as error:
        options.parser.error(str(error))
    except (ValueError, ExportError, ImportError, OSError, MemoryError) as error:
        console.complain(_described(error))
        return 1
    except KeyboardInterrupt:
        console.complain("interrupted")
        return INTERRUPTED
    consoles.answer(_as_json(answer) if options.json else answer.text)
    return answer.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-hoyer",
        description="Looks at, prunes, shrinks, exports and compares Keras models in files.",
        epilog="keras-hoyer COMMAND --help says more, with an example.\n" + ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=ShowVersions)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        each = commands.add_parser(
            command.name,
            help=command.help,
            description=command.text,
            epilog=f"example:\n  {command.example}\n{ENDING}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(each)
        each.add_argument(
            "--import",
            dest="modules",
            metavar="MODULE",
            action="append",
            default=[],
            help="import a module that registers layers or losses of your own; may be repeated",
        )
        each.add_argument(
            "--json",
            action="store_true",
            help="print JSON for scripts instead of tables, and no progress",
        )
        each.set_defaults(command=command, parser=each)
    return parser


def _import_modules(modules: Sequence[str]) -> None:
    # An installed script does not look into the folder that it is called from.
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a module raises anything
            raise ImportError(f"cannot import {module}: {type(error).__name__}: {error}") from error


def _described(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"there is not enough memory. {error}"
    text = str(error)
    if isinstance(error, ExportError) and error.candidates:
        tried = "; ".join(f"{each.name}: {each.outcome}" for each in error.candidates)
        text = f"{text.splitlines()[0]} {tried}"
    return text


def _as_json(answer: Answer) -> str:
    return json.dumps(_finite(answer.values))


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
