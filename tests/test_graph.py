import keras
import numpy as np
import pytest
from cutting import largest_difference, random_inputs, randomize, to_numpy
from keras import layers, ops
from networks import NETWORKS, resnet20, vit

from keras_hoyer.graph import channel_groups, register_rule
from keras_hoyer.graph.walk import ChannelGraph


def by_kernel(model, layers=None):
    return {group.name: group for group in channel_groups(model, layers)}


def places(slices):
    names = ["/".join(s.variable.path.split("/")[-2:]) for s in slices]
    return {(name, s.axis): s.indices.tolist() for name, s in zip(names, slices, strict=True)}


def column(indices):
    return [[i] for i in indices]


def test_a_convolution_lives_with_its_normalization_and_its_readers():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2D(2, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5, name="dense"),
        ]
    )
    [group] = channel_groups(model)
    assert (group.name, group.channels) == ("conv/kernel", 2)
    assert places(group.producing) == {
        ("conv/kernel", 3): [[0], [1]],
        ("conv/bias", 0): [[0], [1]],
        ("norm/gamma", 0): [[0], [1]],
        ("norm/beta", 0): [[0], [1]],
    }
    # Flattened, each channel is at every other index.
    assert places(group.consuming) == {("dense/kernel", 0): [[0, 2, 4, 6], [1, 3, 5, 7]]}
    assert places(group.states) == {
        ("norm/moving_mean", 0): [[0], [1]],
        ("norm/moving_variance", 0): [[0], [1]],
    }


def test_a_residual_stream_is_one_group():
    groups = by_kernel(resnet20())
    streams = [g for g in groups.values() if g.name.count("kernel") > 1]
    assert sorted(g.channels for g in streams) == [8, 16, 32]
    assert sum(g.channels for g in groups.values()) == 8 * 4 + 16 * 4 + 32 * 4


def test_a_depthwise_kernel_is_part_of_its_input_group():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="expand")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.Conv2D(3, 1, name="project")(x)
    [group] = channel_groups(keras.Model(inputs, x))
    assert places(group.producing)["depthwise/kernel", 2] == column(range(4))
    assert places(group.producing)["depthwise/bias", 0] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert places(group.consuming)["project/kernel", 2] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_concatenated_tensors_keep_their_offsets():
    x = inputs = keras.Input((5,))
    x = layers.Concatenate()([layers.Dense(2, name="a")(x), inputs, layers.Dense(3, name="b")(x)])
    groups = by_kernel(keras.Model(inputs, layers.Dense(2, name="c")(x)))
    assert places(groups["a/kernel"].consuming) == {("c/kernel", 0): [[0], [1]]}
    assert places(groups["b/kernel"].consuming) == {("c/kernel", 0): [[7], [8], [9]]}


def test_the_gates_of_a_recurrent_unit_belong_together():
    model = keras.Sequential(
        [keras.Input((5, 3)), layers.LSTM(4, name="lstm"), layers.Dense(2, name="head")]
    )
    [group] = channel_groups(model)
    gates = [[i, 4 + i, 8 + i, 12 + i] for i in range(4)]
    assert {k[0].rpartition("/")[2]: v for k, v in places(group.producing).items()} == {
        "kernel": gates,
        "recurrent_kernel": gates,
        "bias": gates,
    }
    assert sorted(places(group.consuming).values()) == [column(range(4))] * 2


def test_heads_and_widths_of_attention_are_groups():
    x = inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3, value_dim=4)(x, x)
    groups = channel_groups(keras.Model(inputs, layers.Dense(2)(x)))
    assert sorted(g.channels for g in groups) == [2, 3, 4, 6]
    [heads] = [g for g in groups if g.channels == 2]
    assert {(s.axis, len(s.variable.shape)) for s in heads.producing} == {(1, 3), (0, 2)}
    assert [s.axis for s in heads.consuming] == [0]


def test_inputs_and_outputs_of_the_model_are_in_no_group():
    x = inputs = keras.Input((5,))
    x = layers.Add()([layers.Dense(5)(x), inputs])
    y = layers.Dense(4, name="hidden")(x)
    assert list(by_kernel(keras.Model(inputs, [layers.Dense(3)(y), x]))) == ["hidden/kernel"]


def test_what_a_layer_normalization_sees_is_in_no_group():
    sizes = [g.channels for g in channel_groups(vit())]
    # Heads, widths of query and key, widths of the values and hidden units of two blocks; on JAX
    # the widths have to stay equal.
    widths = [4] if keras.backend.backend() == "jax" else [4, 4]
    assert sorted(sizes) == sorted([4, *widths, 48] * 2)


def test_layers_choose_the_groups():
    x = inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 7, name="table")(x)
    x = layers.Conv1D(8, 1, name="a")(x)
    x = layers.Add()([layers.Conv1D(5, 1, name="b")(x), layers.Conv1D(5, 1, name="c")(x)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    assert [set(name.split(", ")) for name in by_kernel(model)] == [
        {"a/kernel"},
        {"b/kernel", "c/kernel"},
    ]
    assert list(by_kernel(model, ["a"])) == ["a/kernel"]
    assert list(by_kernel(model, ["b"])) == []
    assert len(by_kernel(model, ["b", "c"])) == 1
    assert list(by_kernel(model, ["table"])) == ["table/embeddings"]
    assert list(by_kernel(model, lambda layer: layer.name == "a")) == ["a/kernel"]
    with pytest.raises(ValueError, match="nowhere"):
        channel_groups(model, ["nowhere"])


def test_a_whole_group_of_a_grouped_convolution_is_one_channel():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 1, name="first"),
            layers.Conv2D(12, 3, groups=4, name="grouped"),
            layers.Conv2D(2, 1, name="last"),
        ]
    )
    [group] = channel_groups(model)
    assert group.channels == 4
    assert places(group.producing)["first/kernel", 3] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert places(group.producing)["grouped/kernel", 3][1] == [3, 4, 5]


def test_reshaped_heads_go_whole():
    x = inputs = keras.Input((5, 6))
    x = ops.reshape(layers.Dense(12, name="dense")(x), (-1, 5, 4, 3))
    x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, 60))
    [group] = channel_groups(keras.Model(inputs, layers.Dense(2)(x)))
    assert places(group.producing)["dense/kernel", 1] == np.arange(12).reshape(4, 3).tolist()


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_nothing_reads_a_channel_whose_producers_are_zero(build):
    # What a dead channel is multiplied with afterwards can be anything.
    model = randomize(build())
    rng = np.random.default_rng(0)
    values = {id(w): np.array(to_numpy(w)) for w in model.weights}
    variables = {id(w): w for w in model.weights}
    dead = []
    for group in channel_groups(model):
        chosen = rng.random(group.channels) < 0.4
        dead.append((group, chosen))
        for piece in group.producing:
            along = np.moveaxis(values[id(piece.variable)], piece.axis, 0)
            along[piece.indices[chosen].reshape(-1)] = 0
    for key, variable in variables.items():
        variable.assign(values[key])
    masked = keras.models.clone_model(model)
    masked.set_weights(model.get_weights())
    changed = 0
    for group, chosen in dead:
        for piece in (*group.consuming, *group.states):
            rows = piece.indices[chosen].reshape(-1)
            along = np.moveaxis(values[id(piece.variable)], piece.axis, 0)
            # A dead channel's own columns stay zero where a kernel is read and produced by it.
            along[rows] = np.where(along[rows] == 0, 0, rng.uniform(0.5, 2, along[rows].shape))
            changed += rows.size
    assert changed
    for key, variable in variables.items():
        variable.assign(values[key])
    inputs = random_inputs(model)
    if isinstance(model.input, dict):
        inputs = dict(zip(sorted(model.input), inputs, strict=True))
    assert largest_difference(masked, model, inputs) <= 1e-4


def test_groups_do_not_overlap_and_say_what_they_index():
    model = resnet20()
    seen = {id(w): np.zeros(w.shape, bool) for w in model.weights}
    for group in channel_groups(model):
        for piece in group.producing:
            assert piece.indices.shape[0] == group.channels
            along = np.moveaxis(seen[id(piece.variable)], piece.axis, 0)
            assert not along[piece.indices].any()
            along[piece.indices] = True


def test_rules_are_registered_for_classes_only():
    with pytest.raises(ValueError, match="Expected layer or operation classes"):
        register_rule("Dense")


def test_a_subclass_with_a_call_of_its_own_does_not_inherit_the_rule():
    class Half(layers.Dense):
        def call(self, inputs):
            return super().call(inputs)[..., ::2]

    class Named(layers.Dense):
        pass

    x = inputs = keras.Input((4,))
    x = layers.Dense(6, name="a")(Named(8, name="named")(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert set(by_kernel(model)) == {"named/kernel", "a/kernel"}
    x = layers.Dense(6, name="a")(inputs)
    with pytest.warns(UserWarning, match="Half 'half'"):
        assert by_kernel(keras.Model(inputs, layers.Dense(2)(Half(8, name="half")(x)))) == {}


def test_the_axes_of_a_weight_must_fit_it():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    graph = ChannelGraph(model)
    axis = graph.weights[id(model.layers[0].kernel)].axes[1]
    graph._node = graph.function.layers[1]._inbound_nodes[0]
    with pytest.raises(ValueError, match="Expected one axis"):
        graph.weight(model.layers[1].kernel, [axis])
