"""Rows of a database's tables: read, written with a look at what came of it, and checked.

    subscriber = Table("subscriber", {"username": "text", "domain": "text"}, ("username", "domain"))
    sql = SqlClient(settings.url, context.optional, [subscriber])
    with sql.writing(call) as session:
        session.upsert(subscriber, {"username": "alice", "domain": "example.net", "ha1": ...})

Each ``with`` is one transaction: all of it is done or nothing, by the call's deadline.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from nsps.domain.fields import READ
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import OptionalSecret
from nsps.transport.call import Call
from nsps.transport.deadline import Deadline
from nsps.transport.sql.engine import Transactions
from nsps.transport.sql.errors import is_duplicate
from nsps.transport.sql.table import ReflectedTable, Row, Table, create, find


class SqlClient:
    """One database with the tables that a connector uses; safe to share between threads.

    ``secret``: gives the secret ``password``, asked for each new connection; read anew, and tried
    once more, where the connection is refused.
    """

    def __init__(self, url: str, secret: OptionalSecret, tables: Sequence[Table]) -> None:
        self._transactions = Transactions(url, secret)
        self._specs = tuple(tables)
        self._found: Mapping[Table, ReflectedTable] = {}
        self._finding = threading.Lock()

    def close(self) -> None:
        self._transactions.close()

    @contextmanager
    def reading(self, call: Call) -> Iterator[SqlSession]:
        """A transaction that changes nothing. Raises Transient, NoAnswer."""
        found = self._tables(call.deadline)
        with self._transactions.open(call.deadline, writes=False) as connection:
            yield SqlSession(connection, found)

    @contextmanager
    def writing(self, call: Call) -> Iterator[SqlSession]:
        """A transaction. Raises Transient (nothing was changed), NoAnswer, Terminal."""
        found = self._tables(call.deadline)
        with self._transactions.open(call.deadline, writes=True) as connection:
            session = SqlSession(connection, found)
            yield session
        call.wrote = call.wrote or session.changed

    def check(self, call: Call) -> None:
        """Write nothing, and take that back: a read says little of a node that is read-only."""
        found = self._tables(call.deadline)
        with self._transactions.open(call.deadline, writes=True, end="ROLLBACK") as connection:
            session = SqlSession(connection, found)
            for spec in self._specs:
                if spec.written:
                    session.write_nothing(spec)

    def _tables(self, deadline: Deadline) -> Mapping[Table, ReflectedTable]:
        """The tables as the database has them; looked at once."""
        if not self._finding.acquire(timeout=deadline.remaining()):
            raise Transient("no time left to look at the tables; nothing was sent")
        try:
            if not self._found:
                for spec in self._specs:
                    if spec.create:
                        with self._transactions.open(deadline, writes=True) as connection:
                            create(spec, connection)
                with self._transactions.open(deadline, writes=False) as connection:
                    self._found = {spec: find(spec, connection) for spec in self._specs}
            return self._found
        finally:
            self._finding.release()


class SqlSession:
    """What can be done within one transaction."""

    def __init__(self, connection: sa.Connection, found: Mapping[Table, ReflectedTable]) -> None:
        self._connection, self._found = connection, found
        self.changed = False

    # --- reading ---------------------------------------------------------------------------------

    def row(self, table: Table, key: Mapping[str, Any]) -> Row | None:
        """The row with this key, its columns as the snapshot's readers read them."""
        found = self._found[table]
        query = sa.select(*found.columns()).where(found.where(key))
        values = self._connection.execute(query).first()
        return None if values is None else found.row(values)

    def rows(self, table: Table, where: Mapping[str, Any]) -> list[Row]:
        """All rows with these values, in no order."""
        found = self._found[table]
        query = sa.select(*found.columns()).where(found.where(where))
        return [found.row(values) for values in self._connection.execute(query)]

    def rows_of(self, table: Table, name: str, values: Sequence[Any]) -> list[Row]:
        """The rows whose column has one of the values, in no order."""
        found = self._found[table]
        fitting = [found.fit({name: value})[name] for value in values]
        query = sa.select(*found.columns()).where(found.table.c[name].in_(fitting))
        return [found.row(row) for row in self._connection.execute(query)]

    def keys(
        self,
        table: Table,
        after: Sequence[Any],
        limit: int,
        but: Mapping[str, Any] | None = None,
    ) -> list[tuple[Any, ...]]:
        """The next keys after this one (empty: from the beginning) in the database's own order,
        each once.

        ``but``: without the rows with these values. A key that none of ours could be, as it is.
        """
        found = self._found[table]
        columns = [found.table.c[name] for name in table.key]
        query = sa.select(*columns).distinct().order_by(*columns).limit(limit)
        if after:
            last = found.fit(dict(zip(table.key, after, strict=True)))
            query = query.where(_beyond(columns, list(last.values())))
        for name, value in found.fit(but or {}).items():
            query = query.where(found.table.c[name].is_distinct_from(value))
        return [
            tuple(self._key(found, *each) for each in zip(table.key, values, strict=True))
            for values in self._connection.execute(query)
        ]

    @staticmethod
    def _key(found: ReflectedTable, name: str, value: Any) -> Any:
        held = found.held(name, value)
        read = READ[found.spec.columns[name]](held)
        return held if read is None else read

    # --- writing ---------------------------------------------------------------------------------

    def upsert(self, table: Table, row: Mapping[str, Any]) -> None:
        """Insert the row, or change the one with its key; then look at what the table made of it.

        Raises Terminal if that is something else: then nothing is written.
        """
        found = self._found[table]
        wanted = table.storable(row)
        key = {name: wanted[name] for name in table.key}
        values = {**found.fit({n: v for n, v in wanted.items() if n not in key}), **table.stamp}
        if self._connection.dialect.name == "mysql":
            self._insert_or_update(found, key, values)
        else:
            insert = self._insert(found).values({**found.fit(key), **values})
            self._connection.execute(self._on_conflict(found, insert, values))
        self.changed = True
        table.assert_kept(self.row(table, key), wanted)

    def update(self, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Change the row with this key, if it is there."""
        found = self._found[table]
        change = {**found.fit(table.storable(values)), **table.stamp}
        self._change(found.table.update().where(found.where(key)).values(change))

    def delete(self, table: Table, where: Mapping[str, Any]) -> None:
        """Delete the rows with these values (a key, or a part of one), if there are any."""
        if not where:
            raise ValueError("a table is not emptied: say which rows")
        found = self._found[table]
        self._change(found.table.delete().where(found.where(where)))

    def replace(
        self, table: Table, where: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Let the rows with the values of ``where`` be these and no others; those that are right
        stay. Each gives all columns of the table. Raises Terminal as ``upsert``."""
        found = self._found[table]
        whole = ({**row, **where} for row in rows)
        wanted = Counter(
            _fixed(table.storable({name: each[name] for name in table.columns})) for each in whole
        )
        missing = Counter(wanted)
        for row, times in Counter(map(_fixed, self.rows(table, where))).items():
            if missing[row] == times:
                del missing[row]
            else:
                self.delete(table, dict(row))
        for row in missing.elements():
            values = {**found.fit(dict(row)), **table.stamp}
            self._change(found.table.insert().values(values))
        kept = Counter(map(_fixed, self.rows(table, where)))
        table.assert_rows_kept(map(dict, kept.elements()), map(dict, wanted.elements()))

    def write_nothing(self, table: Table) -> None:
        """Write and delete no rows at all: it fails where a real write would."""
        found = self._found[table]
        names = list(table.columns)
        nothing = sa.select(*found.columns()).where(sa.false())
        insert = self._insert(found).from_select(names, nothing)
        others = [name for name in names if name not in table.key]
        if not table.key:
            self._connection.execute(insert)
        elif self._connection.dialect.name == "mysql":
            found.require_unique()
            self._connection.execute(insert)
            same = {name: found.table.c[name] for name in others or names}
            self._connection.execute(found.table.update().where(sa.false()).values(same))
        else:
            values = {name: insert.excluded[name] for name in others or names}
            self._connection.execute(self._on_conflict(found, insert, values))
        if table.deletes:
            self._connection.execute(found.table.delete().where(sa.false()))

    def _change(self, statement: Any) -> None:
        if self._connection.execute(statement).rowcount != 0:
            self.changed = True

    def _insert(self, found: ReflectedTable) -> Any:
        inserts: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
        return inserts.get(self._connection.dialect.name, sa.insert)(found.table)

    @staticmethod
    def _on_conflict(found: ReflectedTable, insert: Any, values: Mapping[str, Any]) -> Any:
        """The insert, or the update with ``values`` where the row is there."""
        key = [found.table.c[name] for name in found.spec.key]
        if not values:
            return insert.on_conflict_do_nothing(index_elements=key)
        return insert.on_conflict_do_update(index_elements=key, set_=values)

    def _insert_or_update(
        self, found: ReflectedTable, key: Mapping[str, Any], values: Mapping[str, Any]
    ) -> None:
        """MySQL's own upsert would change another subscriber's row where any of its unique values
        is the same."""
        found.require_unique()
        try:
            self._connection.execute(found.table.insert().values({**found.fit(key), **values}))
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            query = sa.select(sa.literal(1)).where(found.where(key)).select_from(found.table)
            if self._connection.execute(query.with_for_update()).first() is None:
                raise  # another row has one of the other values
            if values:
                update = found.table.update().where(found.where(key)).values(values)
                self._connection.execute(update)


def _fixed(row: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(row.items()))


def _beyond(columns: Sequence[Any], values: Sequence[Any]) -> Any:
    """The rows whose key comes after these values."""
    if len(columns) == 1:
        return columns[0] > values[0]
    return sa.tuple_(*columns) > sa.tuple_(*values)
