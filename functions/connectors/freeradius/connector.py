"""FreeRADIUS: subscribers in the tables of its SQL module, and their live sessions at the NASs.

A resource's key is the user name. Its state: ``check`` and ``reply``, the rows of radcheck and
radreply (``attribute``, ``op``, ``value``; a password is a SecretValue), and ``group``, of
radusergroup, where the settings choose one. All rows of the user name are NSPS's: others are
removed. A subscriber who is barred keeps one row, which rejects the login.

A live session keeps what it has until its NAS gets a CoA or Disconnect, which follows each write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.domain.fields import Kind
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import Block
from nsps.domain.subscriber import is_closed, is_served
from nsps.runtime.secrets import SecretValue
from nsps.transport.sql.client import SqlClient
from nsps.transport.sql.table import Table

from .attributes import Attributes
from .passwords import Passwords
from .policy import Policy, Row
from .sessions import SESSIONS, LiveSessions
from .settings import Settings
from .usernames import REMEDY, Usernames

_ROW: dict[str, Kind] = dict.fromkeys(("username", "attribute", "op", "value"), "text")
_GROUPS = Table("radusergroup", {"username": "text", "groupname": "text", "priority": "integer"})
REJECT: Row = {"attribute": "Auth-Type", "op": ":=", "value": "Reject"}


class Freeradius(StateConnector[Settings]):
    """Subscribers of a FreeRADIUS."""

    settings_model = Settings
    listable = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        attributes = Attributes(settings.dictionary)
        self._policy, self._passwords = Policy(settings, attributes), Passwords(settings, context)
        self._sessions = LiveSessions(settings, context, attributes)
        self._usernames = Usernames(settings)
        self._tables = {"check": Table("radcheck", _ROW), "reply": Table("radreply", _ROW)}
        if settings.group:
            self._tables["group"] = _GROUPS
        # Who has no password has no row in radcheck.
        listed = "radcheck" if settings.has_passwords else "radreply"
        self._names = Table(listed, {"username": "text"}, key=("username",), written=False)
        accounting = [SESSIONS] if settings.sessions != "leave" else []
        tables = [*self._tables.values(), self._names, *accounting]
        self._sql = SqlClient(settings.database_url, context.optional, tables)

    def close(self) -> None:
        self._sql.close()

    @classmethod
    def reads(cls, settings: Settings) -> Iterable[tuple[str, Block]]:
        yield from Usernames(settings).reads()
        yield from Policy(settings, Attributes(settings.dictionary)).reads()
        if settings.credentials is not None:
            yield "credentials", Block.SIM_INFO

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterable[tuple[str, str]]:
        return settings.needs_secrets()

    def check(self, call: Call) -> None:
        self._sql.check(call)

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """A resource for each user name of the account; none when it is closed."""
        pb = event.pb
        if pb.account_info is None or is_closed(pb.account_info):
            return {}
        served, names = is_served(pb.account_info), self._usernames.of(pb)
        if served and not names:
            raise Terminal(REMEDY)
        rows = self._policy.rows(pb, served)
        return {
            name: {"check": self._passwords.rows(event, name) if served else [REJECT], **rows}
            for name in names
        }

    def read(self, key: str, call: Call) -> State | None:
        with self._sql.reading(call) as session:
            held = {n: session.rows(t, {"username": key}) for n, t in self._tables.items()}
        return {name: _read(rows) for name, rows in held.items()} if any(held.values()) else None

    def keys(self, after: str, limit: int, call: Call) -> Sequence[str]:
        with self._sql.reading(call) as session:
            found = session.keys(self._names, [after] if after else [], limit)
        return [str(name) for (name,) in found]

    def create(self, key: str, state: State, call: Call) -> None:
        with self._sql.writing(call) as session:
            for name, table in self._tables.items():
                session.replace(table, {"username": key}, state[name])

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)  # replaces all rows: right also if some were removed since

    def delete(self, key: str, was: State | None, call: Call) -> None:
        with self._sql.writing(call) as session:
            for table in self._tables.values():
                session.delete(table, {"username": key})

    def after_write(self, key: str, state: State | None, was: State | None, call: Call) -> None:
        """Change or end the live sessions. Where only the password is another, they stay."""
        if self.settings.sessions == "leave":
            return
        to_end = state is None or state["check"] == [REJECT]
        if not to_end and was is not None and _without_check(was) == _without_check(state):
            return
        with self._sql.reading(call) as session:
            live = session.rows(SESSIONS, {"username": key, "acctstoptime": None})
        if state is None or to_end or self.settings.sessions == "disconnect":
            self._sessions.end(key, live, call.deadline)
        else:
            self._sessions.change(key, live, state["reply"], call.deadline)


def _without_check(state: State | None) -> dict[str, Any]:
    return {name: rows for name, rows in (state or {}).items() if name != "check"}


def _read(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows as the state has them: in order, passwords as secrets."""
    plain = [{name: each for name, each in row.items() if name != "username"} for row in rows]
    plain.sort(key=lambda row: [str(each) for each in row.values()])
    return [
        {**row, "value": SecretValue(str(row["value"]))}
        if "Password" in str(row.get("attribute"))
        else row
        for row in plain
    ]
