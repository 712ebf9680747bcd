"""A database of subscribers: one row per account, or per SIM, in one table.

A resource's key is the value of the key column. Its state is the other columns' values, which come
from the snapshot by the settings' ``columns``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.domain.fields import Fields
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import Block
from nsps.transport.sql.client import SqlClient
from nsps.transport.sql.table import Row, Table

from .settings import Settings


class Database(StateConnector[Settings]):
    settings_model = Settings
    listable = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._fields = Fields.parse("columns", settings.columns)
        self._table = Table(
            settings.table,
            {name: source.kind for name, source in self._fields.sources.items()},
            (settings.key,),
            updated_at=settings.updated_at,
            create=settings.create_table,
            deletes=settings.on_release == "delete",
        )
        self._sql = SqlClient(settings.url, context.optional, [self._table])

    def close(self) -> None:
        self._sql.close()

    @classmethod
    def reads(cls, settings: Settings) -> Iterator[tuple[str, Block]]:
        return Fields.parse("columns", settings.columns).reads()

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
        return None if row is None else self._state(row)

    def read_many(self, keys: Sequence[str], call: Call) -> Mapping[str, State]:
        with self._sql.reading(call) as session:
            rows = session.rows_of(self._table, self.settings.key, keys)
        states = {str(row[self.settings.key]): self._state(row) for row in rows}
        return {key: state for key, state in states.items() if state is not None}

    def _state(self, row: Row) -> State | None:
        """What a row holds beside its key; None for one that is kept for a former subscriber."""
        if any(row[name] == value for name, value in self.settings.removed.items()):
            return None
        return {name: value for name, value in row.items() if name != self.settings.key}

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

    def delete(self, key: str, was: State | None, call: Call) -> None:
        row = {self.settings.key: key}
        with self._sql.writing(call) as session:
            if self.settings.removed:
                session.update(self._table, row, self.settings.removed)
            else:
                session.delete(self._table, row)
