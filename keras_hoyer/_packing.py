"""Masks as text in a config: bits, deflated, in base64.

A config comes from a file that anyone may have made, and deflate can hide a thousand bytes in one.
So a mask stays packed until its weight, and with it the right shape, is known.
"""

import base64
import dataclasses
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# No weight is larger; a mask that says so is refused before its bits are counted.
MOST_ELEMENTS = 2**31
MOST_AXES = 32

# How much is inflated at a time, of how much at a time.
_OUT, _IN = 2**20, 2**16


@dataclasses.dataclass(frozen=True)
class PackedMask:
    """A boolean array that takes little room.

    Attributes:
        shape: its shape.
        bits: its elements in C order, eight to a byte, the highest bit first, deflated.
    """

    shape: tuple[int, ...]
    bits: bytes

    @classmethod
    def pack(cls, mask: np.ndarray) -> "PackedMask":
        """Packs a boolean array.

        >>> PackedMask.pack(np.array([[True, False]])).unpack()
        array([[ True, False]])
        """
        return cls(tuple(mask.shape), zlib.compress(np.packbits(mask).tobytes(), 6))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PackedMask":
        """A mask from a config, its bits counted, which takes no memory.

        Raises:
            ValueError: if the shape is none, or the bits are not those of this shape.
        """
        shape, text = config.get("shape"), config.get("bits")
        if not isinstance(shape, (list, tuple)) or not _is_shape(shape):
            raise ValueError(
                f"Invalid mask in a config. Expected a shape of at most {MOST_ELEMENTS} elements. "
                f"Received: shape={shape!r:.100}"
            )
        if not isinstance(text, str):
            raise ValueError(
                f"Invalid mask in a config. Expected its bits as text. Received: bits={text!r:.100}"
            )
        try:
            packed = cls(tuple(shape), base64.b64decode(text, validate=True))
            packed._count_bits()
        except (ValueError, zlib.error) as error:
            raise ValueError(
                f"Invalid mask in a config. Expected the bits of the shape {tuple(shape)}. "
                f"Received: bits={text!r:.100} ({error})"
            ) from error
        return packed

    def to_config(self) -> dict[str, Any]:
        """The mask as plain Python values, ready for JSON."""
        return {"shape": list(self.shape), "bits": base64.b64encode(self.bits).decode("ascii")}

    def unpack(self) -> np.ndarray:
        """The boolean array; the caller has made sure that it may be as large as it says."""
        raw = np.empty(self._size_in_bytes, np.uint8)
        start = 0
        for piece in _inflate(self.bits):
            raw[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
            start += len(piece)
        return np.unpackbits(raw, count=math.prod(self.shape)).view(bool).reshape(self.shape)

    @property
    def _size_in_bytes(self) -> int:
        return -(-math.prod(self.shape) // 8)

    def _count_bits(self) -> None:
        expected, count, last = self._size_in_bytes, 0, 0
        for piece in _inflate(self.bits):
            count += len(piece)
            if count > expected:
                raise ValueError(f"more than {expected} bytes")
            last = piece[-1]
        if count < expected:
            raise ValueError(f"{count} bytes, not {expected}")
        unused = 8 * expected - math.prod(self.shape)
        if last & ((1 << unused) - 1):
            raise ValueError(f"more than {math.prod(self.shape)} bits")


def _is_shape(shape: Any) -> bool:
    sizes = all(type(n) is int and 0 <= n <= MOST_ELEMENTS for n in shape[: MOST_AXES + 1])
    return sizes and len(shape) <= MOST_AXES and math.prod(shape) <= MOST_ELEMENTS


def _inflate(content: bytes) -> Iterator[bytes]:
    """What was deflated, piece by piece, none of them empty."""
    inflater = zlib.decompressobj()
    for start in range(0, len(content), _IN):
        rest = content[start : start + _IN]
        while rest and not inflater.eof:
            piece = inflater.decompress(rest, _OUT)
            # What fills the room may leave more inside, all input being consumed.
            rest = inflater.unconsumed_tail
            while piece:
                yield piece
                more = len(piece) == _OUT and not rest
                piece = inflater.decompress(b"", _OUT) if more else b""
        if inflater.unused_data or rest:
            raise ValueError("something follows the deflated bits")
    if not inflater.eof:
        raise ValueError("the deflated bits have no end")
