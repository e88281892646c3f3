"""Configs with other sizes: which entries of a layer's config are the widths that change."""

import enum
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

    Each whole number that could be one of the widths is changed by itself first. Those that bring
    shapes to the new ones, and no other shape away from them, are then changed together. Where that
    is not it, they are tried with some combinations of those that may need others beside them.

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
    helpful: dict[tuple[Any, ...], int] = {}
    doubtful: dict[tuple[Any, ...], list[int]] = {}
    tried = []
    for place in _places(config):
        for size in dict.fromkeys(_resized(_at(config, place), sizes)):
            tried.append({place: size})
            shapes = shapes_with(_changed(config, tried[-1]))
            if shapes == expected:
                return _changed(config, tried[-1])
            effect = _effect(base, shapes, expected)
            if effect is _Effect.RIGHT:
                helpful[place] = size
                doubtful.pop(place, None)
                break
            if effect is _Effect.UNKNOWN:
                doubtful.setdefault(place, []).append(size)
    for changes in _together(helpful, doubtful):
        if changes not in tried:
            updates = _changed(config, changes)
            if shapes_with(updates) == expected:
                return updates
    return None


class _Effect(enum.Enum):
    """What the change of one entry does: only what is wanted, perhaps a part of it, or neither."""

    RIGHT = enum.auto()
    UNKNOWN = enum.auto()
    WRONG = enum.auto()


def _effect(base: Shapes | None, shapes: Shapes | None, expected: Shapes) -> _Effect:
    """What the change of one entry does to the shapes of before."""
    if base is None or shapes is None:
        return _Effect.UNKNOWN
    if not [*map(len, base)] == [*map(len, shapes)] == [*map(len, expected)]:
        return _Effect.WRONG
    sizes = zip(*(itertools.chain(*s) for s in (base, shapes, expected)), strict=True)
    changed = [(before, after, wanted) for before, after, wanted in sizes if before != after]
    if not changed or any(before == wanted for before, _, wanted in changed):
        return _Effect.WRONG
    right = all(after == wanted for _, after, wanted in changed)
    return _Effect.RIGHT if right else _Effect.UNKNOWN


def _together(
    helpful: dict[tuple[Any, ...], int], doubtful: dict[tuple[Any, ...], list[int]]
) -> list[dict[tuple[Any, ...], int]]:
    """Changes of several entries, the fewest first: those that help, and some of the others."""
    products = itertools.product(*([None, *sizes] for sizes in doubtful.values()))
    chosen = sorted(itertools.islice(products, 4096), key=lambda sizes: -sizes.count(None))
    return [
        helpful | {place: n for place, n in zip(doubtful, sizes, strict=True) if n is not None}
        for sizes in chosen[: MOST + 1]
    ]


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
