"""A database of subscribers: one row per account, or per SIM, in one table.

A resource's key is the value of the key column. Its state is the other columns' values, which come
from the snapshot by the settings' ``columns``. Every write is one transaction, an upsert and a look
at what the table made of it, so nothing is ever half done, or changed without a word. SQLite, and
PostgreSQL from 9.5.
"""

from __future__ import annotations

import math
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any, Literal, Self

from nsps.connector.base import Call, Enriched, Parts, State, StateConnector
from nsps.domain.fields import READ, Fields, Kind
from nsps.domain.outcome import DeliveryError, NoAnswer, Terminal, Transient, Unreachable
from nsps.domain.snapshot import Block, as_amount, as_flag, as_integer, as_text
from nsps.transport.http import Deadline
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from sqlalchemy import (
    CHAR,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    false,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchTableError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.types import TypeEngine

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
REMOVED = "removed"
"""The status of a row that is kept after its subscriber is gone (``on_release: mark``)."""

DEFAULT_COLUMNS = {
    "i_account": "account_info.i_account",
    "i_customer": "account_info.i_customer",
    "account_id": "account_info.id",
    "name": "name",
    "email": "account_info.email",
    "imsi": "sim_info.imsi",
    "msisdn": "msisdn",
    "product": "account_info.product_name",
    "status": "status",
}

_TYPES: Mapping[Kind, type[TypeEngine[Any]]] = {
    "text": Text,
    "integer": BigInteger,
    "flag": Boolean,
    "amount": Float,
}

# --- settings ------------------------------------------------------------------------------------


class Settings(BaseModel):
    """Which database and table, and what its columns hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        default="sqlite:///subscribers.db",
        description="The database, without a password: postgresql://USER@HOST:PORT/DATABASE or "
        "sqlite:////FOLDER/FILE.db.",
    )
    table: str = Field(default="subscribers", description="The table, TABLE or SCHEMA.TABLE.")
    columns: dict[str, str] = Field(
        default=DEFAULT_COLUMNS,
        description="Column to source, which is BLOCK.MEMBER, feature.NAME, policy.NAME, name, "
        "msisdn, status or addons.",
    )
    key: str = Field(
        default="i_account",
        description="The column that tells the rows apart; it has a unique index. For a row per "
        "SIM, imsi.",
    )
    updated_at: str = Field(
        default="updated_at",
        description="The column that gets the time of each write; empty for none.",
    )
    on_release: Literal["delete", "mark"] = Field(
        default="delete",
        description="What becomes of the row of a subscriber who is gone: deleted, or kept with "
        "the status removed.",
    )
    create_table: bool = Field(default=False, description="Create the table where there is none.")

    @field_validator("url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        try:
            url = make_url(value)
        except ArgumentError:
            raise ValueError("not a database URL: write postgresql://USER@HOST/DATABASE") from None
        if url.drivername not in ("sqlite", "postgresql"):
            raise ValueError("write sqlite:///FILE or postgresql://USER@HOST/DATABASE")
        if url.password is not None or "password" in url.query:
            raise ValueError("holds a password: leave it out and put it into the secret password")
        if url.drivername == "sqlite" and url.database in (None, "", ":memory:"):
            raise ValueError("names no file: write sqlite:////FOLDER/FILE.db")
        return value

    @field_validator("table")
    @classmethod
    def _safe_table(cls, value: str) -> str:
        parts = value.split(".")
        if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
            raise ValueError("write TABLE or SCHEMA.TABLE: small letters, digits and _")
        return value

    @field_validator("columns")
    @classmethod
    def _safe_columns(cls, value: dict[str, str]) -> dict[str, str]:
        for column in value:
            if not _NAME.fullmatch(column):
                raise ValueError(f"column {column!r}: write small letters, digits and _")
        Fields.parse("columns", value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.key not in self.columns:
            raise ValueError(f"key: {self.key!r} is not among the columns: write one of them")
        if self.updated_at and not _NAME.fullmatch(self.updated_at):
            raise ValueError("updated_at: write a column's name (small letters, digits and _)")
        if self.updated_at in self.columns:
            raise ValueError("updated_at: the database fills this column: leave it out of columns")
        if self.on_release == "mark" and self.status_column is None:
            raise ValueError("on_release: to mark rows, let a column hold status")
        return self

    @property
    def status_column(self) -> str | None:
        return next((name for name, text in self.columns.items() if text == "status"), None)


# --- the connector -------------------------------------------------------------------------------


class Database(StateConnector[Settings]):
    """One table of subscribers."""

    settings_model = Settings
    listable = True

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(settings, parts)
        self._fields = Fields.parse("columns", settings.columns)
        self._columns = self._fields.sources
        self._sessions = Sessions(settings.url, self._password)
        self._table: Table | None = None
        self._table_lock = threading.Lock()

    def close(self) -> None:
        self._sessions.close()

    def reads(self) -> Iterator[tuple[str, Block]]:
        return self._fields.reads()

    def check(self, call: Call) -> None:
        """Write nothing, and take that back: a read says little of a node that is read-only."""
        table = self._subscribers(call.deadline)
        with self._sessions.open(call.deadline, end="ROLLBACK") as session:
            names = list(self._columns)
            nothing = select(*(table.c[name] for name in names)).where(false())
            statement = self._insert(table).from_select(names, nothing)
            columns = {name: statement.excluded[name] for name in names}
            session.execute(self._upsert(statement, table, columns))
            if self.settings.on_release == "delete":
                session.execute(table.delete().where(false()))

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One row; none where the key's block (the account, or the SIM) is not there."""
        key = self._columns[self.settings.key]
        if not key.has_block(event.pb) or event.pb.account_info is None:
            return {}
        ident = key.value(event.pb)
        if ident is None or ident == "":
            raise Terminal(f"{key.text} is missing: the row of column {self.settings.key} needs it")
        state = {
            name: _storable(name, expression.value(event.pb))
            for name, expression in self._columns.items()
            if name != self.settings.key
        }
        return {str(_storable(self.settings.key, ident)): state}

    def read(self, key: str, call: Call) -> State | None:
        table = self._subscribers(call.deadline)
        with self._sessions.open(call.deadline, writes=False) as session:
            row = self._row(session, table, key)
        if row is None:
            return None
        status = self.settings.status_column
        if self.settings.on_release == "mark" and row[str(status)] == REMOVED:
            return None
        del row[self.settings.key]
        return row

    def keys(self, after: str, limit: int, call: Call) -> Sequence[str]:
        table = self._subscribers(call.deadline)
        with self._sessions.open(call.deadline, writes=False) as session:
            column = table.c[self.settings.key]
            query = select(column).order_by(column).limit(limit)
            if after:
                query = query.where(column > _fit(column, after))
            if self.settings.on_release == "mark":
                status = table.c[str(self.settings.status_column)]
                query = query.where(status.is_distinct_from(REMOVED))
            return [self._key_of(column, row[0]) for row in session.execute(query)]

    def create(self, key: str, state: State, call: Call) -> None:
        table = self._subscribers(call.deadline)
        values = {name: _fit(table.c[name], value) for name, value in state.items()}
        if self.settings.updated_at:
            values[self.settings.updated_at] = func.now()
        column = table.c[self.settings.key]
        statement = self._insert(table).values({column.name: _fit(column, key), **values})
        with self._sessions.open(call.deadline) as session:
            session.execute(self._upsert(statement, table, values))
            self._assert_kept(self._row(session, table, key), key, state)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)  # an upsert: right also if the row was removed meanwhile

    def delete(self, key: str, call: Call) -> None:
        table = self._subscribers(call.deadline)
        with self._sessions.open(call.deadline) as session:
            if self.settings.on_release == "delete":
                session.execute(table.delete().where(self._is(table, key)))
                return
            values: dict[str, Any] = {str(self.settings.status_column): REMOVED}
            if self.settings.updated_at:
                values[self.settings.updated_at] = func.now()
            session.execute(table.update().where(self._is(table, key)).values(values))

    def _password(self) -> str | None:
        if not self.parts.has_secret("password"):
            return None
        return self.parts.secret("password").reveal()

    def _is(self, table: Table, key: str) -> Any:
        column = table.c[self.settings.key]
        return column == _fit(column, key)

    def _row(self, session: Connection, table: Table, key: str) -> dict[str, Any] | None:
        """The row's columns as the snapshot's readers read them, the key among them."""
        columns = [table.c[name] for name in self._columns]
        found = session.execute(select(*columns).where(self._is(table, key))).first()
        if found is None:
            return None
        held = zip(self._columns.items(), columns, found, strict=True)
        return {
            name: READ[expression.kind](self._held(column, value))
            for (name, expression), column, value in held
        }

    def _held(self, column: Column[Any], value: Any) -> Any:
        """A column's value in a type that the snapshot's readers know; CHAR without its padding."""
        if (
            isinstance(value, str)
            and self._sessions.is_postgresql
            and isinstance(column.type, CHAR)
        ):
            return value.rstrip(" ")
        return _told(value)

    def _key_of(self, column: Column[Any], value: Any) -> str:
        """A row's key as ``desired`` writes it; a value that none of ours could be, as it is."""
        held = self._held(column, value)
        read = READ[self._columns[column.name].kind](held)
        return str(held if read is None else read)

    def _assert_kept(self, row: Mapping[str, Any] | None, key: str, state: State) -> None:
        """Raise Terminal if the table made something else of what was written into it."""
        if row is None or str(row[self.settings.key]) != key:
            changed = [self.settings.key]
        else:
            changed = [name for name, value in state.items() if row[name] != value]
        if changed:
            raise Terminal(
                f"table {self.settings.table} does not keep column {', '.join(changed)} as it is "
                "written (its type, or a trigger, changes the value); nothing was written: correct "
                "the column's type"
            )

    def _insert(self, table: Table) -> Any:
        return (postgresql_insert if self._sessions.is_postgresql else sqlite_insert)(table)

    def _upsert(self, statement: Any, table: Table, values: Mapping[str, Any]) -> Any:
        """The insert, or the update with ``values`` where the row is there."""
        key = [table.c[self.settings.key]]
        if not values:
            return statement.on_conflict_do_nothing(index_elements=key)
        return statement.on_conflict_do_update(index_elements=key, set_=values)

    def _subscribers(self, deadline: Deadline) -> Table:
        """The table as the database has it: its types decide how values are written."""
        with self._table_lock:
            if self._table is None:
                if self.settings.create_table:
                    with self._sessions.open(deadline) as session:
                        self._create_table(session)
                with self._sessions.open(deadline, writes=False) as session:
                    self._table = self._find_table(session)
            return self._table

    def _find_table(self, session: Connection) -> Table:
        schema, _, name = self.settings.table.rpartition(".")
        try:
            table = Table(name, MetaData(), schema=schema or None, autoload_with=session)
        except NoSuchTableError:
            remedy = (
                "give the user the privilege CREATE on the schema"
                if self.settings.create_table
                else "create it, or set create_table"
            )
            raise Transient(f"there is no table {self.settings.table}: {remedy}") from None
        wanted = [*self._columns, *([self.settings.updated_at] if self.settings.updated_at else [])]
        missing = [column for column in wanted if column not in table.c]
        if missing:
            raise Transient(
                f"table {self.settings.table} has no column {', '.join(missing)}: "
                "add it, or correct the settings columns and updated_at"
            )
        numeric = [
            f"{name} ({table.c[name].type!s})"
            for name, expression in self._columns.items()
            if expression.kind == "text" and _python_type(table.c[name]) in (int, float, Decimal)
        ]
        if numeric:
            raise Transient(
                f"table {self.settings.table}: column {', '.join(numeric)} would lose the leading "
                "zeros of a text such as an IMSI: make it text or varchar"
            )
        return table

    def _create_table(self, session: Connection) -> None:
        schema, _, name = self.settings.table.rpartition(".")
        columns: list[Column[Any]] = [
            Column(column, _TYPES[expression.kind](), primary_key=column == self.settings.key)
            for column, expression in self._columns.items()
        ]
        if self.settings.updated_at:
            columns.append(Column(self.settings.updated_at, DateTime(timezone=True)))
        # Another instance may create it at the same moment: the reflection that follows decides.
        with suppress(DBAPIError):
            Table(name, MetaData(), *columns, schema=schema or None).create(
                session, checkfirst=True
            )


def _storable(column: str, value: Any) -> Any:
    """The value, if a database can hold it. Raises Terminal."""
    if isinstance(value, str) and "\0" in value:
        raise Terminal(f"the text for column {column} holds a character that cannot be stored")
    return value


def _fit(column: Column[Any], value: Any) -> Any:
    """The value in the type that the table's column has. Raises Terminal if it cannot be."""
    wanted = _python_type(column)
    if wanted is None or value is None or isinstance(value, wanted):
        return value
    fitting = _FIT.get(wanted, lambda each: each)(value)
    if fitting is None:
        raise Terminal(f"the value for column {column.name} is not of its type: {column.type!s}")
    return fitting


def _python_type(column: Column[Any]) -> type | None:
    try:
        return column.type.python_type
    except NotImplementedError:
        return None


_FIT: Mapping[type, Callable[[Any], Any]] = {
    str: lambda value: str(value).lower() if isinstance(value, bool) else as_text(value),
    int: lambda value: int(value) if isinstance(value, bool) else as_integer(value),
    bool: as_flag,
    float: as_amount,
    Decimal: lambda value: None if as_amount(value) is None else Decimal(value),
}


def _told(value: Any) -> Any:
    """A column's value in a type that the snapshot's readers know."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


# --- sessions that end in time -------------------------------------------------------------------


class Sessions:
    """Pooled sessions of one database; each is one transaction and ends by its call's deadline.

    ``password`` is asked for each new connection, so a rotated one is picked up.
    """

    def __init__(self, url: str, password: Callable[[], str | None]) -> None:
        parsed = make_url(url)
        self.is_postgresql = parsed.drivername == "postgresql"
        self._password = password
        self._running = threading.local()
        self._engine = self._postgresql(parsed) if self.is_postgresql else self._sqlite(parsed)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def open(
        self,
        deadline: Deadline,
        *,
        writes: bool = True,
        end: Literal["COMMIT", "ROLLBACK"] = "COMMIT",
    ) -> Iterator[Connection]:
        """A session that is alive, in a transaction that ``end`` ends if nothing goes wrong.

        Raises Transient, NoAnswer or Terminal for what does; then it is rolled back.
        """
        with _Watch(deadline) as watch:
            self._running.watch = watch
            try:
                session = self._alive(deadline)
            except SQLAlchemyError as error:
                raise _unreached(error, deadline) from None
            try:
                if not self.is_postgresql:
                    session.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
                yield session
                session.exec_driver_sql(end)
            except DBAPIError as error:
                verdict = _error(error, deadline)
                if isinstance(verdict, NoAnswer):
                    session.invalidate()  # its answer may still come: never to another question
                else:
                    _roll_back(session)
                if _speaks_of_the_node(error):
                    self._engine.dispose()  # what else is pooled is connected to the same node
                raise verdict from None
            except SQLAlchemyError as error:
                _roll_back(session)
                raise Transient(f"the database call failed: {type(error).__name__}") from None
            except BaseException:
                _roll_back(session)
                raise
            finally:
                self._running.watch = None
                session.close()

    def _alive(self, deadline: Deadline) -> Connection:
        """A connection whose first statement proves it; a dead one is replaced once."""
        for again in (True, False):
            if deadline.expired:
                break
            session = self._engine.connect()
            try:
                self._running.watch.add(session)
                self._begin(session, deadline)
                return session
            except DBAPIError:
                session.invalidate()
                session.close()
                if not again:
                    raise
        raise Transient("no time left to reach the database; nothing was sent")

    def _begin(self, session: Connection, deadline: Deadline) -> None:
        """Set the time limit; PostgreSQL's transaction begins with it, and the limit ends with
        that: behind a pooler the connection is another client's afterwards."""
        # A little less than the deadline: a clear "not done" is worth more than no answer.
        left = deadline.remaining()
        milliseconds = max(1, int((left - min(0.5, left * 0.2)) * 1000))
        if self.is_postgresql:
            session.exec_driver_sql(f"BEGIN; SET LOCAL statement_timeout = {milliseconds}")
        else:
            session.exec_driver_sql(f"PRAGMA busy_timeout = {milliseconds}")

    def _postgresql(self, url: Any) -> Engine:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            max_overflow=-1,  # the instance's threads are the limit
            use_native_hstore=False,
            connect_args={"prepare_threshold": None},  # poolers between here and there
        )

        @event.listens_for(engine, "do_connect")
        def connect(dialect: Dialect, _: Any, args: Any, given: dict[str, Any]) -> Any:
            watch: _Watch = self._running.watch
            password = self._password()
            if password is not None:
                given["password"] = password
            given["connect_timeout"] = max(2, math.ceil(watch.deadline.remaining()))
            connection = dialect.connect(*args, **given)
            watch.add_socket(connection.fileno())
            return connection

        return engine

    def _sqlite(self, url: Any) -> Engine:
        engine = create_engine(
            url, isolation_level="AUTOCOMMIT", hide_parameters=True, max_overflow=-1
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA busy_timeout = 1000")
            connection.execute("PRAGMA journal_mode = WAL")

        return engine


class _Watch:
    """Cuts the sockets of a session at the deadline: the driver itself would wait for ever."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(deadline.remaining(), self._cut)
        self._timer.daemon = True

    def add(self, session: Connection) -> None:
        number = getattr(session.connection.driver_connection, "fileno", None)
        if number is not None:
            self.add_socket(number())

    def add_socket(self, number: int) -> None:
        with self._lock:
            self._sockets.append(socket.socket(fileno=os.dup(number)))

    def _cut(self) -> None:
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()


def _roll_back(session: Connection) -> None:
    """End the transaction; a connection that cannot even do that is thrown away."""
    try:
        session.exec_driver_sql("ROLLBACK")
    except SQLAlchemyError:
        session.invalidate()


def _unreached(error: SQLAlchemyError, deadline: Deadline) -> DeliveryError:
    """Why there is no session: nothing was sent."""
    if deadline.expired:
        return Unreachable("the database did not answer in time; nothing was sent")
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    reason = f" (SQLSTATE {state})" if state else ""
    return Unreachable(
        f"the database cannot be reached{reason}: check url, the secret password and the network"
    )


_UNIQUE = ("23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
_FOREIGN = ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY")
_NO_UNIQUE_INDEX = "42P10"
_LOST = ("08", "57P")
_READ_ONLY = ("25006", "SQLITE_READONLY")
_TIMED_OUT = ("57014", "SQLITE_BUSY")


def _error(error: DBAPIError, deadline: Deadline) -> DeliveryError:
    """How the database's refusal is to be read. Its own text is left out: it holds the values."""
    cause, code = error.orig, _code(error)
    unanswered = not code and not isinstance(error, IntegrityError | DataError | ProgrammingError)
    if unanswered or error.connection_invalidated or code.startswith(_LOST):
        late = " in time" if deadline.expired else ": the connection was lost"
        return NoAnswer(f"the database did not answer{late}")
    if code.startswith(_READ_ONLY):
        return Transient(
            f"the database takes no writes ({code}): the node is read-only, as after a switchover; "
            "the connections to it were thrown away. If it goes on, let url name the primary"
        )
    constraint = getattr(getattr(cause, "diag", None), "constraint_name", None)
    named = f" {constraint}" if constraint else ""
    if code in _UNIQUE:
        return Transient(f"another row has one of the values (unique constraint{named})")
    if code in _FOREIGN:
        return Transient(f"a row that this one refers to is missing (foreign key{named})")
    if code == _NO_UNIQUE_INDEX:
        return Transient(f"the key's column has no unique index ({code}): create one")
    if isinstance(error, IntegrityError | DataError):
        return Terminal(f"the table refuses the values{named} ({code}): correct them or the table")
    if code.startswith(_TIMED_OUT):
        return Transient("the database could not do it in time; nothing was changed")
    return Transient(f"the database refused the statement ({code}): check table and privileges")


def _code(error: DBAPIError) -> str:
    cause = error.orig
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or "")


def _speaks_of_the_node(error: DBAPIError) -> bool:
    """Whether the refusal is of the server that this connection leads to: it is shutting down, or
    was made read-only."""
    return _code(error).startswith((*_LOST, *_READ_ONLY))
