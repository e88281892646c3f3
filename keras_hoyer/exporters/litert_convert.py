"""Converts a model to a dense `.tflite` file, where Keras runs on TensorFlow."""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_hoyer._keras import all_of
from keras_hoyer.exporters import (
    litert_file,
    litert_scales,
    processes,
    signatures,
    substitutes,
    tensorflow_graph,
)

# More steps than this make an unrolled graph too slow to convert.
UNROLLED_STEPS = 64

# The file that a conversion leaves in its folder.
DENSE = "dense.tflite"

# Quantizations that a file may turn out larger than; files of them are made to be weighed only.
WEIGHED = {None: (), "float16": (None,), "dynamic": (None, "float16"), "int8": (None, "float16")}


def weighed_file(quantize: str | None) -> str:
    """Name of the file that is made in another quantization to be weighed."""
    return f"weighed_{quantize or 'float32'}.tflite"


def convert_here(
    model: keras.Model,
    signature: signatures.Signature,
    folder: Path,
    calibration: list[np.ndarray] | None,
    *,
    quantize: str | None,
    unroll: bool,
    io_dtype: str,
) -> str | None:
    """Writes `DENSE` into the folder, and the files to weigh it against.

    Args:
        model: a built model; Keras runs on TensorFlow.
        signature: what it takes.
        folder: where the files go.
        calibration: representative inputs for `"int8"`.
        quantize: `None`, `"float16"`, `"dynamic"` or `"int8"`.
        unroll: whether recurrent layers are unrolled.
        io_dtype: what a float input or output becomes, for `"int8"`.

    Returns:
        Why there is no file, or `None`.
    """
    samples = calibration or []
    saved = folder / "saved_model"
    shutil.rmtree(saved, ignore_errors=True)
    try:
        with tensorflow_graph.quiet():
            with (
                signatures.in_float32(model),
                _unrolled(model, unroll),
                substitutes.in_place("tflite"),
            ):
                loops = _save(model, signature, saved)
            if quantize == "int8" and loops:
                content = _converted_apart(folder, signature, samples, io_dtype)
            else:
                content = converted(saved, quantize, signature, samples, io_dtype)
            for other in WEIGHED[quantize]:
                if len(content) > _least_bytes(model, other):
                    weighed = converted(saved, other, signature, [], "float32")
                    (folder / weighed_file(other)).write_bytes(weighed)
    except Exception as error:  # the converter raises anything
        return _reason(error)
    mended = bytearray(litert_scales.widen(content) if quantize == "int8" else content)
    litert_file.make_zeros_positive(mended)
    (folder / DENSE).write_bytes(mended)
    shutil.rmtree(saved)
    return None


def recurrent_layers(
    model: keras.Model, open_steps: int | None = None
) -> tuple[list[keras.Layer], bool]:
    """The recurrent layers, and whether all of them can be unrolled.

    Args:
        model: a built model.
        open_steps: what the file fixes a number of steps to that the model leaves open.
    """
    layers = [layer for layer in all_of(model) if isinstance(layer, keras.layers.RNN)]
    steps = [
        ((layer.get_build_config() or {}).get("input_shape") or (0, None))[1] for layer in layers
    ]
    known = [open_steps if count is None else count for count in steps]
    return layers, all(count is not None and count <= UNROLLED_STEPS for count in known)


def _least_bytes(model: keras.Model, quantize: str | None) -> int:
    """What the kernels take in floats at least, however they are stored: their nonzeros."""
    kernels = [weight for weight in model.weights if len(weight.shape) > 1]
    nonzero = sum(int(np.count_nonzero(keras.ops.convert_to_numpy(w))) for w in kernels)
    return nonzero * (2 if quantize == "float16" else 4)


def _save(model: keras.Model, signature: signatures.Signature, path: Path) -> bool:
    """Writes a SavedModel of named flat tensors; returns whether it has loops or branches."""
    import tensorflow as tf  # noqa: PLC0415

    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    module.resources_of_model = tensorflow_graph.resources_of(model)
    module.serve = tensorflow_graph.function_of(model, signature)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    return tensorflow_graph.has_loops(module.serve)


def converted(
    saved: Path,
    quantize: str | None,
    signature: signatures.Signature,
    calibration: list[np.ndarray],
    io_dtype: str,
) -> bytes:
    """The `.tflite` file of a saved model.

    Args:
        saved: the SavedModel.
        quantize: as for `convert_here`.
        signature: its inputs.
        calibration: representative inputs for `"int8"`.
        io_dtype: as for `convert_here`.
    """
    import tensorflow as tf  # noqa: PLC0415

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io_dtype)

        def samples() -> Iterator[dict[str, np.ndarray]]:
            batch = signature.inputs[0].shape[0] or 1
            count = min(signatures.CALIBRATION_SAMPLES, len(calibration[0]))
            for start in range(0, count - batch + 1, batch):
                yield {
                    spec.name: array[start : start + batch]
                    for spec, array in zip(signature.inputs, calibration, strict=True)
                }

        converter.representative_dataset = samples
    content: bytes = converter.convert()
    return content


def _converted_apart(
    folder: Path,
    signature: signatures.Signature,
    calibration: list[np.ndarray],
    io_dtype: str,
) -> bytes:
    """`converted` to int8 in a process of its own: calibration may crash on loops."""
    np.savez(folder / "apart.npz", *calibration)
    inputs = [dataclasses.asdict(spec) for spec in signature.inputs]
    (folder / "apart.json").write_text(json.dumps({"inputs": inputs, "io_dtype": io_dtype}))
    failure = processes.run_process(
        ["-m", "keras_hoyer.exporters._calibrate", str(folder)],
        processes.CONVERT_TIMEOUT,
        processes.on_tensorflow(),
    )
    if failure:
        raise RuntimeError(f"the calibration of a graph with loops or branches {failure}")
    return (folder / "apart.tflite").read_bytes()


@contextlib.contextmanager
def _unrolled(model: keras.Model, unroll: bool) -> Iterator[None]:
    recurrent = [part for part in all_of(model) if isinstance(part, keras.layers.RNN)]
    layers = [layer for layer in recurrent if unroll and not layer.unroll]
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer in layers:
            layer.unroll = False


def _reason(error: Exception) -> str:
    """The most telling line of an error, with the place in the model that it names."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for telling in ("TF Select ops: ", "Custom ops: "):
        for line in lines:
            if line.startswith(telling):
                kinds = line.removeprefix(telling)
                return processes.shortened(
                    f"LiteRT has no builtin operation for {kinds}{_places(text)}. Replace the "
                    "layer, or export the model up to it."
                )
    errors = [line.split("error: ")[-1] for line in lines if "error: " in line] or lines or [""]
    return processes.shortened(f"{type(error).__name__}: {errors[-1]}{_places(text)}")


def _places(text: str) -> str:
    """The operations that the converter names in its locations, as `layer/operation`."""
    named = re.findall(r'fused\["[^"]*", "([^"@]+)@', text)
    places = [place for place in dict.fromkeys(named) if "StatefulPartitionedCall" not in place]
    return f" (at {', '.join(places[:5])})" if places else ""
