"""The scores that ask what the loss says of a weight."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_hoyer._checks import warn
from keras_hoyer.kept import left_as_it_is
from keras_hoyer.scores.base import Score
from keras_hoyer.scores.data import DataScore, name_all
from keras_hoyer.scores.gradients import GradientSums, check_loss
from keras_hoyer.scores.scaled import Scaled
from keras_hoyer.weights import Weight


class _Saliency(DataScore):
    """What the loss loses by a cut, estimated from its gradient; it adds up over a unit."""

    additive = True
    power = 1

    def __init__(self, data: Any, batches: int | None = None, batch_size: int = 32) -> None:
        super().__init__(data, batches, batch_size)
        self._sums = GradientSums(self.power)

    def check(self, model: keras.Model, weights: Sequence[Weight]) -> None:
        """Raises a `ValueError` if the model is not compiled."""
        check_loss(model, type(self).__name__)

    def measured(self, model: keras.Model, weights: Sequence[Weight]) -> Score:
        """Differentiates the loss on the data."""
        self.check(model, weights)
        variables = [weight.variable for weight in weights]
        with left_as_it_is(model), self.progress() as progress:
            means = self._sums.of(model, variables, progress.count(self.read(model)))
        unseen = [weight for weight, mean in zip(weights, means, strict=True) if not mean.any()]
        if unseen:
            warn(
                f"The loss does not depend on {name_all(unseen)}: `{type(self).__name__}` takes it "
                "for what matters least. Leave it out with `layers=` if that is not meant."
            )
        factors = {id(v): mean for v, mean in zip(variables, means, strict=True)}
        return Scaled(factors, self.power, additive=True)


class Taylor(_Saliency):
    """A weight matters by the change of the loss without it, to first order: `|w dL/dw|`.

    `L` is the mean loss of the data, as the model was compiled: with its loss, its sample weights
    and what its layers add, but without penalties on weights; in inference mode.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019).

    Args:
        data: A pair `(x, y)` or a triple `(x, y, sample_weight)` of arrays (lists or dicts of
            arrays for several inputs or outputs), or a `tf.data.Dataset`, `PyDataset` or
            `DataLoader` of batches of these. A generator can be read once only: give a function
            that returns one.
        batches: Number of batches to read at most. Defaults to `None`: all.
        batch_size: Number of samples of a batch, where `data` are arrays. Defaults to 32; of no
            influence but on memory.

    Raises:
        ValueError: If an argument is of the wrong kind; if the model is not compiled, or its loss
            wants labels and the data have none.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.array([[3.0], [1.0]])])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.array([[0.0, 2.0], [0.0, -2.0]]), np.array([[1.0], [-1.0]])
    >>> report = kh.prune(model, kh.criteria.TargetSparsity(0.5), score=kh.scores.Taylor((x, y)))
    >>> model.get_weights()[0].ravel()
    array([0., 1.], dtype=float32)
    """


class Fisher(_Saliency):
    """A weight matters by its square times the mean squared gradient: `w**2 mean((dL/dw)**2)`.

    The change of the loss without it, to second order, with the diagonal of the Fisher information
    for the Hessian. The gradients are those of batches; the smaller these are, the closer is the
    mean of their squares to the Fisher information, which is that of single samples.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning" (2018).

    Args:
        data: As for `Taylor`.
        batches: Number of batches to read at most. Defaults to `None`: all.
        batch_size: Number of samples of a batch, where `data` are arrays. Defaults to 32.

    Raises:
        ValueError: As for `Taylor`.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.array([[3.0], [1.0]])])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.array([[0.0, 2.0], [0.0, -2.0]]), np.array([[1.0], [-1.0]])
    >>> report = kh.prune(model, kh.criteria.TargetSparsity(0.5), score=kh.scores.Fisher((x, y)))
    >>> model.get_weights()[0].ravel()
    array([0., 1.], dtype=float32)
    """

    power = 2
