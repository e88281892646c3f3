"""Where a file goes: made in a temporary folder beside it, then moved over what was there."""

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

# TensorFlow takes a path with one of these for a pattern that stands for several.
PATTERN_CHARACTERS = frozenset("*?[]\\")

PREFIX = ".keras-hoyer-"


def check_destination(filepath: str | os.PathLike[str], argument: str = "filepath") -> Path:
    """Finds the file that is written when something is written to `filepath`.

    Args:
        filepath: where a file is to go. If there is a symbolic link, it is followed.
        argument: what messages call it.

    Returns:
        The file, which may exist or not, as an absolute path.

    Raises:
        ValueError: if it cannot be written: a folder, a device or a read-only file is there, there
            is no folder to hold it, or its name is too long.
    """
    path = Path(filepath)
    try:
        target = Path(os.path.realpath(path))
        status = target.stat()
    except FileNotFoundError:
        if target.parent.is_dir():
            return target
        _refuse(
            argument,
            path,
            "a file in a folder that exists and can be written",
            "there is no folder",
        )
    except (OSError, ValueError) as error:  # a name that is too long, a loop of links, a null byte
        _refuse(argument, path, "a file in a folder that exists and can be written", str(error))
    if stat.S_ISDIR(status.st_mode):
        _refuse(argument, path, "a file", "a folder")
    if not stat.S_ISREG(status.st_mode):
        _refuse(argument, path, "a file", "a device or a pipe")
    if not os.access(target, os.W_OK):
        _refuse(argument, path, "a file that can be written", "it is read-only")
    return target


class Destination:
    """A folder to make a file in, and the place where the finished file goes.

    Args:
        target: the file, as `check_destination` finds it.
        folder: a temporary folder on the same file system, so that moving is atomic.
    """

    def __init__(self, target: Path, folder: Path) -> None:
        self.target = target
        self.folder = folder

    def fill(self, file: Path) -> None:
        """Moves a finished file into place; the mode of an older one is kept, and its group."""
        if self.target.exists():
            _copy_owner_and_mode(self.target, file)
        else:
            # What any program's new file gets here, however this one was written.
            plain = self.folder / "plain"
            plain.touch()
            shutil.copymode(plain, file)
        os.replace(file, self.target)


@contextlib.contextmanager
def replacing(filepath: str | os.PathLike[str]) -> Iterator[Destination]:
    """Replaces a file at once or not at all.

    Args:
        filepath: where the file goes. A symbolic link is followed and stays.

    Yields:
        A `Destination`. Its folder is gone afterwards, whatever happened, also if the process is
        asked to end. TensorFlow can write there whatever characters `filepath` has.

    Raises:
        ValueError: if `filepath` cannot be written.
    """
    target = check_destination(filepath)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_in_order())
        try:
            folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=target.parent)
        except OSError as error:
            expected = "a file in a folder that exists and can be written"
            _refuse("filepath", Path(filepath), expected, str(error), error)
        path = Path(stack.enter_context(folder))
        if PATTERN_CHARACTERS & set(str(path)):
            path = stack.enter_context(_plain_name(path))
        yield Destination(target, path)


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Lets `with` and `finally` blocks run before SIGTERM or SIGHUP end the process.

    Only signals that would end it at once are taken over, and only in the main thread: whoever has
    asked for one keeps it.
    """
    received = []

    def unwind(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) == 1:
            raise _Ended

    taken = []
    if threading.current_thread() is threading.main_thread():
        names = ("SIGTERM", "SIGHUP", "SIGINT")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, unwind)
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])


class _Ended(BaseException):
    """The process was asked to end."""


@contextlib.contextmanager
def _plain_name(folder: Path) -> Iterator[Path]:
    """Another name of a folder, of which nothing is taken for a pattern."""
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    place = next((p for p in places if not PATTERN_CHARACTERS & set(p) and os.path.isdir(p)), None)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as outer:
        link = Path(outer) / "link"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _copy_owner_and_mode(old: Path, new: Path) -> None:
    before, after = old.stat(), new.stat()
    if hasattr(os, "chown") and (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid):
        # Only root may give a file away, and others only to a group of their own.
        for owner in ((before.st_uid, before.st_gid), (-1, before.st_gid)):
            with contextlib.suppress(OSError):
                os.chown(new, *owner)
                break
    shutil.copymode(old, new)


def _refuse(
    argument: str, path: Path, expected: str, reason: str, cause: BaseException | None = None
) -> NoReturn:
    raise ValueError(
        f"Invalid value for argument `{argument}`. Expected {expected}. "
        f"Received: {argument}={str(path)!r} ({reason})"
    ) from cause
