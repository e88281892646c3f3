"""Layers that are made of layers are opened: as small, and as right, as what is written inline."""

import keras
import numpy as np
import pytest
from cutting import randomize
from keras import layers, ops

import keras_hoyer as kh
from keras_hoyer.graph import channel_groups

register = keras.saving.register_keras_serializable("opened_layers")
CHANNEL = kh.patterns.Channel()


@register
class Residual(layers.Layer):
    """A residual block of convolutions."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.first = layers.Conv2D(hidden, 3, padding="same")
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.first.build(shape)
        self.norm.build((*shape[:-1], self.hidden))
        self.last = layers.Conv2D(shape[-1], 3, padding="same")
        self.last.build((*shape[:-1], self.hidden))

    def call(self, x, training=None):
        return x + self.last(ops.relu(self.norm(self.first(x), training=training)))


def residual(x, hidden):
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(hidden, 3, padding="same")(x)))
    return layers.Add()([x, layers.Conv2D(x.shape[-1], 3, padding="same")(y)])


@register
class TransformerBlock(layers.Layer):
    """The block of keras.io's text classification."""

    def __init__(self, width, heads, hidden, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed_forward = keras.Sequential([layers.Dense(hidden, "relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.dropout = layers.Dropout(rate)

    def call(self, x, training=None):
        attended = self.dropout(self.attention(x, x), training=training)
        y = self.norms[0](x + attended)
        return self.norms[1](y + self.feed_forward(y))


def transformer_block(x, width, heads, hidden):
    attended = layers.MultiHeadAttention(heads, width // heads)(x, x)
    y = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.1)(attended)]))
    z = layers.Dense(width)(layers.Dense(hidden, "relu")(y))
    return layers.LayerNormalization()(layers.Add()([y, z]))


@register
class PatchEncoder(layers.Layer):
    """Patches with a class token and positions, weights of the layer itself."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.project = layers.Dense(width)

    def build(self, shape):
        self.project.build(shape)
        self.token = self.add_weight(shape=(1, 1, self.width), name="token")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, self.width), name="positions")

    def call(self, x):
        token = ops.repeat(self.token, ops.shape(x)[0], axis=0)
        return ops.concatenate([token, self.project(x)], axis=1) + self.positions


@register
class Scale(layers.Layer):
    """A root mean square norm with a scale of its own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return x * ops.rsqrt(ops.mean(x * x, axis=-1, keepdims=True) + 1e-6) * self.scale


@register
class OwnDense(layers.Layer):
    """A dense layer by hand, with its width in the config."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, x):
        return ops.relu(ops.matmul(x, self.kernel) + self.bias)


@register
class Mix(layers.Layer):
    """A block of ConvMixer, of layers inside layers."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.skip = Residual(2 * filters)
        self.point = layers.Conv2D(filters, 1, activation="gelu")

    def call(self, x):
        return self.point(self.skip(x))


@register
class Pair(layers.Layer):
    """Two tensors in a dict, a list of two out, and a flag."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Dense(units), layers.Dense(units)

    def call(self, inputs, swap=False, training=None):
        one, two = self.one(inputs["a"]), self.two(inputs["b"])
        return [two, one + two] if swap else [one, one + two]


@register
class Sampling(layers.Layer):
    """The draw of a variational autoencoder: something else in training."""

    def __init__(self, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        mean, log_variance = inputs
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


@register
class Heads(layers.Layer):
    """Two products in heads, as attention has them."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.up = layers.EinsumDense("bnc,chd->bnhd", (None, 2, width // 2), bias_axes="hd")
        self.down = layers.EinsumDense("bnhd,hdc->bnc", (None, width), bias_axes="c")

    def call(self, x):
        return self.down(ops.tanh(self.up(x)))


class Stack(keras.Model):
    """A subclassed model of blocks, of which no config can say the sizes."""

    def __init__(self):
        super().__init__()
        self.blocks = [TransformerBlock(8, 2, 12), Heads(8)]
        self.head = layers.Dense(5)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def resnet(block):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same")(x)
    for hidden in (10, 12):
        x = block(x, hidden)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def text(block, length=7):
    x = inputs = keras.Input((length,), dtype="int32")
    x = layers.Embedding(20, 8)(x)
    for _ in range(2):
        x = block(x, 8, 2, 12)
    return keras.Model(inputs, layers.Dense(5)(x))


def siamese(block):
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    tower = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(6, 3, padding="same")])
    ends = []
    for x in map(tower, inputs):
        ends.append(layers.GlobalAveragePooling2D()(block(x)))
    return keras.Model(inputs, layers.Dense(2)(layers.Subtract()(ends)))


def shared_inline():
    first, norm = layers.Conv2D(10, 3, padding="same"), layers.BatchNormalization()
    last = layers.Conv2D(6, 3, padding="same")
    return lambda x: layers.Add()([x, last(layers.ReLU()(norm(first(x))))])


PAIRS = {
    "residual blocks": (
        lambda: resnet(lambda x, n: Residual(n)(x)),
        lambda: resnet(residual),
        "Residual",
    ),
    "transformer": (
        lambda: text(lambda x, *sizes: TransformerBlock(*sizes)(x)),
        lambda: text(transformer_block),
        None,
    ),
    "a transformer of any length": (
        lambda: text(lambda x, *sizes: TransformerBlock(*sizes)(x), None),
        lambda: text(transformer_block, None),
        None,
    ),
    "a block called twice": (
        lambda: siamese(Residual(10)),
        lambda: siamese(shared_inline()),
        "Residual",
    ),
}


def copy_by_kind(model, twin):
    """Sets the weights of the layers of each class, in their order, to those of another model."""
    lines = []
    for one in (model, twin):
        kinds = {}
        for weight in one.weights:
            kinds.setdefault(weight.path.rpartition("/")[0], []).append(weight)
        by_kind = {}
        for path, weights in kinds.items():
            kind = path.rpartition("/")[2].rstrip("0123456789").rstrip("_")
            by_kind.setdefault(kind, []).append(weights)
        lines.append(by_kind)
    assert {k: len(v) for k, v in lines[0].items()} == {k: len(v) for k, v in lines[1].items()}
    for kind, sources in lines[0].items():
        for source, target in zip(sources, lines[1][kind], strict=True):
            for one, two in zip(source, target, strict=True):
                two.assign(one)


def cut(model, share=0.4):
    kh.prune(model, kh.criteria.TargetSparsity(share, scope="layer"), CHANNEL)


def sample(model, count=3, length=7):
    rng = np.random.default_rng(0)
    arrays = []
    for x in model.inputs:
        shape = (count, *(n or length for n in x.shape[1:]))
        whole = "int" in x.dtype
        arrays.append(rng.integers(0, 20, shape) if whole else rng.normal(size=shape))
    arrays = [a if a.dtype.kind == "i" else a.astype("float32") for a in arrays]
    return arrays if len(arrays) > 1 else arrays[0]


def difference(one, two, inputs):
    pairs = zip(keras.tree.flatten(one(inputs)), keras.tree.flatten(two(inputs)), strict=True)
    found = [[ops.convert_to_numpy(y) for y in pair] for pair in pairs]
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in found)


@pytest.mark.filterwarnings("ignore:No cut can reach")
@pytest.mark.parametrize("case", PAIRS)
def test_a_net_of_own_blocks_is_as_small_as_the_inline_one(case, tmp_path):
    own, inline, kept = PAIRS[case]
    model, twin = randomize(own()), inline()
    copy_by_kind(model, twin)
    assert sum(kh.count_flops(model).values()) == sum(kh.count_flops(twin).values())
    sizes = [sorted(g.channels for g in channel_groups(m)) for m in (model, twin)]
    assert sizes[0] == sizes[1] != []
    cut(model)
    cut(twin)
    small, small_twin = kh.shrink(model), kh.shrink(twin)
    assert small.count_params() == small_twin.count_params() < 0.8 * model.count_params()
    for count, length in ((3, 7), (2, 7 if model.inputs[0].shape[1] else 11)):
        assert difference(model, small, sample(model, count, length)) < 1e-5
    kinds = {type(layer).__name__ for layer in small.layers}
    assert kept in kinds if kept else "TransformerBlock" not in kinds
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small, again, sample(model)) == 0


@pytest.mark.filterwarnings("ignore:No cut can reach")
def test_a_subclassed_model_becomes_one_of_its_blocks_parts():
    model = Stack()
    model(keras.Input((None, 8)))
    cut(randomize(model), 0.5)
    small = kh.shrink(model)
    kernels = {w.path.split("/")[-2]: w.shape for w in small.weights if w.name == "kernel"}
    assert kernels["query"] == (8, 1, 2)
    assert [shape for name, shape in kernels.items() if "einsum" in name] == [(8, 1, 2), (1, 2, 4)]
    for length in (3, 6):
        x = np.random.default_rng(0).normal(size=(2, length, 8)).astype("float32")
        assert difference(model, small, x) < 1e-5


def test_weights_of_the_layer_itself_go_with_the_channels():
    x = inputs = keras.Input((6,))
    x = OwnDense(9, name="own")(layers.Dense(7)(x))
    model = randomize(keras.Model(inputs, layers.Dense(3)(Scale(name="norm")(OwnDense(5)(x)))))
    before = sum(kh.count_flops(model).values())
    assert before == 6 * 7 + 7 * 9 + 9 * 5 + 5 * 3
    own = model.get_layer("own")
    for variable in (own.kernel, own.bias):
        value = np.array(ops.convert_to_numpy(variable))
        value[..., ::2] = 0
        variable.assign(value)
    with pytest.warns(UserWarning, match="fixed by the model's outputs"):
        small = kh.shrink(model)
    assert small.get_layer("own").units == 4
    assert sum(kh.count_flops(small).values()) == 6 * 7 + 7 * 4 + 4 * 5 + 5 * 3
    assert difference(model, small, sample(model)) < 1e-5


def test_a_vision_transformer_with_a_class_token_shrinks(tmp_path):
    x = inputs = keras.Input((9, 12))
    x = PatchEncoder(8)(x)
    for _ in range(2):
        x = TransformerBlock(8, 2, 16)(x)
    model = randomize(keras.Model(inputs, layers.Dense(3)(x[:, 0])))
    with pytest.warns(UserWarning, match="PatchEncoder"):
        cut(model)
    with pytest.warns(UserWarning, match="PatchEncoder"):
        small = kh.shrink(model)
    assert small.count_params() < 0.75 * model.count_params()
    assert difference(model, small, sample(model)) < 1e-5
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small, again, sample(model)) == 0


def test_layers_inside_layers_inside_layers_are_opened():
    x = inputs = keras.Input((8, 8, 3))
    for filters in (6, 8):
        x = Mix(filters)(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    assert sorted(g.channels for g in channel_groups(model)) == [6, 8, 12, 16]
    cut(model)
    small = kh.shrink(model)
    assert small.count_params() < 0.5 * model.count_params()
    assert difference(model, small, sample(model)) < 1e-5


@pytest.mark.parametrize("swap", [False, True])
def test_dicts_lists_and_flags_of_a_call_are_followed(swap):
    inputs = {"a": keras.Input((5,), name="a"), "b": keras.Input((6,), name="b")}
    hidden = {name: layers.Dense(9)(x) for name, x in inputs.items()}
    one, two = Pair(7, name="pair")(hidden, swap=swap)
    model = keras.Model(inputs, [layers.Dense(2)(one), layers.Dense(3)(two)])
    randomize(model)
    cut(model)
    small = kh.shrink(model)
    assert small.get_layer("pair").one.units == 4
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(3, n)).astype("float32") for name, n in (("a", 5), ("b", 6))}
    assert difference(model, small, x) < 1e-5


def test_what_a_layer_does_in_training_only_is_not_lost():
    x = inputs = keras.Input((6,))
    x = layers.Dense(8)(x)
    draw = Sampling(name="draw")([layers.Dense(5)(x), layers.Dense(5)(x)])
    model = randomize(keras.Model(inputs, layers.Dense(6)(layers.Dense(8)(draw))))
    cut(model)
    small = kh.shrink(model)
    assert isinstance(small.get_layer("draw"), Sampling)
    x = sample(model)
    assert difference(model, small, x) < 1e-5
    one, two = (ops.convert_to_numpy(small(x, training=True)) for _ in range(2))
    assert np.abs(one - two).max() > 1e-3


def test_tracing_leaves_no_calls_behind():
    model = randomize(resnet(lambda x, n: Residual(n)(x)))
    parts = list(model._flatten_layers())
    before = [(len(p._inbound_nodes), len(p._outbound_nodes)) for p in parts]
    channel_groups(model)
    kh.shrink(model)
    assert [(len(p._inbound_nodes), len(p._outbound_nodes)) for p in parts] == before


def test_a_coupled_penalty_reaches_into_opened_layers():
    own, inline, _ = PAIRS["residual blocks"]
    losses = []
    for make in (own, inline):
        keras.utils.set_random_seed(0)
        model = make()
        for number, weight in enumerate(model.weights):
            weight.assign(np.random.default_rng(number).normal(size=weight.shape))
        kh.regularize(model, kh.GroupHoyerSquare(1e-3), groups="coupled")
        losses.append(sum(float(ops.convert_to_numpy(loss)) for loss in model.losses))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_size_that_a_config_cannot_say_stays_and_is_named():
    @register
    class Twice(layers.Layer):
        """Its hidden layer is as wide as the input, and its code looks at the length."""

        def build(self, shape):
            self.up, self.down = layers.Dense(shape[-1]), layers.Dense(shape[-1])
            self.up.build(shape)
            self.down.build(shape)

        def call(self, x):
            places = ops.arange(ops.shape(x)[1], dtype="float32")
            return x + self.down(ops.relu(self.up(x))) * ops.reshape(places, (1, -1, 1))

    x = inputs = keras.Input((None, 4))
    x = Twice(name="twice")(layers.Dense(6)(x))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Dense(8, name="free")(x))))
    for layer in (model.get_layer("twice").up, model.get_layer("free")):
        kernel, bias = (np.array(w) for w in layer.get_weights())
        kernel[:, :3], bias[:3] = 0, 0
        layer.set_weights([kernel, bias])
    with pytest.warns(UserWarning, match="the config of Twice 'twice', which does not say"):
        small = kh.shrink(model)
    assert small.get_layer("twice").up.units == 6
    assert small.get_layer("free").units == 5
    for length in (5, 9):
        assert difference(model, small, sample(model, 2, length)) < 1e-5


def test_a_line_for_each_layer_says_which_way_it_went(capsys):
    model = randomize(resnet(lambda x, n: Residual(n, name=f"block_{n}")(x)))
    cut(model)
    small = kh.shrink(model, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    blocks = [line for line in lines if line.startswith("block_")]
    assert len(blocks) == 2
    assert "the same class, hidden: 10 to 6" in blocks[0]
    assert f"{small.get_layer('block_10').count_params():,}" in blocks[0]
    assert f"{small.count_params():,}" in lines[-1]
    assert max(map(len, lines)) <= 100


def test_parts_of_one_name_in_several_layers_are_named_apart():
    @register
    class Named(layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.inner = [Inner(2 * self.units), Inner(3 * self.units)]

        def call(self, x):
            return self.inner[1](self.inner[0](x)[0])[0]

    class Inner(layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.dense = layers.Dense(units, "relu", name="same")

        def call(self, x):
            return self.dense(x), None

    x = inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Named(5, name="named")(x)))
    randomize(model)
    cut(model)
    small = kh.shrink(model)
    assert [layer.units for layer in small.get_layer("named").layers[1:]] == [6, 9]
    assert difference(model, small, sample(model)) < 1e-5


@register
class HandMade(layers.Layer):
    """Attention by hand, as many write it: reshapes to the batch and the length as they come."""

    def __init__(self, width, heads, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        self.parts = [layers.Dense(width) for _ in range(3)]
        self.out = layers.Dense(width)

    def call(self, x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        split = (batch, length, self.heads, self.width // self.heads)
        q, k, v = (ops.transpose(ops.reshape(p(x), split), (0, 2, 1, 3)) for p in self.parts)
        weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * 0.5)
        mixed = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (batch, length, self.width)))


def test_reshapes_to_an_open_batch_and_length_stay_open(tmp_path):
    x = inputs = keras.Input((None, 6))
    x = HandMade(8, 2, name="hand_made")(x)
    model = randomize(keras.Model(inputs, layers.Dense(3)(layers.Dense(10)(x))))
    cut(model)
    small = kh.shrink(model)
    assert small.count_params() < 0.7 * model.count_params()
    for count, length in ((3, 7), (1, 1), (2, 12)):
        assert difference(model, small, sample(model, count, length)) < 1e-5
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small, again, sample(model, 4, 5)) == 0


@register
class Tempered(layers.Layer):
    """Its width says more than a size: it divides by its root."""

    def __init__(self, units, early=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.early = units, early
        self.up, self.down = layers.Dense(units), layers.Dense(4)
        if early:
            self.factor = units**-0.5

    def call(self, x):
        factor = self.factor if self.early else self.units**-0.5
        return self.down(ops.relu(self.up(x)) * factor)


@pytest.mark.parametrize("early", [True, False])
def test_a_config_whose_number_is_more_than_a_width_is_not_used(early):
    x = inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3)(Tempered(9, early, name="tempered")(x)))
    randomize(model)
    cut(model)
    small = kh.shrink(model)
    assert not isinstance(small.get_layer("tempered"), Tempered)
    assert small.count_params() < model.count_params()
    assert difference(model, small, sample(model)) < 1e-5


def test_an_activity_regularizer_of_the_layer_is_not_lost():
    x = inputs = keras.Input((None, 6))
    block = HandMade(8, 2, name="block", activity_regularizer=keras.regularizers.L2(0.1))
    model = randomize(keras.Model(inputs, layers.Dense(3)(layers.Dense(10)(block(x)))))
    cut(model)
    with pytest.warns(UserWarning, match="it has an activity regularizer"):
        small = kh.shrink(model)
    assert small.get_layer("block").activity_regularizer.l2 == pytest.approx(0.1)
    assert difference(model, small, sample(model, 2, 5)) < 1e-5


@pytest.mark.parametrize("verbose", ["yes", 2, None])
def test_a_wrong_verbose_is_refused_at_once(verbose):
    with pytest.raises(ValueError, match="Invalid value for argument `verbose`"):
        kh.shrink(None, verbose=verbose)
