"""The score that asks how large the input of a weight is."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_hoyer.kept import left_as_it_is
from keras_hoyer.scores.base import Score
from keras_hoyer.scores.data import DataScore, name_all
from keras_hoyer.scores.inputs import mean_squares
from keras_hoyer.scores.scaled import Scaled
from keras_hoyer.weights import Weight


class Activation(DataScore):
    """A weight matters by its magnitude times the root mean square of its input.

    So weights go first whose input is close to zero on the data, however large they are: those of
    pixels at the border of a picture, of channels that are hardly ever on. No labels are needed.

    The mean goes over samples, pixels, positions and time steps. For convolutions it is that of the
    input's channel; for the recurrent kernel of an LSTM or GRU that of the state before; for an
    embedding it counts how often each index occurs.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (2023).

    Args:
        data: Samples as `export` takes for `representative_data`: an array, or a list or dict of
            arrays for several inputs; a pair `(x, y)`, whose labels are not looked at; or a
            `tf.data.Dataset`, `PyDataset` or `DataLoader` of batches of these. A generator can be
            read once only: give a function that returns one.
        batches: Number of batches to read at most. Defaults to `None`: all.
        batch_size: Number of samples of a batch, where `data` are arrays. Defaults to 32.

    Raises:
        ValueError: If an argument is of the wrong kind; when cutting, if the input of a kernel is
            not seen, since its layer is not called, or computes in a way that is not known.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.array([[3.0], [1.0]])])
    >>> x = np.array([[0.1, 2.0], [0.1, -2.0]])
    >>> report = kh.prune(model, kh.criteria.TargetSparsity(0.5), score=kh.scores.Activation(x))
    >>> model.get_weights()[0].ravel()
    array([0., 1.], dtype=float32)
    """

    def measured(self, model: keras.Model, weights: Sequence[Weight]) -> Score:
        """Calls the model on the data."""
        with left_as_it_is(model), self.progress() as progress:
            batches = progress.count(self.read(model))
            squares = mean_squares(model, weights, batches)
        unseen = [weight for weight in weights if id(weight.variable) not in squares]
        if unseen:
            raise ValueError(
                f"The input of {name_all(unseen)} was not seen: the layer was not called on the "
                "data, or not by its own `call`, or reads its input in a way that is not known. "
                "Leave it out with `layers=`, or take a score that needs no inputs, such as "
                "`scores.Taylor` or `scores.Magnitude`."
            )
        return Scaled({key: np.sqrt(square) for key, square in squares.items()})
