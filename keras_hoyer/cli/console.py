"""What a command says while it works: steps and warnings on stderr, its answer alone on stdout.

Whoever reads the output may be gone (`| head`), which is no reason to stop a command.
"""

import contextlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from keras_hoyer import _progress
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
        self._stream: TextIO | None = None  # None for what `sys.stderr` is at the time

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Says that a step begins; a terminal shows its seconds as long as it takes."""
        if self.quiet:
            yield
            return
        self._write(f"{self.program}: {text} ...\n")
        done = threading.Event()
        clock = threading.Thread(target=self._show_seconds, args=[done], daemon=True)
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
        self._write(f"{self.program}: {in_own_words(' '.join(text.split()))}\n")

    @contextlib.contextmanager
    def keep_stdout_clean(self) -> Iterator[None]:
        """Sends what Keras, converters and warnings print to stderr, and shortens the warnings."""

        def show(message: Warning | str, *rest: Any, **more: Any) -> None:
            self.complain(f"warning: {message}")

        with (
            _progress.silent(),  # a step shows it beside its seconds
            contextlib.redirect_stdout(sys.stderr),
            _stdout_of_native_code_as_stderr(),
            warnings.catch_warnings(),
        ):
            for category in (FutureWarning, DeprecationWarning):  # for authors of other packages
                warnings.simplefilter("ignore", category)
            warnings.showwarning = show
            yield

    @contextlib.contextmanager
    def hide_chatter(self) -> Iterator[None]:
        """Shows what others write to stderr only if something fails.

        TensorFlow greets with a page of it whenever it is imported.
        """
        if (descriptors := _descriptors()) is None:
            yield
            return
        descriptor = descriptors[1]
        with tempfile.TemporaryFile() as hidden, os.fdopen(os.dup(descriptor), "w") as stream:
            self._stream = stream
            try:
                with _redirected(descriptor, hidden.fileno()):
                    yield
            except Exception:
                hidden.seek(0)
                self._write(hidden.read().decode(errors="replace"))
                raise
            finally:
                self._stream = None

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError):
            stream.write(text)
            stream.flush()

    def _show_seconds(self, done: threading.Event) -> None:
        seconds, line = 0, _progress.Line()
        while not done.wait(1):
            seconds += 1
            within = _progress.now()
            self._write(line.change(f"  {seconds} s{', ' if within else ''}{within}"))
        self._write(line.change(""))


def answer(text: str, end: str = "\n") -> None:
    """Prints an answer on stdout, if anybody is there to read it."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        # Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _stdout_of_native_code_as_stderr() -> Iterator[None]:
    if (descriptors := _descriptors()) is None:
        yield
        return
    with _redirected(*descriptors):
        yield


def _descriptors() -> tuple[int, int] | None:
    """Those of stdout and stderr; `None` where tests or notebooks put others in their place."""
    if sys.__stdout__ is None or sys.__stderr__ is None or sys.stderr is not sys.__stderr__:
        return None
    return sys.__stdout__.fileno(), sys.__stderr__.fileno()


@contextlib.contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    try:
        os.dup2(target, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
