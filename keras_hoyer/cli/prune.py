"""`keras-hoyer prune`."""

import argparse
import math
import re
from dataclasses import dataclass
from typing import Any, get_args

from keras_hoyer._literals import Scope
from keras_hoyer.cli import arguments
from keras_hoyer.cli.command import Answer, Command, UsageError
from keras_hoyer.cli.console import Console

# Options that say how much to cut, with the criterion that each stands for.
AMOUNTS = {
    "sparsity": "TargetSparsity",
    "threshold": "Threshold",
    "std_ratio": "StdThreshold",
    "hoyer_ratio": "HoyerThreshold",
    "flops": "TargetFlops",
}
TARGETS = ("sparsity", "flops")


@dataclass(frozen=True)
class PatternName:
    """A pattern as it was typed, known without Keras: its class and that class's arguments."""

    typed: str
    kind: str
    arguments: tuple[Any, ...] = ()

    @property
    def most_sparsity(self) -> float:
        """The largest share of the weights that it can cut."""
        return 1 - self.arguments[0] / self.arguments[1] if self.kind == "NByM" else 1.0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_file(parser)
    arguments.add_keras_output(parser)
    parser.add_argument(
        "--pattern",
        type=_pattern,
        default="unstructured",
        help="what is cut together: unstructured (single weights), block:4x1 (four inputs of one "
        "output), 2:4 (two of every four stay), channel (with all that depends on it); "
        "default: %(default)s",
    )
    _add_amounts(parser)
    arguments.add_layers(parser)
    parser.add_argument(
        "--strip",
        action="store_true",
        help="take masks and penalties off: a plain model, which loads without keras_hoyer",
    )


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    """How much is cut."""
    group = parser.add_argument_group("how much: exactly one of")
    amount = group.add_mutually_exclusive_group(required=True)
    positive: dict[str, Any] = {
        "type": arguments.number("a positive number", lambda x: x > 0),
        "metavar": "X",
    }
    amount.add_argument(
        "--sparsity",
        type=arguments.number("a share from 0 up to, but not including, 1", lambda x: 0 <= x < 1),
        metavar="X",
        help="cut this share of them, such as 0.9",
    )
    amount.add_argument("--threshold", **positive, help="cut what is below this value")
    amount.add_argument(
        "--std-ratio", **positive, help="cut below so many standard deviations of the kernel"
    )
    amount.add_argument(
        "--hoyer-ratio",
        **positive,
        help="cut below so many of the trimming thresholds of the kernel",
    )
    amount.add_argument(
        "--flops",
        type=arguments.number("a share between 0 and 1", lambda x: 0 < x < 1),
        metavar="X",
        help="cut channels until this share of the multiply-adds is left; with --pattern channel",
    )
    parser.add_argument(
        "--scope",
        choices=get_args(Scope),
        help="with --sparsity or --flops: compare all layers, or cut the same share of each; "
        "default: global",
    )


def _check(options: argparse.Namespace) -> None:
    pattern = options.pattern
    if options.scope is not None and all(getattr(options, name) is None for name in TARGETS):
        raise UsageError("argument --scope goes with --sparsity and --flops only")
    if options.flops is not None and pattern.kind != "Channel":
        raise UsageError(
            "argument --flops counts the multiply-adds that go with whole channels. Expected "
            f"--pattern channel. Received: --pattern {pattern.typed}"
        )
    if options.sparsity is not None and options.sparsity > pattern.most_sparsity + 1e-12:
        raise UsageError(
            f"argument --sparsity: --pattern {pattern.typed} cuts at most "
            f"{pattern.most_sparsity:.4g} of the weights. Received: {options.sparsity:g}"
        )
    arguments.check_model(options.file)
    arguments.check_writable(options.output)


def _run(options: argparse.Namespace, console: Console) -> Answer:
    from keras_hoyer import criteria, patterns, pruning
    from keras_hoyer.attach import strip
    from keras_hoyer.cli import models
    from keras_hoyer.reports import report

    name = next(name for name in AMOUNTS if getattr(options, name) is not None)
    scope = [options.scope or "global"] if name in TARGETS else []
    criterion = getattr(criteria, AMOUNTS[name])(getattr(options, name), *scope)
    pattern = getattr(patterns, options.pattern.kind)(*options.pattern.arguments)
    model = models.load(options.file, console, compile=True)
    typed = f"--{name.replace('_', '-')} {getattr(options, name):g}"
    with console.step(f"cutting with {typed} --pattern {options.pattern.typed}"):
        pruning.prune(model, criterion, pattern, options.layers)
        if options.strip:
            strip(model)
        result = report(model)
    written = models.write(options.output, model, console)
    return Answer({**written.values, "report": result.to_dict()}, f"{result}\n\n{written.text}")


def _pattern(text: str) -> PatternName:
    if text in ("unstructured", "channel"):
        return PatternName(text, text.capitalize())
    numbers = tuple(map(int, re.findall(r"\d+", text)))
    if re.fullmatch(r"block:\d+(x\d+)*", text) and math.prod(numbers) > 0:
        return PatternName(text, "Block", (numbers,))
    if re.fullmatch(r"\d+:\d+", text) and 0 < numbers[0] < numbers[1]:
        return PatternName(text, "NByM", numbers)
    raise argparse.ArgumentTypeError(
        "Expected unstructured, channel, block:4x1 or 2:4 (any positive numbers, of the latter the "
        f"second one the larger). Received: {text}"
    )


PRUNE = Command(
    name="prune",
    help="set the smallest weights, blocks or channels to zero",
    text="Sets the weights, blocks or channels of the smallest magnitudes to zero,\n"
    "without data and training, and prints the report. The masks that keep the\n"
    "zeros in further training are saved with the model, and so is its optimizer.",
    example="keras-hoyer prune model.keras -o sparse.keras --sparsity 0.9",
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
