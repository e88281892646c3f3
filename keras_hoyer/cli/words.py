"""Messages of the library, which speak of Python arguments, in the words of the command line."""

import re

OPTIONS = {
    "criterion": "how much",
    "filepath": "-o",
    "format": "--format",
    "html": "--html",
    "io_dtype": "--io-dtype",
    "layers": "--layers",
    "optimize_for": "--optimize-for",
    "pattern": "--pattern",
    "quantize": "--quantize",
    "representative_data": "--data",
    "sample": "--data",
    "scope": "--scope",
    "sparse": "--sparse",
    "sparsity": "--sparsity",
    "tolerance": "--tolerance",
}

_NAME = "|".join(OPTIONS)
_VALUE = r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[\w.]+(?:\([^)]*\))?(?:\.\d+)?"
_PATTERN = r"(?:pattern=)?(?:patterns\.(\w+)(?:\(\(?([\d, ]*)\)?\))?|\bChannel\(\))"


def in_own_words(text: str) -> str:
    """What a message says, for someone who typed a command.

    >>> in_own_words("`quantize='int8'` wants `representative_data`, or `layers=['a', 'b']`")
    '--quantize int8 wants --data, or --layers a b'
    >>> in_own_words("Invalid value for argument `optimize_for`. Received: optimize_for=None")
    'Invalid value for --optimize-for. Received: no --optimize-for'
    >>> in_own_words("cut with `patterns.Block((16, 1))` or `patterns.Channel`")
    'cut with --pattern block:16x1 or --pattern channel'
    """
    text = re.sub(rf"`?(?:{_PATTERN})`?", _pattern, text)
    text = re.sub(rf"`?\b({_NAME})=({_VALUE})`?", _with_value, text)
    text = re.sub(rf"(?:argument )?`({_NAME})`", lambda match: OPTIONS[match[1]], text)
    return re.sub(r"\brepresentative_data\b", "--data", text)


def _with_value(match: re.Match[str]) -> str:
    option, value = OPTIONS[match[1]], match[2]
    if value == "None":
        return f"no {option}"
    if value in ("True", "False"):
        value = value.lower()
    if value.startswith("["):
        value = value[1:-1].replace(",", " ")
    return " ".join(f"{option} {value}".replace("'", "").replace('"', "").split())


def _pattern(match: re.Match[str]) -> str:
    name = (match[1] or "Channel").lower()
    numbers = re.findall(r"\d+", match[2] or "")
    if name == "nbym":
        return f"--pattern {':'.join(numbers[:2]) or '2:4'}"
    return f"--pattern {name}{':' + 'x'.join(numbers) if numbers else ''}"
