"""Tryton: a party per account, with the contact mechanisms that PortaBilling knows.

A resource's key is the party's code, the prefix of the settings and i_account. Its state: the
fields and contact mechanisms of the settings. A party that should not be there is made inactive,
for invoices and orders may name it. (Source: trytond 8.2 with its module party, tried.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import Block
from nsps.domain.subscriber import is_closed
from nsps.transport.answers import Meaning

from .api import Tryton
from .party import Parties
from .settings import Settings


class CrmTryton(StateConnector[Settings]):
    """Parties of a Tryton."""

    settings_model = Settings
    listable = True
    shows_requests = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._parties = Parties(settings)
        self._tryton = Tryton(settings.url, context)

    @classmethod
    def reads(cls, settings: Settings) -> Iterable[tuple[str, Block]]:
        return Parties(settings).reads()

    def check(self, call: Call) -> None:
        known = self._tryton.ask("fields_get", call, [*self.settings.fields], 0)
        if missing := sorted(self.settings.fields.keys() - known):
            raise Transient(f"party.party has no field {missing[0]}: correct the setting fields")

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """The party of an account, served or not, until it is closed."""
        account = event.pb.account_info
        if account is None or is_closed(account):
            return {}
        if account.i_account is None:
            raise Terminal("account_info.i_account is missing: a party's code is made of it")
        code = f"{self.settings.code_prefix}{account.i_account}"
        return {code: self._parties.state(event.pb)}

    def read(self, key: str, call: Call) -> State | None:
        """The party; None if there is none, or an inactive one."""
        held = self._find(key, call)
        return held if held and held["active"] else None

    def keys(self, after: str, limit: int, call: Call) -> Sequence[str]:
        # By id: Tryton sorts codes by their length first, and compares them as texts.
        begin = [["id", ">", self._held(after, call)["id"]]] if after else []
        ours = [["code", "like", f"{self.settings.code_prefix}%"], ["active", "=", True]]
        order = [["id", "ASC"]]
        found = self._tryton.ask("search_read", call, [*ours, *begin], 0, limit, order, ["code"])
        return [party["code"] for party in found]

    def create(self, key: str, state: State, call: Call) -> None:
        """Make the party; where one has its code, that is brought to the state."""
        party = {"code": key, **self._parties.written(state, {})}
        if self._tryton.change("create", call, [party]).is_done(Meaning.EXISTS):
            return
        held = self._held(key, call)
        if not held["active"]:  # an inactive party takes no other change
            self._tryton.change("write", call, [held["id"]], {"active": True}).is_done()
        self._change(held, state, call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self._change(was if "id" in was else self._held(key, call), state, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        assert was is not None, "it can be read"
        write = self._tryton.change("write", call, [was["id"]], {"active": False})
        write.is_done(Meaning.ABSENT)

    def _change(self, held: State, state: State, call: Call) -> None:
        values = self._parties.written(state, held["ids"])
        self._tryton.change("write", call, [held["id"]], values).is_done()

    def _held(self, key: str, call: Call) -> State:
        held = self._find(key, call)
        if held is None:
            raise Transient("Tryton shows this user no party of the code: was it removed?")
        return held

    def _find(self, key: str, call: Call) -> State | None:
        """The party of a code, active or not."""
        wanted, code = self._parties.wanted, [["code", "=", key]]
        found = self._tryton.ask("search_read", call, code, 0, 1, None, wanted)
        return self._parties.state_of(found[0]) if found else None
