"""What README.md and docs/export.md showed at the first release can still be typed.

The lists are what stood there (at commit e761954), not what stands there now: they never change.
"""

import ast
import inspect
from functools import reduce

import keras
import numpy as np
import pytest

import keras_hoyer as kh
from keras_hoyer import exporters

# The arguments of each public name, in their order, with their defaults.
ARGUMENTS = {
    "kh.ExportError": ("step", "reason", "candidates=()"),
    "kh.GroupHoyer": ("factor=0.0001", "axis=-1", "pattern=None", "normalize=False"),
    "kh.GroupHoyerSquare": ("factor=0.0001", "axis=-1", "pattern=None", "normalize=False"),
    "kh.GroupLasso": ("factor=0.0001", "axis=-1", "pattern=None"),
    "kh.Hoyer": ("factor=0.0001", "normalize=False"),
    "kh.HoyerSquare": ("factor=0.0001", "normalize=False"),
    "kh.TransformedL1": ("factor=0.0001", "a=1.0"),
    "kh.callbacks.BudgetPruning": ("budget", "baseline=None", "monitor='val_accuracy'"),
    "kh.callbacks.Pruning": (
        "criterion",
        "schedule",
        "pattern=Unstructured()",
        "layers=None",
        "keep_penalty=False",
    ),
    "kh.check_sparse_inference": ("model", "target='arm64'"),
    "kh.count_flops": ("model",),
    "kh.criteria.HoyerThreshold": ("ratio=1.0",),
    "kh.criteria.StdThreshold": ("ratio",),
    "kh.criteria.TargetFlops": ("fraction", "scope='global'"),
    "kh.criteria.TargetSparsity": ("sparsity", "scope='global'"),
    "kh.criteria.Threshold": ("value",),
    "kh.export": (
        "model",
        "filepath",
        "format=None",
        "quantize=None",
        "representative_data=None",
        "sparse='auto'",
        "tolerance=None",
        "optimize_for='size'",
        "io_dtype='float32'",
    ),
    "kh.keep_zeros": ("model", "layers=None"),
    "kh.load_sparse_weights": ("model", "filepath"),
    "kh.measures.effective_count": ("array",),
    "kh.measures.hoyer_sparsity": ("array",),
    "kh.measures.trimming_threshold": ("array",),
    "kh.patterns.Block": ("shape",),
    "kh.patterns.Channel": ("score='l2'", "min_channels=1", "multiple_of=1"),
    "kh.patterns.NByM": ("n", "m", "axis=-2"),
    "kh.patterns.Unstructured": (),
    "kh.prune": ("model", "criterion", "pattern=Unstructured()", "layers=None"),
    "kh.register_rule": ("*classes",),
    "kh.regularize": ("model", "regularizer", "layers=None", "groups=None"),
    "kh.report": ("model", "layers=None"),
    "kh.schedules.OneShot": ("epoch",),
    "kh.schedules.Polynomial": ("begin", "end", "power=3", "frequency=1"),
    "kh.shrink": ("model", "check=True", "sample=None"),
    "kh.strip": ("model",),
    "exporters.scipy_matrices": ("filepath", "max_bytes=None"),
}

# Arguments that are given by name alone, with their defaults.
BY_NAME = {
    "kh.callbacks.BudgetPruning": (
        "mode='auto'",
        "begin=None",
        "step=0.3",
        "min_step=0.05",
        "patience=3",
        "pattern=Unstructured()",
        "layers=None",
    ),
    "kh.register_rule": ("follows_constants=False",),
}

# Calls as README and docs wrote them. What takes no model is called; of the others the arguments
# must fit.
CALLS = (
    "kh.HoyerSquare(1e-4)",
    "kh.regularize(pretrained, kh.HoyerSquare(1e-4))",
    "kh.callbacks.Pruning(kh.criteria.StdThreshold(0.03), schedule=kh.schedules.OneShot(epoch=60))",
    "kh.report(model)",
    "kh.strip(model)",
    'kh.export(model, "model.tflite")',
    'kh.regularize(model, kh.GroupHoyerSquare(1e-4), groups="coupled")',
    "kh.callbacks.Pruning("
    "kh.criteria.TargetFlops(0.5), kh.schedules.OneShot(epoch=60), kh.patterns.Channel())",
    "kh.shrink(model)",
    "kh.shrink(model, sample=x)",
    'kh.export(small, "small.tflite", quantize="int8", representative_data=x[:200])',
    'kh.export(model, "model.tflite", sparse="auto")',
    'kh.export(model, "model.tflite", quantize="float16")',
    'kh.export(model, "model.tflite", optimize_for="latency")',
    'kh.export(model, "model.tflite", quantize="int8", io_dtype="uint8", tolerance=0.2)',
    'kh.criteria.TargetFlops(0.5, scope="layer")',
    'kh.criteria.TargetSparsity(0.9, scope="global")',
    "kh.patterns.Block((4, 1))",
    "kh.patterns.Block((16, 1))",
    "kh.patterns.NByM(2, 4)",
    "kh.GroupHoyerSquare(axis=-1)",
    "kh.GroupHoyer(axis=(-2, -1))",
    "kh.GroupHoyerSquare(pattern=kh.patterns.Block((4, 1)))",
    "kh.TransformedL1(1e-4, a=1e6)",
    "kh.schedules.Polynomial(0, 8)",
    "kh.callbacks.BudgetPruning(budget=0.002, begin=20)",
    "kh.callbacks.BudgetPruning(0.002, baseline=0.98)",
    "kh.keep_zeros(model)",
    "kh.load_sparse_weights(model, path)",
    "exporters.scipy_matrices(path)",
    "kh.check_sparse_inference(model)",
)

# What is read of results.
ATTRIBUTES = {
    "report": "total nonzero sparsity held overwritten layers parameters flops flops_left to_dict",
    "kernel": "name shape total nonzero sparsity held overwritten hoyer effective channels "
    "zero_channels flops flops_left fixed",
    "result": "path format bytes dense_bytes max_error tolerance candidates tensors notes ratio "
    "to_dict",
    "tensor": "name shape dtype storage sparsity",
}


def find(name):
    return reduce(getattr, name.split(".")[1:], globals()[name.split(".")[0]])


def written(parameter):
    star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
    return f"{star}{parameter.name}{default}"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_keep_their_places_and_their_defaults(name):
    parameters = inspect.signature(find(name)).parameters.values()
    ordered = [written(p) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    named = {written(p) for p in parameters}
    released = ARGUMENTS[name]
    assert tuple(ordered[: len(released)]) == released
    assert named >= set(BY_NAME.get(name, ()))
    # An old call gives no argument that came since.
    rest = [p for p in parameters if p.name not in str((released, BY_NAME.get(name)))]
    assert all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in rest)


@pytest.mark.parametrize("call", CALLS)
def test_calls_of_the_readme_and_the_docs_still_fit(call):
    names = dict.fromkeys(("model", "small", "pretrained", "path"))
    names |= {"kh": kh, "exporters": exporters, "x": np.zeros((300, 2))}
    tree = ast.parse(call, mode="eval").body
    if isinstance(tree.args[0] if tree.args else None, ast.Name):
        given = [eval(ast.unparse(arg), names) for arg in tree.args]
        named = {kw.arg: eval(ast.unparse(kw.value), names) for kw in tree.keywords}
        inspect.signature(find(ast.unparse(tree.func))).bind(*given, **named)
    else:
        assert eval(call, names) is not None


def dense():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, "relu", name="hidden"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def test_what_the_readme_does_is_done(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 8), "float32"), rng.random((32, 2), "float32")
    model = kh.regularize(dense(), kh.GroupHoyerSquare(1e-4), groups="coupled")
    pruning = kh.callbacks.Pruning(
        kh.criteria.TargetFlops(0.5), kh.schedules.OneShot(epoch=1), kh.patterns.Channel()
    )
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[pruning])
    assert "sparsity" in history.history

    report = kh.report(model)
    assert all(hasattr(report, name) for name in ATTRIBUTES["report"].split())
    assert all(hasattr(report.layers[0], name) for name in ATTRIBUTES["kernel"].split())
    small = kh.strip(kh.shrink(model, sample=x))
    assert sum(kh.count_flops(small).values()) == report.flops_left < report.flops
    assert not kh.check_sparse_inference(small)

    result = kh.export(small, tmp_path / "small.npz")
    assert all(hasattr(result, name) for name in ATTRIBUTES["result"].split())
    assert all(hasattr(result.tensors[0], name) for name in ATTRIBUTES["tensor"].split())
    small.layers[-1].kernel.assign(small.layers[-1].kernel * 0)
    kh.load_sparse_weights(small, result.path)
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("criterion", "pattern"),
    [
        (kh.criteria.Threshold(0.1), kh.patterns.Unstructured()),
        (kh.criteria.StdThreshold(1.0), kh.patterns.Block((4, 1))),
        (kh.criteria.HoyerThreshold(), kh.patterns.Unstructured()),
        (kh.criteria.TargetSparsity(0.5), kh.patterns.NByM(2, 4)),
        (kh.criteria.TargetSparsity(0.5, scope="layer"), kh.patterns.Unstructured()),
    ],
)
def test_each_criterion_of_the_readme_cuts(criterion, pattern):
    model = dense()
    pruned = kh.prune(model, criterion, pattern, layers=["hidden"])
    assert 0 < pruned.layers[0].sparsity < 1
    assert isinstance(model.layers[0].kernel.constraint, keras.constraints.Constraint)
    assert kh.keep_zeros(model).held == kh.report(model).held


def test_budget_pruning_and_the_measures_of_the_readme_run():
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 8), "float32"), rng.random((32, 2), "float32")
    cut = kh.callbacks.BudgetPruning(0.5, monitor="val_mae", mode="min", begin=1, patience=1)
    dense().fit(x, y, epochs=3, validation_data=(x, y), verbose=0, callbacks=[cut])
    kernel = np.array([3.0, 0.0, 0.0, -4.0])
    assert kh.measures.effective_count(kernel) == pytest.approx(49 / 25)
    assert kh.measures.trimming_threshold(kernel) == pytest.approx(25 / 7)
    assert 0 < kh.measures.hoyer_sparsity(kernel) < 1
    for name in ("Hoyer", "HoyerSquare", "GroupHoyer", "GroupHoyerSquare", "GroupLasso"):
        assert float(getattr(kh, name)(1.0)(kernel.reshape(2, 2).astype("float32"))) > 0
    assert issubclass(kh.ShrinkError, Exception) and issubclass(kh.ExportError, Exception)


def test_a_rule_is_registered_as_the_readme_says():
    class Gain(keras.layers.Layer):
        def build(self, input_shape):
            self.gain = self.add_weight(shape=(input_shape[-1],), name="gain")

        def call(self, inputs):
            return inputs * self.gain

    @kh.register_rule(Gain)
    def rule(graph, layer, inputs):
        channels = inputs.axes[-1]
        graph.weight(layer.gain, [channels])
        return inputs

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(Gain(name="gain")(hidden)))
    kh.prune(model, kh.criteria.TargetSparsity(0.5), kh.patterns.Channel(), layers=["first"])
    assert kh.shrink(model).get_layer("first").units == 3
