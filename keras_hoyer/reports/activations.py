"""How sparse the outputs of a model's layers are on data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_hoyer import measures
from keras_hoyer._data import batches_of, call_on, count_batches
from keras_hoyer._progress import step
from keras_hoyer.kept import calls_replaced, left_as_it_is
from keras_hoyer.plain import LayerSelection, walk_layers

# Layers that are nothing but an activation function.
_FUNCTIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


@dataclass(frozen=True)
class ActivationReport:
    """The outputs of one layer on data.

    Attributes:
        name: Path of the layer in the model.
        shape: Shape of its output for one sample, of the last batch.
        zeros: Share of the outputs that are zero.
        hoyer: Normalised Hoyer sparsity of the outputs for a sample, see
            `measures.hoyer_sparsity`: the mean over the samples.
        values: Number of outputs that were looked at.
    """

    name: str
    shape: tuple[int, ...]
    zeros: float
    hoyer: float
    values: int


def share_of_zeros(activations: tuple[ActivationReport, ...]) -> float:
    """The share of all outputs of several layers that are zero; 0 if there are none."""
    values = sum(layer.values for layer in activations)
    return sum(layer.zeros * layer.values for layer in activations) / values if values else 0.0


def activation_rows(activations: tuple[ActivationReport, ...]) -> list[tuple[str, ...]]:
    """The rows of a table, with the total below; none without activations."""
    rows = [
        (a.name, " x ".join(map(str, a.shape)), f"{a.zeros:.2%}", f"{a.hoyer:.3f}")
        for a in activations
    ]
    if not rows:
        return []
    total = ("all", "", f"{share_of_zeros(activations):.2%}", "")
    return [("activations of", "shape", "zeros", "Hoyer"), *rows, total]


def describe_activations(
    model: keras.Model, data: Any, layers: LayerSelection = None, batches: int | None = None
) -> tuple[ActivationReport, ...]:
    """Says how sparse the outputs of layers are that have an activation function.

    These are the layers with an `activation` other than the linear one or with an
    `activity_regularizer`, and `ReLU`, `Activation` and their like. The model is called in
    inference mode.

    Args:
        model: A built Keras model.
        data: Samples, or batches of them, as scores take them; labels are not looked at.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all.
        batches: Number of batches to read at most. Defaults to `None`: all.

    Returns:
        An `ActivationReport` for each layer that was called, in the order of the first calls.
    """
    chosen = dict(_active_layers(model, layers))
    sums: dict[str, _Sums] = {}

    def watched(layer: keras.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        def see(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            sums.setdefault(names[id(layer)], _Sums()).add(keras.tree.flatten(outputs)[0])
            return outputs

        return see

    names = {id(layer): name for name, layer in chosen.items()}
    total = count_batches(data, most=batches)
    with (
        step("activations of batch", total) as progress,
        left_as_it_is(model),
        calls_replaced(list(chosen.values()), watched),
    ):
        for batch in progress.count(batches_of(model, data, most=batches)):
            call_on(model, batch.x)
    return tuple(entry.report(name) for name, entry in sums.items() if entry.values)


def _active_layers(model: keras.Model, layers: LayerSelection) -> Iterator[tuple[str, keras.Layer]]:
    seen = set()
    for layer, chain, visible in walk_layers(model):
        if layer is not visible or layer is model or id(layer) in seen or not _is_active(layer):
            continue
        seen.add(id(layer))
        named = layers is not None and not callable(layers)
        if callable(layers):
            chosen = layers(layer)
        else:
            chosen = not named or any(part.name in (layers or ()) for part in chain)
        if chosen:
            yield "/".join(part.name for part in chain[1:]), layer


def _is_active(layer: keras.Layer) -> bool:
    function = getattr(layer, "activation", None)
    return (
        isinstance(layer, _FUNCTIONS)
        or layer.activity_regularizer is not None
        or (callable(function) and function is not keras.activations.linear)
    )


class _Sums:
    """What was seen of the outputs of a layer."""

    def __init__(self) -> None:
        self.values = self._zeros = self._samples = 0
        self._hoyer = 0.0
        self._shape: tuple[int, ...] = ()

    def add(self, tensor: Any) -> None:
        """Looks at the outputs of a call; within a compiled loop there is nothing to see."""
        try:
            array = np.asarray(keras.ops.convert_to_numpy(tensor), "float32")
        except Exception:
            return
        if array.ndim == 0 or not array.size:
            return
        self.values += array.size
        self._zeros += array.size - int(np.count_nonzero(array))
        self._samples += len(array)
        self._hoyer += sum(map(measures.hoyer_sparsity, array))
        self._shape = array.shape[1:]

    def report(self, name: str) -> ActivationReport:
        """The shares and means."""
        return ActivationReport(
            name,
            self._shape,
            zeros=self._zeros / self.values,
            hoyer=self._hoyer / self._samples,
            values=self.values,
        )
