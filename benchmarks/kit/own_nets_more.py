"""More nets that are each written twice, see `kit.own_nets`: images to images, pairs, sequences."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from kit.own_nets import Tensor, register

# U-Net.


@register
class DoubleConvolution(layers.Layer):
    """Two convolutions with normalisation."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convolutions = [layers.Conv2D(filters, 3, padding="same") for _ in range(2)]
        self.norms = [layers.BatchNormalization() for _ in range(2)]

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = ops.relu(norm(convolution(x), training=training))
        return x


@register
class Up(layers.Layer):
    """Twice the size, beside what there was of that size on the way down."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.up = layers.Conv2DTranspose(filters, 2, 2)
        self.convolutions = DoubleConvolution(filters)

    def call(self, inputs: list, training: bool | None = None) -> Tensor:
        x, beside = inputs
        x = ops.concatenate([self.up(x), beside], axis=-1)
        return self.convolutions(x, training=training)


@register
class UNet(keras.Model):
    """Two steps down and two up."""

    def __init__(self, classes: int = 3, width: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.down = [DoubleConvolution(width), DoubleConvolution(2 * width)]
        self.middle = DoubleConvolution(3 * width)
        self.up = [Up(2 * width), Up(width)]
        self.pool, self.head = layers.MaxPooling2D(), layers.Conv2D(classes, 1)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        kept = []
        for down in self.down:
            kept.append(x := down(x, training=training))
            x = self.pool(x)
        x = self.middle(x, training=training)
        for up in self.up:
            x = up([x, kept.pop()], training=training)
        return self.head(x)


def _double(x: Tensor, filters: int) -> Tensor:
    for _ in range(2):
        x = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(x))
        x = layers.ReLU()(x)
    return x


def _unet() -> keras.Model:
    x = images = keras.Input((16, 16, 3))
    kept = []
    for filters in (8, 16):
        kept.append(x := _double(x, filters))
        x = layers.MaxPooling2D()(x)
    x = _double(x, 24)
    for filters in (16, 8):
        x = layers.Concatenate()([layers.Conv2DTranspose(filters, 2, 2)(x), kept.pop()])
        x = _double(x, filters)
    return keras.Model(images, layers.Conv2D(3, 1)(x))


# A sequence to a sequence, of any lengths.


@register
class Encoder(layers.Layer):
    """The states of an LSTM after a sequence."""

    def __init__(self, words: int, width: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(words, width)
        self.lstm = layers.LSTM(units, return_state=True)

    def call(self, tokens: Tensor) -> list:
        return list(self.lstm(self.embedding(tokens))[1:])


@register
class Decoder(layers.Layer):
    """The words of a sequence to come, from states and those before."""

    def __init__(self, words: int, width: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(words, width)
        self.lstm = layers.LSTM(units, return_sequences=True)
        self.head = layers.Dense(words)

    def call(self, tokens: Tensor, states: list) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens), initial_state=states))


def _own_seq2seq() -> keras.Model:
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    states = Encoder(50, 12, 20)(source)
    return keras.Model([source, target], Decoder(50, 12, 20)(target, states=states))


def _seq2seq() -> keras.Model:
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    _, *states = layers.LSTM(20, return_state=True)(layers.Embedding(50, 12)(source))
    x = layers.LSTM(20, return_sequences=True)(
        layers.Embedding(50, 12)(target), initial_state=states
    )
    return keras.Model([source, target], layers.Dense(50)(x))


# Autoencoders, plain and variational.


@register
class Autoencoder(keras.Model):
    """An encoder and a decoder, each a model."""

    def __init__(self, size: int = 30, code: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(code, "relu")])
        self.decoder = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(size)])

    def call(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def _autoencoder() -> keras.Model:
    x = inputs = keras.Input((30,))
    for width in (24, 6, 24):
        x = layers.Dense(width, "relu")(x)
    return keras.Model(inputs, layers.Dense(30)(x))


@register
class Sampling(layers.Layer):
    """The draw of a variational autoencoder; the mean, where it is not trained."""

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, mean: Tensor, log_variance: Tensor, training: bool = False) -> Tensor:
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.generator)
        return mean + ops.exp(0.5 * log_variance) * noise


@register
class VariationalAutoencoder(keras.Model):
    """Of small images; the mean and the logarithm of the variance are outputs too."""

    def __init__(self, code: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = [
            layers.Conv2D(8, 3, 2, padding="same", activation="relu"),
            layers.Conv2D(12, 3, 2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(16, "relu"),
        ]
        self.mean, self.log_variance = layers.Dense(code), layers.Dense(code)
        self.sampling = Sampling()
        self.decoder = [
            layers.Dense(192, "relu"),
            layers.Reshape((4, 4, 12)),
            layers.Conv2DTranspose(12, 3, 2, padding="same", activation="relu"),
            layers.Conv2DTranspose(8, 3, 2, padding="same", activation="relu"),
            layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid"),
        ]

    def call(self, x: Tensor, training: bool | None = None) -> list:
        for layer in self.encoder:
            x = layer(x)
        mean, log_variance = self.mean(x), self.log_variance(x)
        x = self.sampling(mean, log_variance, training=training)
        for layer in self.decoder:
            x = layer(x)
        return [x, mean, log_variance]


def _vae() -> keras.Model:
    x = images = keras.Input((16, 16, 1))
    for filters in (8, 12):
        x = layers.Conv2D(filters, 3, 2, padding="same", activation="relu")(x)
    x = layers.Dense(16, "relu")(layers.Flatten()(x))
    mean, log_variance = layers.Dense(6)(x), layers.Dense(6)(x)
    x = layers.Reshape((4, 4, 12))(layers.Dense(192, "relu")(Sampling()(mean, log_variance)))
    for filters in (12, 8):
        x = layers.Conv2DTranspose(filters, 3, 2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid")(x)
    return keras.Model(images, [x, mean, log_variance])


# Two images through one tower; and a generator in front of a discriminator.


@register
class Tower(layers.Layer):
    """A vector for an image."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convolutions = [layers.Conv2D(n, 3, 2, activation="relu") for n in (8, 12)]
        self.pool, self.head = layers.GlobalAveragePooling2D(), layers.Dense(width)

    def call(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = convolution(x)
        return self.head(self.pool(x))


@register
class Siamese(keras.Model):
    """How far two images are from each other."""

    def __init__(self, width: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tower, self.head = Tower(width), layers.Dense(1)

    def call(self, inputs: list) -> Tensor:
        one, two = inputs
        return self.head(ops.abs(self.tower(one) - self.tower(two)))


def _siamese() -> keras.Model:
    images = [keras.Input((16, 16, 1)), keras.Input((16, 16, 1))]
    tower = [layers.Conv2D(n, 3, 2, activation="relu") for n in (8, 12)]
    tower += [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    ends = []
    for x in images:
        for layer in tower:
            x = layer(x)
        ends.append(x)
    return keras.Model(images, layers.Dense(1)(ops.abs(layers.Subtract()(ends))))


@register
class Generator(layers.Layer):
    """An image from noise."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start, self.shape = layers.Dense(256), layers.Reshape((4, 4, 16))
        self.ups = [layers.Conv2DTranspose(n, 4, 2, padding="same") for n in (16, 8)]
        self.end = layers.Conv2D(1, 5, padding="same", activation="sigmoid")

    def call(self, x: Tensor) -> Tensor:
        x = self.shape(self.start(x))
        for up in self.ups:
            x = ops.leaky_relu(up(x), 0.2)
        return self.end(x)


@register
class Adversaries(keras.Model):
    """Both parts; called, it is what the generator is trained through."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generator, self.discriminator = Generator(), Tower(1)

    def call(self, noise: Tensor) -> Tensor:
        return self.discriminator(self.generator(noise))


def _gan() -> keras.Model:
    x = noise = keras.Input((8,))
    x = layers.Reshape((4, 4, 16))(layers.Dense(256)(x))
    for filters in (16, 8):
        x = layers.Conv2DTranspose(filters, 4, 2, padding="same")(x)
        x = layers.LeakyReLU(0.2)(x)
    x = layers.Conv2D(1, 5, padding="same", activation="sigmoid")(x)
    for filters in (8, 12):
        x = layers.Conv2D(filters, 3, 2, activation="relu")(x)
    return keras.Model(noise, layers.Dense(1)(layers.GlobalAveragePooling2D()(x)))


# The U-Net of a diffusion model, which takes a time as well.


@register
class TimeEmbedding(layers.Layer):
    """Sines and cosines of a time, and two dense layers."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.dense = [layers.Dense(width, "swish"), layers.Dense(width)]

    def call(self, time: Tensor) -> Tensor:
        x = _waves(time, self.width)
        for layer in self.dense:
            x = layer(x)
        return x


def _waves(time: Tensor, width: int) -> Tensor:
    angles = time * ops.reshape(ops.exp(-ops.arange(width // 2, dtype="float32")), (1, -1))
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)


@register
class TimedBlock(layers.Layer):
    """Two convolutions, between which the time is added, beside a shortcut."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norms = [layers.GroupNormalization(4), layers.GroupNormalization(4)]
        self.convolutions = [layers.Conv2D(filters, 3, padding="same") for _ in range(2)]
        self.time, self.shortcut = layers.Dense(filters), layers.Conv2D(filters, 1)

    def call(self, inputs: list) -> Tensor:
        x, time = inputs
        y = self.convolutions[0](ops.silu(self.norms[0](x)))
        y = y + self.time(ops.silu(time))[:, None, None, :]
        y = self.convolutions[1](ops.silu(self.norms[1](y)))
        return y + self.shortcut(x)


@register
class ImageAttention(layers.Layer):
    """Attention of all places of an image."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization()
        self.query, self.key, self.value, self.out = (layers.Dense(width) for _ in range(4))

    def call(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        scores = ops.einsum("bhwc,bxyc->bhwxy", self.query(y), self.key(y))
        shape = ops.shape(scores)
        scores = ops.softmax(ops.reshape(scores, (*shape[:3], shape[3] * shape[4])))
        scores = ops.reshape(scores, shape)
        return x + self.out(ops.einsum("bhwxy,bxyc->bhwc", scores, self.value(y)))


@register
class Denoiser(keras.Model):
    """One step down and one up, with attention in the middle."""

    def __init__(self, width: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.time = TimeEmbedding(width)
        self.stem = layers.Conv2D(width, 3, padding="same")
        self.down = TimedBlock(width)
        self.shrink = layers.Conv2D(width, 3, 2, padding="same")
        self.middle, self.attention = TimedBlock(24), ImageAttention(24)
        self.grow, self.up = layers.UpSampling2D(), TimedBlock(width)
        self.head = layers.Conv2D(3, 3, padding="same")

    def call(self, inputs: list) -> Tensor:
        images, time = inputs
        time = self.time(time)
        beside = self.down([self.stem(images), time])
        x = self.attention(self.middle([self.shrink(beside), time]))
        x = ops.concatenate([self.grow(x), beside], axis=-1)
        return self.head(self.up([x, time]))


def _timed(x: Tensor, time: Tensor, filters: int) -> Tensor:
    y = layers.Activation("silu")(layers.GroupNormalization(4)(x))
    y = layers.Conv2D(filters, 3, padding="same")(y)
    time = layers.Dense(filters)(layers.Activation("silu")(time))
    y = layers.Add()([y, layers.Reshape((1, 1, filters))(time)])
    y = layers.Activation("silu")(layers.GroupNormalization(4)(y))
    y = layers.Conv2D(filters, 3, padding="same")(y)
    return layers.Add()([y, layers.Conv2D(filters, 1)(x)])


def _denoiser() -> keras.Model:
    images, time = keras.Input((8, 8, 3)), keras.Input((1,))
    t = layers.Dense(16, "swish")(_waves(time, 16))
    t = layers.Dense(16)(t)
    x = layers.Conv2D(16, 3, padding="same")(images)
    beside = _timed(x, t, 16)
    x = _timed(layers.Conv2D(16, 3, 2, padding="same")(beside), t, 24)
    y = layers.LayerNormalization()(x)
    query, key, value = (layers.Dense(24)(y) for _ in range(3))
    scores = layers.Reshape((4, 4, 16))(ops.einsum("bhwc,bxyc->bhwxy", query, key))
    scores = layers.Reshape((4, 4, 4, 4))(layers.Softmax()(scores))
    y = layers.Dense(24)(ops.einsum("bhwxy,bxyc->bhwc", scores, value))
    x = layers.UpSampling2D()(layers.Add()([x, y]))
    x = _timed(layers.Concatenate()([x, beside]), t, 16)
    return keras.Model([images, time], layers.Conv2D(3, 3, padding="same")(x))


NETS: dict[str, tuple[Callable[[], keras.Model], Callable[[], keras.Model]]] = {
    "U-Net": (UNet, _unet),
    "sequence to sequence": (_own_seq2seq, _seq2seq),
    "autoencoder": (Autoencoder, _autoencoder),
    "VAE": (VariationalAutoencoder, _vae),
    "Siamese": (Siamese, _siamese),
    "GAN": (Adversaries, _gan),
    "diffusion U-Net": (Denoiser, _denoiser),
}
