"""A word on stderr about what takes longer than two seconds, and which part of it is on.

A terminal shows one line that goes when all is done; elsewhere, as in a notebook or a log, each
part that takes so long gets a line. Where Keras is told to be silent, with
`keras.config.disable_interactive_logging()`, so is this.
"""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from keras_hoyer._tables import shorten

# Seconds before anything is said, and between two looks at what is on.
PATIENCE, PERIOD = 2.0, 0.5

Item = TypeVar("Item")


class Step:
    """Something that is going on.

    Args:
        text: What it is.
        total: Number of its parts, if it is known.
    """

    def __init__(self, text: str, total: int | None = None) -> None:
        self.text = text
        self.total = total
        self.done = 0
        self.begun = time.monotonic()

    def count(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; those that are over are counted."""
        for item in items:
            yield item
            self.done += 1

    def __str__(self) -> str:
        if self.total is not None:
            return f"{self.text} {self.done:,} of {self.total:,}"
        return f"{self.text} {self.done:,}" if self.done else self.text


class Line:
    """A line of a terminal that changes."""

    def __init__(self) -> None:
        self._shown = ""

    def change(self, text: str) -> str:
        """What is to be written so that the line reads so; shortened to the terminal's width."""
        text = shorten(text, shutil.get_terminal_size().columns - 1)
        before, self._shown = self._shown, text
        back = "" if text else "\r"
        return f"\r{text:<{len(before)}}{back}" if text or before else ""


# What is going on, from the outermost to the innermost, and what tells the watching thread to end.
_steps: list[Step] = []
_lock = threading.Lock()
_over = threading.Event()
_silent = 0

# Two threads may write, but one at a time.
_line, _writing = Line(), threading.Lock()


@contextlib.contextmanager
def step(text: str, total: int | None = None) -> Iterator[Step]:
    """Says what is going on if it takes long; what runs within it can be a step as well.

    Args:
        text: What it is, such as `"shrinking model"`.
        total: Number of its parts, if it has any and it is known.

    Yields:
        A `Step`, which counts the parts that are over.
    """
    global _over  # noqa: PLW0603  (one line for all that goes on)
    mine, watcher = Step(text, total), None
    with _lock:
        _steps.append(mine)
        if len(_steps) == 1 and not _is_silent():
            _over = threading.Event()
            watcher = threading.Thread(target=_watch, args=[_over], daemon=True)
            watcher.start()
    try:
        yield mine
    finally:
        with _lock:
            _steps.remove(mine)
            if not _steps:
                _over.set()
        if watcher is not None and not _steps:
            watcher.join()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """A scope in which nothing is said, since somebody else says it."""
    global _silent  # noqa: PLW0603
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1


def say(text: str) -> None:
    """Says what is to stay on the screen, above the line that changes."""
    _change("", f"keras_hoyer: {text}\n")


def now() -> str:
    """What is going on, from the outside in; empty if nothing is."""
    with _lock:
        return ": ".join(map(str, _steps))


def _is_silent() -> bool:
    # Who has not imported Keras cannot have told it to be silent.
    keras = sys.modules.get("keras")
    return bool(_silent) or (
        keras is not None and not keras.config.is_interactive_logging_enabled()
    )


def _watch(over: threading.Event) -> None:
    """Shows what goes on until it is over."""
    begun = time.monotonic()
    said: set[Step] = set()
    waiting = not over.wait(PATIENCE)
    while waiting:
        with _lock:
            innermost = _steps[-1:]
        if _silent:
            _change("")
        elif sys.stderr.isatty():
            _change(f"keras_hoyer: {now()}, {time.monotonic() - begun:.0f} s")
        elif said.isdisjoint(innermost) and _took_long(innermost):
            said.update(innermost)
            _write(f"keras_hoyer: {now()} ...\n")
        waiting = not over.wait(PERIOD)
    _change("")


def _change(text: str, below: str = "") -> None:
    """Changes the line, and writes what belongs before it."""
    with _writing:
        _write(_line.change("") + below if below else _line.change(text))


def _took_long(steps: list[Step]) -> bool:
    return any(time.monotonic() - one.begun >= PATIENCE for one in steps)


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.write(text)
        sys.stderr.flush()
