"""Values that cross between a program under test and its tests, as plain data.

The two sides are processes that trust each other in nothing: what arrives is rebuilt from builtin
types, so that no `__eq__`, `__hash__` or `__reduce__` of a program ever runs beside its tests. What
is not data (an instance of the program's own class, a function, a generator) crosses as the number
of a handle, and stays where it is.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_BYTES = 4 << 20
_SAFE_INT = 1 << 53
_MAX_HEX = 1 << 20
_EXACT = (Decimal, Fraction)


class NotDataError(TypeError):
    """A value cannot cross, and there is nobody to keep it."""


def encode(value: object, keep: Callable[[object], int] | None = None) -> Any:
    """Plain JSON values; `keep` takes what is not data and returns the number of its handle."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _SAFE_INT else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    return _encode_other(value, keep)


def _encode_other(value: Any, keep: Callable[[object], int] | None) -> Any:
    for kind, name in _SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [encode(item, keep) for item in iter(value)]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, keep), encode(v, keep)] for k, v in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {type(value).__name__: bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [encode(value.start), encode(value.stop), encode(value.step)]}
    if isinstance(value, _EXACT):
        return {type(value).__name__: str(value)}
    if keep is None:
        raise NotDataError(f"a {type(value).__name__} is not data and cannot be handed over")
    return {"handle": keep(value)}


def decode(data: Any, handle: Callable[[int], object] | None = None) -> Any:
    """The value again; raises ValueError for anything that `encode` does not write."""
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("not an encoded value")
    ((name, body),) = data.items()
    if name in _BUILDERS and isinstance(body, list):
        return _BUILDERS[name]([decode(item, handle) for item in body])
    if name == "dict" and isinstance(body, list):
        return {decode(k, handle): decode(v, handle) for k, v in body}
    if name == "handle" and handle is not None and isinstance(body, int):
        return handle(body)
    return _decode_text(name, body)


def _decode_text(name: str, body: Any) -> Any:
    if isinstance(body, str) and len(body) <= _MAX_HEX and name in _FROM_TEXT:
        return _FROM_TEXT[name](body)
    if name == "complex" and isinstance(body, list):
        return complex(*map(float, body))
    raise ValueError("not an encoded value")


_SEQUENCES: dict[type[Any], str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
    type({}.keys()): "set",
}
_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "range": lambda ends: range(*ends),
}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Decimal": Decimal,
    "Fraction": Fraction,
}


def send(fd: int, message: Any, limit: int | None = MAX_BYTES) -> None:
    """Write one frame; raises ValueError where it is larger than the other side accepts."""
    body = json.dumps(message).encode()
    if limit is not None and len(body) > limit:
        raise ValueError(f"a value of {len(body)} bytes is too large to be handed over")
    data = memoryview(struct.pack(">I", len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]


def receive(fd: int, limit: int | None = MAX_BYTES) -> Any:
    """Read one frame; raises EOFError at the end, ValueError for what is no frame."""
    (size,) = struct.unpack(">I", _exactly(fd, 4))
    if limit is not None and size > limit:
        raise ValueError(f"a frame of {size} bytes")
    return json.loads(_exactly(fd, size))


def _exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
