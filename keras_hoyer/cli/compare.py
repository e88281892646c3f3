"""`keras-hoyer compare`."""

import argparse
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from keras_hoyer.cli import arguments
from keras_hoyer.cli.command import Answer, Command, UsageError
from keras_hoyer.cli.console import Console

if TYPE_CHECKING:
    from keras_hoyer.exporters.sides import Side

RUN, WEIGHTS = (".tflite", ".onnx"), (".npz", ".safetensors")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
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
    arguments.add_data(parser)
    arguments.add_page(parser)
    arguments.add_tolerance(parser, None, "1e-4, a file in float16 1e-2, dynamic 0.1, int8 0.2")
    parser.add_argument(
        "--runs",
        type=arguments.count,
        default=100,
        metavar="N",
        help="turns of each that are timed, 0 for none; default: %(default)s",
    )


def _check(options: argparse.Namespace) -> None:
    for path in options.files:
        if path.suffix in WEIGHTS and options.model is None:
            raise UsageError(f"{path} holds weights only: pass --model ARCH.keras for the layers")
        if path.suffix in (*RUN, *WEIGHTS):
            arguments.check_readable(path)
        else:
            arguments.check_model(path)
    if options.model is not None:
        arguments.check_model(options.model)
    arguments.check_page(options.html)
    options.data = arguments.read_data(options.data)


def _run(options: argparse.Namespace, console: Console) -> Answer:
    from keras_hoyer.exporters import comparison, sides

    sides.use_one_thread()
    a, b = (_side(options, path, console) for path in options.files)
    with console.step("running both"):
        result = comparison.compare(a, b, options.data, options.tolerance, options.runs)
    if options.html is not None:
        result.to_html(options.html)
    text = str(result)
    if not result.within_tolerance and options.data is None:
        text += (
            "\n\nThe inputs were random: pass --data for samples that both models were made for."
        )
    return Answer(result.to_dict(), text, 0 if result.within_tolerance else 1)


def _side(options: argparse.Namespace, path: Path, console: Console) -> "Side":
    from keras_hoyer.cli import models
    from keras_hoyer.exporters import load_sparse_weights, sides

    side: Side
    if path.suffix in RUN:
        with console.step(f"reading {path}"):
            side = sides.FileSide(path)
    elif path.suffix in WEIGHTS:
        model = models.load(options.model, console)
        load_sparse_weights(model, path)
        quantize = "float16" if _holds_halves(path) else None
        side = sides.KerasSide(path, model, options.data, quantize)
    else:
        side = sides.KerasSide(path, models.load(path, console), options.data)
    sides.check_data(side, options.data)
    return side


def _holds_halves(path: Path) -> bool:
    """Whether a weight file that was read holds values in float16."""
    name = "values.float16"  # see exporters/sparse_weights.py
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return f"{name}.npy" in archive.namelist()
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return name in header


COMPARE = Command(
    name="compare",
    help="outputs, bytes and latency of two models side by side",
    text="Runs two models on the same inputs and prints how far their outputs are apart,\n"
    "their bytes and the median time of one sample, measured by turns on one thread.\n"
    "A model in Keras is timed as predict_on_batch, on JAX with as many threads as\n"
    "JAX takes. Outputs of shape (samples, classes) also give the share of samples\n"
    "with the same class. What a .keras file holds to train on is not counted.",
    example="keras-hoyer compare model.keras model.tflite --data samples.npy",
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
