"""How sparse activations are, in the logs of `fit`."""

from typing import Any

import keras

from keras_hoyer._checks import check_count
from keras_hoyer._data import check_data
from keras_hoyer.callbacks.base import Logs
from keras_hoyer.plain import LayerSelection
from keras_hoyer.reports.activations import describe_activations, share_of_zeros


class ActivationSparsity(keras.callbacks.Callback):
    """Writes `activation_sparsity` into the epoch logs: the share of activations that are zero.

    It is that of all layers with an activation function together; `report(model, data=...)` has
    each layer's. Put it before callbacks that show or store logs.

    Args:
        data: Samples to call the model on after each epoch, as `report` takes them.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all.
        batches: Number of batches to read at most. Defaults to `None`: all.

    Raises:
        ValueError: If an argument is of the wrong kind.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "relu")])
    >>> model.set_weights([np.array([[1.0, 0.0], [0.0, -1.0]]), np.zeros(2)])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> x = np.ones((4, 2))
    >>> log = keras_hoyer.callbacks.ActivationSparsity(x)
    >>> model.fit(x, x, verbose=0, callbacks=[log]).history["activation_sparsity"]
    [0.5]
    """

    def __init__(
        self, data: Any, layers: LayerSelection = None, batches: int | None = None
    ) -> None:
        super().__init__()
        check_data(data)
        if batches is not None:
            check_count("batches", batches, 1)
        self.data = data
        self.layers = layers
        self.batches = batches

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Calls the model on the data."""
        found = describe_activations(self.model, self.data, self.layers, self.batches)
        if logs is not None:
            logs["activation_sparsity"] = share_of_zeros(found)
