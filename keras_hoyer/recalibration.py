"""New moving statistics for BatchNormalization, without training."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_hoyer._checks import check_count, warn
from keras_hoyer._data import batches_of, call_on, check_data, count_batches
from keras_hoyer._keras import flatten_layers
from keras_hoyer._progress import step
from keras_hoyer.kept import left_as_it_is


def recalibrate(
    model: keras.Model, data: Any, batches: int | None = None, batch_size: int = 32
) -> keras.Model:
    """Sets the moving statistics of BatchNormalization to those of data; nothing else changes.

    A cut changes what reaches each BatchNormalization, whose moving mean and variance are still
    those of before. Right after a cut this gives back part of what it cost, and makes accuracies
    before any fine-tuning comparable.

    The new statistics are the means, over samples, of the mean and the variance of each batch. Each
    layer normalizes with those of the batch meanwhile, as in training; all others, such as Dropout,
    work as in inference. Larger batches are closer to the statistics of all data.

    Args:
        model: A built Keras model. It is changed in place.
        data: Samples as `export` takes for `representative_data`: an array, or a list or dict of
            arrays for several inputs; a pair `(x, y)`, whose labels are not looked at; or batches:
            a `tf.data.Dataset`, a `PyDataset`, a `DataLoader`, or a function that returns a
            generator.
        batches: Number of batches to read at most. Defaults to `None`: all.
        batch_size: Number of samples of a batch, where `data` are arrays. Defaults to 32.

    Returns:
        The same model.

    Raises:
        ValueError: If an argument is of the wrong kind, or there are no data.

    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((1,)), norm])
    >>> model = keras_hoyer.recalibrate(model, np.array([[1.0], [3.0]]))
    >>> float(norm.moving_mean.numpy()[0]), float(norm.moving_variance.numpy()[0])
    (2.0, 1.0)
    """
    check_data(data)
    check_count("batch_size", batch_size, 1)
    if batches is not None:
        check_count("batches", batches, 1)
    layers = [
        layer
        for layer in (model, *flatten_layers(model))
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not layers:
        warn(f"Model '{model.name}' has no BatchNormalization: there is nothing to recalibrate.")
        return model
    statistics = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    total = count_batches(data, batch_size, batches)
    with left_as_it_is(model, but=statistics), contextlib.ExitStack() as stack:
        progress = stack.enter_context(step("recalibrating: batch", total))
        averages = [stack.enter_context(_averaging(layer)) for layer in layers]
        for batch in progress.count(batches_of(model, data, batch_size, batches)):
            call_on(model, batch.x)
    unseen = [layer.name for layer, seen in zip(layers, averages, strict=True) if not seen[0]]
    if unseen:
        warn(f"Not called on the data, so left as they were: {', '.join(unseen)}.")
    return model


@contextlib.contextmanager
def _averaging(layer: Any) -> Iterator[list[float]]:
    """A scope in which a BatchNormalization takes the mean of all that it sees.

    Yields:
        A list of one number, of the samples that it has seen so far.
    """
    seen = [0.0]
    call, momentum, trainable = layer.call, layer.momentum, layer.trainable
    flags = [(variable, variable.trainable) for variable in layer.variables]
    own = vars(layer).get("call")
    vars(layer)["call"] = _in_training(layer, call, seen)
    try:
        layer.trainable = True  # a frozen one works as in inference
        yield seen
    finally:
        layer.trainable = trainable
        for variable, flag in flags:  # which the layer's own flag has overwritten
            if variable.trainable != flag:
                variable.trainable = flag
        layer.momentum = momentum
        vars(layer).pop("call")
        if own is not None:
            vars(layer)["call"] = own


def _in_training(layer: Any, call: Callable[..., Any], seen: list[float]) -> Callable[..., Any]:
    signature = inspect.signature(call)

    @functools.wraps(call)
    def trained(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.arguments["training"] = True
        samples = float(ops.shape(given.args[0])[0])
        seen[0] += samples
        # With a moving mean of this momentum all samples weigh the same.
        layer.momentum = 1 - samples / seen[0]
        return call(*given.args, **given.kwargs)

    return trained
