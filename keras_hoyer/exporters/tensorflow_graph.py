"""A model as a TensorFlow function of named flat tensors, which both converters start from."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_hoyer.exporters import signatures


def function_of(model: keras.Model, signature: signatures.Signature) -> Any:
    """A `tf.function` that takes the signature's inputs in order and returns a dict of outputs.

    Args:
        model: a built model; Keras runs on TensorFlow.
        signature: what it takes; open sizes stay open in the function.
    """
    import tensorflow as tf  # noqa: PLC0415

    specs = [tf.TensorSpec(i.shape, i.dtype, name=i.name) for i in signature.inputs]

    @tf.function(input_signature=specs, autograph=False)
    def serve(*tensors: Any) -> dict[str, Any]:
        names, outputs = signature.call(model, list(tensors))
        return dict(zip(names, outputs, strict=True))

    return serve


def resources_of(model: keras.Model) -> list[Any]:
    """The lookup tables of a model, which a saved function needs beside its variables."""
    import tensorflow as tf  # noqa: PLC0415

    kind = tf.saved_model.experimental.TrackableResource
    return [part for part in tf.train.TrackableView(model).descendants() if isinstance(part, kind)]


def has_loops(function: Any) -> bool:
    """Whether a function has loops or branches, itself or in a function that it calls."""
    definition = function.get_concrete_function().graph.as_graph_def()
    called = (node for part in definition.library.function for node in part.node_def)
    kinds = {node.op for node in (*definition.node, *called)}
    return not kinds.isdisjoint({"While", "StatelessWhile", "If", "StatelessIf", "Case"})


def frozen(function: Any) -> tuple[Any, list[str], list[str]]:
    """A function's graph with every weight and constant in it.

    Args:
        function: what `function_of` gives.

    Returns:
        The `GraphDef`, the names of its inputs and those of its outputs, `name:0` each.
    """
    from tensorflow.python.framework.convert_to_constants import (  # noqa: PLC0415
        convert_variables_to_constants_v2,
    )

    concrete = function.get_concrete_function()
    graph = convert_variables_to_constants_v2(
        concrete, lower_control_flow=False, aggressive_inlining=True
    )
    definition = graph.graph.as_graph_def(add_shapes=True)
    # Keras compiles grouped convolutions by XLA, as eager TensorFlow has none on CPUs. The mark
    # keeps the call from being inlined, and no converter knows it.
    for part in (*definition.node, *definition.library.function):
        part.attr.pop("_XlaMustCompile", None)
        part.attr.pop("_noinline", None)
    return definition, [t.name for t in graph.inputs], [t.name for t in graph.outputs]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what TensorFlow and tf2onnx say while they convert; errors still raise.

    A user can do nothing about it: where a file went that is deleted again, which of their own
    classes are to go, which of NumPy's names they still use.
    """
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is depr")
            warnings.filterwarnings("ignore", message="Statistics for quantized inputs")
            warnings.filterwarnings("ignore", message="In the future `np.object`")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
