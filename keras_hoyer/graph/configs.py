"""Configs with other sizes: which entries of a layer's config are the widths that change."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# The shapes of the weights of a layer.
Shapes = list[tuple[int, ...]]

# How many combinations of entries are tried: each takes building a layer.
MOST = 8

# How many times a width an entry may be: gated units say both halves in one number.
TIMES = (2, 3, 4)


def find_updates(
    config: dict[str, Any],
    sizes: Iterable[tuple[int, int]],
    expected: Shapes,
    shapes_with: Callable[[dict[str, Any]], Shapes | None],
) -> dict[str, Any] | None:
    """The entries of a config with which a layer's weights have just the new shapes.

    Each whole number that could be one of the widths is changed by itself first; those that bring
    shapes nearer to the new ones, and no other shape away from them, are then changed together.
    Where that is not it, some combinations are tried.

    Args:
        config: of a layer; entries inside lists and dicts count too.
        sizes: the widths that change: before and after.
        expected: the shapes of the weights.
        shapes_with: the shapes of the weights of a layer that is made with some entries replaced,
            or None if none can be made.

    Returns:
        The top-level entries that change, with their new values, or None if there are none such.
    """
    base = shapes_with({})
    if base == expected:
        return {}
    sizes = [(before, after) for before, after in sizes if before != after]
    options = {place: list(_resized(_at(config, place), sizes)) for place in _places(config)}
    options = {place: found for place, found in options.items() if found}
    helpful: dict[tuple[Any, ...], int] = {}
    for place, found in options.items():
        for size in found:
            shapes = shapes_with(_changed(config, {place: size}))
            if shapes == expected:
                return _changed(config, {place: size})
            if base is not None and shapes is not None and _nearer(base, shapes, expected):
                helpful.setdefault(place, size)
    products = itertools.product(*([None, *found] for found in options.values()))
    together = [
        {place: size for place, size in zip(options, chosen, strict=True) if size is not None}
        for chosen in itertools.islice(products, 4096)
    ]
    together = sorted((changes for changes in together if len(changes) > 1), key=len)[:MOST]
    tries = [helpful, *together] if len(helpful) > 1 else together
    for changes in tries:
        updates = _changed(config, changes)
        if shapes_with(updates) == expected:
            return updates
    return None


def _nearer(base: Shapes, shapes: Shapes, expected: Shapes) -> bool:
    """Whether shapes differ from those of before only where these are not the expected ones."""
    if [len(shape) for shape in shapes] != [len(shape) for shape in expected]:
        return False
    sizes = zip(*(itertools.chain(*s) for s in (base, shapes, expected)), strict=True)
    changed = [(after, wanted) for before, after, wanted in sizes if before != after]
    return bool(changed) and all(after == wanted for after, wanted in changed)


def _changed(config: dict[str, Any], changes: dict[tuple[Any, ...], int]) -> dict[str, Any]:
    """The top-level entries of a config that change with the numbers at some places."""
    changed = config
    for place, size in changes.items():
        changed = _put(changed, place, size)
    return {key: value for key, value in changed.items() if value is not config[key]}


def _resized(entry: int, sizes: Iterable[tuple[int, int]]) -> Iterator[int]:
    """What an entry can become: the new width, or as many times the new one as it was before."""
    for times in (1, *TIMES):
        for before, after in sizes:
            if (before > 1 and entry == times * before) or (times == 1 and entry == before):
                yield times * after


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to the whole numbers in a config."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key not in ("build_config", "compile_config", "name", "seed"):
                yield from _places(entry, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            yield from _places(entry, (*path, index))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _put(value: Any, path: tuple[Any, ...], new: int) -> Any:
    """A copy of a value with another number at a place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(value[path[0]], path[1:], new)
    return tuple(copy) if isinstance(value, tuple) else copy
