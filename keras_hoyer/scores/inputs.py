"""What the kernels of a model read: the mean square of each input, found by watching calls."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer._data import Batch, call_on
from keras_hoyer._keras import flatten_layers
from keras_hoyer._precision import HALF, computing_in
from keras_hoyer.kept import calls_replaced
from keras_hoyer.scores.layouts import Read, reads_of
from keras_hoyer.weights import Weight


def mean_squares(
    model: keras.Model, weights: Sequence[Weight], batches: Iterator[Batch]
) -> dict[int, np.ndarray]:
    """The mean square of what each entry of the kernels reads, over all places and samples.

    Args:
        model: The model. It computes in float32, in inference mode.
        weights: The kernels.
        batches: The data.

    Returns:
        A dict from the id of a kernel's variable to a float64 array that broadcasts to its shape.
        Kernels whose input could not be seen are left out.
    """
    watch = _Watch(weights)
    with computing_in("float32", model, HALF), watch.on(model):
        for batch in batches:
            call_on(model, batch.x)
    return {key: total / count for key, (total, count) in watch.sums.items() if count}


class _Watch:
    """Looks at the inputs of layers while they are called.

    Args:
        weights: The kernels in question.

    Attributes:
        sums: From the id of each variable to the sum of squares and the number of them.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.sums: dict[int, tuple[np.ndarray, float]] = {}
        self._kernels: dict[int, list[Weight]] = {}
        self._owners = {id(weight.owner): weight.owner for weight in weights}
        for weight in weights:
            self._kernels.setdefault(id(weight.owner), []).append(weight)
        self._muted = False
        self._rows: np.ndarray | None = None  # which samples of a step count

    @contextlib.contextmanager
    def on(self, model: keras.Model) -> Iterator[None]:
        """A scope in which the calls of the model's layers are looked at."""
        loops = [
            layer
            for layer in flatten_layers(model)
            if isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed))
        ]
        layers = {id(layer): layer for layer in (*self._owners.values(), *loops)}.values()
        with calls_replaced(list(layers), self._watched):
            yield

    def _watched(self, layer: keras.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        # Within a compiled loop there are no values to look at, so its steps are taken one by one.
        unroll: dict[type, Callable[..., None]] = {
            keras.layers.RNN: self._step_through,
            keras.layers.TimeDistributed: self._flatten,
        }
        step = next((do for cls, do in unroll.items() if isinstance(layer, cls)), None)

        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._muted:
                return call(*args, **kwargs)
            for weight in self._kernels.get(id(layer), ()):
                for read in reads_of(weight, args, kwargs):
                    self._add(weight, read)
            if step is None:
                return call(*args, **kwargs)
            # A layer that is called in another way has kernels that are not seen, which is said.
            with contextlib.suppress(TypeError, ValueError):
                step(layer, *args, **kwargs)
            self._rows = None
            self._muted = True
            try:
                return call(*args, **kwargs)
            finally:
                self._muted = False

        return watched

    def _add(self, weight: Weight, read: Read) -> None:
        try:
            squares, count = self._squares(read)
        except Exception:
            return
        total, known = self.sums.get(id(weight.variable), (np.zeros(()), 0.0))
        self.sums[id(weight.variable)] = (total + read.fit(squares), known + count)

    def _squares(self, read: Read) -> tuple[np.ndarray, float]:
        """Sum of squares along the axes that a kernel knows, and how many were added for each."""
        if read.counts is not None:
            return read.counts, float(read.counts.sum())
        x = ops.cast(ops.convert_to_tensor(read.tensor), "float32")
        squares = ops.square(x)
        rows = self._rows
        if rows is not None:
            shape = (-1, *(1 for _ in x.shape[1:]))
            squares = squares * ops.reshape(ops.convert_to_tensor(rows, "float32"), shape)
        kept = [axis % len(x.shape) for axis in read.axes]
        others = tuple(axis for axis in range(len(x.shape)) if axis not in kept)
        sums = ops.convert_to_numpy(ops.sum(squares, others)).astype("float64")
        order = np.argsort(np.argsort(kept))
        share = 1.0 if rows is None else float(rows.mean())
        return sums.transpose(order), share * float(np.prod([x.shape[axis] for axis in others]))

    def _step_through(
        self,
        layer: Any,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
    ) -> None:
        """Takes the steps of a recurrent layer one by one."""
        states = initial_state
        if states is None:
            start = layer.get_initial_state(batch_size=ops.shape(sequences)[0])
            states = layer.states if layer.stateful else start
        states = list(states) if tree.is_nested(states) else [states]
        steps = range(sequences.shape[1])
        for step in reversed(steps) if layer.go_backwards else steps:
            if mask is not None:
                self._rows = ops.convert_to_numpy(mask[:, step]).astype("float64").reshape(-1)
            _, new = layer.cell(sequences[:, step], states)
            new = list(new) if tree.is_nested(new) else [new]
            states = new if mask is None else _where(self._rows, new, states)

    def _flatten(self, layer: Any, inputs: Any, training: bool = False, mask: Any = None) -> None:
        """Calls what is wrapped on all steps at once, as so many samples."""
        layer.layer(ops.reshape(inputs, (-1, *inputs.shape[2:])), training=False)


def _where(rows: Any, new: list[Any], old: list[Any]) -> list[Any]:
    """The new states of the samples that count, the old ones of the others."""

    def choose(one: Any, other: Any) -> Any:
        shape = (-1, *(1 for _ in one.shape[1:]))
        return ops.where(ops.reshape(ops.convert_to_tensor(rows > 0), shape), one, other)

    return list(tree.map_structure(choose, new, old))
