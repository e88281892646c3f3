"""Which way each layer of a smaller model went, as a table."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_hoyer._tables import text_table
from keras_hoyer.graph.building import Builder
from keras_hoyer.graph.remaking import config_of

WIDTH = 100


def summary_of(model: keras.Model, small: keras.Model, builder: Builder) -> str:
    """A line for each layer of which something went, and the whole.

    Args:
        model: the model.
        small: the smaller one.
        builder: has made its layers.
    """
    rows: list[tuple[str, ...]] = [("layer", "class", "parameters", "left", "made as")]
    rows += _rows(builder) if builder.plan.whole is None else []
    whole = "a functional model"
    if builder.plan.whole is not None:
        whole = f"the same class, {_changes(model, builder.plan.whole)}"
    elif type(small) is type(model):
        whole = "the same class"
    rows.append((model.name, type(model).__name__, *_counts(model, small), whole))
    return text_table(rows, right=[2, 3], width=WIDTH)


def _rows(builder: Builder) -> Iterator[tuple[str, ...]]:
    for old, new in builder.made.values():
        if not isinstance(old, keras.Layer) or old is builder.graph.model:
            continue
        if old.count_params() == new.count_params():
            continue
        made_as = "the same class"
        if id(old) in builder.in_place:
            made_as = "plain layers in its place"
        elif id(old) in builder.plan.updates:
            made_as += f", {_changes(old, builder.plan.updates[id(old)])}"
        yield old.name, type(old).__name__, *_counts(old, new), made_as


def _counts(old: keras.Layer, new: keras.Layer) -> tuple[str, str]:
    return f"{old.count_params():,}", f"{new.count_params():,}"


def _changes(old: keras.Layer, updates: dict[str, Any]) -> str:
    """The entries of a config that changed; what is inside others is only named."""
    config = config_of(old) or {}
    parts = [
        f"{name}: {config[name]} to {value}" if isinstance(value, int) else name
        for name, value in updates.items()
    ]
    return ", ".join(parts) or "by the sizes of its inputs"
