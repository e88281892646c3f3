"""What becomes of each kernel while `fit` runs, for TensorBoard."""

import os
import time
from typing import Any

import keras
import numpy as np

from keras_hoyer import measures
from keras_hoyer._checks import check_count
from keras_hoyer._extras import check_package
from keras_hoyer.callbacks.base import Logs
from keras_hoyer.plain import LayerSelection
from keras_hoyer.weights import Weight, find_kernels


class SparsityLogger(keras.callbacks.Callback):
    """Writes sparsity and the measures behind the penalties for TensorBoard, after each epoch.

    For each kernel: `sparsity`, the share of zero weights; `effective_number`, L1**2 / L2**2;
    `hoyer`, the normalised Hoyer measure; `factor`, that of its penalty, as long as it has one;
    and as a histogram the `weights` that are not zero. For all kernels together `sparsity/total`
    and `effective_number/total`.

    The folder may be that of `keras.callbacks.TensorBoard`: then its curves stand beside these. It
    works on all backends, without TensorFlow's help, and needs the package `tensorboard`:
    `pip install keras-hoyer[tensorboard]`. `tensorboard --logdir logs` shows what was written.

    Args:
        log_dir: The folder to write to; it is made if there is none.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.
        histogram_freq: Every how many epochs histograms are written; 0 for never. Defaults to 1.

    Raises:
        ImportError: If `tensorboard` is not installed.
        ValueError: If `histogram_freq` is no such number; at the start of `fit`, if a layer name
            does not exist.

    >>> import keras_hoyer as kh, os, tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 3)), np.ones((8, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     logger = kh.callbacks.SparsityLogger(folder)
    ...     history = model.fit(x, y, verbose=0, callbacks=[logger])
    ...     [name[:20] for name in os.listdir(folder)]
    ['events.out.tfevents.']
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        layers: LayerSelection = None,
        histogram_freq: int = 1,
    ) -> None:
        super().__init__()
        check_count("histogram_freq", histogram_freq, 0)
        check_package("tensorboard", "tensorboard", "callbacks.SparsityLogger")
        self.log_dir = log_dir
        self.layers = layers
        self.histogram_freq = histogram_freq
        self._kernels: list[Weight] = []
        self._events: _Events

    def on_train_begin(self, logs: Logs = None) -> None:
        """Finds the kernels, and begins a file."""
        self._kernels = find_kernels(self.model, self.layers)
        self._events = _Events(self.log_dir)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Writes what the kernels are now."""
        total, zeros, finite = 0, 0, True
        for kernel in self._kernels:
            weights = kernel.read()
            total += weights.size
            zeros += weights.size - int(np.count_nonzero(weights))
            finite &= self._write_kernel(kernel, weights, epoch)
        if total:
            self._events.figure("sparsity/total", zeros / total, epoch)
        if finite:
            effective = measures.effective_count_of(kernel.read() for kernel in self._kernels)
            self._events.figure("effective_number/total", effective, epoch)
        self._events.flush()

    def on_train_end(self, logs: Logs = None) -> None:
        """Ends the file."""
        self._events.close()

    def _write_kernel(self, kernel: Weight, weights: np.ndarray, epoch: int) -> bool:
        """Writes all of a kernel; returns whether it is finite."""
        write, name = self._events.figure, kernel.path
        alive = weights[weights != 0].astype("float32")
        write(f"sparsity/{name}", 1 - alive.size / weights.size, epoch)
        factor = _factor_of(kernel)
        if factor is not None:
            write(f"factor/{name}", factor, epoch)
        # What is not finite has no measure; to end `fit` then is up to TerminateOnNaN.
        if not np.isfinite(alive).all():
            return False
        write(f"effective_number/{name}", measures.effective_count(weights), epoch)
        write(f"hoyer/{name}", measures.hoyer_sparsity(weights), epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            self._events.histogram(f"weights/{name}", alive, epoch)
        return True


class _Events:
    """A file of events for TensorBoard, in a folder.

    TensorFlow is not asked to write it, so that other backends need not have it.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        from tensorboard.compat.proto import event_pb2  # noqa: PLC0415  (an extra)
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb  # noqa: PLC0415
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb  # noqa: PLC0415
        from tensorboard.summary.writer import event_file_writer  # noqa: PLC0415

        self._event, self._scalar, self._histogram = event_pb2.Event, scalar_pb, histogram_pb
        self._writer = event_file_writer.EventFileWriter(os.fspath(log_dir))
        self.flush, self.close = self._writer.flush, self._writer.close

    def figure(self, name: str, value: float, step: int) -> None:
        """Writes one figure of a step."""
        self._write(self._scalar(name, value), step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes how values are distributed in a step."""
        self._write(self._histogram(name, values), step)

    def _write(self, summary: Any, step: int) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))


def _factor_of(kernel: Weight) -> float | None:
    """The factor of a kernel's penalty, as it is now."""
    regularizer = kernel.get("regularizer")
    penalty = getattr(regularizer, "penalty", regularizer)
    steered = getattr(penalty, "steered", None)  # the number behind factor="auto"
    factor = getattr(steered, "value", None) if steered else getattr(penalty, "factor", None)
    return None if factor is None else float(factor)
