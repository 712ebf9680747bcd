"""Documents in SQLite, the indexes over them, and the recent past of both.

Everything runs on one connection and one thread. A document is kept as the wire form of its fields;
nothing is cached in memory besides SQLite's pages and `History`. An index is made when the first
query of its shape meets a collection too large to scan, and is kept from then on.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from nsps_local.firestore.clock import Clock
from nsps_local.firestore.names import Key, numeric_id
from nsps_local.firestore.values import Document, descending, id_key, lookup, path_key, sort_key

log = logging.getLogger(__name__)

PRAGMAS = (
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "synchronous=OFF",  # commits must survive the end of the process, not of the machine
    "cache_size=-65536",
)
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dbs (db INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS docs (
    n INTEGER PRIMARY KEY, db INTEGER NOT NULL, grp TEXT NOT NULL, parent TEXT NOT NULL,
    id TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS docs_key ON docs (db, grp, parent, id);
CREATE TABLE IF NOT EXISTS shapes (
    ix INTEGER PRIMARY KEY, db INTEGER NOT NULL, grp TEXT NOT NULL, shape TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    ix INTEGER, parent TEXT, k BLOB, n INTEGER NOT NULL, PRIMARY KEY (ix, parent, k)) WITHOUT ROWID;
"""
_ALL = "SELECT db, grp, parent, id, n, created, updated, data FROM docs WHERE db = ?"
_COLLECTION = f"{_ALL} AND grp = ? AND parent = ? AND id >= ? AND id <= ? ORDER BY id"
_SPAN = (
    "SELECT d.db, d.grp, d.parent, d.id, d.n, d.created, d.updated, d.data"
    " FROM entries e JOIN docs d ON d.n = e.n"
    " WHERE e.ix = ? AND e.parent = ? AND e.k >= ? AND e.k < ? ORDER BY e.k"
)
FORMAT = 1
LOCKED_SECONDS = 2.0
"""How long to wait for a server that is about to end to let go of the state."""
HISTORY_BYTES = 32 * 1024 * 1024
MAX_INDEXES = 40
"""For one collection group; queries of further shapes scan."""


class Record(NamedTuple):
    """A stored document: `data` a Document message of its fields alone; times in microseconds."""

    n: int
    created: int
    updated: int
    data: bytes


class Shape(NamedTuple):
    """What an index covers, its paths as field path tuples.

    Entries sort by the values of `equal`, then of `contains` (one entry for each distinct element
    of that array), then of `order` ((path, descending?) pairs), then by document name.
    """

    group_wide: bool
    equal: tuple[tuple[str, ...], ...]
    contains: tuple[str, ...] | None
    order: tuple[tuple[tuple[str, ...], bool], ...]
    name_descending: bool


class Span(NamedTuple):
    """A range of an index: entries of `parent` with low <= k < high."""

    ix: int
    parent: str
    low: bytes
    high: bytes


class History:
    """What documents were before their recent changes, so that a transaction reads one moment.

    Bounded by bytes; `floor` is the time before which it is forgotten.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._size = 0
        self._changes: deque[tuple[int, Key, Record | None]] = deque()
        self._by_key: dict[Key, deque[tuple[int, Record | None]]] = {}
        self._groups: dict[tuple[int, str], int] = {}
        self._dbs: dict[int, int] = {}

    def add(self, time: int, key: Key, before: Record | None) -> None:
        self._changes.append((time, key, before))
        self._by_key.setdefault(key, deque()).append((time, before))
        self._groups[key.db, key.group] = self._dbs[key.db] = time
        self._size += _weight(before)
        while self._size > HISTORY_BYTES:
            self._forget()

    def _forget(self) -> None:
        self.floor, key, before = self._changes.popleft()
        self._size -= _weight(before)
        past = self._by_key[key]
        past.popleft()
        if not past:
            del self._by_key[key]

    def changed(self, key: Key, since: int) -> bool:
        """Whether the document changed after `since` (true where that is forgotten)."""
        past = self._by_key.get(key)
        return since < self.floor or (past is not None and past[-1][0] > since)

    def group_changed(self, db: int, group: str, since: int) -> bool:
        """Whether any document of the group ("": of the database) changed after `since`."""
        last = self._groups.get((db, group), 0) if group else self._dbs.get(db, 0)
        return last > since

    def at(self, key: Key, time: int, now: Record | None) -> Record | None:
        """The document at `time`, given what it is now."""
        for changed, before in self._by_key.get(key, ()):
            if changed > time:
                return before
        return now

    def since(self, time: int) -> dict[Key, Record | None]:
        """The documents changed after `time`, as they were at `time`."""
        found: dict[Key, Record | None] = {}
        for changed, key, before in reversed(self._changes):
            if changed <= time:
                break
            found[key] = before
        return found


def _weight(record: Record | None) -> int:
    return 500 + (len(record.data) if record else 0)


class Store:
    """The documents of all databases, in the directory `state`."""

    def __init__(self, state: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = state / "firestore.sqlite"
        self._sql = sqlite3.connect(
            path, timeout=LOCKED_SECONDS, isolation_level=None, cached_statements=256
        )
        os.chmod(path, 0o600)  # noqa: PTH101 - documents hold personal data
        try:
            for pragma in PRAGMAS:
                self._sql.execute(f"PRAGMA {pragma}")
            self._sql.executescript(SCHEMA)
        except sqlite3.OperationalError as error:
            raise ValueError(
                f"Cannot use {path}: {error}; one server at a time can have a state directory."
            ) from None
        self._check_format(path)
        self._dbs: dict[str, int] = dict(self._sql.execute("SELECT name, db FROM dbs"))
        self._shapes: dict[tuple[int, str], dict[Shape, int]] = {}
        for ix, db, group, text in self._sql.execute("SELECT ix, db, grp, shape FROM shapes"):
            self._shapes.setdefault((db, group), {})[_shape_from(text)] = ix
        self._groups: dict[int, set[str]] = {}
        for db, group in self._sql.execute("SELECT DISTINCT db, grp FROM docs"):
            self._groups.setdefault(db, set()).add(group)
        last = self._meta("last", 0)
        self.clock = Clock(last, self._meta("advanced", 0.0), monotonic=monotonic)
        self.history = History(last)

    def close(self) -> None:
        self._sql.close()

    def _check_format(self, path: Path) -> None:
        found = self._meta("format", FORMAT)
        if found != FORMAT:
            raise ValueError(
                f"{path} has format {found}, this program writes {FORMAT}: remove the directory, "
                "or use the program that wrote it."
            )
        self._set_meta("format", FORMAT)

    def _meta(self, name: str, default: Any) -> Any:
        row = self._sql.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else default

    def _set_meta(self, name: str, value: Any) -> None:
        self._sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def advance_clock(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._set_meta("advanced", self.clock.advanced)

    def database(self, name: str) -> int:
        """The number of a database; every name is one."""
        found = self._dbs.get(name)
        if found is None:
            found = self._dbs[name] = len(self._dbs) + 1
            self._sql.execute("INSERT INTO dbs VALUES (?, ?)", (found, name))
        return found

    def databases(self) -> Iterable[tuple[str, int]]:
        return list(self._dbs.items())

    @contextmanager
    def transaction(self, time: int) -> Iterator[int]:
        """All puts and deletes inside, at `time`, or none of them."""
        self._sql.execute("BEGIN")
        try:
            yield time
            self._sql.execute("INSERT OR REPLACE INTO meta VALUES ('last', ?)", (time,))
            self._sql.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        """SQLite ends a transaction by itself where the disk is full."""
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    def get(self, key: Key) -> Record | None:
        row = self._sql.execute(
            "SELECT n, created, updated, data FROM docs"
            " WHERE db = ? AND grp = ? AND parent = ? AND id = ?",
            key,
        ).fetchone()
        return Record(*row) if row else None

    def put(self, key: Key, before: Record | None, after: Record) -> None:
        """Write a document that is `before` now (`after.n` is ignored). Inside transaction()."""
        _, created, updated, data = after
        if before is None:
            n = self._sql.execute(
                "INSERT INTO docs (db, grp, parent, id, created, updated, data)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*key, created, updated, data),
            ).lastrowid
            self._groups.setdefault(key.db, set()).add(key.group)
        else:
            n = before.n
            self._sql.execute(
                "UPDATE docs SET created = ?, updated = ?, data = ? WHERE n = ?",
                (created, updated, data, n),
            )
        self._index(key, n or 0, before.data if before else None, data)
        self.history.add(updated, key, before)

    def delete(self, time: int, key: Key, before: Record) -> None:
        self._sql.execute("DELETE FROM docs WHERE n = ?", (before.n,))
        self._index(key, before.n, before.data, None)
        self.history.add(time, key, before)

    def _index(self, key: Key, n: int, before: bytes | None, after: bytes | None) -> None:
        shapes = self._shapes.get((key.db, key.group))
        if not shapes:
            return
        old = Document.FromString(before).fields if before is not None else None
        new = Document.FromString(after).fields if after is not None else None
        for shape, ix in shapes.items():
            parent = "" if shape.group_wide else key.parent
            had = entry_keys(shape, key, old)
            has = entry_keys(shape, key, new)
            for k in had - has:
                self._sql.execute(
                    "DELETE FROM entries WHERE ix = ? AND parent = ? AND k = ?", (ix, parent, k)
                )
            for k in has - had:
                self._sql.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (ix, parent, k, n))

    def index(self, db: int, group: str, shape: Shape) -> int | None:
        """The number of an index, made if it is not there; None where there are too many."""
        shapes = self._shapes.setdefault((db, group), {})
        if shape in shapes:
            return shapes[shape]
        if len(shapes) >= MAX_INDEXES:
            return None
        log.info("building an index on %s: %s", group, shape)
        self._sql.execute("BEGIN")
        try:
            ix = self._sql.execute(
                "INSERT INTO shapes (db, grp, shape) VALUES (?, ?, ?)",
                (db, group, json.dumps(shape)),
            ).lastrowid
            self._sql.executemany(
                "INSERT INTO entries VALUES (?, ?, ?, ?)", self._entries(db, group, shape, ix or 0)
            )
            self._sql.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        shapes[shape] = ix or 0
        return ix

    def _entries(
        self, db: int, group: str, shape: Shape, ix: int
    ) -> Iterator[tuple[int, str, bytes, int]]:
        for key, record in self.group(db, group):
            fields = Document.FromString(record.data).fields
            for k in entry_keys(shape, key, fields):
                yield ix, "" if shape.group_wide else key.parent, k, record.n

    def has_index(self, db: int, group: str, shape: Shape) -> bool:
        return shape in self._shapes.get((db, group), ())

    def larger_than(self, db: int, group: str, parent: str | None, count: int) -> bool:
        """Whether a collection (parent None: the whole group) has more than `count` documents."""
        row = self._sql.execute(
            "SELECT 1 FROM docs WHERE db = ? AND grp = ? AND parent = ? LIMIT 1 OFFSET ?"
            if parent is not None
            else "SELECT 1 FROM docs WHERE db = ? AND grp = ? LIMIT 1 OFFSET ?",
            (db, group, count) if parent is None else (db, group, parent, count),
        ).fetchone()
        return row is not None

    def span(self, span: Span, backwards: bool) -> Iterator[tuple[Key, Record]]:
        """The documents of a range of an index, in its order."""
        return _documents(self._sql.execute(_SPAN + (" DESC" if backwards else ""), span))

    def span_size(self, span: Span) -> int:
        return int(
            self._sql.execute(
                "SELECT COUNT(*) FROM entries WHERE ix = ? AND parent = ? AND k >= ? AND k < ?",
                span,
            ).fetchone()[0]
        )

    def collection(
        self, db: int, parent: str, low: str = "", high: str | None = None, backwards: bool = False
    ) -> Iterator[tuple[Key, Record]]:
        """The documents of a collection by id, of which low <= id <= high."""
        first, last = id_key(low), b"\xff" if high is None else id_key(high)
        parts = (
            self._numbered(db, parent, first, last, backwards),
            self._named(db, parent, low, high, backwards),
        )
        return chain(*(reversed(parts) if backwards else parts))

    def _numbered(
        self, db: int, parent: str, first: bytes, last: bytes, backwards: bool
    ) -> Iterator[tuple[Key, Record]]:
        """The documents of a collection with numeric ids, which sort before all others."""
        rows = _documents(
            self._sql.execute(_COLLECTION, (db, parent.rpartition("/")[2], parent, "__id", "__ie"))
        )
        found = [
            row
            for row in rows
            if numeric_id(row[0].id) is not None and first <= id_key(row[0].id) <= last
        ]
        yield from sorted(found, key=lambda row: id_key(row[0].id), reverse=backwards)

    def _named(
        self, db: int, parent: str, low: str, high: str | None, backwards: bool
    ) -> Iterator[tuple[Key, Record]]:
        """The documents of a collection with ids that are texts, as SQLite sorts them."""
        if high is not None and numeric_id(high) is not None:
            return
        first = "" if numeric_id(low) is not None else low
        last = "\U0010ffff\U0010ffff" if high is None else high
        rows = self._sql.execute(
            _COLLECTION + (" DESC" if backwards else ""),
            (db, parent.rpartition("/")[2], parent, first, last),
        )
        yield from (row for row in _documents(rows) if numeric_id(row[0].id) is None)

    def collection_size(self, db: int, parent: str) -> int:
        return int(
            self._sql.execute(
                "SELECT COUNT(*) FROM docs WHERE db = ? AND grp = ? AND parent = ?",
                (db, parent.rpartition("/")[2], parent),
            ).fetchone()[0]
        )

    def group(self, db: int, group: str) -> Iterator[tuple[Key, Record]]:
        """The documents of a collection group ("": all of the database), unsorted."""
        if not group:
            return _documents(self._sql.execute(_ALL, (db,)))
        return _documents(self._sql.execute(f"{_ALL} AND grp = ?", (db, group)))

    def keys(self, db: int) -> Iterator[Key]:
        """The keys of all documents of a database, unsorted."""
        rows = self._sql.execute("SELECT db, grp, parent, id FROM docs WHERE db = ?", (db,))
        return map(Key._make, rows)

    def children(self, db: int, path: str) -> set[str]:
        """What is directly below a path: of a document ("": the root) the ids of its collections,

        of a collection the ids of documents that have something below them, there or not.
        """
        prefix = f"{path}/" if path else ""
        end = f"{path}0" if path else "\U0010ffff"  # "0" follows "/"
        found = set()
        for group in self._groups.get(db, ()):
            low = prefix
            while row := self._first_parent(db, group, low, end):
                child, slash, _ = row[0][len(prefix) :].partition("/")
                found.add(child)
                low = f"{prefix}{child}0" if slash else f"{row[0]}\0"
        return found

    def _first_parent(self, db: int, group: str, low: str, end: str) -> tuple[str] | None:
        row: tuple[str] | None = self._sql.execute(
            "SELECT parent FROM docs WHERE db = ? AND grp = ? AND parent >= ? AND parent < ?"
            " ORDER BY parent LIMIT 1",
            (db, group, low, end),
        ).fetchone()
        return row


def _documents(rows: Iterable[Any]) -> Iterator[tuple[Key, Record]]:
    for db, group, parent, name, n, created, updated, data in rows:
        yield Key(db, group, parent, name), Record(n, created, updated, data)


def _shape_from(text: str) -> Shape:
    group_wide, equal, contains, order, name_descending = json.loads(text)
    return Shape(
        group_wide,
        tuple(map(tuple, equal)),
        tuple(contains) if contains is not None else None,
        tuple((tuple(path), down) for path, down in order),
        name_descending,
    )


def entry_keys(shape: Shape, key: Key, fields: Any) -> set[bytes]:
    """The keys of a document in an index; none where it lacks a field of it."""
    if fields is None:
        return set()
    heads = _heads(shape, fields)
    tail = b""
    for path, down in shape.order:
        value = lookup(fields, path)
        if value is None:
            return set()
        encoded = sort_key(value)
        tail += descending(encoded) if down else encoded
    name = path_key(key.path)
    tail += descending(name) if shape.name_descending else name
    return {head + tail for head in heads}


def _heads(shape: Shape, fields: Any) -> set[bytes]:
    head = b""
    for path in shape.equal:
        value = lookup(fields, path)
        if value is None:
            return set()
        head += sort_key(value)
    if shape.contains is None:
        return {head}
    array = lookup(fields, shape.contains)
    if array is None:
        return set()
    return {head + sort_key(part) for part in array.array_value.values}
