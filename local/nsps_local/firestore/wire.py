"""Answers encoded by hand: a stored document goes out as the bytes it was kept as."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nsps_local.firestore.clock import timestamp
from nsps_local.firestore.query import Path
from nsps_local.firestore.store import Record
from nsps_local.firestore.values import Document, lookup


def part(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protobuf message; `number` below 16."""
    size = len(payload)
    if size < 128:
        return bytes((number << 3 | 2, size)) + payload
    length = bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | 2,)) + bytes(length) + payload


def time(micros: int) -> bytes:
    return bytes(timestamp(micros).SerializeToString())


def document(name: str, record: Record, fields: Iterable[Path] | None) -> bytes:
    """A Document message; with the given fields alone, where they are not None."""
    data = record.data if fields is None else project(record.data, fields)
    return b"".join(
        (part(1, name.encode()), data, part(3, time(record.created)), part(4, time(record.updated)))
    )


def project(data: bytes, fields: Iterable[Path]) -> bytes:
    """The data with these fields alone."""
    whole = Document.FromString(data).fields
    cut = Document()
    for path in fields:
        value = lookup(whole, path)
        if value is not None:
            place: Any = cut.fields
            for name in path[:-1]:
                place = place[name].map_value.fields
            place[path[-1]].CopyFrom(value)
    return bytes(cut.SerializeToString())


def found(document: bytes, read_time: bytes) -> bytes:
    """BatchGetDocumentsResponse."""
    return part(1, document) + part(4, read_time)


def missing(name: str, read_time: bytes) -> bytes:
    """BatchGetDocumentsResponse."""
    return part(2, name.encode()) + part(4, read_time)


def match(document: bytes, read_time: bytes) -> bytes:
    """RunQueryResponse."""
    return part(1, document) + part(3, read_time)


def write_result(update_time: int | None, results: Iterable[Any]) -> bytes:
    """WriteResult."""
    head = b"" if update_time is None else part(1, time(update_time))
    return head + b"".join(part(2, value.SerializeToString()) for value in results)


def committed(results: Iterable[bytes], commit_time: int) -> bytes:
    """CommitResponse."""
    return b"".join(part(1, result) for result in results) + part(2, time(commit_time))
