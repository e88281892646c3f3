"""How large a file may say that its contents are, where nothing else tells what to expect."""

# Deflate cannot go beyond 1032 to 1, and a file that says it does much better than others, beyond
# a size that does no harm, is made to exhaust the memory. Keras draws the line at 100 as well.
HARMLESS_BYTES = 2**28
MOST_EXPANSION = 100


def check_expansion(declared: int, stored: int) -> None:
    """Raises a `ValueError` if a file says that it holds far more than can be.

    Args:
        declared: bytes that its contents take in memory, as the file says.
        stored: bytes of the file.

    >>> check_expansion(2**40, 740)
    Traceback (most recent call last):
    ValueError: it says that it holds 1,099,511,627,776 bytes, which 740 bytes of file cannot
    """
    if declared > most_bytes(stored):
        raise ValueError(
            f"it says that it holds {declared:,} bytes, which {stored:,} bytes of file cannot"
        )


def most_bytes(stored: int) -> int:
    """The most that so many bytes of a file may hold."""
    return max(HARMLESS_BYTES, MOST_EXPANSION * stored)
