"""What a command says while it works: steps and warnings on stderr, its answer alone on stdout.

Whoever reads the output may be gone (`| head`), which is no reason to stop a command.
"""

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

from keras_hoyer.cli.words import in_own_words


class Console:
    """Says what a command is doing.

    Args:
        program: the program's name and the command's, which start each line.
        quiet: whether to say nothing but warnings and errors.
    """

    def __init__(self, program: str, quiet: bool) -> None:
        self.program = program
        self.quiet = quiet

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Says that a step begins; a terminal shows its seconds as long as it takes."""
        if self.quiet:
            yield
            return
        _write(f"{self.program}: {text} ...\n")
        done = threading.Event()
        clock = threading.Thread(target=_show_seconds, args=[done], daemon=True)
        if sys.stderr.isatty():
            clock.start()
        try:
            yield
        finally:
            done.set()
            if clock.ident is not None:
                clock.join()

    def complain(self, text: str) -> None:
        """Says something in one line, in the words of the command line."""
        _write(f"{self.program}: {in_own_words(' '.join(text.split()))}\n")

    @contextlib.contextmanager
    def keep_stdout_clean(self) -> Iterator[None]:
        """Sends what Keras, converters and warnings print to stderr, and shortens the warnings."""

        def show(message: Warning, *rest: Any) -> None:
            self.complain(f"warning: {message}")

        with (
            contextlib.redirect_stdout(sys.stderr),
            _stdout_of_native_code_as_stderr(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", FutureWarning)  # of other packages, for their authors
            warnings.showwarning = show
            yield


def answer(text: str, end: str = "\n") -> None:
    """Prints an answer on stdout, if anybody is there to read it."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        # Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _show_seconds(done: threading.Event) -> None:
    start = time.monotonic()
    while not done.wait(1):
        _write(f"\r  {time.monotonic() - start:.0f} s ")
    _write("\r          \r")


@contextlib.contextmanager
def _stdout_of_native_code_as_stderr() -> Iterator[None]:
    # Tests and notebooks put something else in the place of stdout: there is nothing to protect.
    if sys.__stdout__ is None or sys.__stderr__ is None or sys.stderr is not sys.__stderr__:
        yield
        return
    kept = os.dup(sys.__stdout__.fileno())
    try:
        os.dup2(sys.__stderr__.fileno(), sys.__stdout__.fileno())
        yield
    finally:
        os.dup2(kept, sys.__stdout__.fileno())
        os.close(kept)
