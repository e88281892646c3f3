"""The loop over a plan: each run that has no line of results yet is made, and gets one."""

import argparse
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.machine import describe_machine
from kit.results import FOLDER, append, done_before

# A plan's name, and what lists its runs: dataclasses whose fields say all that a result depends on.
Plans = Mapping[str, Callable[[], Iterable[Any]]]


def plan_options(
    about: str, plans: Plans, out: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """The options of a script that makes plans: which one, from what data, into what file."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--plan", choices=list(plans), default=next(iter(plans)))
    parser.add_argument("--data", type=Path, help="an mnist.npz; default: what Keras downloads")
    parser.add_argument("--out", type=Path, default=FOLDER / out)
    return parser.parse_args(arguments)


def make_runs(runs: Iterable[Any], out: Path, make: Callable[[Any], dict[str, Any]]) -> None:
    """Makes the runs that have no line in `out`, one by one.

    Args:
        runs: All runs of a plan.
        out: The file of results, a line for each run.
        make: Takes a run, returns its result.
    """
    make_together(runs, out, lambda group: [make(*group)], lambda run: run)


def make_together(
    runs: Iterable[Any],
    out: Path,
    make: Callable[[Sequence[Any]], Sequence[dict[str, Any]]],
    group: Callable[[Any], Hashable],
) -> None:
    """Makes the runs that have no line in `out`, many at once.

    Args:
        runs: All runs of a plan.
        out: The file of results, a line for each run.
        make: Takes runs that are to be made together, returns their results.
        group: Runs that it gives the same value are made together.
    """
    groups: dict[Hashable, list[Any]] = {}
    for run in runs:
        groups.setdefault(group(run), []).append(run)
    for together in groups.values():
        done = done_before(out, type(together[0]))
        missing = [run for run in together if run not in done]
        for run, result in zip(missing, make(missing) if missing else (), strict=True):
            append(out, {**dataclasses.asdict(run), **result, "machine": describe_machine()})
            print(run, result, flush=True)
