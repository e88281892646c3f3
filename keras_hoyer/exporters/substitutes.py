"""Operations of Keras' TensorFlow backend, made of ones that the runtimes have.

While a model is traced for a file these stand in for Keras' own. They compute the same: the file is
compared with what the model answers without them.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from keras_hoyer import _keras

Operation = Callable[..., Any]


@contextlib.contextmanager
def in_place(format: str) -> Iterator[None]:
    """Lets Keras compute by substitutes for a while, those that a format needs."""
    numpy, neural = _keras.tensorflow_operations()
    replacements: list[tuple[Any, str, Callable[[Operation], Operation]]] = [
        (numpy, "signbit", _signbit),
        (neural, "conv", _grouped_in_space),
    ]
    if format == "tflite":
        replacements += [
            (neural, "max_pool", _pool_by_planes),
            (neural, "average_pool", _pool_by_planes),
            (neural, "conv_transpose", _undilated),
        ]
    originals = [getattr(module, name) for module, name, _ in replacements]
    try:
        for (module, name, substitute), original in zip(replacements, originals, strict=True):
            setattr(module, name, substitute(original))
        yield
    finally:
        for (module, name, _), original in zip(replacements, originals, strict=True):
            setattr(module, name, original)


def _signbit(original: Operation) -> Operation:
    """Takes -0.0 for a zero. Keras asks for the bit of it in `argmax`, which no runtime reads."""

    def signbit(x: Any) -> Any:
        import tensorflow as tf  # noqa: PLC0415

        return tf.less(x, tf.zeros((), x.dtype)) if x.dtype.is_floating else original(x)

    return signbit


def _pool_by_planes(original: Operation) -> Operation:
    """Pools three axes as two and then one, by pooling in the plane.

    Right for averages as well: the number of cells that a padded window holds is a product.
    """

    def pool(
        inputs: Any,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
    ) -> Any:
        import tensorflow as tf  # noqa: PLC0415

        if len(inputs.shape) != 5 or data_format == "channels_first":
            return original(inputs, pool_size, strides, padding, data_format)
        sizes = _triple(pool_size)
        steps = sizes if strides is None else _triple(strides)
        _, depth, *plane, channels = _sizes(inputs)
        x = tf.reshape(inputs, (-1, *plane, channels))
        x = original(x, sizes[1:], steps[1:], padding, data_format)
        _, height, width, _ = _sizes(x)
        x = tf.reshape(x, (-1, depth, height * width, channels))
        x = original(x, (sizes[0], 1), (steps[0], 1), padding, data_format)
        return tf.reshape(x, (-1, _sizes(x)[1], height, width, channels))

    return pool


def _grouped_in_space(original: Operation) -> Operation:
    """Convolves the groups of three axes one by one."""

    def conv(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
    ) -> Any:
        import tensorflow as tf  # noqa: PLC0415

        rest = (strides, padding, data_format, dilation_rate)
        channels, taken = inputs.shape[-1], kernel.shape[-2]
        if len(inputs.shape) != 5 or data_format == "channels_first" or channels == taken:
            return original(inputs, kernel, *rest)
        groups = channels // taken
        parts = zip(
            tf.split(inputs, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True
        )
        return tf.concat([original(x, k, *rest) for x, k in parts], axis=-1)

    return conv


def _undilated(original: Operation) -> Operation:
    """Transposes a dilated convolution as one with a larger kernel, of which most is zero."""

    def conv_transpose(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        data_format: str | None = None,
        dilation_rate: Any = 1,
    ) -> Any:
        import tensorflow as tf  # noqa: PLC0415

        axes = len(kernel.shape) - 2
        rates = (dilation_rate,) * axes if isinstance(dilation_rate, int) else tuple(dilation_rate)
        kernel = tf.convert_to_tensor(kernel)
        for axis, rate in enumerate(rates):
            if rate > 1:
                kernel = _spread(tf, kernel, axis, rate)
        return original(inputs, kernel, strides, padding, output_padding, data_format, 1)

    return conv_transpose


def _spread(tf: Any, kernel: Any, axis: int, rate: int) -> Any:
    """A kernel with zeros between its entries along an axis."""
    size, rest = kernel.shape[axis], kernel.shape[axis + 1 :]
    margins = [[0, 0]] * (len(kernel.shape) + 1)
    margins[axis + 1] = [0, rate - 1]
    wide = tf.pad(tf.expand_dims(kernel, axis + 1), margins)
    wide = tf.reshape(wide, (*kernel.shape[:axis], size * rate, *rest))
    return tf.gather(wide, range((size - 1) * rate + 1), axis=axis)


def _triple(value: Any) -> tuple[int, int, int]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def _sizes(x: Any) -> list[Any]:
    """The shape, with a tensor for every size that is open."""
    import tensorflow as tf  # noqa: PLC0415

    return [tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape)]
