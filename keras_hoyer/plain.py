"""The layers of a model, and which of them compute with something else than their kernel."""

from collections.abc import Callable, Iterator, Sequence

import keras

from keras_hoyer._keras import own_variables, parts_of

LayerSelection = Sequence[str] | Callable[[keras.Layer], bool] | None

# Layers that build their parts from their own config: a user names and sees only the whole.
_COMPOSITES = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.RNN,
)
_NOT_PLAIN = {
    "lora": (
        "Layers {named} compute with LoRA: what multiplies is the kernel and a product added to "
        "it, so cuts, penalties and counts of the kernel alone would be wrong. The order is: merge "
        "LoRA, prune, shrink, quantize. To merge, for each of these layers: `merged = "
        "layer.kernel; layer.lora_enabled = False; layer.lora_rank = None; "
        "layer.kernel.assign(merged)` (`embeddings` in place of `kernel` for an Embedding). Then "
        "save the model and load it, which leaves a plain one."
    ),
    "quantized": (
        "Layers {named} are quantized: what multiplies is a kernel of few bits and a scale, which "
        "no cut, penalty or count of zeros understands. The order is: prune, shrink, quantize. "
        "Take the model of before `quantize`, prune and shrink that, and quantize the result."
    ),
}


def check_plain(
    model: keras.Model, layers: LayerSelection = None, allowed: Sequence[str] = ()
) -> None:
    """Raises a `ValueError` if layers compute with something else than the kernel they hold.

    Zeros, counts and copies of such a variable would say nothing about what the layer computes.

    Args:
        model: A built Keras model.
        layers: As for `find_kernels`. Defaults to `None`: all layers, embeddings included.
        allowed: What will do of what `find_adapted` says. Defaults to nothing.
    """
    found: dict[str, list[str]] = {}
    for path, reason in find_adapted(model, layers).items():
        if reason not in allowed:
            found.setdefault("lora" if reason == "lora" else "quantized", []).append(path)
    for kind, paths in found.items():
        raise ValueError(_NOT_PLAIN[kind].format(named=", ".join(f"'{path}'" for path in paths)))


def find_adapted(model: keras.Model, layers: LayerSelection = None) -> dict[str, str]:
    """Finds the layers that compute with something else than the kernel they hold.

    Args:
        model: A built Keras model.
        layers: As for `find_kernels`. Defaults to `None`: all layers, embeddings included.

    Returns:
        A dict from the path of a layer to what there is: `"lora"`, a product added to the kernel;
        `"int8"` and other modes of `quantize`, few bits with a scale. In `"float8"` the kernel is
        a float still, rounded on its way into the product, but more belongs to it.
    """
    found = {}
    for layer, chain, visible in walk_layers(model):
        reason = _adapted_by(layer)
        if reason is None:
            continue
        if callable(layers):
            chosen = layers(visible)
        else:
            chosen = layers is None or any(parent.name in layers for parent in chain)
        if chosen:
            parts = (*chain, layer) if layer is not visible else chain
            found["/".join(part.name for part in parts[1:] or parts)] = reason
    return found


def walk_layers(
    layer: keras.Layer,
    parents: tuple[keras.Layer, ...] = (),
    composites: tuple[keras.Layer, ...] = (),
) -> Iterator[tuple[keras.Layer, tuple[keras.Layer, ...], keras.Layer]]:
    """Each layer, with the chain from the model down to the layer that a user sees, and that one.

    The parts of a composite layer come with the chain down to the composite.
    """
    if layer in parents:
        return
    visible = composites[0] if composites else layer
    chain = (*parents, layer)
    yield layer, chain[: chain.index(visible) + 1], visible
    if isinstance(layer, _COMPOSITES):
        composites = (*composites, layer)
    for child in parts_of(layer):
        yield from walk_layers(child, chain, composites)


def _adapted_by(layer: keras.Layer) -> str | None:
    """What stands between the kernel and the product, if anything does."""
    mode = getattr(layer, "quantization_mode", None)
    # A policy may stand on layers that have nothing to quantize.
    if not any(len(variable.shape) > 1 for variable in own_variables(layer)):
        mode = None
    # A quantized kernel with LoRA cannot be merged into one that is plain.
    lora = getattr(layer, "lora_enabled", False)
    return "lora" if lora and mode in (None, "float8") else mode
