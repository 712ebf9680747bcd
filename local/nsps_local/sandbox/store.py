"""What the sandbox remembers: one SQLite file in the state directory.

Every change is one transaction, written ahead (WAL), so a process killed at any moment leaves
either all of a change with its events or nothing of it. One connection, one lock: a reader never
sees half a transaction.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SCHEMA = """
CREATE TABLE IF NOT EXISTS customers (
  i_customer INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, companyname TEXT,
  firstname TEXT, lastname TEXT, email TEXT, phone1 TEXT, zip TEXT,
  blocked TEXT NOT NULL DEFAULT 'N', bill_status TEXT NOT NULL DEFAULT 'O',
  balance REAL NOT NULL DEFAULT 0, credit_limit REAL, creation_date TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS access_policies (
  i_access_policy INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
  attributes TEXT NOT NULL DEFAULT '[]');
CREATE TABLE IF NOT EXISTS products (
  i_product INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, description TEXT,
  addon_priority INTEGER NOT NULL DEFAULT 0, i_vd_plan INTEGER, i_access_policy INTEGER,
  i_product_group INTEGER NOT NULL DEFAULT 7);
CREATE TABLE IF NOT EXISTS bundles (
  i_vd_plan INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
  i_service INTEGER NOT NULL, service_name TEXT NOT NULL, unit TEXT NOT NULL, allocated REAL);
CREATE TABLE IF NOT EXISTS accounts (
  i_account INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  i_customer INTEGER NOT NULL, i_product INTEGER NOT NULL, i_master_account INTEGER,
  billing_model INTEGER NOT NULL DEFAULT 1,
  blocked TEXT NOT NULL DEFAULT 'N', bill_status TEXT NOT NULL DEFAULT 'O',
  firstname TEXT, lastname TEXT, email TEXT, zip TEXT, i_vd_plan INTEGER,
  balance REAL NOT NULL DEFAULT 0, activation_date TEXT NOT NULL,
  h323_password TEXT NOT NULL, features TEXT NOT NULL DEFAULT '{}');
CREATE INDEX IF NOT EXISTS accounts_by_customer ON accounts (i_customer);
CREATE INDEX IF NOT EXISTS accounts_by_product ON accounts (i_product);
CREATE TABLE IF NOT EXISTS addons (
  i_account INTEGER NOT NULL, i_product INTEGER NOT NULL,
  effective_from TEXT NOT NULL, effective_to TEXT, PRIMARY KEY (i_account, i_product));
CREATE TABLE IF NOT EXISTS counters (
  i_account INTEGER NOT NULL, i_vd_plan INTEGER NOT NULL, used REAL NOT NULL DEFAULT 0,
  topped_up REAL NOT NULL DEFAULT 0, PRIMARY KEY (i_account, i_vd_plan));
CREATE TABLE IF NOT EXISTS sim_cards (
  i_sim_card INTEGER PRIMARY KEY AUTOINCREMENT, iccid TEXT NOT NULL UNIQUE,
  imsi TEXT NOT NULL UNIQUE, msisdn TEXT, status TEXT NOT NULL DEFAULT 'available',
  i_account INTEGER UNIQUE, ki TEXT NOT NULL, opc TEXT NOT NULL, pin1 TEXT NOT NULL,
  puk1 TEXT NOT NULL, pin2 TEXT NOT NULL, puk2 TEXT NOT NULL, activation_code TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS numbers (
  number TEXT PRIMARY KEY, i_account INTEGER, status TEXT NOT NULL DEFAULT 'available');
CREATE TABLE IF NOT EXISTS invoices (
  i_invoice INTEGER PRIMARY KEY AUTOINCREMENT, i_customer INTEGER NOT NULL,
  amount REAL NOT NULL, paid REAL NOT NULL DEFAULT 0, issue_date TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  i_event INTEGER PRIMARY KEY AUTOINCREMENT, event_type TEXT NOT NULL, variables TEXT NOT NULL,
  kind TEXT NOT NULL, entity TEXT NOT NULL, created REAL NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
  next_try REAL NOT NULL, finished REAL);
CREATE INDEX IF NOT EXISTS events_waiting ON events (next_try, i_event) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind, entity) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS attempts (
  i_event INTEGER NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL, seconds REAL NOT NULL,
  status INTEGER, answer TEXT NOT NULL, error TEXT, PRIMARY KEY (i_event, attempt));
CREATE TABLE IF NOT EXISTS status_groups (
  i_group INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_custom INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS statuses (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, i_account INTEGER NOT NULL, group_name TEXT NOT NULL,
  status TEXT NOT NULL, message TEXT, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS statuses_by_account ON statuses (i_account, group_name, seq);
"""

# As on a PortaBilling that has been in use for a while: the kinds of ids are told apart at a
# glance.
FIRST_IDS = {
    "customers": 2501,
    "accounts": 277001,
    "products": 61,
    "access_policies": 179,
    "bundles": 48,
    "sim_cards": 3793,
    "invoices": 9001,
    "events": 7601,
}


class StateInUse(RuntimeError):
    """Another process holds the state directory."""


class Store:
    """The database of one sandbox.

    >>> store.rows("SELECT * FROM products")           # a list of dicts, outside or inside a
    transaction
    >>> with store.transaction(): store.run("UPDATE ...", args)

    Raises StateInUse when another process has the same directory open.
    """

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._depth = 0
        self._db = sqlite3.connect(
            state_dir / "portabilling.sqlite3",
            check_same_thread=False,
            isolation_level=None,
            timeout=1,
        )
        self._db.row_factory = _as_dict
        try:
            self._open()
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" in str(error):
                raise StateInUse(
                    f"The state directory {state_dir} is in use by another sandbox; "
                    "stop that one or choose another --state."
                ) from error
            raise

    def _open(self) -> None:
        # Exclusive: two senders on one queue would send everything twice.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(f"BEGIN;{SCHEMA}COMMIT;")
        with self.transaction():
            for table, first in FIRST_IDS.items():
                if not self.rows("SELECT 1 FROM sqlite_sequence WHERE name = ?", table):
                    self.run(
                        "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, first - 1
                    )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; may be nested, then the outermost decides."""
        with self._lock:
            if not self._depth:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if not self._depth:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if not self._depth:
                self._db.execute("COMMIT")

    def rows(self, sql: str, *args: object) -> list[Row]:
        with self._lock:
            return self._db.execute(sql, args).fetchall()

    def row(self, sql: str, *args: object) -> Row | None:
        with self._lock:
            found: Row | None = self._db.execute(sql, args).fetchone()
            return found

    def value(self, sql: str, *args: object) -> Any:
        """The first column of the first row, or None."""
        found = self.row(sql, *args)
        return next(iter(found.values())) if found else None

    def run(self, sql: str, *args: object) -> int:
        """Change something; the id of an inserted row (or of the last one before)."""
        with self._lock:
            return self._db.execute(sql, args).lastrowid or 0

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        with self._lock:
            self._db.executemany(sql, rows)

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _as_dict(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}
