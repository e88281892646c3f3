"""Small files that say they hold far more than the memory has."""

import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hostile_mutations import masks_of, members_of, npy_of, zip_of

BLOCK = bytes(2**24)

# A name, and what makes the file.
Bomb = tuple[str, Callable[[], bytes]]


def write_bombs(folder: Path, format: str) -> None:
    """Writes `bomb.NAME.FORMAT` for each bomb of a format, made from `original.FORMAT`."""
    original = (folder / f"original.{format}").read_bytes()
    for name, make in BOMBS[format](original):
        (folder / f"bomb.{name}.{format}").write_bytes(make())


def npz_bombs(original: bytes) -> Iterator[Bomb]:
    """Of sparse weights, in a zip."""
    members = members_of(original)
    text = bytes(np.load(io.BytesIO(members["header.npy"])))

    def with_header(header: Any, **changed: bytes) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return zip_of({**members, "header.npy": npy_of(np.frombuffer(text, "uint8")), **changed})

    for name, make in _headers(text):
        yield name, lambda make=make: with_header(make())
    for name in ("mask.npy", "values.float32.npy", "indptr.npy", "header.npy"):
        short = name.removesuffix(".npy")
        declared = {**members, name: _npy_header((4, 2**40)) + b"\0"}
        negative = {**members, name: _npy_header((-1, 8)) + bytes(8)}
        yield f"declared-{short}", partial(zip_of, declared)
        yield f"negative-{short}", partial(zip_of, negative)
        begin = _npy_header((1, 2**30))
        yield f"deflated-{short}", partial(_zip_with, members, name, begin, 2**30)
    begin = b"\x93NUMPY\2\0\xff\xff\xff\xff"
    yield "header-of-npy", partial(_zip_with, members, "mask.npy", begin, 2**30)
    begin = _npy_header((2**30,))
    yield "further-member", partial(_zip_with, members, "further.npy", begin, 2**30)
    path = {**members, "../../../tmp/evil.npy": members["mask.npy"]}
    yield "path-as-name", partial(zip_of, path)
    many = {**members, **{f"m{i}.npy": b"" for i in range(20_000)}}
    yield "many-members", partial(zip_of, many)
    begin = _npy_header((1, 2**28))
    for way in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        make = partial(_zip_with, members, "mask.npy", begin, 2**28, way)
        yield f"compression-{way}", make
    # The size of a member as the zip's directory has it.
    yield "zip-size", lambda: original.replace(*_sizes_of(original, "mask.npy", 2**32 - 2))


def safetensors_bombs(original: bytes) -> Iterator[Bomb]:
    """Of sparse weights, in safetensors."""
    (length,) = struct.unpack("<Q", original[:8])
    outer, data = json.loads(original[8 : 8 + length]), original[8 + length :]

    def with_outer(outer: dict, data: bytes = data) -> bytes:
        text = json.dumps(outer).encode()
        return struct.pack("<Q", len(text)) + text + data

    def with_header(header: Any) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return with_outer({**outer, "__metadata__": {"header": text.decode()}})

    for name, make in _headers(outer["__metadata__"]["header"].encode()):
        yield name, lambda make=make: with_header(make())
    for size in (2**31, 2**63, 2**64 - 1):
        content = struct.pack("<Q", size) + original[8:]
        yield f"length-{size}", lambda content=content: content
    for shape in ([1, 2**40], [2**32, 2**32], [1, 0], [2**63]):
        mask = {**outer["mask"], "shape": shape}
        name = f"shape-{'x'.join(map(str, shape))}"
        yield name, partial(with_outer, {**outer, "mask": mask})
    mask = {"dtype": "U8", "shape": [1, 2**40], "data_offsets": [0, 2**40]}
    yield "offsets", partial(with_outer, {**outer, "mask": mask})
    empty = {**outer["mask"], "shape": [1, 0], "data_offsets": [0, 0]}
    many = {**outer, **{f"t{i}": empty for i in range(50_000)}}
    yield "many-tensors", partial(with_outer, many)
    yield "deep", lambda: struct.pack("<Q", 2**20) + b"[" * 2**20


def keras_bombs(original: bytes) -> Iterator[Bomb]:
    """Of masks in a config."""
    members = members_of(original)
    config = json.loads(members["config.json"])

    def with_masks(change: Callable[[dict], None]) -> bytes:
        copy = json.loads(json.dumps(config))
        for constraint in masks_of(copy):
            change(constraint["config"]["masks"])
        return zip_of({**members, "config.json": json.dumps(copy).encode()})

    def with_mask(size: int | None = None, shape: list[int] | None = None) -> bytes:
        """With the bits of so many zero bytes, and another shape."""
        changed = {} if size is None else {"bits": _packed(size)}
        changed.update({} if shape is None else {"shape": shape})

        def change(masks: dict) -> None:
            for mask in masks.values():
                mask.update(changed)

        return with_masks(change)

    for name, size, shape in (
        ("shape", None, [2**32]),
        ("shape-wide", None, [2**20, 2**20]),
        ("shape-negative", None, [-16, -24]),
        ("shape-of-nothing", None, [0, 2**62, 2**62]),
        ("bits-short", 0, None),
        ("bits-one-more", 16 * 24 // 8 + 1, None),
        ("deflated", 3 * 2**30, None),
        ("deflated-and-shape", 2**29, [2**32]),
        ("deflated-and-lesser-shape", 2**28, [2**31]),
    ):
        yield name, partial(with_mask, size, shape)

    def many(masks: dict) -> None:
        bits = _packed(2**19)
        masks.update({f"{i}/kernel": {"shape": [2**22], "bits": bits} for i in range(2000)})
        masks["kernel"]["shape"] = [2**22]

    yield "many", partial(with_masks, many)


def npy_bombs(original: bytes) -> Iterator[Bomb]:
    """Of arrays of data, one in a file."""
    for shape in ((2**40,), (2**20, 2**20), (-1, 12), (2**62, 0, 3)):
        content = _npy_header(shape, "<f4") + bytes(48)
        yield "x".join(map(str, shape)), lambda content=content: content
    yield "object", lambda: _npy_header((2,), "|O") + bytes(64)
    yield "header", lambda: b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(64)


def data_npz_bombs(original: bytes) -> Iterator[Bomb]:
    """Of arrays of data in a zip."""
    members = members_of(original)
    for name, make in npy_bombs(b""):
        yield name, lambda make=make: zip_of({**members, "x.npy": make()})
    begin = _npy_header((2**30,))
    yield "deflated", partial(_zip_with, members, "x.npy", begin, 2**30)
    begin = b"\x93NUMPY\2\0\xff\xff\xff\xff"
    yield "header-deflated", partial(_zip_with, members, "x.npy", begin, 2**30)


BOMBS = {
    "npz": npz_bombs,
    "safetensors": safetensors_bombs,
    "keras": keras_bombs,
    "data.npy": npy_bombs,
    "data.npz": data_npz_bombs,
}


def _headers(text: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Headers of sparse weights that declare too much, or are too much themselves."""

    def changed(**fields: Any) -> dict:
        header = json.loads(text)
        header["tensors"] = [{**entry, **fields} for entry in header["tensors"]]
        return header

    for encoding, count in (("bitmask", 0), ("csr", 0), ("dense", 2**34)):
        for shape in ([2**34], [2**17, 2**17], [1, 2**34], [2**34, 1]):
            name = f"{encoding}-{'x'.join(map(str, shape))}"
            yield name, partial(changed, encoding=encoding, count=count, shape=shape)
    yield "count", partial(changed, count=2**40)
    yield "dtype", partial(changed, dtype="float128", stored="float128")
    header = json.loads(text)
    yield "many-entries", lambda: {**header, "tensors": header["tensors"] * 5000}
    yield "deep-json", lambda: b"[" * 100_000
    yield "wide-json", lambda: b"[" + b"[]," * 20_000_000 + b"0]"
    yield "long-json", lambda: b" " * (2**26) + text


def _packed(size: int) -> str:
    """So many zero bytes, as the bits of a mask."""
    deflater = zlib.compressobj(9)
    parts = [deflater.compress(BLOCK) for _ in range(size // len(BLOCK))]
    parts += [deflater.compress(bytes(size % len(BLOCK))), deflater.flush()]
    return base64.b64encode(b"".join(parts)).decode("ascii")


def _npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _zip_with(
    members: dict[str, bytes], name: str, begin: bytes, size: int, way: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A zip in which a member begins so and goes on with so many zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in members.items():
            if other != name:
                archive.writestr(other, content)
        info = zipfile.ZipInfo(name)
        info.compress_type = way
        with archive.open(info, "w", force_zip64=True) as member:
            member.write(begin)
            for _ in range(size // len(BLOCK)):
                member.write(BLOCK)
    return file.getvalue()


def _sizes_of(content: bytes, name: str, size: int) -> tuple[bytes, bytes]:
    """The place in a zip's directory that has a member's size, and one with another size."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo(name)
    sizes = struct.pack("<LLL", info.CRC, info.compress_size, info.file_size)
    return sizes, struct.pack("<LLL", info.CRC, info.compress_size, size)
