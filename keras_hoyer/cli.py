"""The command line: what needs no training, done with files.

Results go to stdout, everything else to stderr.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_hoyer import criteria, patterns, pruning
from keras_hoyer.attach import strip
from keras_hoyer.exporters import ExportError, comparison, export, exporting, load_sparse_weights
from keras_hoyer.graph.costs import count_flops
from keras_hoyer.graph.shrink import shrink
from keras_hoyer.reports import report

CRITERIA = {
    "sparsity": criteria.TargetSparsity,
    "threshold": criteria.Threshold,
    "std_ratio": criteria.StdThreshold,
    "hoyer_ratio": criteria.HoyerThreshold,
    "flops": criteria.TargetFlops,
}

ENDING = """
exit codes:
  0  done
  1  it failed, or compare found a difference above the tolerance
  2  wrong usage

KERAS_BACKEND chooses the backend: tensorflow, jax or torch.
"""


@dataclass(frozen=True)
class Answer:
    """What a command has to say.

    Attributes:
        values: for scripts, as JSON values.
        text: for people.
        code: the exit code.
    """

    values: dict
    text: str
    code: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what follows the program's name. Defaults to `sys.argv`.

    Returns:
        The exit code: 0 if all went well, 1 if the command failed or `compare` found a difference.

    Raises:
        SystemExit: with 2 on wrong usage, with 0 after `--help`.
    """
    options = _parser().parse_args(arguments)
    name = options.parser.prog
    try:
        # Keras and the converters print as they like; what a script reads is the answer alone.
        with contextlib.redirect_stdout(sys.stderr), _short_warnings(name):
            _import_modules(options.modules)
            answer = options.command(options)
    except (ValueError, ExportError, ImportError, OSError) as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 1
    print(json.dumps(answer.values) if options.json else answer.text)
    return answer.code


# --- commands -----------------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> Answer:
    result = report(_load(options, options.file), options.layers)
    return Answer(result.to_dict(), str(result))


def _prune(options: argparse.Namespace) -> Answer:
    try:
        criterion = _criterion(options)
        pruning.check_choices(criterion, options.pattern)
    except ValueError as error:
        options.parser.error(_one_line(error))
    model = _load(options, options.file, compile=True)
    _say(options, f"cutting: {criterion}, {options.pattern}")
    pruning.prune(model, criterion, options.pattern, options.layers)
    if options.strip:
        strip(model)
    written = _write(options, model)
    result = report(model)
    return Answer({**written.values, "report": result.to_dict()}, f"{result}\n\n{written.text}")


def _shrink(options: argparse.Namespace) -> Answer:
    model = _load(options, options.file, compile=True)
    _say(options, "removing channels")
    small = shrink(model)
    _say(options, "comparing outputs on random inputs")
    error = comparison.largest_error(
        comparison.KerasSide(options.file, model), comparison.KerasSide(options.output, small)
    )
    if error > options.tolerance:
        raise ValueError(
            f"the outputs of the smaller model differ by {error:.3g} of the largest one, "
            f"{options.tolerance:.3g} is allowed. Nothing was written"
        )
    written = _write(options, small)
    sizes = {
        "parameters": (model.count_params(), small.count_params()),
        "multiply-adds": (_total_flops(model), _total_flops(small)),
    }
    lines = [
        f"{name}: {before:,} before, {after:,} after ({after / max(before, 1):.1%})"
        for name, (before, after) in sizes.items()
    ]
    difference = f"largest difference on random inputs, of the largest output: {error:.3g}"
    values = {
        name.replace("-", "_"): {"before": before, "after": after}
        for name, (before, after) in sizes.items()
    }
    return Answer(
        {**written.values, **values, "max_error": error},
        "\n".join([*lines, difference, "", written.text]),
    )


def _export(options: argparse.Namespace) -> Answer:
    settings = {
        "format": options.format,
        "quantize": options.quantize,
        "sparse": options.sparse,
        "tolerance": options.tolerance,
        "optimize_for": options.optimize_for,
    }
    try:
        exporting.check_arguments(options.output, representative_data=options.data, **settings)
    except ValueError as error:
        options.parser.error(_one_line(error))
    data = _load_data(options.data)
    model = _load(options, options.file)
    _say(options, f"converting and checking {options.output}")
    result = export(model, options.output, representative_data=data, **settings)
    return Answer(result.to_dict(), _named_as_typed(str(result)))


def _compare(options: argparse.Namespace) -> Answer:
    if options.runs < 0:
        options.parser.error(f"Expected --runs of at least 0. Received: {options.runs}")
    comparison.use_one_thread()
    data = _load_data(options.data)
    sides = [_side(options, path, data) for path in options.files]
    _say(options, "running both")
    result = comparison.compare(*sides, data, options.tolerance, options.runs)
    return Answer(result.to_dict(), str(result), 0 if result.within_tolerance else 1)


# --- steps --------------------------------------------------------------------------------------


def _import_modules(modules: Sequence[str]) -> None:
    # An installed script does not look into the folder that it is called from.
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a module raises anything
            raise ImportError(f"cannot import {module}: {type(error).__name__}: {error}") from error


def _load(options: argparse.Namespace, path: Path, compile: bool = False) -> keras.Model:
    _say(options, f"loading {path}")
    _check_exists(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Expected a .keras file. Received: {path}, which is none or is damaged")
    try:
        return keras.models.load_model(path, compile=compile)
    except Exception as error:  # custom layers raise anything
        # Keras wraps the error of a layer into one of each model around it.
        reason = str(error).split("Exception encountered: ")[-1].strip().splitlines() or [""]
        raise ValueError(
            f"Keras cannot load {path}: {type(error).__name__}: {reason[0]} If the model has "
            "layers or losses of your own, pass --import MODULE with the module that registers them"
        ) from error


def _side(options: argparse.Namespace, path: Path, data: Any) -> comparison.Side:
    _check_exists(path)
    if path.suffix in (".tflite", ".onnx"):
        _say(options, f"reading {path}")
        return comparison.FileSide(path)
    if path.suffix not in (".npz", ".safetensors"):
        return comparison.KerasSide(path, _load(options, path), data)
    if options.model is None:
        options.parser.error(f"{path} holds weights only: pass --model ARCH.keras for the layers")
    model = _load(options, options.model)
    load_sparse_weights(model, path)
    return comparison.KerasSide(path, model, data)


def _load_data(path: Path | None) -> Any:
    """An array, or a list or dict of arrays."""
    if path is None:
        return None
    _check_exists(path)
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            arrays = dict(data)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it is an archive of other things")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected arrays of numbers in a .npy or .npz file. Received: {path} ({error})"
        ) from error
    # `np.savez` names arrays that were given none like this.
    unnamed = all(re.fullmatch(r"arr_\d+", name) for name in arrays)
    if len(arrays) == 1 or unnamed:
        values = list(arrays.values())
        return values[0] if len(values) == 1 else values
    return arrays


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}")


def _write(options: argparse.Namespace, model: keras.Model) -> Answer:
    _say(options, f"writing {options.output}")
    result = export(model, options.output)
    text = f"{result.path}: {result.bytes:,} bytes"
    return Answer({"path": str(result.path), "bytes": result.bytes}, text)


def _criterion(options: argparse.Namespace) -> criteria.Criterion:
    name = next(name for name in CRITERIA if getattr(options, name) is not None)
    if name in ("sparsity", "flops"):
        return CRITERIA[name](getattr(options, name), options.scope or "global")
    if options.scope is not None:
        raise ValueError("argument --scope goes with --sparsity and --flops only")
    return CRITERIA[name](getattr(options, name))


def _total_flops(model: keras.Model) -> int:
    return sum(count_flops(model).values())


def _say(options: argparse.Namespace, text: str) -> None:
    print(f"{options.parser.prog}: {text} ...", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _short_warnings(name: str) -> Iterator[None]:
    """Shows warnings without the line of code that gave them."""

    def show(message: Warning, *rest: Any) -> None:
        print(f"{name}: warning: {_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # those of other packages, for their authors
        warnings.showwarning = show
        yield


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ExportError) and error.candidates:
        tried = "; ".join(f"{each.name}: {each.outcome}" for each in error.candidates)
        text = f"{text.splitlines()[0]} {tried}"
    return _named_as_typed(" ".join(text.split()))


def _named_as_typed(text: str) -> str:
    """The one argument of `export` that is called otherwise here, by the name to type."""
    return re.sub(r"`?representative_data`?", "--data", text)


# --- arguments ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-hoyer",
        description="Looks at, prunes, shrinks, exports and compares Keras models in files.",
        epilog="keras-hoyer COMMAND --help says more, with an example.\n" + ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_report, _add_prune, _add_shrink, _add_export, _add_compare):
        command = add(commands)
        command.add_argument(
            "--import",
            dest="modules",
            metavar="MODULE",
            action="append",
            default=[],
            help="import a module that registers layers or losses of your own; may be repeated",
        )
        command.add_argument(
            "--json", action="store_true", help="print JSON for scripts instead of tables"
        )
        command.set_defaults(parser=command)
    return parser


def _add_command(
    commands: Any, name: str, command: Any, summary: str, text: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=f"example:\n  {example}\n{ENDING}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_report(commands: Any) -> argparse.ArgumentParser:
    parser = _add_command(
        commands,
        "report",
        _report,
        "what is left of each kernel",
        "Prints what is left of each kernel: weights, zeros, channels and multiply-adds.",
        "keras-hoyer report model.keras",
    )
    _add_file(parser)
    _add_layers(parser)
    return parser


def _add_prune(commands: Any) -> argparse.ArgumentParser:
    parser = _add_command(
        commands,
        "prune",
        _prune,
        "set the smallest weights, blocks or channels to zero",
        "Sets the weights, blocks or channels of the smallest magnitudes to zero, without data\n"
        "and training, and prints the report. The masks that keep the zeros in further training\n"
        "are saved with the model, and so is its optimizer.",
        "keras-hoyer prune model.keras -o sparse.keras --sparsity 0.9",
    )
    _add_file(parser)
    _add_keras_output(parser)
    parser.add_argument(
        "--pattern",
        type=_pattern,
        default="unstructured",
        help="what is cut together: unstructured (single weights), block:4x1 (four inputs of one "
        "output), 2:4 (two of every four stay), channel (with all that depends on it); "
        "default: %(default)s",
    )
    amount = parser.add_argument_group("how much: exactly one of")
    amount = amount.add_mutually_exclusive_group(required=True)
    number = {"type": float, "metavar": "X"}
    amount.add_argument("--sparsity", **number, help="cut this share of them, such as 0.9")
    amount.add_argument("--threshold", **number, help="cut what is below this value")
    amount.add_argument(
        "--std-ratio", **number, help="cut below so many standard deviations of the kernel"
    )
    amount.add_argument(
        "--hoyer-ratio", **number, help="cut below so many Hoyer trimming thresholds of the kernel"
    )
    amount.add_argument(
        "--flops",
        **number,
        help="cut channels until this share of the multiply-adds is left; with --pattern channel",
    )
    parser.add_argument(
        "--scope",
        choices=["global", "layer"],
        help="with --sparsity or --flops: compare all layers, or cut the same share of each; "
        "default: global",
    )
    _add_layers(parser)
    parser.add_argument(
        "--strip",
        action="store_true",
        help="take masks and penalties off: a plain model, which loads without keras_hoyer",
    )
    return parser


def _add_shrink(commands: Any) -> argparse.ArgumentParser:
    parser = _add_command(
        commands,
        "shrink",
        _shrink,
        "remove channels that are zero or constant",
        "Writes a smaller model with the same outputs, without the channels that are zero or\n"
        "constant, and prints parameters and multiply-adds. Both models are run on random inputs;\n"
        "if their outputs differ, nothing is written.",
        "keras-hoyer shrink sparse.keras -o small.keras",
    )
    _add_file(parser)
    _add_keras_output(parser)
    _add_tolerance(parser, 1e-4)
    return parser


def _add_export(commands: Any) -> argparse.ArgumentParser:
    parser = _add_command(
        commands,
        "export",
        _export,
        "write a checked .tflite, .onnx, .npz, .safetensors or .keras file",
        "Writes a file that is run, or read back, and compared with the model before it is put\n"
        "in place. If it is not right, an older file is untouched.",
        "keras-hoyer export small.keras -o small.tflite --quantize int8 --data samples.npy",
    )
    _add_file(parser)
    _add_output(parser, "OUT", Path, "the file to write; its ending says the format")
    parser.add_argument(
        "--format",
        choices=list(exporting.QUANTIZATIONS),
        help="default: what the ending of OUT says",
    )
    parser.add_argument(
        "--quantize",
        choices=["float16", "dynamic", "int8"],
        help="float16 halves the weights; for .tflite also dynamic (int8 weights) and int8 (all "
        "in int8, needs --data); default: weights as they are",
    )
    parser.add_argument(
        "--sparse",
        type=_sparse,
        default="auto",
        metavar="{auto,true,false}",
        help="auto takes the smaller one of a sparse and a dense file; default: %(default)s",
    )
    parser.add_argument(
        "--optimize-for",
        choices=["size", "latency"],
        default="size",
        help="keep the smallest file, or for .tflite the fastest; default: %(default)s",
    )
    _add_data(parser)
    _add_tolerance(
        parser, None, "1e-4, float16 1e-2, dynamic 0.1, int8 0.2; weight files 0, float16 1e-3"
    )
    return parser


def _add_compare(commands: Any) -> argparse.ArgumentParser:
    parser = _add_command(
        commands,
        "compare",
        _compare,
        "outputs, bytes and latency of two models side by side",
        "Runs two models on the same inputs and prints how far their outputs are apart, their\n"
        "bytes and the median time of one sample, measured by turns on one thread. A model in\n"
        "Keras is timed as predict_on_batch, on JAX with as many threads as JAX takes. Outputs of\n"
        "shape (samples, classes) also give the share of samples with the same class.",
        "keras-hoyer compare model.keras model.tflite --data samples.npy",
    )
    parser.add_argument(
        "files",
        nargs=2,
        type=Path,
        metavar="FILE",
        help=".keras, .tflite or .onnx; .npz or .safetensors weights with --model",
    )
    parser.add_argument(
        "--model", type=Path, metavar="ARCH.keras", help="the model that weight files belong to"
    )
    _add_data(parser)
    _add_tolerance(parser, 1e-4)
    parser.add_argument(
        "--runs",
        type=int,
        default=100,
        metavar="N",
        help="how often each is timed, 0 for not at all; default: %(default)s",
    )
    return parser


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a .keras file")


def _add_keras_output(parser: argparse.ArgumentParser) -> None:
    text = "the .keras file to write; may be FILE itself, which is replaced only by a whole file"
    _add_output(parser, "OUT.keras", _keras_path, text)


def _add_output(parser: argparse.ArgumentParser, metavar: str, type: Any, text: str) -> None:
    parser.add_argument("-o", "--output", type=type, metavar=metavar, required=True, help=text)


def _add_layers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="names of layers, after FILE; default: all dense, convolutional, recurrent and "
        "attention layers",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DATA",
        help="samples to run the models on: .npy, or .npz with an array for each input; default: "
        "random ones",
    )


def _add_tolerance(
    parser: argparse.ArgumentParser, value: float | None, default: str = "%(default)s"
) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        default=value,
        metavar="X",
        help=f"largest difference that is allowed, of the largest output; default: {default}",
    )


def _pattern(text: str) -> patterns.Pattern:
    try:
        if text in ("unstructured", "channel"):
            return {"unstructured": patterns.Unstructured, "channel": patterns.Channel}[text]()
        if match := re.fullmatch(r"block:(\d+(?:x\d+)*)", text):
            return patterns.Block(tuple(map(int, match[1].split("x"))))
        if match := re.fullmatch(r"(\d+):(\d+)", text):
            return patterns.NByM(int(match[1]), int(match[2]))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    raise argparse.ArgumentTypeError(
        f"Expected unstructured, channel, block:4x1 or 2:4 (any numbers). Received: {text}"
    )


def _sparse(text: str) -> bool | str:
    if text not in ("auto", "true", "false"):
        raise argparse.ArgumentTypeError(f"Expected auto, true or false. Received: {text}")
    return {"true": True, "false": False}.get(text, text)


def _keras_path(text: str) -> Path:
    if not text.endswith(".keras"):
        raise argparse.ArgumentTypeError(f"Expected a file that ends in .keras. Received: {text}")
    return Path(text)
