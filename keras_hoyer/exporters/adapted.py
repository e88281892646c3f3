"""Layers whose kernel is not what computes: quantized by Keras, or with a LoRA beside it."""

import keras

from keras_hoyer._keras import all_of

# Quantizations of Keras whose layers a format has no operations for.
FOREIGN = {
    "tflite": ("int8", "int4", "float8", "gptq", "awq"),
    "onnx": ("float8",),
    "keras": ("float8",),
}


def check_layers(model: keras.Model, format: str) -> None:
    """Raises a `ValueError` for layers that do not survive a format.

    Args:
        model: a built model.
        format: name of the format.
    """
    layers = all_of(model)
    modes = {layer.name: getattr(layer, "quantization_mode", None) for layer in layers}
    quantized = {name: mode for name, mode in modes.items() if mode in FOREIGN.get(format, ())}
    if quantized:
        raise ValueError(
            "Invalid value for argument `model`. Expected layers in floats for the format "
            f"{format!r}. Received: model={model!r} with layers that Keras has quantized: "
            f"{quantized}. Quantize last: train, prune and shrink the model in floats, then "
            "`export(..., quantize='int8')` (or 'dynamic') of that model to .tflite."
        )
    adapted = [
        layer
        for layer in layers
        if getattr(layer, "lora_enabled", False) and format in ("keras", "tflite", "onnx")
    ]
    saved = format == "keras" or keras.backend.backend() != "tensorflow"
    constrained = [layer.name for layer in adapted if getattr(layer, "kernel_constraint", None)]
    if constrained and saved:
        raise ValueError(
            "Invalid value for argument `model`. Expected no constraint on a kernel with a LoRA, "
            "which Keras cannot load again. Received: "
            f"model={model!r} with both in {constrained}. {_MERGE}"
        )
    if adapted and format == "keras":
        raise ValueError(
            "Invalid value for argument `model`. Expected layers without LoRA for the format "
            "'keras': Keras adds each LoRA to its kernel as it saves, and the file would not hold "
            f"the weights that the model has. Received: model={model!r} with LoRA in "
            f"{[layer.name for layer in adapted]}. {_MERGE}"
        )


_MERGE = (
    "Merge first: `model.save_weights('m.weights.h5')` adds each LoRA to its kernel; build the "
    "model without LoRA and give it those by `load_weights`. Then prune, shrink and export that."
)
