"""The broker's disk: one SQLite file, written in groups.

Changes gather in memory and go to disk in one transaction per `commit`. What is committed outlives
SIGKILL. The write-ahead log is copied back by a thread, so that no publish waits for the disk.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subscriptions (
    sid INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS messages (mid INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
    mid INTEGER NOT NULL, sid INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0,
    acked INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (mid, sid)) WITHOUT ROWID;
"""
_ORPHAN = "NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.mid = messages.mid)"
_MESSAGE = "INSERT INTO messages (mid, body) VALUES (?, ?)"
_DELIVERY = "INSERT INTO deliveries (mid, sid) VALUES (?, ?)"
_FAILED = "UPDATE deliveries SET failures = ?, due = ? WHERE mid = ? AND sid = ?"
_KEEP_ACKED = "UPDATE deliveries SET acked = 1, failures = 0, due = 0 WHERE mid = ? AND sid = ?"
_REMOVE = "DELETE FROM deliveries WHERE mid = ? AND sid = ?"
_REMOVE_BODY = f"DELETE FROM messages WHERE mid = ? AND {_ORPHAN}"  # noqa: S608 (constants)
# What is inserted comes before what changes it, and that before what deletes it.
_ORDER = (_MESSAGE, _DELIVERY, _FAILED, _KEEP_ACKED, _REMOVE, _REMOVE_BODY)

_CACHE_BYTES = 16 << 20
_CHECKPOINT_BYTES = 8 << 20
_LARGEST_LOG_PAGES = 16384  # 64 MB

Row = tuple[int, bytes] | tuple[int, int] | tuple[int] | tuple[int, float, int, int]


class Store:
    """Topics, subscriptions, messages and the state of each delivery, in `directory`/pubsub.db.

    Raises OSError, with a sentence: the directory is in use, or cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(directory)
        self._path = directory / "pubsub.db"
        try:
            self._db = self._connect()
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"{self._path} cannot be read ({error})."
                " Move it away to begin with an empty broker."
            ) from error
        self._changes: dict[str, list[Row]] = {sql: [] for sql in _ORDER}
        self._written = 0
        self._log_pages = 0
        self._checkpoint: threading.Thread | None = None
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0

    # -- what was there

    def meta(self, key: str) -> float:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return float(row[0]) if row else 0.0

    def set_meta(self, key: str, value: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def topics(self) -> list[bytes]:
        return [row[0] for row in self._db.execute("SELECT body FROM topics ORDER BY name")]

    def subscriptions(self) -> list[tuple[int, bytes]]:
        return self._db.execute("SELECT sid, body FROM subscriptions ORDER BY sid").fetchall()

    def deliveries(self) -> Iterator[tuple[int, int, int, float]]:
        """(message id, subscription id, failures, due) of all that is not acknowledged."""
        sql = "SELECT mid, sid, failures, due FROM deliveries WHERE acked = 0 ORDER BY mid"
        yield from self._db.execute(sql)

    def last_id(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(mid), 0) FROM messages").fetchone()[0])

    def body(self, mid: int) -> bytes | None:
        """A message's body, from memory if it is recent. None: it is gone."""
        cached = self._cache.get(mid)
        if cached is not None:
            return cached
        row = self._db.execute("SELECT body FROM messages WHERE mid = ?", (mid,)).fetchone()
        return bytes(row[0]) if row else None

    # -- resources: at once

    def put_topic(self, name: str, body: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO topics VALUES (?, ?)", (name, body))

    def drop_topic(self, name: str) -> None:
        self._db.execute("DELETE FROM topics WHERE name = ?", (name,))

    def add_subscription(self, name: str, body: bytes) -> int:
        sql = "INSERT INTO subscriptions (name, body) VALUES (?, ?)"
        return int(self._db.execute(sql, (name, body)).lastrowid or 0)

    def put_subscription(self, sid: int, body: bytes) -> None:
        self._db.execute("UPDATE subscriptions SET body = ? WHERE sid = ?", (body, sid))

    def drop_subscription(self, sid: int) -> None:
        self.commit()
        self.clear(sid, None)
        self._db.execute("DELETE FROM subscriptions WHERE sid = ?", (sid,))

    def clear(self, sid: int, before: int | None, keep: bool = False) -> None:
        """Remove (or, to `keep`, mark acknowledged) what was published before the id; None: all."""
        self.commit()
        bound = (1 << 62) if before is None else before
        if keep:
            sql = "UPDATE deliveries SET acked = 1, failures = 0 WHERE sid = ? AND mid < ?"
            self._db.execute(sql, (sid, bound))
            return
        self._db.execute("DELETE FROM deliveries WHERE sid = ? AND mid < ?", (sid, bound))
        sql = f"DELETE FROM messages WHERE mid < ? AND {_ORPHAN}"  # noqa: S608 (constants)
        self._db.execute(sql, (bound,))

    def drop_acked(self, sid: int, before: int) -> None:
        """Remove the kept acknowledged messages of a subscription that are older than the id."""
        sql = "DELETE FROM deliveries WHERE sid = ? AND acked = 1 AND mid < ?"
        if self._db.execute(sql, (sid, before)).rowcount:
            sql = f"DELETE FROM messages WHERE mid < ? AND {_ORPHAN}"  # noqa: S608 (constants)
            self._db.execute(sql, (before,))

    def revive(self, sid: int, since: int) -> list[int]:
        """Make kept acknowledged messages unacknowledged again; their ids, oldest first."""
        self.commit()
        sql = "SELECT mid FROM deliveries WHERE sid = ? AND acked = 1 AND mid >= ? ORDER BY mid"
        found = [int(row[0]) for row in self._db.execute(sql, (sid, since))]
        sql = "UPDATE deliveries SET acked = 0 WHERE sid = ? AND mid >= ?"
        self._db.execute(sql, (sid, since))
        return found

    # -- messages: with the next commit

    def remember(self, mid: int, body: bytes) -> None:
        """Keep a body at hand, as long as it is among the last 16 MB."""
        self._cache[mid] = body
        self._cached_bytes += len(body)
        while self._cached_bytes > _CACHE_BYTES:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def failed(self, sid: int, mid: int, failures: int, due: float) -> None:
        self._changes[_FAILED].append((failures, due, mid, sid))

    def acked(self, sid: int, mid: int, keep: bool = False) -> None:
        if keep:
            self._changes[_KEEP_ACKED].append((mid, sid))
            return
        self._changes[_REMOVE].append((mid, sid))
        self._changes[_REMOVE_BODY].append((mid,))
        body = self._cache.get(mid)
        if body is not None and len(body) > 4096:
            self._cached_bytes -= len(self._cache.pop(mid))

    def commit(
        self, messages: Sequence[tuple[int, bytes]] = (), deliveries: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Write the new messages, (id, body), their deliveries, (id, subscription), and all
        gathered changes in one transaction.

        Raises sqlite3.Error: nothing was written; the gathered changes wait for the next commit,
        the messages do not.
        """
        groups: dict[str, Sequence[Row]] = {
            **self._changes,
            _MESSAGE: messages,
            _DELIVERY: deliveries,
        }
        if not any(groups.values()):
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for sql in _ORDER:
                if groups[sql]:
                    self._db.executemany(sql, groups[sql])
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        for rows in self._changes.values():
            rows.clear()
        self._written += 4096 + sum(len(row[1]) for row in messages)
        if self._written > _CHECKPOINT_BYTES:
            self._start_checkpoint()

    def close(self) -> None:
        self.commit()
        if self._checkpoint:
            self._checkpoint.join()
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        self._lock.close()

    # -- inside

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=10.0
        )
        # NORMAL: a commit reaches the kernel (and so outlives SIGKILL), the disk a little later.
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def _start_checkpoint(self) -> None:
        if self._checkpoint and self._checkpoint.is_alive():
            return
        self._written = 0
        # The thread never quite catches up with a steady writer, and only a log that is copied
        # back whole begins anew: when it has grown large, the rest is done here.
        if self._log_pages > _LARGEST_LOG_PAGES:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._log_pages = 0
            return
        self._checkpoint = threading.Thread(target=self._copy_back, name="pubsub-checkpoint")
        self._checkpoint.start()

    def _copy_back(self) -> None:
        db = self._connect()
        self._log_pages = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
        db.close()


def _locked(directory: Path) -> IO[str]:
    """Two brokers on one file would deliver everything twice and lose what the other knows."""
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise OSError(
            f"{directory} is in use by another Pub/Sub. Stop it, or choose another --state."
        ) from error
    return lock
