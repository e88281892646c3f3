"""Equal layers stay equal, so that a model of a class of its own stays one of it."""

import keras
import numpy as np
import pytest
from cutting import randomize
from keras import layers, ops
from test_opened_layers import TransformerBlock, difference, sample

import keras_hoyer as kh

UNIFORM = kh.patterns.Channel(uniform=True)
register = keras.saving.register_keras_serializable("uniform")


@register
class Backbone(keras.Model):
    """A functional model of a class of its own, as KerasHub's backbones are."""

    def __init__(self, width, hidden, depth=2, heads=2, **kwargs):
        x = inputs = keras.Input((None,), dtype="int32", name="token_ids")
        x = layers.Embedding(20, width, name="tokens")(x)
        for number in range(depth):
            x = TransformerBlock(width, heads, hidden, name=f"block_{number}")(x)
        super().__init__(inputs, layers.Dense(4, name="head")(x), **kwargs)
        self.sizes = {"width": width, "hidden": hidden, "depth": depth, "heads": heads}

    def get_config(self):
        return {**self.sizes, "name": self.name, "trainable": self.trainable}


@register
class Tagger(keras.Model):
    """A model around another one, with a preprocessor that has no weights."""

    def __init__(self, backbone, preprocessor=None, **kwargs):
        super().__init__(**kwargs)
        self.backbone, self.preprocessor = backbone, preprocessor

    def call(self, x):
        return ops.softmax(self.backbone(x))

    def get_config(self):
        backbone = keras.saving.serialize_keras_object(self.backbone)
        return {**super().get_config(), "backbone": backbone}

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config.pop("backbone"))
        return cls(backbone, **config)


def prune(model, pattern=UNIFORM):
    return kh.prune(model, kh.criteria.TargetSparsity(0.4), pattern)


def test_equal_layers_keep_as_many_channels():
    x = inputs = keras.Input((6,))
    for number in range(4):
        x = layers.Dense(20, "relu", name=f"wide_{number}")(x)
        x = layers.Dense(6)(x)
    model = randomize(keras.Model(inputs, x))
    for number in range(4):  # so that a global ranking treats them differently
        kernel = model.get_layer(f"wide_{number}").kernel
        kernel.assign(kernel * (1 + number))
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    prune(twin, kh.patterns.Channel())
    prune(model)
    widths = [kh.shrink(m).get_layer(f"wide_{n}").units for m in (model, twin) for n in range(4)]
    assert len(set(widths[:4])) == 1
    assert len(set(widths[4:])) > 1
    assert abs(4 * widths[0] - sum(widths[4:])) <= 4


@pytest.mark.parametrize("share", [0.3, 0.5, 0.55, 0.8])
def test_a_share_of_the_multiply_adds_is_kept_to_though_layers_stay_equal(share):
    x = inputs = keras.Input((6,))
    for number in range(3):
        x = layers.Dense(10, "relu", name=f"wide_{number}")(x)
        x = layers.Dense(6)(x)
    model = randomize(keras.Model(inputs, x))
    kh.prune(model, kh.criteria.TargetFlops(share), UNIFORM)
    left = sum(kh.count_flops(kh.shrink(model)).values()) / sum(kh.count_flops(model).values())
    assert share - 0.1 < left <= share


@pytest.mark.filterwarnings("ignore:No cut can reach", "ignore:Asked to cut")
def test_a_model_of_its_own_class_stays_one(tmp_path):
    model = randomize(Backbone(8, 20, name="backbone"))
    with pytest.warns(UserWarning, match="Not cut, since the config of Backbone"):
        prune(model)
    small = kh.shrink(model)
    assert type(small) is Backbone
    assert small.sizes == {"width": 8, "hidden": 12, "depth": 2, "heads": 2}
    for length in (5, 9):
        assert difference(model, small, sample(model, 2, length)) < 1e-5
    assert small.name == "backbone"
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small, again, sample(model)) == 0
    assert kh.keep_zeros(small).held == 0


@pytest.mark.filterwarnings("ignore:No cut can reach", "ignore:Asked to cut")
def test_without_it_the_model_becomes_a_functional_one_and_smaller():
    model = randomize(Backbone(8, 20))
    kh.prune(model, kh.criteria.TargetSparsity(0.4, scope="layer"), kh.patterns.Channel())
    small = kh.shrink(model)
    assert type(small) is not Backbone
    assert small.count_params() < 0.7 * model.count_params()
    assert difference(model, small, sample(model, 2, 6)) < 1e-5


@pytest.mark.filterwarnings("ignore:No cut can reach", "ignore:Asked to cut", "ignore:Not cut")
def test_what_a_model_holds_beside_its_graph_goes_along():
    words = layers.StringLookup(vocabulary=["a", "b"]) if STRINGS else layers.Rescaling(0.5)
    model = Tagger(Backbone(8, 20), words)
    tokens = np.arange(10).reshape(2, 5)
    model(tokens)
    model.compile("sgd", "mse")
    randomize(model)
    prune(model)
    small = kh.shrink(model)
    assert type(small) is Tagger and type(small.backbone) is Backbone
    assert small.backbone.sizes["hidden"] == 12
    assert small.preprocessor is words
    assert difference(model, small, tokens) < 1e-5


STRINGS = keras.backend.backend() == "tensorflow"


def test_a_class_that_can_say_nothing_is_an_error():
    class Fixed(keras.Model):
        def __init__(self, name=None):
            super().__init__(name=name)
            self.one, self.two = layers.Dense(10), layers.Dense(3)

        def call(self, x):
            return self.two(self.one(x))

        def get_config(self):
            return {"name": self.name}

    model = Fixed(name="fixed")
    model(np.ones((2, 4)))
    with pytest.raises(ValueError, match="class Fixed can say how many are left"):
        prune(model)
