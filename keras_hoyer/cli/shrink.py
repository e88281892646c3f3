"""`keras-hoyer shrink`."""

import argparse

from keras_hoyer.cli import arguments
from keras_hoyer.cli.command import Answer, Command
from keras_hoyer.cli.console import Console

TOLERANCE = 1e-4


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_file(parser)
    arguments.add_keras_output(parser)
    arguments.add_data(parser)
    arguments.add_tolerance(parser, TOLERANCE)


def _check(options: argparse.Namespace) -> None:
    arguments.check_model(options.file)
    arguments.check_writable(options.output)
    options.data = arguments.read_data(options.data)


def _run(options: argparse.Namespace, console: Console) -> Answer:
    from keras_hoyer.cli import models
    from keras_hoyer.exporters import comparison, sides
    from keras_hoyer.graph.shrink import shrink

    model = models.load(options.file, console, compile=True)
    before = sides.KerasSide(options.file, model, options.data)
    sides.check_data(before, options.data)
    with console.step("removing channels"):
        # The library's own check names the layer that differs; it allows no more than this.
        small = shrink(model, check=options.tolerance <= TOLERANCE, sample=options.data)
    samples = "random inputs" if options.data is None else "the samples of --data"
    with console.step(f"comparing outputs on {samples}"):
        after = sides.KerasSide(options.output, small, options.data)
        error = comparison.largest_error(before, after, options.data)
    if error > options.tolerance:
        raise ValueError(
            f"the outputs of the smaller model differ by {error:.3g} of the largest one, "
            f"--tolerance {options.tolerance:.3g} is allowed. Nothing was written"
        )
    written = models.write(options.output, small, console)
    sizes = {
        "parameters": (model.count_params(), small.count_params()),
        "multiply-adds": (models.total_flops(model), models.total_flops(small)),
    }
    lines = [
        f"{name}: {before:,} before, {after:,} after ({after / max(before, 1):.1%})"
        for name, (before, after) in sizes.items()
    ]
    difference = f"largest difference on {samples}, of the largest output: {error:.3g}"
    values = {
        name.replace("-", "_"): {"before": before, "after": after}
        for name, (before, after) in sizes.items()
    }
    return Answer(
        {**written.values, **values, "max_error": error},
        "\n".join([*lines, difference, "", written.text]),
    )


SHRINK = Command(
    name="shrink",
    help="remove channels that are zero or constant",
    text="Writes a smaller model with the same outputs, without the channels that are\n"
    "zero or constant, and prints parameters and multiply-adds. Both models are run\n"
    "on the same inputs; if their outputs differ, nothing is written.",
    example="keras-hoyer shrink sparse.keras -o small.keras",
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
