"""Configs with other sizes: which entries of a layer's config are the widths that change."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

# How many configs are tried: each takes building a layer.
MOST = 64

# How many times a width an entry may be: gated units say both halves in one number.
TIMES = (2, 3, 4)


def resized_configs(
    config: dict[str, Any], sizes: Iterable[tuple[int, int]], most: int = MOST
) -> Iterator[dict[str, Any]]:
    """The config with some of its whole numbers changed, those with the fewest changes first.

    Args:
        config: of a layer; entries inside lists and dicts count too.
        sizes: the widths that change: before and after.
        most: how many are tried.

    Yields:
        The top-level entries that change, with their new values; first none.
    """
    sizes = [(before, after) for before, after in sizes if before != after]
    options = {place: list(_resized(_at(config, place), sizes)) for place in _places(config)}
    places = [place for place, found in options.items() if found]
    choices = [[None, *options[place]] for place in places]
    combinations = sorted(
        itertools.islice(itertools.product(*choices), 4096),
        key=lambda chosen: sum(n is not None for n in chosen),
    )
    for chosen in combinations[:most]:
        changed = config
        for place, size in zip(places, chosen, strict=True):
            if size is not None:
                changed = _put(changed, place, size)
        yield {key: value for key, value in changed.items() if value is not config[key]}


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
