"""Packages that only some features need."""

import importlib.util


def check_package(package: str, extra: str, what: str) -> None:
    """Raises an `ImportError` unless a package of an extra can be imported.

    Args:
        package: Its name.
        extra: The extra of this package that brings it.
        what: What needs it, such as `"Report.plot"`.

    >>> check_package("no_such_package", "plot", "Report.plot")
    Traceback (most recent call last):
    ImportError: Report.plot needs no_such_package: pip install keras-hoyer[plot]
    """
    try:
        found = importlib.util.find_spec(package) is not None
    except ValueError:  # None stands for it in `sys.modules`
        found = False
    if not found:
        raise ImportError(f"{what} needs {package}: pip install keras-hoyer[{extra}]")
