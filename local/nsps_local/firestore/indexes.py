"""Which queries production refuses because no index serves them.

Single fields are indexed automatically, within one collection. Everything else must be declared,
as in firestore.indexes.json: `indexes` (collectionGroup, queryScope, fields of fieldPath and order
or arrayConfig) and `fieldOverrides` (collectionGroup, fieldPath, indexes: the single-field indexes
this field has instead of the automatic ones).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path as FilePath
from typing import Any, Literal, NamedTuple

import grpc
from nsps.runtime.mistakes import sentences
from pydantic import BaseModel, ConfigDict, ValidationError

from nsps_local.firestore.names import Key, field_path, invalid
from nsps_local.firestore.query import EXCLUSIONS, NAME, NEVER, RANGES, Conjunction, Path, Query
from nsps_local.firestore.values import Document, is_vector, lookup, sort_key
from nsps_local.grpc_server import Refused

Part = tuple[Path, str]
"""A field of an index and how: ASCENDING, DESCENDING or CONTAINS."""
UP, DOWN, CONTAINS = "ASCENDING", "DESCENDING", "CONTAINS"
AUTOMATIC = frozenset({(False, UP), (False, DOWN), (False, CONTAINS)})
"""The single-field indexes of every field: (over a collection group?, how)."""
MAX_ENTRIES = 40_000
SURELY_FEW_BYTES = 10_000
"""Documents smaller than this are not counted: an entry takes some bytes of it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Field(_Model):
    fieldPath: str  # noqa: N815 - Google's name
    order: Literal["ASCENDING", "DESCENDING"] | None = None
    arrayConfig: Literal["CONTAINS"] | None = None  # noqa: N815


class _Index(_Model):
    collectionGroup: str  # noqa: N815
    queryScope: Literal["COLLECTION", "COLLECTION_GROUP"] = "COLLECTION"  # noqa: N815
    fields: list[_Field]


class _Single(_Model):
    queryScope: Literal["COLLECTION", "COLLECTION_GROUP"] = "COLLECTION"  # noqa: N815
    order: Literal["ASCENDING", "DESCENDING"] | None = None
    arrayConfig: Literal["CONTAINS"] | None = None  # noqa: N815


class _Override(_Model):
    collectionGroup: str  # noqa: N815
    fieldPath: str  # noqa: N815
    indexes: list[_Single] = []


class _File(_Model):
    indexes: list[_Index] = []
    fieldOverrides: list[_Override] = []  # noqa: N815


class Needed(NamedTuple):
    """What one disjunct needs: fields compared for equality, then the fields sorted by."""

    equal: frozenset[Part]
    order: tuple[Part, ...]


class Indexes:
    """The declared indexes. None declared: every query is served by some index."""

    def __init__(self, declared: dict[str, Any] | None = None) -> None:
        self._declared = declared is not None
        file = _File.model_validate({} if declared is None else declared)
        self._composite: dict[tuple[str, bool], list[tuple[Part, ...]]] = {}
        for index in file.indexes:
            scope = (index.collectionGroup, index.queryScope == "COLLECTION_GROUP")
            parts = tuple(
                (field_path(part.fieldPath), part.arrayConfig or part.order or UP)
                for part in index.fields
            )
            self._composite.setdefault(scope, []).append(parts)
        self._overrides: dict[tuple[str, Path], set[tuple[bool, str]]] = {}
        for override in file.fieldOverrides:
            key = (override.collectionGroup, field_path(override.fieldPath))
            self._overrides[key] = {
                (single.queryScope == "COLLECTION_GROUP", single.arrayConfig or single.order or UP)
                for single in override.indexes
            }

    @classmethod
    def read(cls, path: FilePath) -> Indexes:
        """From a file. Raises ValueError, with a sentence, where it is not one of indexes."""
        try:
            return cls(json.loads(path.read_text()))
        except OSError as error:
            raise ValueError(f"Cannot read the indexes {path}: {error.strerror}.") from None
        except ValidationError as error:
            raise ValueError(f"{path} does not declare indexes: {sentences(error)}") from None
        except (json.JSONDecodeError, Refused) as error:
            raise ValueError(f"{path} does not declare indexes: {error}") from None

    def check(self, query: Query) -> None:
        """Raise Refused, FAILED_PRECONDITION, where an index is missing."""
        for terms in query.disjuncts if self._declared else ():
            needed = _needed(query, terms)
            if not self._served(query.group, query.collection is None, needed):
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, _text(query, needed))

    def check_entries(self, key: Key, data: bytes) -> None:
        """Raise Refused where a document would have more index entries than it may."""
        if len(data) < SURELY_FEW_BYTES:
            return
        fields = Document.FromString(data).fields
        entries = sum(self._single(key.group, (name,), fields[name]) for name in fields)
        for wide in (False, True):
            indexes = self._composite.get((key.group, wide), ())
            entries += sum(_composite_entries(parts, fields) for parts in indexes)
        if entries > MAX_ENTRIES:
            raise invalid(
                f'The document "{key.path}" has {entries:,} index entries; the maximum is '
                f"{MAX_ENTRIES:,}. Exempt its large maps and arrays from indexing."
            )

    def _single(self, group: str, path: Path, value: Any) -> int:
        """How many entries a field has in single-field indexes, those within a map included."""
        hows = [how for _, how in self._single_indexes(group, path)]
        entries = len(hows) - hows.count(CONTAINS)
        if value.WhichOneof("value_type") == "array_value":
            elements = {sort_key(part) for part in value.array_value.values}
            entries += hows.count(CONTAINS) * len(elements)
        elif value.WhichOneof("value_type") == "map_value" and not is_vector(value):
            inner = value.map_value.fields
            entries += sum(self._single(group, (*path, name), inner[name]) for name in inner)
        return entries

    def _single_indexes(self, group: str, path: Path) -> Collection[tuple[bool, str]]:
        """The single-field indexes of a field; one within a map inherits those of the map."""
        for size in range(len(path), 0, -1):
            override = self._overrides.get((group, path[:size]))
            if override is not None:
                return override
        return AUTOMATIC

    def _served(self, group: str, wide: bool, needed: Needed) -> bool:
        """Whether indexes that end with the order, merged, cover all equalities."""
        left = set(needed.equal)
        found = not left and not needed.order
        for order in (needed.order, _reversed(needed.order)):
            for parts in (*self._composite.get((group, wide), ()), *self._singles(needed)):
                head, tail = _split(parts, len(order))
                if tail != order or not self._exists(group, wide, parts):
                    continue
                if set(_upward(head)) <= needed.equal:
                    left -= set(_upward(head))
                    found = True
        return found and not left

    def _singles(self, needed: Needed) -> Iterable[tuple[Part, ...]]:
        if len(needed.order) == 1:
            yield needed.order
            yield _reversed(needed.order)
        elif not needed.order:
            for part in needed.equal:
                yield (part,)

    def _exists(self, group: str, wide: bool, parts: tuple[Part, ...]) -> bool:
        if len(parts) > 1:
            return True
        ((path, how),) = parts
        if path == NAME:
            return parts in self._composite.get((group, wide), ())
        there = self._single_indexes(group, path)
        return (wide, how) in there or (
            how != CONTAINS and (wide, UP if how == DOWN else DOWN) in there
        )


def _composite_entries(parts: tuple[Part, ...], fields: Any) -> int:
    """How many entries a document has in a composite index."""
    entries = 1
    for path, how in parts:
        value = lookup(fields, path)
        if path != NAME and value is None:
            return 0
        if how == CONTAINS:
            entries *= len({sort_key(part) for part in value.array_value.values})
    return entries


def _split(parts: tuple[Part, ...], tail: int) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    at = len(parts) - tail
    return (parts[:at], parts[at:]) if at >= 0 else (parts, ())


def _upward(parts: Iterable[Part]) -> Iterable[Part]:
    """Equality does not care which way an index sorts."""
    return ((path, UP if how == DOWN else how) for path, how in parts)


def _reversed(order: tuple[Part, ...]) -> tuple[Part, ...]:
    """An index can be read from its end."""
    return tuple((path, {UP: DOWN, DOWN: UP}.get(how, how)) for path, how in order)


def _needed(query: Query, terms: Conjunction) -> Needed:
    equal = {(term.path, UP) for term in terms if term.op == "=="}
    equal |= {(term.path, CONTAINS) for term in terms if term.op == "array-contains"}
    names = {path for path, how in equal if how == UP} | {NAME}
    order = [(path, DOWN if down else UP) for path, down in query.order if path not in names]
    compared = {term.path for term in terms if term.op in RANGES + EXCLUSIONS + (NEVER,)}
    if not (order or equal) and query.order == ((NAME, True),):
        order = [(NAME, DOWN)]  # documents are stored by ascending name only
    extra = sorted(compared - names - {path for path, _ in order})
    order += [(path, order[-1][1] if order else UP) for path in extra]
    return Needed(frozenset(part for part in equal if part[0] != NAME), tuple(order))


def _text(query: Query, needed: Needed) -> str:
    parts = [*sorted(needed.equal), *needed.order]
    index = {
        "collectionGroup": query.group,
        "queryScope": "COLLECTION_GROUP" if query.collection is None else "COLLECTION",
        "fields": [
            {"fieldPath": ".".join(path), "arrayConfig" if how == CONTAINS else "order": how}
            for path, how in parts
        ],
    }
    fields = ", ".join(f"{'.'.join(path)} {how}" for path, how in parts)
    return (
        f"The query requires an index on {query.group}: {fields}. "
        f"Declare it, in the program that deploys the database: {json.dumps(index)}"
    )
