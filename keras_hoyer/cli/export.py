"""`keras-hoyer export`."""

import argparse
import dataclasses
import importlib.util
from pathlib import Path
from typing import get_args

from keras_hoyer._literals import FormatName, Goal, InterfaceDtype, Quantization, Sparse
from keras_hoyer.cli import arguments
from keras_hoyer.cli.command import Answer, Command, UsageError
from keras_hoyer.cli.console import Console
from keras_hoyer.cli.words import in_own_words

# What each format can be quantized to, and what it needs: as the library has it, which a test
# compares, but known without Keras.
QUANTIZATIONS = {
    "tflite": ("float16", "dynamic", "int8"),
    "onnx": (),
    "keras": (),
    "npz": ("float16",),
    "safetensors": ("float16",),
}
PACKAGES = {
    "tflite": ("litert", ["ai_edge_litert"]),
    "onnx": ("onnx", ["onnx", "onnxruntime", "tf2onnx"]),
    "safetensors": ("safetensors", ["safetensors"]),
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_file(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        required=True,
        help="the file to write; its ending says the format",
    )
    parser.add_argument(
        "--format", choices=get_args(FormatName), help="default: what the ending of OUT says"
    )
    _add_choices(parser)
    arguments.add_data(parser)
    arguments.add_page(parser)
    arguments.add_tolerance(
        parser, None, "1e-4, float16 1e-2, dynamic 0.1, int8 0.2; weight files 0, float16 1e-3"
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """How the file stores weights, what it takes, and which of several right ones is kept."""
    parser.add_argument(
        "--quantize",
        choices=get_args(Quantization),
        help="float16 halves the weights; for .tflite also dynamic (int8 weights) and int8 (all "
        "in int8, needs --data); default: weights as they are",
    )
    parser.add_argument(
        "--io-dtype",
        choices=get_args(InterfaceDtype),
        default="float32",
        help="with --quantize int8: what the file takes and gives for floats; default: %(default)s",
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
        choices=get_args(Goal),
        default="size",
        help="keep the smallest file, or for .tflite the fastest; default: %(default)s",
    )


def _check(options: argparse.Namespace) -> None:
    format = _format(options)
    allowed = QUANTIZATIONS[format]
    if options.quantize is not None and options.quantize not in allowed:
        raise UsageError(
            f"argument --quantize: Expected {' or '.join(allowed) or 'none'} for .{format} files. "
            f"Received: {options.quantize}"
        )
    if options.quantize == "int8" and options.data is None:
        raise UsageError(
            "argument --data: --quantize int8 is calibrated with some 100 samples of typical "
            "inputs. Received: no --data"
        )
    if options.io_dtype != "float32" and options.quantize != "int8":
        raise UsageError(
            f"argument --io-dtype: {options.io_dtype} goes with --quantize int8. "
            f"Received: {'--quantize ' + options.quantize if options.quantize else 'no --quantize'}"
        )
    if options.optimize_for == "latency" and format != "tflite":
        raise UsageError(
            f"argument --optimize-for: latency is for .tflite files. Received: a .{format} file"
        )
    extra, packages = PACKAGES.get(format, ("", []))
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f".{format} files need {', '.join(missing)}: pip install keras-hoyer[{extra}]"
        )
    arguments.check_model(options.file)
    arguments.check_writable(options.output)
    arguments.check_page(options.html)
    options.data = arguments.read_data(options.data)


def _format(options: argparse.Namespace) -> str:
    ending = options.output.suffix[1:].lower()
    known = ending in QUANTIZATIONS
    if options.format is None and not known:
        raise UsageError(
            "argument -o/--output: Expected a file that ends in "
            f"{', '.join('.' + name for name in QUANTIZATIONS)}, or --format. "
            f"Received: {options.output}"
        )
    if known and options.format not in (None, ending):
        raise UsageError(
            f"argument --format: Expected {ending}, which is what the ending of -o/--output says, "
            f"or another ending. Received: {options.format}, and {options.output}"
        )
    format: str = options.format or ending
    return format


def _run(options: argparse.Namespace, console: Console) -> Answer:
    from keras_hoyer.cli import models
    from keras_hoyer.exporters import export

    settings = {
        name: getattr(options, name)
        for name in ("format", "quantize", "sparse", "tolerance", "optimize_for", "io_dtype")
    }
    model = models.load(options.file, console)
    with console.step(f"converting, running and comparing {options.output}"):
        result = export(model, options.output, representative_data=options.data, **settings)
    result = dataclasses.replace(result, notes=tuple(map(in_own_words, result.notes)))
    if options.html is not None:
        result.to_html(options.html)
    return Answer(result.to_dict(), str(result))


def _sparse(text: str) -> Sparse:
    choices: dict[str, Sparse] = {"auto": "auto", "true": True, "false": False}
    if text not in choices:
        raise argparse.ArgumentTypeError(f"Expected auto, true or false. Received: {text}")
    return choices[text]


EXPORT = Command(
    name="export",
    help="write a checked .tflite, .onnx, .npz, .safetensors or .keras file",
    text="Writes a file that is run, or read back, and compared with the model before it\n"
    "is put in place. If it is not right, an older file is untouched.",
    example="keras-hoyer export small.keras -o small.tflite --quantize int8 --data x.npy",
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
