"""The paper's two nets for MNIST, and how large they are."""

import itertools
from collections.abc import Sequence

import keras

layers = keras.layers

MLP, CNN = "300-100", "lenet-5"
# Weights of the kernels.
KERNELS = {MLP: 266_200, CNN: 430_500}
# Inputs of each layer; of a convolution its filters.
WIDTHS = {MLP: [784, 300, 100], CNN: [20, 50, 800, 500]}
# Before each dense layer.
DROPOUT = {MLP: (0.2, 0.3, 0.3), CNN: (0.3, 0.3)}


def lenet(net: str = MLP, dropout: bool = False, activation: str | None = None) -> keras.Sequential:
    """LeNet-300-100, or LeNet-5 with 20-50-500; the outputs have no softmax.

    Args:
        net: `"300-100"` or `"lenet-5"`.
        dropout: Whether there is dropout before each dense layer.
        activation: Of the convolutions; the paper's net has none.
    """
    if net == MLP:
        body = [keras.Input((784,)), layers.Dense(300, "relu"), layers.Dense(100, "relu")]
    else:
        body = [keras.Input((28, 28, 1))]
        for filters in (20, 50):
            body += [layers.Conv2D(filters, 5, activation=activation), layers.MaxPooling2D()]
        body += [layers.Flatten(), layers.Dense(500, "relu")]
    body.append(layers.Dense(10))
    if dropout:
        rates = iter(DROPOUT[net])
        body = [
            each
            for x in body
            for each in ((layers.Dropout(next(rates)), x) if isinstance(x, layers.Dense) else (x,))
        ]
    return keras.Sequential(body)


def kernels_of(model: keras.Model) -> list[keras.Variable]:
    """The kernels, in order."""
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


def live_widths(model: keras.Model) -> list[int]:
    """Filters left of each convolution and inputs left of each dense layer."""
    widths = []
    for kernel in kernels_of(model):
        alive = keras.ops.convert_to_numpy(kernel) != 0
        left = alive.any((0, 1, 2)) if alive.ndim == 4 else alive.any(1)
        widths.append(int(left.sum()))
    return widths


def flops(net: str, widths: Sequence[int]) -> int:
    """Multiplications of a net with these widths for one image, biases not counted."""
    if net == MLP:
        return sum(a * b for a, b in itertools.pairwise([*widths, 10]))
    first, second, flat, hidden = widths
    return 24**2 * 25 * first + 8**2 * 25 * first * second + flat * hidden + hidden * 10
