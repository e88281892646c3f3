"""Nets in the style of keras.io, each written twice: with layers of its own, and inline.

`NETS` has for each name two functions that build the same net. The first one uses layers and models
of its own, as people write them; the second one plain layers of Keras in a functional model. Layers
that hold a weight as no layer of Keras does, such as a position table, stand in both. In both the
layers of one kind are made in the same order, by which their weights are found.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

register = keras.saving.register_keras_serializable("own_nets")
Tensor = Any


def _images(size: int = 16, channels: int = 3) -> Tensor:
    return keras.Input((size, size, channels))


# Residual blocks, in a model of a class of its own.


@register
class ResidualBlock(layers.Layer):
    """Two convolutions beside a shortcut, with one of 1 x 1 where the width changes."""

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)
        self.first_norm = layers.BatchNormalization()
        self.second = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.second_norm = layers.BatchNormalization()
        self.shortcut = layers.Conv2D(filters, 1, strides) if strides > 1 else None

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        y = ops.relu(self.first_norm(self.first(x), training=training))
        y = self.second_norm(self.second(y), training=training)
        return ops.relu(y + (x if self.shortcut is None else self.shortcut(x)))


@register
class ResNet(keras.Model):
    """A residual network."""

    def __init__(self, widths: tuple[int, ...] = (16, 24), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.widths = widths
        self.stem = layers.Conv2D(widths[0], 3, padding="same")
        self.blocks = [
            ResidualBlock(width, 2 if number and not repeat else 1)
            for number, width in enumerate(widths)
            for repeat in range(2)
        ]
        self.pool, self.head = layers.GlobalAveragePooling2D(), layers.Dense(10)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.pool(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "widths": self.widths}


def _residual(x: Tensor, filters: int, strides: int = 1) -> Tensor:
    y = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
    y = layers.BatchNormalization()(y)
    x = layers.Conv2D(filters, 1, strides)(x) if strides > 1 else x
    return layers.ReLU()(layers.Add()([y, x]))


def _resnet() -> keras.Model:
    images = _images()
    x = layers.Conv2D(16, 3, padding="same")(images)
    for width, strides in ((16, 1), (16, 1), (24, 2), (24, 1)):
        x = _residual(x, width, strides)
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


# ConvMixer.


@register
class ConvMixerBlock(layers.Layer):
    """A depthwise convolution beside a shortcut, then a pointwise one."""

    def __init__(self, filters: int, kernel_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depthwise = layers.DepthwiseConv2D(kernel_size, padding="same")
        self.pointwise = layers.Conv2D(filters, 1)
        self.norms = [layers.BatchNormalization(), layers.BatchNormalization()]

    def call(self, x: Tensor) -> Tensor:
        y = x + self.norms[0](keras.activations.gelu(self.depthwise(x)))
        return self.norms[1](keras.activations.gelu(self.pointwise(y)))


def _own_convmixer() -> keras.Model:
    images = _images()
    x = layers.Conv2D(24, 2, 2)(images)
    for _ in range(3):
        x = ConvMixerBlock(24, 5)(x)
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _convmixer() -> keras.Model:
    images = _images()
    x = layers.Conv2D(24, 2, 2)(images)
    for _ in range(3):
        y = layers.Activation("gelu")(layers.DepthwiseConv2D(5, padding="same")(x))
        y = layers.Add()([x, layers.BatchNormalization()(y)])
        x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(24, 1)(y)))
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


# Transformers: for images, for text.


@register
class Positions(layers.Layer):
    """Adds a vector for each position."""

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def build(self, shape: tuple) -> None:
        self.table = layers.Embedding(self.length, shape[-1])
        self.table.build((None,))

    def call(self, x: Tensor) -> Tensor:
        return x + self.table(ops.arange(ops.shape(x)[1]))


@register
class PatchEncoder(layers.Layer):
    """Patches of an image, as vectors with positions."""

    def __init__(self, patch: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch, self.width = patch, width
        self.project = layers.Dense(width)
        self.positions = Positions(16)

    def call(self, images: Tensor) -> Tensor:
        x = ops.image.extract_patches(images, self.patch)
        x = ops.reshape(x, (ops.shape(x)[0], x.shape[1] * x.shape[2], x.shape[3]))
        return self.positions(self.project(x))


@register
class FeedForward(layers.Layer):
    """Two dense layers with dropout."""

    def __init__(self, hidden: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = [layers.Dense(hidden, "gelu"), layers.Dropout(0.1), layers.Dense(width)]

    def call(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@register
class TransformerBlock(layers.Layer):
    """Attention and a feed-forward part, each after a normalisation."""

    def __init__(self, width: int, heads: int, causal: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.causal = causal
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed_forward = FeedForward(2 * width, width)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, use_causal_mask=self.causal, training=training)
        return x + self.feed_forward(self.norms[1](x))


def _transformer(x: Tensor, width: int, heads: int, causal: bool = False) -> Tensor:
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=causal)
    x = layers.Add()([x, y])
    y = layers.Dense(2 * width, "gelu")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(width)(layers.Dropout(0.1)(y))])


def _own_vit() -> keras.Model:
    images = _images()
    x = PatchEncoder(4, 24)(images)
    for _ in range(2):
        x = TransformerBlock(24, 3)(x)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(images, layers.Dense(10)(x))


def _vit() -> keras.Model:
    images = _images()
    x = layers.Reshape((16, 48))(ops.image.extract_patches(images, 4))
    x = Positions(16)(layers.Dense(24)(x))
    for _ in range(2):
        x = _transformer(x, 24, 3)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(images, layers.Dense(10)(x))


@register
class TokenAndPosition(layers.Layer):
    """Vectors of tokens with positions."""

    def __init__(self, words: int, length: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(words, width)
        self.positions = Positions(length)

    def call(self, tokens: Tensor) -> Tensor:
        return self.positions(self.tokens(tokens))


@register
class GPT(keras.Model):
    """A causal language model for texts of any length up to 32."""

    def __init__(self, words: int = 50, width: int = 24, blocks: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding = TokenAndPosition(words, 32, width)
        self.blocks = [TransformerBlock(width, 3, causal=True) for _ in range(blocks)]
        self.norm, self.head = layers.LayerNormalization(), layers.Dense(words)

    def call(self, tokens: Tensor, training: bool | None = None) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.norm(x))


def _gpt() -> keras.Model:
    tokens = keras.Input((None,), dtype="int32")
    x = Positions(32)(layers.Embedding(50, 24)(tokens))
    for _ in range(2):
        x = _transformer(x, 24, 3, causal=True)
    return keras.Model(tokens, layers.Dense(50)(layers.LayerNormalization()(x)))


# Swin: attention within windows, every second time of a shifted image.


@register
class WindowBias(layers.Layer):
    """Softmax of attention scores with a number added for each head and pair of places."""

    def build(self, shape: tuple) -> None:
        self.bias = self.add_weight(shape=(1, *shape[1:]), name="bias")

    def call(self, scores: Tensor) -> Tensor:
        return ops.softmax(scores + self.bias)


@register
class WindowAttention(layers.Layer):
    """Attention within windows of an image of 8 x 8."""

    def __init__(self, width: int, heads: int, window: int, shift: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window, self.shift = window, shift
        self.query, self.key, self.value = (
            layers.EinsumDense("bnc,chd->bhnd", (heads, window**2, width // heads), bias_axes="hd")
            for _ in range(3)
        )
        self.bias = WindowBias()
        self.out = layers.EinsumDense("bhnd,hdc->bnc", (window**2, width), bias_axes="c")

    def call(self, x: Tensor) -> Tensor:
        window, shift = self.window, self.shift
        x = ops.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
        x = _windows(x, window)
        scores = ops.matmul(self.query(x), ops.transpose(self.key(x), (0, 1, 3, 2)))
        y = self.out(ops.matmul(self.bias(scores), self.value(x)))
        y = _image(y, window)
        return ops.roll(y, (shift, shift), axis=(1, 2)) if shift else y


def _windows(x: Tensor, window: int, size: int = 8) -> Tensor:
    channels, count = x.shape[-1], size // window
    x = ops.reshape(x, (-1, count, window, count, window, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, window**2, channels))


def _image(x: Tensor, window: int, size: int = 8) -> Tensor:
    channels, count = x.shape[-1], size // window
    x = ops.reshape(x, (-1, count, count, window, window, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, size, size, channels))


@register
class SwinBlock(layers.Layer):
    """Attention within windows and a feed-forward part."""

    def __init__(self, width: int, heads: int, window: int, shift: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.attention = WindowAttention(width, heads, window, shift)
        self.feed_forward = FeedForward(2 * width, width)

    def call(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.feed_forward(self.norms[1](x))


def _own_swin() -> keras.Model:
    images = _images()
    x = layers.Conv2D(24, 2, 2)(images)
    for shift in (0, 2):
        x = SwinBlock(24, 3, 4, shift)(x)
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _swin() -> keras.Model:
    images = _images()
    x = layers.Conv2D(24, 2, 2)(images)
    for shift in (0, 2):
        y = layers.LayerNormalization()(x)
        y = ops.roll(y, (-shift, -shift), axis=(1, 2)) if shift else y
        y = _windows(y, 4)
        query, key, value = (
            layers.EinsumDense("bnc,chd->bhnd", (3, 16, 8), bias_axes="hd")(y) for _ in range(3)
        )
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        y = ops.matmul(WindowBias()(scores), value)
        y = _image(layers.EinsumDense("bhnd,hdc->bnc", (16, 24), bias_axes="c")(y), 4)
        y = ops.roll(y, (shift, shift), axis=(1, 2)) if shift else y
        x = layers.Add()([x, y])
        y = layers.Dense(48, "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(24)(layers.Dropout(0.1)(y))])
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


NETS: dict[str, tuple[Callable[[], keras.Model], Callable[[], keras.Model]]] = {
    "residual blocks": (ResNet, _resnet),
    "ConvMixer": (_own_convmixer, _convmixer),
    "ViT": (_own_vit, _vit),
    "Swin": (_own_swin, _swin),
    "GPT": (GPT, _gpt),
}
