"""The private names of Keras do what the package expects of them."""

import sys
import threading

import keras
import numpy as np
import pytest

from keras_hoyer import _keras
from keras_hoyer.masks import KeepZeros


def test_the_optimizer_whose_step_is_computed_is_known_to_a_constraint():
    seen = []

    class Watch(keras.constraints.Constraint):
        def __call__(self, w):
            seen.append(_keras.current_optimizer())
            return keras.ops.convert_to_tensor(w)

    optimizer = keras.optimizers.SGD(0.1)
    variable = keras.Variable([1.0, 2.0])
    variable.constraint = Watch()
    optimizer.apply([keras.ops.ones(2)], [variable])
    assert seen == [optimizer]
    assert _keras.current_optimizer() is None


def test_a_lambda_is_built_from_its_config_where_it_is_trusted():
    layer = keras.layers.Lambda(lambda x: x + 1)
    with _keras.trusting():
        copy = keras.layers.Lambda.from_config(layer.get_config())
    assert float(copy(keras.ops.ones((1, 1)))[0, 0]) == 2


def test_a_callback_finds_the_others_of_its_fit():
    found = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.append(_keras.running_callbacks())

    callbacks = keras.callbacks.CallbackList([Look(), keras.callbacks.Callback()])
    callbacks.on_train_begin()
    # The list itself, in which a callback may take another place.
    assert len(found) == 1 and found[0] is callbacks.callbacks
    assert _keras.running_callbacks() is None


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x, training=None):
        return self.dense(x)


def test_the_arguments_that_keras_hands_to_every_layer_are_known():
    layer = keras.layers.Dense(2)
    assert "training" in _keras.context_arguments(layer)
    layer(keras.Input((3,)), training=False)  # dropped, as `call` has none
    assert "units" not in _keras.context_arguments(layer)


def test_a_model_remembers_what_it_was_built_with_and_called_on():
    model = Net()
    assert _keras.build_shapes(model) == {}
    model(keras.ops.ones((2, 3)))
    assert list(_keras.build_shapes(model).values()) == [(2, 3)]
    assert _keras.last_call(model) is None
    x = keras.Input((3,))
    model(x, training=False)
    args, kwargs = _keras.last_call(model)
    assert args[0] is x and kwargs["training"] is False


def test_a_call_that_does_not_follow_the_graph_is_known():
    class Own(keras.Model):
        def call(self, x):
            return x

    x = keras.Input((3,))
    plain = keras.Model(x, keras.layers.Dense(2)(x))
    assert _keras.follows_its_graph(plain)
    assert _keras.follows_its_graph(keras.Sequential([x, keras.layers.Dense(2)]))
    assert not _keras.follows_its_graph(Own(x, keras.layers.Dense(2)(x)))
    assert not _keras.follows_its_graph(Net())


def test_the_inputs_of_a_functional_model_keep_their_structure():
    x = keras.Input((3,), name="x")
    assert _keras.input_structure(keras.Model({"x": x}, x * 2)).keys() == {"x"}
    assert _keras.input_structure(Net()) is None


def test_a_mask_of_a_symbolic_tensor_is_known():
    x = keras.Input((5, 3))
    masked = keras.layers.Masking()(x)
    assert _keras.has_mask(masked)
    assert _keras.has_mask(keras.layers.Dense(2)(masked))
    assert not _keras.has_mask(x)
    assert not _keras.has_mask(keras.ops.relu(masked))


def test_a_model_without_a_call_is_known():
    assert _keras.has_call(Net())
    assert _keras.has_call(keras.Sequential())
    assert not _keras.has_call(type("Held", (keras.Model,), {})())
    assert not _keras.has_call(keras.layers.Layer())


def test_layers_are_found_at_any_depth():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="deep")])
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(1, name="flat")])
    names = {layer.name for layer in _keras.flatten_layers(model)}
    assert {"deep", "flat", inner.name} <= names and model.name not in names


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's operations")
def test_keras_looks_up_tensorflows_operations_at_each_call(monkeypatch):
    numpy, neural = _keras.tensorflow_operations()
    for module, name in [(numpy, "signbit"), (neural, "conv_transpose"), (neural, "max_pool")]:
        monkeypatch.setattr(module, name, lambda *args, name=name: name)
    x = keras.ops.ones((1, 2, 2, 1))
    assert keras.ops.signbit(x) == "signbit"
    assert keras.ops.max_pool(x, 2) == "max_pool"
    assert keras.ops.conv_transpose(x, x) == "conv_transpose"


def test_tf2onnx_is_patched_for_numpy():
    tf2onnx = pytest.importorskip("tf2onnx")
    _keras.patch_tf2onnx()
    assert "patched" in tf2onnx.tfonnx.rewrite_constant_fold.__name__


class Held(keras.Layer):
    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(2)
        self.parts = [keras.layers.Dropout(0.5)]
        self._self_made = 1

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(3,), name="scale", trainable=False)
        self.inner.build(input_shape)


def test_the_attributes_of_a_layer_are_those_of_its_class():
    layer = Held()
    layer.build((None, 3))
    assert set(_keras.attributes_of(layer)) == {"inner", "parts", "_self_made", "scale"}
    assert set(_keras.attributes_of(keras.Layer())) == set()
    assert set(_keras.settings_of(layer)) == {"_supports_masking", "supports_jit", "autocast"}


def test_an_empty_layer_is_finished_by_what_the_old_one_holds():
    layer = Held()
    layer.build((None, 3))
    new = _keras.empty_like(layer)
    assert (type(new), new.name, new.built) == (Held, layer.name, False)
    assert _keras.attributes_of(new) == {}
    _keras.finish_like(layer, new, lambda item: item)
    assert [id(v) for v in new.weights] == [id(v) for v in layer.weights]
    assert new.built
    with pytest.raises(ValueError, match="cannot add new elements"):
        new.more = keras.layers.Dense(1)


def test_a_variable_is_copied_with_its_settings():
    old = keras.Variable(np.ones(2), dtype="float32", trainable=False, name="ones")
    new = _keras.copy_variable(old)
    old.assign([3.0, 4.0])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(new), [1, 1])
    assert (new.name, new.path, new.dtype, new.trainable) == ("ones", old.path, "float32", False)


def test_what_compile_was_called_with_is_known():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    loss = keras.losses.Huber()
    model.compile("adam", loss, metrics=["mae"])
    found = _keras.compile_arguments(model)
    assert (found["loss"], found["metrics"]) == (loss, ["mae"])
    before = _keras.compilation_of(model)
    assert before is _keras.compilation_of(model)
    model.compile(**found)
    assert before is not _keras.compilation_of(model)


def test_a_layer_with_all_that_is_inside_it():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="deep")])
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(1, name="flat")])
    assert _keras.all_of(model)[0] is model
    assert set(_keras.all_of(model)) == {model, *_keras.flatten_layers(model)}
    assert _keras.all_of(inner.layers[0]) == [inner.layers[0]]
    assert {inner, model.layers[1]} <= set(_keras.parts_of(model))
    assert inner.layers[0] not in _keras.parts_of(model)


def test_variables_are_a_layers_own_and_learned_or_state():
    layer = Held()
    layer.build((None, 3))
    assert _keras.own_variables(layer) == [layer.scale]
    assert _keras.own_learned_variables(layer) == []
    norm = keras.layers.BatchNormalization()
    norm.build((None, 3))
    norm.trainable = False
    learned = {variable.name for variable in _keras.own_learned_variables(norm)}
    assert learned == {"gamma", "beta"}
    assert len(_keras.own_variables(norm)) == 4


@pytest.mark.parametrize(
    ("layer", "prefix"),
    [
        (keras.layers.MultiHeadAttention(2, 2, kernel_constraint="non_neg"), "_kernel"),
        (keras.layers.GroupQueryAttention(2, 2, 1, kernel_constraint="non_neg"), "kernel"),
        (keras.layers.SeparableConv1D(2, 2), "depthwise"),
    ],
)
def test_where_a_composite_layer_keeps_a_constraint(layer, prefix):
    found = _keras.carrier_prefix(layer, prefix.removeprefix("_"))
    assert found == prefix
    assert hasattr(layer, f"{found}_constraint") and hasattr(layer, f"{found}_regularizer")


def test_the_graph_is_followed_in_both_directions():
    x = keras.Input((3,))
    first, second = keras.layers.Dense(2), keras.layers.Dense(2)
    y = first(x)
    z = keras.layers.Add()([second(y), y])
    assert _keras.producer_of(y) is first
    assert [type(layer).__name__ for layer in _keras.readers_of(first)] == ["Dense", "Add"]
    (node,) = _keras.nodes_into(second)
    assert node.input_tensors[0] is y
    assert len(_keras.nodes_into(_keras.producer_of(z))[0].input_tensors) == 2


def test_moving_averages_belong_to_their_variables():
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    variables = [keras.Variable([4.0]), keras.Variable([8.0])]
    optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)], variables)
    optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)], variables)
    pairs = _keras.moving_averages(optimizer)
    assert [variable for variable, _ in pairs] == variables
    averages = [float(average[0]) for _, average in pairs]
    assert averages[1] - averages[0] == pytest.approx(4)


def test_a_policy_computes_in_one_dtype_and_stores_in_another():
    layer = keras.layers.Dense(2, dtype="float16")
    layer.build((None, 2))
    layer.dtype_policy = _keras.dtype_policy("float32", "float16")
    assert (layer.compute_dtype, layer.variable_dtype) == ("float32", "float16")
    assert keras.backend.standardize_dtype(layer(np.ones((1, 2), "float16")).dtype) == "float32"


def functional():
    x = keras.Input((3,))
    return keras.Model(x, keras.layers.Dense(2)(x))


# What a Keras of the future may have no more: the class, the name, and a function that reads it.
GONE = [
    (keras.Layer, "_flatten_layers", _keras.all_of),
    (keras.Layer, "_flatten_layers", _keras.flatten_layers),
    (keras.Layer, "_layers", _keras.parts_of),
    (keras.Layer, "_trainable_variables", _keras.own_variables),
    (keras.Layer, "_trainable_variables", _keras.own_learned_variables),
    (keras.Layer, "_build_shapes_dict", _keras.build_shapes),
    (keras.Layer, "_inbound_nodes", _keras.last_call),
    (keras.Layer, "_inbound_nodes", _keras.nodes_into),
    (keras.Layer, "_outbound_nodes", _keras.readers_of),
    (keras.Layer, "_tracker", lambda model: _keras.finish_like(model, model.layers[1], id)),
    (keras.KerasTensor, "_keras_history", lambda model: _keras.producer_of(model.inputs[0])),
    (keras.Model, "_compile_config", _keras.compile_arguments),
    (keras.Model, "_compile_config", _keras.compilation_of),
    (keras.Variable, "_autocast", lambda model: _keras.copy_variable(model.weights[0])),
    (
        keras.optimizers.Optimizer,
        "_model_variables_moving_average",
        lambda model: _keras.moving_averages(keras.optimizers.SGD()),
    ),
]


@pytest.mark.parametrize(("owner", "name", "use"), GONE)
def test_a_name_that_keras_has_no_more_is_named_in_an_error(owner, name, use, monkeypatch):
    model = functional()
    real = owner.__getattribute__

    def without(self, asked):
        if asked == name:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{asked}'")
        return real(self, asked)

    monkeypatch.setattr(owner, "__getattribute__", without)
    if "__getattr__" in dir(owner):  # PyTorch's modules look on where this ends
        monkeypatch.setattr(owner, "__getattr__", without)
    expected = rf"Keras {keras.__version__} lacks what keras_hoyer needs to .*{name}"
    with pytest.raises(RuntimeError, match=expected):
        use(model)


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("keras.src.saving.serialization_lib", lambda model: _keras.trusting()),
        ("keras.src.export", lambda model: _keras.patch_tf2onnx()),
        ("keras.src.backend.tensorflow", lambda model: _keras.tensorflow_operations()),
        ("keras.src.models", _keras.follows_its_graph),
    ],
)
def test_a_module_that_keras_has_no_more_is_named_in_an_error(module, use, monkeypatch):
    model = functional()
    inside = [name for name in sys.modules if name.startswith(f"{module}.")]
    for name in (module, *inside):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match=f"lacks what keras_hoyer needs to .*{module}"):
        use(model)


def test_masks_hold_where_keras_does_not_tell_which_optimizer_calls(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras.src.backend.common", None)
    keep = KeepZeros({"kernel": np.array([True, False])})
    with pytest.warns(UserWarning, match="does not tell which optimizer calls"):
        masked = keep(np.array([1.0, -2.0], "float32"))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(masked), [1, 0])


def test_a_regularizer_finds_whose_losses_are_read():
    seen = []

    class Ask(keras.regularizers.Regularizer):
        def __call__(self, x):
            seen.append(_keras.variables_whose_losses_are_read())
            return keras.ops.sum(x)

    model = keras.Sequential(
        [keras.Input((3,)), *[keras.layers.Dense(2, kernel_regularizer=Ask()) for _ in range(2)]]
    )
    assert len(model.losses) == 2
    for (variables, asked), layer in zip(seen, model.layers, strict=True):
        assert [id(v) for v in variables] == [id(v) for v in model.variables]
        assert asked is layer.kernel
    assert _keras.variables_whose_losses_are_read() == ([], None)


def test_calls_are_forgotten_and_those_before_are_not():
    x = keras.Input((3,))
    model = keras.Sequential([keras.layers.Dense(2)])
    model(x)
    inner = model.layers[0]
    before = _keras.nodes_into(inner), _keras.readers_of(inner)
    with _keras.forgetting_calls(model):
        keras.layers.Activation("relu")(inner(x))
        assert len(_keras.nodes_into(inner)) == len(before[0]) + 1
    assert (_keras.nodes_into(inner), _keras.readers_of(inner)) == before


def test_the_calls_that_tensors_come_from_each_after_what_it_needs():
    x = keras.Input((3,))
    first, second, last = keras.layers.Dense(2), keras.layers.Dense(2), keras.layers.Add()
    y = first(x)
    z = last([second(y), y])
    assert [node.operation for node in _keras.calls_of([z])] == [first, second, last]
    assert _keras.calls_of([x]) == []


def test_a_layer_whose_outputs_keras_cannot_foresee_is_gone_through():
    class Mute(keras.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def build(self, input_shape):
            self.dense.build(input_shape)

        def call(self, inputs):
            return self.dense(inputs)

        def compute_output_spec(self, inputs):
            raise NotImplementedError

    mute, gone = Mute(), []
    mute.build((None, 3))
    x = keras.Input((3,))
    with _keras.going_through([mute], gone):
        y = mute(x)
    assert gone == [mute]
    assert y.shape == (None, 2) and _keras.producer_of(y) is mute.dense
    assert "__call__" not in vars(Mute)
    assert _keras.nodes_into(mute) == [] and "__call__" not in vars(Mute)
    with pytest.raises(NotImplementedError):
        mute(x)


def test_a_part_is_set_though_the_layer_is_built():
    model = Net()
    model(keras.ops.ones((2, 3)))
    part = keras.layers.Dense(1)
    with pytest.raises(ValueError, match="cannot add new elements"):
        model.dense = part
    _keras.set_part(model, "dense", part)
    assert model.dense is part and part in _keras.parts_of(model)
    with pytest.raises(ValueError, match="cannot add new elements"):
        model.more = keras.layers.Dense(1)


def test_operations_are_known_by_name_as_far_as_keras_has_them():
    x = keras.Input((4, 4, 2))
    made = {
        "Roll": keras.ops.roll(x, 1, -1),
        "MaxPool": keras.ops.max_pool(x, 2),
        "Logsumexp": keras.ops.logsumexp(x, axis=1),
        "Norm": keras.ops.norm(x, axis=1),
        "Resize": keras.ops.image.resize(x, (2, 2)),
        "Cast": keras.ops.cast(x, "int32"),
    }
    found = _keras.operations(*made)
    assert found == [type(_keras.producer_of(y)) for y in made.values()]
    assert _keras.operations("Nothing", "Roll") == found[:1]


def test_layers_of_applications_are_known_by_name():
    [layer] = _keras.application_layers("convnext", "LayerScale", "Nothing")
    assert issubclass(layer, keras.Layer)
    assert _keras.application_layers("no_such_module", "LayerScale") == []


def test_the_dense_layers_of_attention_are_found():
    x = keras.Input((5, 6))
    for layer in (keras.layers.MultiHeadAttention(2, 3), keras.layers.GroupQueryAttention(3, 4, 2)):
        layer(x, x)
        parts = _keras.projections(layer)
        assert list(parts) == ["query", "key", "value", "output"]
        held = {id(v) for part in parts.values() for v in part.weights}
        assert held == {id(v) for v in layer.weights}
    assert _keras.projections(keras.layers.Dense(2)) == {}


def test_what_a_lambda_was_made_with():
    layer = keras.layers.Lambda(lambda x, by: x * by, output_shape=(3,), arguments={"by": 2})
    copy = keras.layers.Lambda(**_keras.lambda_arguments(layer))
    assert float(copy(keras.ops.ones((1, 1)))[0, 0]) == 2
    assert copy.compute_output_shape((1, 3)) == layer.compute_output_shape((1, 3))


def test_the_graph_of_a_model_and_its_calls():
    model = functional()
    stack = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a")])
    assert _keras.graph_of(model) is model
    assert [n.operation.name for n in _keras.calls_in_order(_keras.graph_of(stack))] == ["a"]
    assert _keras.graph_of(Net()) is None
    calls = _keras.calls_in_order(model)
    known = {id(x) for x in model.inputs}
    for node in calls:
        assert all(id(x) in known for x in node.input_tensors)
        known |= {id(x) for x in node.outputs}
    assert all(id(x) in known for x in model.outputs)


def test_the_attributes_of_a_graph_are_those_that_a_plain_model_lacks():
    names = _keras.graph_attributes()
    assert {"_nodes", "_operations", "_inputs_struct", "_functional"} <= names
    assert set(vars(functional())) <= names
    model = functional()
    model.mine = 1
    assert "mine" not in names


def test_outputs_are_known_as_they_were_given():
    x = keras.Input((3,))
    out = {"one": keras.layers.Dense(1)(x), "two": x}
    assert _keras.output_structure(keras.Model(x, out)) == out
    assert _keras.output_structure(Net()) is None


def test_random_generators_are_found_in_all_layers():
    dropout = keras.layers.Dropout(0.5)
    inner = keras.Sequential([keras.Input((3,)), dropout])
    model = keras.Sequential([inner, keras.layers.Dense(2)])
    assert _keras.seed_generators(model) == [dropout.seed_generator]


def test_layers_are_gone_through_by_several_threads_and_keep_their_class_as_it_is():
    class Pair(keras.Layer):
        def call(self, inputs):
            return inputs, None

    found = []

    def trace(layer):
        for _ in range(20):
            gone = []
            with _keras.going_through([layer], gone):
                found.append(layer(keras.Input((3,)))[1] is None and gone == [layer])

    threads = [threading.Thread(target=trace, args=(Pair(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all(found)
    assert "__call__" not in vars(Pair)


def test_a_regularizer_finds_what_its_fit_was_given_as_callbacks():
    seen = []

    class Look(keras.regularizers.Regularizer):
        def __call__(self, x):
            seen.append(_keras.callbacks_of_fit())
            return 0.0 * keras.ops.sum(x)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_regularizer=Look())])
    model.compile("sgd", "mse")
    given = keras.callbacks.Callback()
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[given])
    assert seen and all(given in found for found in seen)
    seen.clear()
    _ = model.losses
    assert seen == [None]


def test_the_learning_rates_to_come_are_those_of_the_schedule():
    decay = keras.optimizers.schedules.CosineDecay(0.5, 40)
    for optimizer in (
        keras.optimizers.SGD(decay),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(decay)),
    ):
        rates = _keras.planned_rates(optimizer, 10, 4)
        np.testing.assert_allclose(rates, [float(decay(step)) for step in (5, 15, 25, 35)])
        assert _keras.learning_rate_now(optimizer) == 0.5
    assert _keras.planned_rates(keras.optimizers.SGD(0.1), 10, 4) == []
    assert _keras.planned_rates(None, 10, 4) == [] and _keras.learning_rate_now(None) == 1


def test_a_compiled_step_reads_what_is_held_beside_the_weights():
    number = keras.Variable(1.0, trainable=False)

    class Look(keras.regularizers.Regularizer):
        def __call__(self, x):
            return number * keras.ops.ones(())

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_regularizer=Look())])
    model.compile("sgd", lambda y, outputs: 0.0 * outputs)
    weights = list(model.weights)
    _keras.hold_beside_weights(model, [number], "test")
    _keras.hold_beside_weights(model, [number], "test")
    assert len(model.variables) >= len(weights) + 1 and model.weights == weights
    assert not _keras.seed_generators(model)

    class Set(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            number.assign(float(epoch))

    data = np.ones((2, 2), "float32"), np.ones((2, 1), "float32")
    history = model.fit(*data, epochs=3, verbose=0, callbacks=[Set()]).history
    np.testing.assert_allclose(history["loss"], [0, 1, 2])
    _keras.release_beside_weights(model, "another")
    assert any(variable is number for variable in model.variables)
    _keras.release_beside_weights(model, "test")
    assert not any(variable is number for variable in model.variables)


def test_what_a_layer_was_made_with_is_known_where_it_is_plain():
    assert _keras.made_with(keras.layers.Identity()) == {}
    assert _keras.made_with(Scaled(3))["factor"] == 3
    assert _keras.made_with(Scaled(np.ones(2))) == {}


class Scaled(keras.layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor


def test_a_policy_has_a_name_if_the_name_makes_it_again():
    assert _keras.policy_name(keras.DTypePolicy("mixed_float16")) == "mixed_float16"
    assert _keras.policy_name(_keras.dtype_policy("float64", "float32")) is None


def test_sizes_and_variables_are_not_lost_while_layers_are_gone_through():
    dense = keras.layers.EinsumDense("ab,bcd->acd", (3, 4))
    dense.build((None, 2))
    x = keras.Input((2,), batch_size=5)
    with _keras.going_through([dense], []):
        assert dense(x).shape == (5, 3, 4)
        assert isinstance(keras.Variable(2.0) * x, keras.KerasTensor)
        assert isinstance(keras.ops.ones(2) + x, keras.KerasTensor)
        assert float(keras.Variable(2.0) * 3.0) == 6


def test_variables_without_values_have_shapes_and_get_no_values_later():
    with _keras.without_values():
        dense = keras.layers.Dense(3, kernel_initializer=_never)
        dense.build((None, 2))
    keras.Variable(1.0)
    with keras.StatelessScope():
        pass  # at the end of which Keras gives values to what waits for them
    assert [tuple(v.shape) for v in dense.weights] == [(2, 3), (3,)]


def _never(shape, dtype=None):
    raise AssertionError("A value was drawn.")
