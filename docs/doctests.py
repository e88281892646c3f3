"""Shows the `>>>` examples of docstrings as code: an extension of griffe, which reads them."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^(?:Example:\n)?(>>> .*?)(?=\n\n(?!>>> )|\Z)", re.DOTALL | re.MULTILINE)


class Doctests(Extension):
    """Puts each block of examples between fences."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Changes the text of a docstring, before it is parsed."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\1\n```", value)
