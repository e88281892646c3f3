"""Penalties on the paths through the units of a model."""

from typing import Any

from keras import ops

from keras_hoyer.regularizers.base import TINY, Penalty, serializable


@serializable
class PathNorm(Penalty):
    """Path norm `factor * sum(norm(made) * norm(read))` over the hidden units of a model.

    `made` are the weights that make a unit, `read` those that read it: for a net with one hidden
    layer `sum(|v_k| ||w_k||)`. It is what weight decay `(sum(w**2) + sum(v**2)) / 2` comes to when
    the units are rescaled at its least, which changes no output of a net with ReLU; so it asks for
    few units, and `shrink` removes those that are zero. Biases are not penalized.

    It reaches over two kernels, so it is put on a model by `regularize(model, PathNorm(1e-3))`, as
    group penalties are with `groups="coupled"`; a unit that many layers make or read, as in a
    residual stream, counts all their weights. In a deeper net the units of each layer add.

    Source: Neyshabur, Tomioka and Srebro, "In search of the real inductive bias" (2014); Parhi and
    Nowak, "Banach space representer theorems for neural networks and ridge splines" (2021).

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.

    Raises:
        ValueError: If `factor` is negative, above 1e30, NaN or not a number; when it is called on a
            single kernel.

    >>> import keras_hoyer as kh
    >>> hidden, out = keras.layers.Dense(2, "relu"), keras.layers.Dense(1)
    >>> model = keras.Sequential([keras.Input((2,)), hidden, out])
    >>> hidden.set_weights([np.array([[3.0, 1.0], [4.0, 0.0]]), np.zeros(2)])
    >>> out.set_weights([np.array([[2.0], [-1.0]]), np.zeros(1)])
    >>> model = kh.regularize(model, kh.PathNorm(1.0))
    >>> round(float(sum(model.losses)), 6)  # 5 * 2 + 1 * 1
    11.0
    """

    only_couples = True
    sides = 2

    @property
    def couples(self) -> bool:
        """Whether its groups may be the channels of a model's graph: no others make sense."""
        return True

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises a `ValueError`: a kernel alone has no paths."""
        self.measure(None)

    def measure(self, x: Any) -> Any:
        """Raises a `ValueError`: a kernel alone has no paths."""
        raise ValueError(
            "A path norm is over the kernels that make units and those that read them, so it is "
            "no regularizer of a single layer. Put it on the model, with "
            "`keras_hoyer.regularize(model, PathNorm(1e-3))`."
        )

    def measure_of_squares(self, made: Any, read: Any) -> Any:
        """The measure of units whose squared norms are given, float32 tensors of shape `(n,)`."""
        return ops.sum(_root(made) * _root(read))


def _root(squares: Any) -> Any:
    alive = squares > TINY
    # The root of 1 in place of 0, whose gradient is infinite.
    return ops.where(alive, ops.sqrt(ops.where(alive, squares, 1.0)), 0.0)
