"""Which conditions of XNNPACK's sparse 1x1 convolutions a model meets, and what to change."""

import dataclasses

import keras
import numpy as np

from keras_hoyer._keras import all_of, flatten_layers, nodes_into, producer_of, readers_of
from keras_hoyer.graph.opening import has_graph

# XNNPACK runs 1x1 convolutions sparsely when more than this share of their weights is zero.
LEAST_SPARSITY = 2 / 3


@dataclasses.dataclass(frozen=True)
class Condition:
    """One condition: what it asks, whether it is met, and what to change if not."""

    name: str
    met: bool
    advice: str = ""


@dataclasses.dataclass(frozen=True, repr=False)
class SparseInferenceReport:
    """All conditions; true as a whole if each is met.

    Attributes:
        target: the architecture that was asked for.
        conditions: tuple of `Condition`.
    """

    target: str
    conditions: tuple[Condition, ...]

    def __bool__(self) -> bool:
        return all(condition.met for condition in self.conditions)

    def __repr__(self) -> str:
        met = sum(condition.met for condition in self.conditions)
        return f"SparseInferenceReport({self.target!r}, met: {met} of {len(self.conditions)})"

    def __str__(self) -> str:
        verdict = "can" if self else "cannot"
        lines = [f"Sparse 1x1 convolutions {verdict} engage on {self.target}."]
        for condition in self.conditions:
            lines.append(f"[{'x' if condition.met else ' '}] {condition.name}")
            if not condition.met:
                lines.append(f"    {condition.advice}")
        return "\n".join(lines)


def check_sparse_inference(model: keras.Model, target: str = "arm64") -> SparseInferenceReport:
    """Says whether XNNPACK can run the 1x1 convolutions of a float32 `.tflite` file sparsely.

    On ARM64, XNNPACK skips the zeros of 1x1 convolutions, in dense and in sparse files alike, if
    the whole graph from the first convolution to the global average pooling suits it. This reads
    the graph of a Keras model; it runs nothing. On x86-64 with AVX there is no such path: zeros of
    convolutions give no speed there.

    Args:
        model: a built Sequential or functional model.
        target: `"arm64"`.

    Returns:
        A `SparseInferenceReport`: true if all conditions are met; `print` shows them with what to
        change.

    Raises:
        ValueError: if the model has no graph that can be read, or `target` is not known.

    Example:
    >>> from keras_hoyer.exporters import check_sparse_inference
    >>> inputs = keras.Input((32, 32, 3))
    >>> x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    >>> x = keras.layers.Conv2D(16, 1)(x)
    >>> x = keras.layers.GlobalAveragePooling2D()(x)
    >>> report = check_sparse_inference(keras.Model(inputs, keras.layers.Dense(3)(x)))
    >>> bool(report), [condition.met for condition in report.conditions]
    (False, [False, False, False, True, True])
    """
    if target != "arm64":
        raise ValueError(
            "Invalid value for argument `target`. Expected 'arm64', the one target on which "
            f"sparse convolutions are known to run. Received: target={target!r}"
        )
    if not isinstance(model, keras.Model) or not has_graph(model):
        raise ValueError(
            "Invalid value for argument `model`. Expected a built Sequential or functional model, "
            f"whose graph can be read. Received: model={model!r}"
        )
    found = flatten_layers(model)
    convolutions = [layer for layer in found if type(layer) is keras.layers.Conv2D]
    pointwise = [layer for layer in convolutions if _pointwise(layer)]
    return SparseInferenceReport(
        target,
        (
            _sparsity(pointwise),
            _first_convolution(convolutions),
            _strides(found),
            _head(found),
            _other_layers(found),
        ),
    )


def keepdims_traps(model: keras.Model) -> list[str]:
    """Names of the poolings that give zeros on ARM64, though the file is right elsewhere."""
    return [
        layer.name
        for layer in all_of(model)
        if isinstance(layer, keras.layers.GlobalAveragePooling2D)
        and layer.keepdims
        and any(_pointwise(reader) for reader in readers_of(layer))
    ]


def _pointwise(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D) and tuple(layer.kernel_size) == (1, 1)


def _producer(layer: keras.Layer) -> keras.Layer | None:
    nodes = nodes_into(layer)
    tensors = nodes[0].input_tensors if nodes else []
    return producer_of(tensors[0]) if tensors else None


def _sparsity(pointwise: list[keras.Layer]) -> Condition:
    shares = {
        layer.name: float(np.mean(keras.ops.convert_to_numpy(layer.kernel) == 0))
        for layer in pointwise
    }
    low = [f"{name} ({share:.0%})" for name, share in shares.items() if share <= LEAST_SPARSITY]
    return Condition(
        f"more than {LEAST_SPARSITY:.0%} of the weights of the 1x1 convolutions are zero",
        bool(shares) and not low,
        f"Prune further: {', '.join(low)}." if low else "There is no 1x1 convolution to skip in.",
    )


def _first_convolution(convolutions: list[keras.Layer]) -> Condition:
    name = "the first convolution is 3x3 with stride 2 on 3 channels, after ZeroPadding2D(1)"
    if not convolutions:
        return Condition(name, False, "There is no convolution.")
    first = convolutions[0]
    problems = []
    if tuple(first.kernel_size) != (3, 3) or tuple(first.strides) != (2, 2):
        problems.append("give it kernel_size=3 and strides=2")
    if first.kernel.shape[-2] != 3:
        problems.append(f"feed it 3 channels instead of {first.kernel.shape[-2]}")
    if not _padded_by_hand(first):
        problems.append('put ZeroPadding2D(1) before it and set padding="valid"')
    return Condition(name, not problems, f"In {first.name}: {'; '.join(problems)}.")


def _strides(layers: list[keras.Layer]) -> Condition:
    wrong = [
        layer.name
        for layer in layers
        if isinstance(layer, keras.layers.DepthwiseConv2D)
        and max(np.atleast_1d(layer.strides)) > 1
        and not _padded_by_hand(layer)
    ]
    same = [
        layer.name
        for layer in layers
        if type(layer) is keras.layers.Conv2D and max(layer.strides) > 1 and layer.padding == "same"
    ]
    names = ", ".join(dict.fromkeys(wrong + same))
    return Condition(
        'layers with stride 2 follow a ZeroPadding2D and have padding="valid"',
        not names,
        f'Put ZeroPadding2D before {names} and set padding="valid".',
    )


def _padded_by_hand(layer: keras.Layer) -> bool:
    padded = isinstance(_producer(layer), keras.layers.ZeroPadding2D)
    return padded and layer.padding == "valid"


def _head(layers: list[keras.Layer]) -> Condition:
    pooling = [x for x in layers if isinstance(x, keras.layers.GlobalAveragePooling2D)]
    # Squeeze-and-excite pools as well; the last pooling is the one that ends the convolutions.
    last = pooling[-1:] if pooling and not pooling[-1].keepdims else []
    dense = any(isinstance(reader, keras.layers.Dense) for x in last for reader in readers_of(x))
    through = any(
        isinstance(second, keras.layers.Dense)
        for x in last
        for first in readers_of(x)
        if isinstance(first, keras.layers.Dropout)
        for second in readers_of(first)
    )
    return Condition(
        "GlobalAveragePooling2D() and Dense end the network",
        dense or through,
        "End in GlobalAveragePooling2D(), not keepdims=True, which gives zeros on ARM64, followed "
        "by Dense.",
    )


def _other_layers(layers: list[keras.Layer]) -> Condition:
    blocking = [x.name for x in layers if isinstance(x, keras.layers.PReLU | keras.layers.Flatten)]
    return Condition(
        "there is neither PReLU nor Flatten",
        not blocking,
        f"Replace {', '.join(blocking)}: ReLU, ReLU6 and swish are fine, and so is global pooling.",
    )
