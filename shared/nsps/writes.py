"""Firestore writes, encoded straight into the wire's messages.

The client's own encoding wraps every value in an object of its own and looks at every path several
times: a fifth of a delivery's processor time. What is not plain (see ``encoded``) is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from google.api_core.datetime_helpers import DatetimeWithNanoseconds
from google.cloud.firestore import ArrayRemove, ArrayUnion, DocumentReference, Increment
from google.cloud.firestore_v1.types import Value, Write

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_Value: Any = Value.pb()
_Write: Any = Write.pb()


class NotPlain(TypeError):
    """A field that only the client itself can encode."""


def encoded(reference: DocumentReference, fields: Mapping[str, Any], *, create: bool) -> Any:
    """The Write that creates a document, or that sets these top-level fields and leaves others.

    Fields are named by letters, digits and ``_``; their values are JSON, bytes, times in UTC, or
    one of Increment, ArrayUnion, ArrayRemove. Raises NotPlain.
    """
    write = _Write()
    write.update.name = reference._document_path
    if create:
        write.current_document.exists = False
    for name in sorted(fields):
        value = fields[name]
        if not _NAME.fullmatch(name):
            raise NotPlain(name)
        if isinstance(value, Increment | ArrayUnion | ArrayRemove):
            _transform(write.update_transforms.add(field_path=name), value)
            continue
        _put(write.update.fields[name], value)
        if not create:
            write.update_mask.field_paths.append(name)
    if not create:
        write.update_mask.SetInParent()
    return Write.wrap(write)


def _transform(into: Any, value: Increment | ArrayUnion | ArrayRemove) -> None:
    if isinstance(value, Increment):
        _put(into.increment, value.value)
        return
    union = isinstance(value, ArrayUnion)
    array = into.append_missing_elements if union else into.remove_all_from_array
    array.SetInParent()
    for item in value.values:
        _put(array.values.add(), item)


def _put(into: Any, value: Any) -> None:
    put = _PUTS.get(type(value))
    if put is not None:
        put(into, value)
    elif isinstance(value, datetime):  # the client's answers bring kinds of their own
        _put_time(into, value)
    else:
        raise NotPlain(type(value).__name__)


def _put_null(into: Any, _: None) -> None:
    into.null_value = 0


def _put_text(into: Any, value: str) -> None:
    into.string_value = value


def _put_truth(into: Any, value: bool) -> None:
    into.boolean_value = value


def _put_whole(into: Any, value: int) -> None:
    into.integer_value = value


def _put_real(into: Any, value: float) -> None:
    into.double_value = value


def _put_bytes(into: Any, value: bytes) -> None:
    into.bytes_value = value


def _put_time(into: Any, value: datetime) -> None:
    if value.tzinfo is None:
        raise NotPlain("a time without zone")
    into.timestamp_value.FromDatetime(value)


def _put_read_time(into: Any, value: DatetimeWithNanoseconds) -> None:
    into.timestamp_value.CopyFrom(value.timestamp_pb())  # type: ignore[no-untyped-call]


def _put_list(into: Any, value: list[Any] | tuple[Any, ...]) -> None:
    into.array_value.SetInParent()
    for item in value:
        _put(into.array_value.values.add(), item)


def _put_map(into: Any, value: dict[str, Any]) -> None:
    into.map_value.SetInParent()
    for name, item in value.items():
        if not isinstance(name, str):
            raise NotPlain("a key that is no text")
        _put(into.map_value.fields[name], item)


_PUTS: Mapping[type, Callable[[Any, Any], None]] = {
    type(None): _put_null,
    str: _put_text,
    bool: _put_truth,
    int: _put_whole,
    float: _put_real,
    bytes: _put_bytes,
    datetime: _put_time,
    DatetimeWithNanoseconds: _put_read_time,
    list: _put_list,
    tuple: _put_list,
    dict: _put_map,
}
