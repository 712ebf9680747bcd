"""A database of subscribers: one row per account, or per SIM, in one table.

A resource's key is the value of the key column. Its state is the other columns' values, which come
from the snapshot by the settings' ``columns``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

from nsps.connector.base import Call, Enriched, Parts, State, StateConnector
from nsps.domain.fields import Fields
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import Block
from nsps.transport.sql.client import SqlClient
from nsps.transport.sql.engine import check_url
from nsps.transport.sql.table import Table, check_columns, check_table_name
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

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


class Settings(BaseModel):
    """Which database and table, and what its columns hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = "sqlite:///subscribers.db"
    table: str = "subscribers"
    columns: dict[str, str] = DEFAULT_COLUMNS
    key: str = "i_account"
    updated_at: str = "updated_at"
    on_release: Literal["delete", "mark"] = "delete"
    create_table: bool = False

    _url = field_validator("url")(check_url)
    _table = field_validator("table")(check_table_name)

    @field_validator("columns")
    @classmethod
    def _columns(cls, value: dict[str, str]) -> dict[str, str]:
        check_columns(value)
        Fields.parse("columns", value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.key not in self.columns:
            raise ValueError(f"key: {self.key!r} is not among the columns: write one of them")
        if self.updated_at in self.columns:
            raise ValueError("updated_at: the database fills this column: leave it out of columns")
        check_columns(filter(None, [self.updated_at]))
        if self.on_release == "mark" and self.status_column is None:
            raise ValueError("on_release: to mark rows, let a column hold status")
        return self

    @property
    def status_column(self) -> str | None:
        return next((name for name, text in self.columns.items() if text == "status"), None)

    @property
    def removed(self) -> Mapping[str, str]:
        """What a marked row holds; empty where rows are deleted."""
        return {str(self.status_column): REMOVED} if self.on_release == "mark" else {}


class Database(StateConnector[Settings]):
    settings_model = Settings
    listable = True

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(settings, parts)
        self._fields = Fields.parse("columns", settings.columns)
        self._table = Table(
            settings.table,
            {name: source.kind for name, source in self._fields.sources.items()},
            (settings.key,),
            updated_at=settings.updated_at,
            create=settings.create_table,
            deletes=settings.on_release == "delete",
        )
        self._sql = SqlClient(settings.url, self._password, [self._table])

    def _password(self) -> str | None:
        has = self.parts.has_secret("password")
        return self.parts.secret("password").reveal() if has else None

    def close(self) -> None:
        self._sql.close()

    def reads(self) -> Iterator[tuple[str, Block]]:
        return self._fields.reads()

    def check(self, call: Call) -> None:
        self._sql.check(call)

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One row; none where the key's block (the account, or the SIM) is not there."""
        key = self._fields.sources[self.settings.key]
        if not key.has_block(event.pb) or event.pb.account_info is None:
            return {}
        row = self._table.storable(self._fields.values(event.pb))
        ident = row.pop(self.settings.key)
        if ident is None or ident == "":
            raise Terminal(f"{key.text} is missing: the row of column {self.settings.key} needs it")
        return {str(ident): row}

    def read(self, key: str, call: Call) -> State | None:
        with self._sql.reading(call) as session:
            row = session.row(self._table, {self.settings.key: key})
        if row is None or any(row[name] == value for name, value in self.settings.removed.items()):
            return None
        del row[self.settings.key]
        return row

    def keys(self, after: str, limit: int, call: Call) -> Sequence[str]:
        last, removed = [after] if after else [], self.settings.removed
        with self._sql.reading(call) as session:
            found = session.keys(self._table, last, limit, but=removed)
        return [str(key) for (key,) in found]

    def create(self, key: str, state: State, call: Call) -> None:
        with self._sql.writing(call) as session:
            session.upsert(self._table, {self.settings.key: key, **state})

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)  # an upsert: right also if the row was removed meanwhile

    def delete(self, key: str, call: Call) -> None:
        row = {self.settings.key: key}
        with self._sql.writing(call) as session:
            if self.settings.removed:
                session.update(self._table, row, self.settings.removed)
            else:
                session.delete(self._table, row)
