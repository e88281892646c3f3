"""Sparse training by proximal steps beside the optimizer's."""

from typing import Any

import keras
import numpy as np

from keras_hoyer.callbacks.base import Logs
from keras_hoyer.callbacks.shrinking import ShrinkingCallback
from keras_hoyer.patterns import Pattern, Unstructured
from keras_hoyer.plain import LayerSelection


class ProximalStep(ShrinkingCallback):
    """Shrinks weights by a proximal operator after steps of the optimizer, and keeps the zeros.

    Every so many steps the kernels become `prox(w, rate * steps * strength)`: the penalty is
    decoupled from the optimizer, as AdamW decouples weight decay, and scaled by its learning rate.
    Zeros are exact throughout, in validation and in saved files too, and may come alive again
    until, at the beginning of `epoch`, they are handed over to masks, as those of `Pruning` are;
    what is left of `fit` is fine-tuning. Epoch logs get `sparsity`, the share of zero weights.

    An optimizer that scales gradients, as Adam does, makes full steps of small gradients as well:
    there the strength has to be some hundred times that of a penalty in the loss.

    It keeps no state but the weights, so training that stops goes on as it does with `Pruning`.

    Source: Parikh and Boyd, "Proximal algorithms" (2014), section 4.2; decoupling: Loshchilov and
    Hutter, "Decoupled weight decay regularization" (2019).

    Args:
        penalty: Name of the penalty: that of a function of `keras_hoyer.proximal`, such as `"l1"`.
        strength: Positive float: what the penalty is multiplied with.
        epoch: Int: at the beginning of this epoch, or at the end of `fit` after as many epochs, the
            zeros are handed over.
        every: Int: steps of training between two proximal ones; there is one at the end of each
            epoch besides. Defaults to 10, which suits operators on single entries; those of
            Hoyer's ratios sort each kernel and take as long as tens of steps of a small net.
        pattern: What is zero together: a pattern of `keras_hoyer.patterns`. The groups of
            `Channel()`, which overlap, are shrunk one after the other. Defaults to
            `Unstructured()`.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.
        **parameters: The penalty's own, such as `gamma=3.0`: see its function.

    Raises:
        ValueError: If there is no such penalty or an argument is out of its range; at the start of
            `fit`, if a layer name does not exist, there are no kernels, a kernel is frozen or has a
            penalty of this package, the pattern does not divide a kernel, or the model has
            several optimizers.

    >>> import keras_hoyer as kh
    >>> x = np.random.default_rng(0).normal(size=(256, 20)).astype("float32")
    >>> y = x[:, :2] @ np.array([[1.0], [-2.0]], "float32")  # two weights of the twenty would do
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(keras.optimizers.SGD(0.05), "mse")
    >>> callback = kh.callbacks.ProximalStep("l1", strength=0.2, epoch=20, every=4)
    >>> history = model.fit(x, y, epochs=25, verbose=0, callbacks=[callback])
    >>> kh.report(model).nonzero
    2
    """

    def __init__(
        self,
        penalty: str,
        strength: float,
        epoch: int,
        *,
        every: int = 10,
        pattern: Pattern = Unstructured(),  # noqa: B008  (immutable)
        layers: LayerSelection = None,
        **parameters: Any,
    ) -> None:
        super().__init__(penalty, strength, epoch, every, pattern, layers, parameters)
        self._optimizer: keras.optimizers.Optimizer
        self._steps_before = 0

    def on_train_begin(self, logs: Logs = None) -> None:
        """Checks what can be checked before time is spent."""
        super().on_train_begin(logs)
        optimizer = self.model.optimizer
        # The one that a LossScaleOptimizer hands its gradients to counts the steps that were made.
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if hasattr(self._optimizer, "optimizers"):
            raise ValueError(
                "A proximal step is scaled by the learning rate of the model's one optimizer. "
                f"Received a model that was compiled with {self._optimizer!r}. Use "
                "`callbacks.ADMM`, whose penalty is a part of the loss."
            )

    def begin(self, epoch: int) -> None:
        """Counts the steps from here on."""
        self._steps_before = self._steps()

    def step(self, model: keras.Model) -> None:
        """Shrinks by as much as the optimizer's steps since the last one ask for."""
        steps = self._steps()
        if steps > self._steps_before:
            rate = float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))
            self._splits.step(rate * (steps - self._steps_before) * self.strength)
        self._steps_before = steps

    def on_test_begin(self, logs: Logs = None) -> None:
        """Catches up, so that validation sees the zeros."""
        if self._running:
            self.step(self.model)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Catches up, and writes `sparsity` into the logs."""
        if self._running:
            self.step(self.model)
        super().on_epoch_end(epoch, logs)

    def alive(self) -> list[np.ndarray]:
        """For each entry of the units, which of them are not zero."""
        return self._splits.alive(self._splits.read())

    def _steps(self) -> int:
        return int(keras.ops.convert_to_numpy(self._optimizer.iterations))
