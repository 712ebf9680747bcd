"""Kamailio: a SIP registrar's table ``subscriber``, and its registrations over JSON-RPC.

A resource's key is USERNAME@DOMAIN. Its state: ``ha1`` and ``ha1b`` (SecretValue), the status where
it has a column, and the columns of the deployment's own. The row says who may register. A phone
that registered before stays in Kamailio's memory until its registration ends, so ``ul.rm`` follows
each write that concerns it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.connector.credentials import SubscriberCredentials
from nsps.domain.fields import Fields, Kind
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import Block
from nsps.domain.subscriber import is_open, is_served, msisdn, service_word
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps.transport.rest import NoAuthentication, Rest
from nsps.transport.sql.client import SqlClient
from nsps.transport.sql.table import Table

from .passwords import derived, digests
from .settings import OURS, Settings

_NOT_RPC = "is rpc_url the address of the JSON-RPC interface?"

# Every error of Kamailio's JSON-RPC is a 500: only its message says what it means.
ANSWERS = AnswerRules(
    (
        AnswerRule(Meaning.DONE, status="2xx", member="result"),
        AnswerRule(Meaning.UNCLEAR, status="2xx", hint=_NOT_RPC),
        AnswerRule(Meaning.DONE, status="500", member="error.message", text="AOR not found"),
        AnswerRule(Meaning.LATER, status="500", text="Method Not Found", hint="load usrloc.so"),
        AnswerRule(Meaning.LATER, status="4xx", hint=_NOT_RPC),
    )
)


class VoipKamailio(StateConnector[Settings]):
    """Subscribers of a Kamailio."""

    settings_model = Settings
    listable = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._fields = Fields.parse("columns", settings.columns)
        kinds = {name: source.kind for name, source in self._fields.sources.items()}
        own = (*OURS, settings.status_column) if settings.status_column else OURS
        columns: dict[str, Kind] = {**dict.fromkeys(own, "text"), **kinds}
        self._table = Table("subscriber", columns, key=("domain", "username"))
        self._sql = SqlClient(settings.database_url, context.optional, [self._table])
        self._looked_up = SubscriberCredentials(context, settings.credentials)
        hide = context.hide("password_key", "password")
        self._rpc = Rest(context.http, settings.rpc_url, NoAuthentication(), ANSWERS, hide=hide)

    def close(self) -> None:
        self._sql.close()

    @classmethod
    def reads(cls, settings: Settings) -> Iterable[tuple[str, Block]]:
        return Fields.parse("columns", settings.columns).reads()

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterable[tuple[str, str]]:
        if settings.credentials is None:
            return [("password_key", "the setting credentials names no other source of passwords")]
        return settings.credentials.needs_secrets()

    def check(self, call: Call) -> None:
        self._sql.check(call)
        self._ask("ul.lookup", f"nsps-check@{self.settings.domain}", call)

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One subscriber: the account's number. None while the account is not served, or, where a
        status column can say so, not open."""
        account, column = event.pb.account_info, self.settings.status_column
        if account is None or not (is_open(account) if column else is_served(account)):
            return {}
        number = msisdn(event.pb)
        if number is None:
            raise Terminal("account_info.id is no number: a SIP username is made of it")
        user = f"{number}@{self.settings.domain}"
        password = self._password(event, user, needed=is_served(account))
        if password is None:
            return {}  # barred, and the password cannot be read: without a row, barred all the same
        values = self._fields.values(event.pb)
        own = self._table.storable({**values, column: service_word(account)} if column else values)
        return {user: {**digests(user, password), **own}}

    def _password(self, event: Enriched, user: str, *, needed: bool) -> str | None:
        """The subscriber's own, or one made from the handler's secret."""
        if self.settings.credentials is not None:
            found = self._looked_up.of(event, lambda each: each.secret("password"), needed=needed)
            return found.reveal() if found else None
        return derived(self.context.secret("password_key"), user)

    def read(self, key: str, call: Call) -> State | None:
        with self._sql.reading(call) as session:
            row = session.row(self._table, _row(key))
        if row is None:
            return None
        theirs = {name: value for name, value in row.items() if name not in OURS}
        return {**theirs, **{name: SecretValue(row[name] or "") for name in ("ha1", "ha1b")}}

    def keys(self, after: str, limit: int, call: Call) -> Sequence[str]:
        """Those of the domain; in the table's order, by domain first, they stand together."""
        domain = self.settings.domain
        with self._sql.reading(call) as session:
            found = session.keys(self._table, [domain, after.rpartition("@")[0]], limit)
        return [f"{username}@{of}" for of, username in found if of == domain]

    def create(self, key: str, state: State, call: Call) -> None:
        with self._sql.writing(call) as session:
            session.upsert(self._table, {**_row(key), **state})

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)  # an upsert: right also if the row was removed meanwhile

    def delete(self, key: str, was: State | None, call: Call) -> None:
        with self._sql.writing(call) as session:
            session.delete(self._table, _row(key))

    def after_write(self, key: str, state: State | None, was: State | None, call: Call) -> None:
        """Forget the phone's registration: it is to register anew, with what counts now. It stays
        where the subscriber is not barred and the password is known to be the same."""
        kept = state is not None and was is not None and was["ha1"] == state["ha1"]
        if not kept or (state or {}).get(self.settings.status_column) == "barred":
            self._ask("ul.rm", key, call)

    def _ask(self, method: str, user: str, call: Call) -> None:
        aor = user if self.settings.use_domain else user.partition("@")[0]
        body = {"jsonrpc": "2.0", "method": method, "params": ["location", aor], "id": 1}
        self._rpc.change("", call, body, method="POST")


def _row(key: str) -> dict[str, Any]:
    username, _, domain = key.rpartition("@")
    return {"username": username, "domain": domain}
