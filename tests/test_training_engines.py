"""Trainings that are not one model and one loss: what is cut stays cut, and shrinks, in each."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_hoyer as kh

BACKEND = keras.backend.backend()
ONCE = kh.schedules.OneShot(1)


@pytest.fixture(scope="module")
def digits():
    """256 images from 0 to 1, flat, and what they show."""
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return (x[:256] / 16).astype("float32"), y[:256]


def classifier(width, name):
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(width, "relu", name=f"{name}_hidden"),
            layers.Dense(10, name=f"{name}_logits"),
        ],
        name=name,
    )


def kernels(model):
    return [ops.convert_to_numpy(v) for v in model.weights if v.name == "kernel"]


def zeros(model):
    return sum(int((kernel == 0).sum()) for kernel in kernels(model))


def outputs(model, *x):
    return ops.convert_to_numpy(model(x[0] if len(x) == 1 else list(x), training=False))


class Adversaries(keras.Model):
    """A generator and a discriminator, each with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(32, "relu", name="from_noise"),
                layers.Dense(64, "sigmoid", name="image"),
            ],
            name="generator",
        )
        self.discriminator = keras.Sequential(
            [keras.Input((64,)), layers.Dense(32, "relu", name="seen"), layers.Dense(1)],
            name="discriminator",
        )
        self.of_generator = keras.optimizers.Adam(0.01)
        self.of_discriminator = keras.optimizers.Adam(0.01)
        self.seed = keras.random.SeedGenerator(0)
        self.built = True

    def compile(self):
        super().compile()
        self.of_generator.build(self.generator.trainable_variables)
        self.of_discriminator.build(self.discriminator.trainable_variables)

    def losses_of(self, images):
        made = self.generator(keras.random.normal((ops.shape(images)[0], 8), seed=self.seed))
        seen, invented = self.discriminator(images), self.discriminator(made)
        honest = ops.mean(ops.softplus(-seen)) + ops.mean(ops.softplus(invented))
        return honest, ops.mean(ops.softplus(-invented))

    def players(self):
        return (
            (self.of_discriminator, self.discriminator.trainable_variables),
            (self.of_generator, self.generator.trainable_variables),
        )

    def train_step(self, images):
        for player, (optimizer, variables) in enumerate(self.players()):
            optimizer.apply(self.gradients(images, player, variables), variables)
        return {"loss": self.losses_of(images)[1]}

    def gradients(self, images, player, variables):
        if BACKEND == "torch":
            self.zero_grad()
            self.losses_of(images)[player].backward()
            return [v.value.grad for v in variables]
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.losses_of(images)[player]
        return tape.gradient(loss, [v.value for v in variables])


@pytest.mark.skipif(BACKEND == "jax", reason="a step of JAX has no two optimizers but by hand")
def test_both_halves_of_a_gan_keep_their_zeros(digits):
    images = digits[0]
    gan = Adversaries()
    gan.compile()
    half = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.5), ONCE)
    logs = gan.fit(images, epochs=3, batch_size=64, verbose=0, callbacks=[half]).history
    assert logs["sparsity"] == [0.0, 0.5, 0.5]
    assert zeros(gan.generator) + zeros(gan.discriminator) == 0.5 * sum(
        kernel.size for kernel in kernels(gan)
    )

    # What ships is one of the halves: its channels go as those of any model, and stay away.
    kh.prune(gan.generator, kh.criteria.TargetFlops(0.5), kh.patterns.Channel())
    cut = zeros(gan.generator)
    gan.fit(images, epochs=1, batch_size=64, verbose=0)
    assert zeros(gan.generator) == cut
    noise = np.random.default_rng(0).standard_normal((8, 8)).astype("float32")
    small = kh.shrink(gan.generator)
    assert small.count_params() < 0.6 * gan.generator.count_params()
    np.testing.assert_allclose(outputs(small, noise), outputs(gan.generator, noise), atol=1e-5)


class Sample(layers.Layer):
    """Draws from a normal distribution and pays for how far that is from the standard one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(0)

    def call(self, inputs):
        mean, log_variance = inputs
        distance = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
        self.add_loss(1e-3 * ops.mean(ops.sum(distance, axis=-1)))
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(
            ops.shape(mean), seed=self.seed
        )


def test_a_variational_autoencoder_is_cut_on_both_sides_of_its_drawn_code(digits):
    images = digits[0]
    x = keras.Input((64,))
    hidden = layers.Dense(32, "relu", name="hidden")(x)
    mean = layers.Dense(8, name="mean")(hidden)
    code = Sample(name="code")([mean, layers.Dense(8, name="log_variance")(hidden)])
    decoder = keras.Sequential(
        [keras.Input((8,)), layers.Dense(32, "relu"), layers.Dense(64, "sigmoid")], name="decoder"
    )
    model = keras.Model(x, decoder(code))
    kh.regularize(model, kh.GroupHoyerSquare(1e-3), groups="coupled")
    model.compile(keras.optimizers.Adam(0.01), "mse")
    half = kh.callbacks.Pruning(kh.criteria.TargetFlops(0.5), ONCE, kh.patterns.Channel())
    model.fit(images, images, epochs=3, batch_size=64, verbose=0, callbacks=[half])

    small = kh.shrink(model)
    assert sum(kh.count_flops(small).values()) == kh.report(model).flops_left
    assert kh.report(model).flops_left <= 0.5 * kh.report(model).flops
    codes = outputs(keras.Model(x, mean), images)
    small_codes = outputs(keras.Model(small.input, small.get_layer("mean").output), images)
    # The code is as wide as before: where nothing comes in, what is drawn is still noise.
    np.testing.assert_allclose(small_codes, codes, atol=1e-5)
    made = outputs(small.get_layer("decoder"), codes)
    np.testing.assert_allclose(made, outputs(decoder, codes), atol=1e-5)


def test_a_denoiser_of_a_diffusion_draws_the_same_images_after_shrinking(digits):
    clean = digits[0].reshape(-1, 8, 8, 1) * 2 - 1
    rng = np.random.default_rng(0)
    steps = 4
    kept = np.cumprod(np.linspace(0.95, 0.4, steps)).astype("float32")
    time = rng.integers(steps, size=len(clean))
    noise = rng.standard_normal(clean.shape).astype("float32")
    share = kept[time].reshape(-1, 1, 1, 1)
    noisy = np.sqrt(share) * clean + np.sqrt(1 - share) * noise

    image, step = keras.Input((8, 8, 1)), keras.Input((), dtype="int32")
    when = layers.Dense(16, name="when")(layers.Embedding(steps, 8)(step))
    x = fine = layers.Conv2D(16, 3, padding="same", activation="relu", name="fine")(image)
    x = layers.Conv2D(16, 3, 2, padding="same", name="coarse")(x)
    x = layers.Activation("silu")(x + layers.Reshape((1, 1, 16))(when))
    x = layers.UpSampling2D()(x)
    x = layers.Concatenate()([x, fine])
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="joined")(x)
    model = keras.Model([image, step], layers.Conv2D(1, 3, padding="same", name="noise")(x))
    model.compile("adam", "mse")
    half = kh.callbacks.Pruning(kh.criteria.TargetFlops(0.5), ONCE, kh.patterns.Channel())
    model.fit([noisy, time], noise, epochs=2, batch_size=64, verbose=0, callbacks=[half])
    small = kh.shrink(model)
    assert sum(kh.count_flops(small).values()) <= 0.5 * sum(kh.count_flops(model).values())

    def draw(denoiser):
        x = np.random.default_rng(1).standard_normal((4, 8, 8, 1)).astype("float32")
        for t in reversed(range(steps)):
            guess = outputs(denoiser, x, np.full(4, t, "int32"))
            before = kept[t - 1] if t else 1.0
            found = (x - np.sqrt(1 - kept[t]) * guess) / np.sqrt(kept[t])
            x = np.sqrt(before) * found + np.sqrt(1 - before) * guess
        return x

    np.testing.assert_allclose(draw(small), draw(model), atol=1e-3)


def test_of_a_distiller_the_student_is_cut_and_the_teacher_left(digits):
    teacher, student = classifier(64, "teacher"), classifier(32, "student")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distillation = keras.distillation.LogitsDistillation(temperature=3.0)
    distiller = keras.distillation.Distiller(teacher, student, distillation)
    distiller.compile("adam", loss)
    distiller(digits[0][:1])
    kh.regularize(distiller, kh.HoyerSquare(1e-4))
    taught = [w.copy() for w in teacher.get_weights()]
    half = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.5), ONCE)
    distiller.fit(*digits, epochs=3, batch_size=64, verbose=0, callbacks=[half])

    for weight, before in zip(teacher.get_weights(), taught, strict=True):
        np.testing.assert_array_equal(weight, before)
    assert teacher.get_layer("teacher_hidden").kernel.regularizer is None
    assert kh.report(distiller).to_dict()["nonzero"] == kh.report(student).nonzero
    assert zeros(student) == kh.report(student).held > 0
    # A distiller computes what its student does.
    with pytest.warns(UserWarning, match="the `compute_loss` of Distiller is left behind"):
        kh.prune(distiller, kh.criteria.TargetFlops(0.5), kh.patterns.Channel())
        whole = kh.shrink(distiller)
    np.testing.assert_allclose(outputs(whole, digits[0]), outputs(student, digits[0]), atol=1e-5)
    assert whole.count_params() < 0.6 * student.count_params()
    small = kh.shrink(student)
    np.testing.assert_allclose(outputs(small, digits[0]), outputs(student, digits[0]), atol=1e-5)


def test_frozen_kernels_that_a_callback_will_cut_are_named(digits):
    model = keras.Sequential([keras.Input((64,)), classifier(8, "body"), layers.Dense(10)])
    model.get_layer("body").trainable = False
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    half = (kh.criteria.TargetSparsity(0.5), kh.schedules.OneShot(0))
    with pytest.warns(UserWarning, match=r"they are frozen.*: body/body_hidden/kernel, body/"):
        model.fit(*digits, verbose=0, callbacks=[kh.callbacks.Pruning(*half)])
    named = kh.callbacks.Pruning(*half, layers=["body"])  # asked for, so nothing to say
    model.fit(*digits, verbose=0, callbacks=[named])


def test_merged_lora_is_pruned_shrunk_and_quantized_in_this_order(digits, tmp_path):
    x, y = digits
    model = classifier(32, "model")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.get_layer("model_hidden").enable_lora(4)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x, y, epochs=2, verbose=0)
    tuned = outputs(model, x)
    layer = model.get_layer("model_hidden")
    merged = layer.kernel
    layer.lora_enabled, layer.lora_rank = False, None
    layer.kernel.assign(merged)
    model.save(tmp_path / "merged.keras")
    model = keras.models.load_model(tmp_path / "merged.keras")
    np.testing.assert_allclose(outputs(model, x), tuned, atol=1e-5)

    half = kh.callbacks.Pruning(kh.criteria.TargetFlops(0.5), ONCE, kh.patterns.Channel())
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=3, verbose=0, callbacks=[half])
    small = kh.strip(kh.shrink(model))
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(small, x), expected, atol=1e-5)
    small.quantize("int8")
    assert np.abs(outputs(small, x) - expected).max() < 0.05 * np.abs(expected).max()


class AddsLosses(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.hidden, self.out = layers.Dense(8, "relu"), layers.Dense(64)

    def call(self, x):
        hidden = self.hidden(x)
        self.add_loss(ops.mean(ops.square(hidden)))
        return self.out(hidden)

    def compute_loss(self, x=None, y=None, y_pred=None, **kwargs):
        return 2 * super().compute_loss(x, y, y_pred, **kwargs)


def test_what_a_model_of_its_own_class_adds_to_training_is_said_to_be_left_behind(digits):
    model = AddsLosses()
    model.compile("sgd", "mse")
    before = outputs(model, digits[0])
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel())
    with pytest.warns(UserWarning, match=r"the `compute_loss`, `add_loss` in .* is left behind"):
        small = kh.shrink(model)
    assert small.count_params() < 0.6 * model.count_params()
    np.testing.assert_allclose(outputs(small, digits[0]), outputs(model, digits[0]), atol=1e-5)
    assert np.abs(before - outputs(model, digits[0])).max() > 0.01
    assert len(model.losses) == 1


def test_trials_of_keras_tuner_end_with_the_zeros_of_their_cut(digits, tmp_path):
    tuner = pytest.importorskip("keras_tuner")

    class Search(tuner.HyperModel):
        def build(self, hp):
            model = classifier(hp.Choice("width", [16, 32]), "tried")
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
            return model

        def fit(self, hp, model, x, y, callbacks=(), **options):
            model.fit(x, y, epochs=1, verbose=0)
            kh.prune(model, kh.criteria.TargetSparsity(hp.Fixed("sparsity", 0.75)))
            return model.fit(x, y, callbacks=callbacks, **options)

    x, y = digits
    search = tuner.RandomSearch(Search(), "val_accuracy", 2, directory=tmp_path)
    search.search(x[:192], y[:192], validation_data=(x[192:], y[192:]), epochs=2, verbose=0)
    best = search.get_best_models()[0]
    kh.keep_zeros(best)
    assert kh.report(best).sparsity == 0.75
    assert kh.report(best).held == zeros(best)
