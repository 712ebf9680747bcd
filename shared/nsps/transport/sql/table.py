"""The tables of a database as a connector names them, and as they are found there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from nsps.domain.fields import READ, Kind
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import as_amount, as_flag, as_integer, as_text
from nsps.runtime.secrets import SecretValue
from nsps.transport.sql.errors import NO_UNIQUE_INDEX

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

Row = dict[str, Any]
"""Column -> value, read as its kind."""


def check_table_name(text: str) -> str:
    """TABLE or SCHEMA.TABLE. Raises ValueError."""
    parts = text.split(".")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError("write TABLE or SCHEMA.TABLE: small letters, digits and _")
    return text


def check_columns(names: Iterable[str]) -> None:
    """Raises ValueError for what is no plain name of a column."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"column {name!r}: write a name of small letters, digits and _")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One table: the columns that are read and written, and no others are touched.

    ``key``: the columns that tell a row; they have a unique index of their own. A table with
    several rows per subscriber, such as radcheck, has none: its rows are replaced together.
    """

    name: str
    columns: Mapping[str, Kind]
    key: tuple[str, ...] = ()
    updated_at: str = ""
    """The column that gets the time of each write; empty for none."""
    create: bool = False
    """Whether to create the table where there is none."""
    deletes: bool = True
    """Whether rows are deleted: then the health check tries that as well."""
    written: bool = True
    """False for one that is only read: the health check then writes nothing into it."""

    @property
    def stamp(self) -> dict[str, Any]:
        return {self.updated_at: sa.func.now()} if self.updated_at else {}

    def storable(self, values: Mapping[str, Any]) -> Row:
        """The values as the table is to give them back, secrets in clear. Raises Terminal for one
        that no table holds."""
        made = {}
        for name, given in values.items():
            value = given.reveal() if isinstance(given, SecretValue) else given
            if isinstance(value, str) and "\0" in value:
                raise Terminal(f"the text of column {name} holds a character that cannot be stored")
            made[name] = None if value is None else READ[self.columns[name]](value)
            if made[name] is None and value is not None:
                raise Terminal(f"the value for column {name} is no {self.columns[name]}")
        return made

    def assert_kept(self, row: Row | None, wanted: Mapping[str, Any]) -> None:
        """Raise Terminal if the table made something else of what was written into it."""
        held = row or {}
        changed = [name for name, value in wanted.items() if held.get(name) != value]
        self._refuse([name for name in self.key if name in changed] or changed)

    def assert_rows_kept(self, rows: Iterable[Row], wanted: Iterable[Row]) -> None:
        """As ``assert_kept`` for several rows, in whatever order."""
        held, meant = list(rows), list(wanted)
        self._refuse(
            [
                name
                for name in self.columns
                if Counter(row[name] for row in held) != Counter(row[name] for row in meant)
            ]
        )

    def _refuse(self, columns: Sequence[str]) -> None:
        if columns:
            raise Terminal(
                f"table {self.name} does not keep column {', '.join(columns)} as it is written "
                "(its type, or a trigger, changes the value); nothing was written: correct the "
                "column's type"
            )


@dataclass(frozen=True, slots=True)
class ReflectedTable:
    """A table as the database has it: its types decide how values are written and read."""

    spec: Table
    table: sa.Table
    pads: bool
    """Whether the database gives CHAR back with its padding."""
    unique: bool = field(default=True)
    """Whether the key has a unique index of its own."""

    def columns(self) -> list[sa.Column[Any]]:
        return [self.table.c[name] for name in self.spec.columns]

    def fit(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values in the types that the columns have. Raises Terminal."""
        return {name: _fit(self.table.c[name], value) for name, value in values.items()}

    def where(self, values: Mapping[str, Any]) -> sa.ColumnElement[bool]:
        """The rows with these values; with none, all rows."""
        fitting = self.fit(values).items()
        return sa.and_(sa.true(), *(self.table.c[name] == value for name, value in fitting))

    def row(self, values: Iterable[Any]) -> Row:
        held = zip(self.spec.columns.items(), values, strict=True)
        return {name: READ[kind](self.held(name, value)) for (name, kind), value in held}

    def held(self, name: str, value: Any) -> Any:
        """A column's value in a type that READ knows; CHAR without its padding."""
        if self.pads and isinstance(value, str) and isinstance(self.table.c[name].type, sa.CHAR):
            return value.rstrip(" ")
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, Decimal):
            return int(value) if value == value.to_integral_value() else float(value)
        return str(value)

    def require_unique(self) -> None:
        """Raises Transient if two rows could get the same key."""
        if not self.unique:
            raise Transient(f"table {self.spec.name}: {NO_UNIQUE_INDEX}: create one")


# --- finding and creating ------------------------------------------------------------------------


def find(spec: Table, connection: sa.Connection) -> ReflectedTable:
    """Raises Transient if the table is not there, or not so that it can be used."""
    schema, _, name = spec.name.rpartition(".")
    try:
        table = sa.Table(name, sa.MetaData(), schema=schema or None, autoload_with=connection)
    except NoSuchTableError:
        remedy = (
            "give the user the privilege CREATE on the schema"
            if spec.create
            else "create it, or set create_table"
        )
        raise Transient(f"there is no table {spec.name}: {remedy}") from None
    wanted = [*spec.columns, *spec.stamp]
    missing = [column for column in wanted if column not in table.c]
    if missing:
        raise Transient(
            f"table {spec.name} has no column {', '.join(missing)}: "
            "add it, or correct the handler's settings"
        )
    _assert_texts_fit(spec, table)
    if connection.dialect.name == "mysql":
        _assert_transactional(spec, table)
    return ReflectedTable(
        spec,
        table,
        pads=connection.dialect.name == "postgresql",
        unique=connection.dialect.name != "mysql" or _is_unique(table, spec.key),
    )


def _assert_texts_fit(spec: Table, table: sa.Table) -> None:
    numeric = [
        f"{name} ({table.c[name].type!s})"
        for name, kind in spec.columns.items()
        if kind == "text" and _python_type(table.c[name]) in (int, float, Decimal)
    ]
    if numeric:
        raise Transient(
            f"table {spec.name}: column {', '.join(numeric)} would lose the leading "
            "zeros of a text such as an IMSI: make it text or varchar"
        )


def _assert_transactional(spec: Table, table: sa.Table) -> None:
    engine = table.dialect_options["mysql"].get("engine")
    if engine is not None and engine.lower() != "innodb":
        raise Transient(
            f"table {spec.name} is of the engine {engine}, which takes nothing back: "
            f"ALTER TABLE {spec.name} ENGINE = InnoDB"
        )


def _is_unique(table: sa.Table, key: tuple[str, ...]) -> bool:
    """Whether the columns are the table's primary key or have a unique index of their own."""
    indexes = [{column.name for column in each.columns} for each in table.indexes if each.unique]
    return set(key) in ({column.name for column in table.primary_key.columns}, *indexes)


def create(spec: Table, connection: sa.Connection) -> None:
    schema, _, name = spec.name.rpartition(".")
    columns: list[sa.Column[Any]] = [
        sa.Column(
            column,
            _type(kind, column in spec.key),
            primary_key=column in spec.key,
            autoincrement=False,
        )
        for column, kind in spec.columns.items()
    ]
    if spec.updated_at:
        columns.append(sa.Column(spec.updated_at, sa.DateTime(timezone=True)))
    # Another instance may create it at the same moment: the look at it that follows decides.
    with suppress(DBAPIError):
        sa.Table(name, sa.MetaData(), *columns, schema=schema or None).create(
            connection, checkfirst=True
        )


def _type(kind: Kind, in_key: bool) -> sa.types.TypeEngine[Any]:
    if kind == "text" and in_key:  # MySQL has no keys of any length
        return sa.Text().with_variant(sa.String(255, collation="utf8mb4_bin"), "mysql")
    return _TYPES[kind]()


_TYPES: Mapping[Kind, type[sa.types.TypeEngine[Any]]] = {
    "text": sa.Text,
    "integer": sa.BigInteger,
    "flag": sa.Boolean,
    "amount": sa.Double,
}


# --- values --------------------------------------------------------------------------------------


def _fit(column: sa.Column[Any], value: Any) -> Any:
    """The value in the type that the table's column has. Raises Terminal if it cannot be."""
    wanted = _python_type(column)
    if wanted is None or value is None or isinstance(value, wanted):
        return value
    fitting = _FIT.get(wanted, lambda each: each)(value)
    if fitting is None:
        raise Terminal(f"the value for column {column.name} is not of its type: {column.type!s}")
    return fitting


def _python_type(column: sa.Column[Any]) -> type | None:
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
