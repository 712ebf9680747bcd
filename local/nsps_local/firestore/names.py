"""Names of databases, documents and fields."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import grpc

from nsps_local.grpc_server import Refused

MAX_ID_BYTES = 1500
MAX_SEGMENTS = 2 * 100
MAX_NAME_BYTES = 6 * 1024
MAX_FIELD_PATH_BYTES = 1500
_RESERVED = re.compile(r"__.*__", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_NUMBER = re.compile(r"__id(-?[1-9][0-9]*)__")
_QUOTED = re.compile(r"`((?:[^`\\]|\\.)+)`", re.DOTALL)


class Key(NamedTuple):
    """A document: `parent` is the collection's path below the root, `group` its last segment."""

    db: int
    group: str
    parent: str
    id: str

    @property
    def path(self) -> str:
        return f"{self.parent}/{self.id}"


def invalid(text: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, text)


def split_database(name: str) -> tuple[str, str]:
    """`projects/P/databases/D/documents[/path]` in two: database, path below the root."""
    parts = name.split("/", 5)
    if len(parts) < 5 or (parts[0], parts[2], parts[4]) != ("projects", "databases", "documents"):
        raise invalid(f'The name "{name}" is not of the form projects/P/databases/D/documents/...')
    return name[: len(parts[1]) + len(parts[3]) + 20], parts[5] if len(parts) > 5 else ""


@lru_cache(maxsize=4096)
def check_path(path: str) -> tuple[str, ...]:
    """The segments of a document's path below the root; refuses what cannot name a document."""
    segments = tuple(path.split("/"))
    if len(segments) % 2 or len(segments) > MAX_SEGMENTS:
        raise invalid(
            f'The path "{path}" is not a document: it needs pairs of collection/document.'
        )
    for place, segment in enumerate(segments):
        _check_id(segment, of_document=place % 2 == 1)
    if name_size(path) > MAX_NAME_BYTES:
        raise invalid(f"The name of a document is longer than {MAX_NAME_BYTES} bytes.")
    return segments


def name_size(path: str) -> int:
    """Bytes of a document's name, as the quota page counts them."""
    return sum(len(segment.encode()) + 1 for segment in path.split("/")) + 16


def _check_id(segment: str, *, of_document: bool) -> None:
    """Refuse what production refuses as a collection or document id."""
    if not segment or segment in (".", ".."):
        raise invalid(f'Resource id "{segment}" is invalid: it is empty, "." or "..".')
    numeric = of_document and numeric_id(segment) is not None
    if _RESERVED.fullmatch(segment) and not numeric:
        raise invalid(f'Resource id "{segment}" is invalid because it is reserved.')
    if len(segment.encode()) > MAX_ID_BYTES:
        raise invalid(f"A resource id is longer than {MAX_ID_BYTES} bytes.")


def numeric_id(segment: str) -> int | None:
    """The number of an id such as `__id7__` (as Datastore has them); None: the id is a text."""
    if segment[:4] != "__id":
        return None
    match = _NUMBER.fullmatch(segment)
    number = int(match[1]) if match else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


def key_of(db: int, path: str) -> Key:
    """The key of a document's path below the root."""
    segments = check_path(path)
    return Key(db, segments[-2], path.rpartition("/")[0], segments[-1])


@lru_cache(maxsize=4096)
def field_path(text: str) -> tuple[str, ...]:
    """`a.b.`c d`` as a tuple of names. Raises Refused where it is no field path."""
    names = []
    at = 0
    while True:
        quoted = _QUOTED.match(text, at)
        plain = quoted or _PLAIN.match(text, at)
        if plain is None:
            raise invalid(f'Invalid property path "{text}": quote unusual names with backticks.')
        names.append(re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else plain[0])
        at = plain.end()
        if at == len(text):
            check_field_path_size(sum(len(name.encode()) + 1 for name in names) - 1)
            return tuple(names)
        if text[at] != ".":
            raise invalid(f'Invalid property path "{text}": a "." is missing at {at}.')
        at += 1


def check_field_path_size(size: int) -> None:
    """Refuse a field path of too many bytes, its names joined by dots."""
    if size > MAX_FIELD_PATH_BYTES:
        raise invalid(f"A property path is longer than {MAX_FIELD_PATH_BYTES} bytes.")


def check_field_name(name: str) -> None:
    """Refuse a field name that production refuses."""
    if not name:
        raise invalid("A field name is empty.")
    if name[:2] == "__" and _RESERVED.fullmatch(name):
        raise invalid(f"field name {name} is reserved")
    if len(name) > MAX_ID_BYTES // 4 and len(name.encode()) > MAX_ID_BYTES:
        raise invalid(f"A field name is longer than {MAX_ID_BYTES} bytes.")
