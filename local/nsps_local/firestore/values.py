"""Firestore values: their order across types, their sizes, what may be stored.

`sort_key` turns a value into bytes whose byte order is the order Firestore documents: null,
booleans, NaN, numbers, timestamps, strings, bytes, references, geo points, arrays, vectors, maps.
Equal values have equal keys (1 and 1.0 too) and no key is a prefix of another, so keys can be
joined to sort by several fields, and complemented to sort descending.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from google.cloud.firestore_v1.types import document as document_types

from nsps_local.firestore.names import (
    check_field_name,
    check_field_path_size,
    invalid,
    name_size,
    numeric_id,
)

Value = document_types.Value.pb()
Document = document_types.Document.pb()

NULL, BOOLEAN, NAN, NUMBER, TIMESTAMP, STRING, BYTES = (bytes([n]) for n in range(10, 80, 10))
REFERENCE, GEO_POINT, ARRAY, VECTOR, MAP = (bytes([n]) for n in range(80, 130, 10))
TYPE_END = 1
"""Added to a type's byte: the upper bound of all keys of that type."""

MAX_DOCUMENT = 1024 * 1024
MAX_FIELD_VALUE = MAX_DOCUMENT - 89
MAX_DEPTH = 20
_NUMERIC_ID = b"\0\2"  # above the end of a path, below every escaped text
_MID_INTEGER = 2**63
_SURELY_SMALL = 400_000
_YEAR_ONE = 62_135_596_800
_COMPLEMENT = bytes(255 - n for n in range(256))


def descending(key: bytes) -> bytes:
    """The key that sorts the other way."""
    return key.translate(_COMPLEMENT)


def sort_key(value: Any) -> bytes:
    """The order-preserving key of a protobuf Value (an empty Value counts as null)."""
    kind = value.WhichOneof("value_type")
    encode = _ENCODERS.get(kind)
    return encode(value) if encode else NULL


def text_key(text: str) -> bytes:
    return STRING + _escaped(text.encode())


def path_key(path: str) -> bytes:
    """The key of a reference: by segment, a parent before its children."""
    return REFERENCE + b"".join(map(id_key, path.split("/"))) + b"\0\0"


def path_of(key: bytes) -> str:
    """The path that path_key() encoded."""
    return "/".join(map(_id_of, key[1:-2].split(b"\0\1")[:-1]))


def id_key(segment: str) -> bytes:
    """The key of one id of a path: numeric ids first, by their number, then texts."""
    number = numeric_id(segment)
    if number is None:
        return _escaped(segment.encode())
    return _NUMERIC_ID + _escaped((number + _MID_INTEGER).to_bytes(8, "big"))


def _id_of(part: bytes) -> str:
    """The id that id_key() encoded, given without its end."""
    if part.startswith(_NUMERIC_ID):
        raw = part.removeprefix(_NUMERIC_ID).replace(b"\0\xff", b"\0")
        return f"__id{int.from_bytes(raw, 'big') - _MID_INTEGER}__"
    return part.replace(b"\0\xff", b"\0").decode()


def _escaped(raw: bytes) -> bytes:
    return raw.replace(b"\0", b"\0\xff") + b"\0\1"


def _float_bits(number: float) -> bytes:
    bits: int = struct.unpack(">Q", struct.pack(">d", number + 0.0))[0]  # + 0.0: -0.0 equals 0.0
    return (bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63)).to_bytes(8, "big")


def _double(number: float) -> bytes:
    if math.isnan(number):
        return NAN
    return NUMBER + _float_bits(number) + b"\x80\0"


def _integer(number: int) -> bytes:
    near = float(number)  # above 2**53 not exact: what is left decides
    return NUMBER + _float_bits(near) + (number - int(near) + 0x8000).to_bytes(2, "big")


def _timestamp(value: Any) -> bytes:
    stamp = value.timestamp_value
    return TIMESTAMP + struct.pack(">QI", stamp.seconds + _YEAR_ONE, stamp.nanos)


def _geo_point(value: Any) -> bytes:
    point = value.geo_point_value
    return GEO_POINT + _float_bits(point.latitude) + _float_bits(point.longitude)


def _array(value: Any) -> bytes:
    return ARRAY + b"".join(map(sort_key, value.array_value.values)) + b"\0"


def _map(value: Any) -> bytes:
    fields = value.map_value.fields
    if is_vector(value):
        parts = fields["value"].array_value.values
        return VECTOR + struct.pack(">I", len(parts)) + b"".join(map(sort_key, parts))
    return (
        MAP + b"".join(text_key(name) + sort_key(fields[name]) for name in sorted(fields)) + b"\0"
    )


_ENCODERS = {
    "boolean_value": lambda value: BOOLEAN + (b"\1" if value.boolean_value else b"\0"),
    "integer_value": lambda value: _integer(value.integer_value),
    "double_value": lambda value: _double(value.double_value),
    "timestamp_value": _timestamp,
    "string_value": lambda value: text_key(value.string_value),
    "bytes_value": lambda value: BYTES + _escaped(value.bytes_value),
    "reference_value": lambda value: path_key(value.reference_value),
    "geo_point_value": _geo_point,
    "array_value": _array,
    "map_value": _map,
}


def is_vector(value: Any) -> bool:
    """Whether a map value is how the clients write a vector."""
    fields = value.map_value.fields
    return "__type__" in fields and fields["__type__"].string_value == "__vector__"


def lookup(fields: Any, path: tuple[str, ...]) -> Any:
    """The Value at a field path, or None."""
    value = fields.get(path[0])
    for name in path[1:]:
        if value is None or value.WhichOneof("value_type") != "map_value":
            return None
        value = value.map_value.fields.get(name)
    return value


def check_fields(fields: Any) -> None:
    """Refuse fields that production refuses; cuts timestamps to microseconds, as it does."""
    _check_names(fields, 0, -1)


def _check_names(fields: Any, depth: int, path: int) -> None:
    """`path`: the bytes of the field path that leads to these fields, -1 at the top."""
    for name, value in fields.items():
        check_field_name(name)
        size = path + 1 + len(name.encode())
        check_field_path_size(size)
        _check(value, depth + 1, size)


def _check(value: Any, depth: int, path: int) -> None:
    kind = value.WhichOneof("value_type")
    if kind == "map_value":
        _check_map(value, depth, path)
    elif kind == "array_value":
        for part in value.array_value.values:
            if part.WhichOneof("value_type") == "array_value":
                raise invalid("Cannot convert an array value in an array value.")
            _check(part, depth + 1, path)
    elif kind == "timestamp_value":
        stamp = value.timestamp_value
        stamp.nanos -= stamp.nanos % 1000


def _check_map(value: Any, depth: int, path: int) -> None:
    if depth >= MAX_DEPTH:
        raise invalid(f"The document is nested deeper than {MAX_DEPTH} levels.")
    if is_vector(value):
        return
    _check_names(value.map_value.fields, depth, path)


def check_size(path: str, data: bytes) -> None:
    """Refuse a document over 1 MiB, counted as the quota page counts (not as it is encoded)."""
    if len(data) < _SURELY_SMALL:
        return
    fields = Document.FromString(data).fields
    for name, value in fields.items():
        if _size(value) > MAX_FIELD_VALUE:
            raise invalid(f'The value of property "{name}" is longer than {MAX_FIELD_VALUE} bytes.')
    total = name_size(path) + 32
    total += sum(len(name.encode()) + 1 + _size(value) for name, value in fields.items())
    if total > MAX_DOCUMENT:
        raise invalid(
            f'Document "{path}" cannot be written because its size ({total:,} bytes) exceeds '
            f"the maximum allowed size of {MAX_DOCUMENT:,} bytes."
        )


def _size(value: Any) -> int:
    kind = value.WhichOneof("value_type")
    if kind == "string_value":
        return len(value.string_value.encode()) + 1
    if kind == "bytes_value":
        return len(value.bytes_value)
    if kind == "array_value":
        return sum(map(_size, value.array_value.values))
    if kind == "map_value":
        parts = value.map_value.fields.items()
        return sum(len(name.encode()) + 1 + _size(part) for name, part in parts)
    if kind == "reference_value":
        return sum(len(part) + 1 for part in value.reference_value.split("/")[5:]) + 16
    return {"integer_value": 8, "double_value": 8, "timestamp_value": 8, "geo_point_value": 16}.get(
        kind, 1
    )
