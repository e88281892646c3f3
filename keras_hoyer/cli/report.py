"""`keras-hoyer report`."""

import argparse

from keras_hoyer.cli import arguments
from keras_hoyer.cli.command import Answer, Command
from keras_hoyer.cli.console import Console


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_file(parser)
    arguments.add_layers(parser)
    arguments.add_page(parser)


def _check(options: argparse.Namespace) -> None:
    arguments.check_model(options.file)
    arguments.check_page(options.html)


def _run(options: argparse.Namespace, console: Console) -> Answer:
    from keras_hoyer.cli import models
    from keras_hoyer.reports import report

    model = models.load(options.file, console)
    with console.step("counting"):
        result = report(model, options.layers)
    if options.html is not None:
        with console.step(f"drawing {options.html}"):
            result.to_html(options.html)
    return Answer(result.to_dict(), str(result))


REPORT = Command(
    name="report",
    help="what is left of each kernel",
    text="Prints what is left of each kernel: weights, zeros, channels and multiply-adds.",
    example="keras-hoyer report model.keras",
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
