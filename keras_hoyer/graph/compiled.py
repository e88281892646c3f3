"""Compile settings, carried over to a model with the same outputs."""

from typing import Any

import keras

from keras_hoyer import _keras
from keras_hoyer._checks import warn
from keras_hoyer.graph.copying import copy_from_config
from keras_hoyer.graph.opening import adds_losses

# What a class of models may do in its own way, beside `call`.
_OF_TRAINING = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def carry_compile(model: keras.Model, new: keras.Model) -> None:
    """Compiles a model as another one; the optimizer starts afresh.

    Losses and functions are the same objects, metrics and the optimizer are made anew. What cannot
    be is said in a warning, and the model is left without compile settings.
    """
    left = [f"`{name}`" for name in _OF_TRAINING if _differs(model, new, name)]
    if type(new) is not type(model) and adds_losses(model):
        left.append("`add_loss` in the `call`")
    if left:
        warn(
            f"The smaller model is a plain {type(new).__name__} model: the {', '.join(left)} of "
            f"{type(model).__name__} is left behind."
        )
    if not model.compiled:
        return
    try:
        settings = _keras.compile_arguments(model)
        settings["auto_scale_loss"] = _is_scaled(model.optimizer)
        settings["optimizer"] = _optimizer(model, settings["optimizer"])
        for kind in ("metrics", "weighted_metrics"):
            settings[kind] = _fresh(settings[kind])
        new.compile(**settings)
        if new.optimizer is not None:
            new.optimizer.build(new.trainable_variables)
    except Exception as error:  # whatever a foreign optimizer, loss or metric raises
        new.compiled = False
        warn(
            f"The compile settings of the model '{model.name}' could not be carried over "
            f"({type(error).__name__}: {error}). Call `compile` on the smaller model."
        )


def _differs(model: keras.Model, new: keras.Model, name: str) -> bool:
    return getattr(type(model), name) is not getattr(type(new), name)


def _optimizer(model: keras.Model, given: Any) -> Any:
    """A new optimizer with the settings that the model's has now."""
    optimizer = model.optimizer
    if _is_scaled(optimizer) and not _is_scaled(given):
        optimizer = optimizer.inner_optimizer  # `compile` wraps it anew
    return given if optimizer is None else copy_from_config(optimizer)


def _is_scaled(optimizer: Any) -> bool:
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _fresh(metrics: Any) -> Any:
    if isinstance(metrics, dict):
        return {name: _fresh(metric) for name, metric in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [_fresh(metric) for metric in metrics]
    if isinstance(metrics, keras.Metric):
        metric = copy_from_config(metrics)
        metric.reset_state()
        return metric
    return metrics
