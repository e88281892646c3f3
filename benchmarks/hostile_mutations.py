"""Mutations of files: of their bytes, and of what they say of themselves."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

VALUES = (
    *(None, True, False, -1, 0, 1, 3, 255, 2**31, 2**32, 2**40, 2**63, 2**64, 10**30, -(2**63)),
    *(0.5, 1e308, float("nan"), float("inf"), "", "x", "x" * 3000, "\0", "../up", "é"),
    *("float32", "float16", "bfloat16", "float128", "object", "O", "V4", "int4", "bool", "uint8"),
    *("dense", "bitmask", "csr", "eJwDAAAAAAE=", "AAAA", "=", [], {}, [[]], [0], [-1], [1.5]),
    *([2**40], [2**40, 2**40], [1] * 100, ["16", "24"], {"shape": [1], "bits": "eJwDAAAAAAE="}),
    *({"class_name": "Dense"}, [0, 2**62, 2**62], [None]),
)


def mutants(original: bytes, format: str, count: int, seed: int) -> Iterator[bytes]:
    """Mutated files: by turns of bytes, of parts, and of the JSON inside.

    Args:
        original: the file.
        format: `"npz"`, `"safetensors"`, `"keras"`, `"data.npy"` or `"data.npz"`.
        count: how many.
        seed: what makes them the same again.
    """
    ways: list[Callable[[np.random.Generator, bytes], bytes]] = [mutate_bytes]
    if format == "safetensors":
        ways += [_mutate_safetensors_text, _mutate_safetensors_header, _mutate_safetensors_header]
    elif format != "data.npy":
        ways += [_mutate_member, _mutate_members]
    if format == "npz":
        ways += [_mutate_npz_header, _mutate_npz_header]
    if format == "keras":
        ways += [_mutate_masks, _mutate_masks, _mutate_masks, _mutate_masks_text]
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield ways[number % len(ways)](rng, original)


def mutate_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """One to four places of the bytes changed, cut out, doubled or filled."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not content:
            break
        place = int(rng.integers(len(content)))
        end = place + int(rng.integers(1, 17))
        match rng.integers(8):
            case 0 | 1:
                content[place] ^= 1 << int(rng.integers(8))
            case 2:
                content[place:end] = rng.bytes(len(content[place:end]))
            case 3:
                content[place:end] = bytes([int(rng.choice([0, 255]))]) * len(content[place:end])
            case 4:
                del content[place:end]
            case 5:
                content[place:place] = rng.bytes(end - place)
            case 6:
                other = int(rng.integers(len(content)))
                content[place:end] = content[other : other + end - place]
            case _ if rng.random() < 0.3:
                del content[place:]
    return bytes(content)


def mutate_json(rng: np.random.Generator, value: Any) -> Any:
    """One value anywhere inside changed for a hostile one, taken away, doubled or moved."""
    places = list(_places(value))
    if not places:
        return _hostile(rng)
    holder, key = places[rng.integers(len(places))]
    other, other_key = places[rng.integers(len(places))]
    match rng.integers(7):
        case 0:
            del holder[key]
        case 1:
            holder[key] = other[other_key]
        case 2 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 3 if isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        case 4 if isinstance(holder[key], str):
            text = mutate_bytes(rng, holder[key].encode())
            holder[key] = text.decode("latin-1")
        case 5 if type(holder[key]) is int:
            holder[key] += int(rng.choice([-1, 1, 7, 2**20, 2**33]))
        case _:
            holder[key] = _hostile(rng)
    try:
        json.dumps(value)
    except ValueError:  # something was put into itself
        return _hostile(rng)
    return value


def masks_of(config: Any) -> Iterator[dict]:
    """The configs of masks inside of a model's."""
    if isinstance(config, dict):
        if config.get("class_name") == "KeepZeros":
            yield config
        for value in config.values():
            yield from masks_of(value)
    elif isinstance(config, list):
        for value in config:
            yield from masks_of(value)


def members_of(content: bytes) -> dict[str, bytes]:
    """The members of a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(members: dict[str, bytes]) -> bytes:
    """A zip of these members, whose checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    """A `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _hostile(rng: np.random.Generator) -> Any:
    return VALUES[rng.integers(len(VALUES))]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _mutate_member(rng: np.random.Generator, content: bytes) -> bytes:
    """The bytes of one member changed, its checksum being right."""
    members = members_of(content)
    name = list(members)[rng.integers(len(members))]
    members[name] = mutate_bytes(rng, members[name])
    return zip_of(members)


def _mutate_members(rng: np.random.Generator, content: bytes) -> bytes:
    """A member gone, renamed, exchanged for another one, or a further one."""
    members = members_of(content)
    names = list(members)
    name, other = rng.choice(names), rng.choice(names)
    match rng.integers(4):
        case 0:
            del members[name]
        case 1:
            members[f"../{name}"] = members.pop(name)
        case 2:
            members[name], members[other] = members[other], members[name]
        case 3:
            dtype = str(rng.choice(["uint8", "float32", "<U3", "complex128", "bool", "int64"]))
            shape = tuple(rng.integers(0, 4, rng.integers(0, 4)))
            members[rng.choice([name, "further.npy"])] = npy_of(np.zeros(shape, dtype))
    return zip_of(members)


def _mutate_npz_header(rng: np.random.Generator, content: bytes) -> bytes:
    members = members_of(content)
    header = json.loads(bytes(np.load(io.BytesIO(members["header.npy"]))))
    header = mutate_json(rng, header)
    members["header.npy"] = npy_of(np.frombuffer(json.dumps(header).encode(), "uint8"))
    return zip_of(members)


def _mutate_masks(rng: np.random.Generator, content: bytes) -> bytes:
    members = members_of(content)
    config = json.loads(members["config.json"])
    masks = list(masks_of(config))
    mask = masks[rng.integers(len(masks))]
    mask["config"] = mutate_json(rng, mask["config"])
    members["config.json"] = json.dumps(config).encode()
    return zip_of(members)


def _mutate_masks_text(rng: np.random.Generator, content: bytes) -> bytes:
    members = members_of(content)
    members["config.json"] = mutate_bytes(rng, members["config.json"])
    return zip_of(members)


def _mutate_safetensors_text(rng: np.random.Generator, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    text = mutate_bytes(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _mutate_safetensors_header(rng: np.random.Generator, content: bytes) -> bytes:
    """What the format says of its arrays changed, or what is said of the tensors in it."""
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    if rng.random() < 0.3:
        outer = mutate_json(rng, outer)
    else:
        header = mutate_json(rng, json.loads(outer["__metadata__"]["header"]))
        outer["__metadata__"]["header"] = json.dumps(header)
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
