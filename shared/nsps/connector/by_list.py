"""A page of PortaBilling's accounts compared by what its lists say of them.

An account that the lists show to be right is not read again; any other is compared as usual, read
singly, so that no finding rests on a list. A list may say less than a single read. So it is noted
at which fields the connector looks, and an account is right by the lists only if they gave the
member of each of these fields, be it for another account (the API leaves out what is unset). And
of each page some accounts are read singly as well: if they say otherwise than the list, all are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from nsps.cloud.store import MOST_OWNERS
from nsps.connector.base import AsynchronousConnector, Call, Connector, State, StateConnector
from nsps.connector.preview import AT_ONCE, MAX_OWNERS, Compared, Comparison, Inspector
from nsps.connector.watched import Field, watching
from nsps.domain.event import RECONCILE, EspfEvent, Owner
from nsps.domain.outcome import DeliveryError
from nsps.domain.snapshot import Block, PbData
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.listed import Entry, ListedAccounts, SimCards
from nsps.portabilling.lists import Listed, Lists
from nsps.portabilling.mapping import STATUS_MEMBERS
from nsps.portabilling.reader import Reader
from nsps.transport.deadline import Deadline

T = TypeVar("T")

SAMPLES = 2
"""Accounts of a page that are read singly although their lists show them to be right."""
_LEADS_TO = {
    Block.ACCESS_POLICY_INFO: "service_features",
    Block.PRODUCT_INFO: "i_product",
    Block.CUSTOMER_INFO: "i_customer",
}
"""The field of the account by which another block is found."""
_LISTS = {Block.ACCOUNT_INFO: "account_list", Block.SIM_INFO: "sim_card_list"}


@dataclass(frozen=True, slots=True)
class _Seen:
    """An account as the lists show it, what should be written of it, and what that rests on."""

    owner: Owner
    pb: PbData
    states: Mapping[str, State]
    looked: frozenset[Field]


class PageInspector:
    """Compares pages of the list of accounts; safe to share between threads."""

    def __init__(
        self,
        connector: Connector[Any],
        inspector: Inspector,
        client: PortaBilling,
    ) -> None:
        self._connector, self._context, self._inspector = connector, inspector.context, inspector
        self._client, self._lists = client, Lists(client)
        self._cards = SimCards(self._lists)
        self._blocks = frozenset(inspector.context.handler.requires) - {Block.PREV_SIM_INFO}
        self._given: dict[Block, frozenset[str]] = {}
        """Members that the lists gave for any account since a comparison began."""
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="compare-page")

    def compare(
        self, offset: int, limit: int, customer: int | None, *, fix: bool = False
    ) -> dict[str, Any]:
        """The page's accounts, and those of them that are not right, with their resources. The page
        ends before more than MAX_OWNERS would have to be read singly.

        ``fix``: what is missing will be repaired by an event that reads PortaBilling again, so it
        is not read here. ``same``: resources of the others. ``singly``: why accounts could not be
        compared by the lists, and how many. Raises NoState, Transient, Terminal.
        """
        features = Block.ACCESS_POLICY_INFO in self._blocks
        listed = self._lists.accounts(offset, customer, limit, features=features)
        lacking: dict[Owner, str] = {}
        seen = self._seen(listed, lacking, first=offset == 0)
        known = self._compared(seen, fix=fix)
        odd = self._odd([each for each in seen if each.owner in known])
        if odd:
            lacking |= dict.fromkeys(known, odd)
            known = {}
        owners = _in_time([Owner("account", str(each)) for each in listed.ids], known)
        others = [each for each in owners if each not in known]
        of_lists = [(each, known[each]) for each in owners if each in known]
        found = self._inspector.compare(others, known=len(of_lists)) if others else []
        missing = [
            {"owner": str(owner), "resources": [each.to_json() for each in compared]}
            for owner, compared in of_lists
            if not _right(compared)
        ]
        return {
            "accounts": [each.i_account for each in owners],
            "total": listed.total,
            "more": len(owners) < len(listed.ids) or listed.goes_on(offset, limit),
            "owners": found + missing,
            "same": sum(len(compared) for _, compared in of_lists if _right(compared)),
            "singly": dict(Counter(lacking[each] for each in owners if each in lacking)),
        }

    # ---- what the lists say --------------------------------------------------------------------

    def _seen(self, listed: Listed, lacking: dict[Owner, str], *, first: bool) -> list[_Seen]:
        """The accounts of which the lists say enough; ``lacking`` gets the others, with what is
        not said."""
        if not isinstance(self._connector, StateConnector | AsynchronousConnector):
            return []
        accounts, cards = listed.entries, self._cards_of(listed, first=first)
        if first:
            self._given = {}
        self._note_given(Block.ACCOUNT_INFO, accounts)
        self._note_given(Block.SIM_INFO, cards)
        reader = _InTurn(ListedAccounts(self._client, accounts, cards))
        enough = []
        for i_account in listed.ids:
            said = self._cannot_be_said(i_account, accounts, cards)
            if said:
                lacking[Owner("account", str(i_account))] = said
            else:
                enough.append(i_account)
        seen = []
        for each in self._looks(enough, reader):
            i_account = each.owner.i_account or 0
            given = {Block.ACCOUNT_INFO: accounts[i_account], Block.SIM_INFO: cards.get(i_account)}
            missing = [text for field in each.looked for text in self._missing(field, given)]
            if missing:
                lacking[each.owner] = min(missing)
            else:
                seen.append(each)
        return seen

    def _cannot_be_said(
        self, i_account: int, accounts: Mapping[int, Entry], cards: Mapping[int, Entry]
    ) -> str:
        blocks = self._blocks
        if Block.ACCOUNT_INFO not in blocks or Block.FULL_VD_COUNTER_INFO in blocks:
            return f"no list says what {self._context.handler.name} requires"
        if i_account not in accounts:
            return "account_list holds letters that cannot be read"
        if Block.SIM_INFO in blocks and i_account not in cards:
            return "sim_card_list has no card of the account"
        return ""

    def _cards_of(self, listed: Listed, *, first: bool) -> Mapping[int, Entry]:
        return self._cards.of(listed.ids, first=first) if Block.SIM_INFO in self._blocks else {}

    def _note_given(self, block: Block, entries: Mapping[int, Entry]) -> None:
        self._given[block] = self._given.get(block, frozenset()).union(*entries.values())

    def _missing(self, field: Field, given: Mapping[Block, Entry | None]) -> Iterator[str]:
        """Members that the field is made of, and the list has never given."""
        block, name = field
        entry = given.get(block) or {}
        made_of = STATUS_MEMBERS if field == (Block.ACCOUNT_INFO, "status") else (name,)
        for member in made_of:
            if member not in entry and member not in self._given[block]:
                yield f"{_LISTS[block]} gives no {member}"

    def _looks(self, accounts: Sequence[int], reader: Reader) -> Iterator[_Seen]:
        parts = [accounts[first::AT_ONCE] for first in range(AT_ONCE)]
        for found in self._pool.map(lambda part: [self._look(n, reader) for n in part], parts):
            yield from filter(None, found)

    def _look(self, i_account: int, reader: Reader) -> _Seen | None:
        """What should be there for an account; None where that cannot be said."""
        connector, owner = self._connector, Owner("account", str(i_account))
        assert isinstance(connector, StateConnector | AsynchronousConnector)
        leads = {(Block.ACCOUNT_INFO, _LEADS_TO[b]) for b in self._blocks if b in _LEADS_TO}
        try:
            pb = reader.read_owner(owner, self._blocks)
            enriched = self._inspector.enriched(EspfEvent(RECONCILE, {}), "", owner, pb)
            states, looked = watching(
                pb, lambda seen: connector.desired(replace(enriched, pb=seen))
            )
        except DeliveryError:
            return None
        return _Seen(owner, pb, states, frozenset(looked | leads))

    def _odd(self, right: Sequence[_Seen]) -> str:
        """What a single read of some of them says otherwise than the list; empty if nothing."""
        for each in right[:: max(1, -(-len(right) // SAMPLES))]:
            try:
                pb = self._context.reader.read_owner(each.owner, self._blocks)
            except DeliveryError:
                return "an account that a list shows to be right could not be read singly"
            for block, name in sorted(each.looked):
                listed, single = each.pb.content(block), pb.content(block)
                if getattr(listed, name, None) != getattr(single, name, None):
                    return f"{_LISTS[block]} gives another {name} than a single read"
        return ""

    # ---- the ledger and the system -------------------------------------------------------------

    def _compared(self, seen: Sequence[_Seen], *, fix: bool) -> dict[Owner, list[Compared]]:
        """Those that the ledger and the system have so; and to ``fix``, those of which neither has
        anything."""
        parts = [seen[first : first + MOST_OWNERS] for first in range(0, len(seen), MOST_OWNERS)]
        owned: dict[str, dict[str, dict[str, Any]]] = {}
        for found in self._pool.map(self._owned, parts):
            for data in found:
                owned.setdefault(data["owner"], {})[data["key"]] = data
        known = [(each, owned.get(str(each.owner), {})) for each in seen]
        known = [(e, has) for e, has in known if has.keys() == e.states.keys() or (fix and not has)]
        held = self._held([key for each, _ in known for key in each.states])
        compared = {
            each.owner: self._resources(each, has, held)
            for each, has in known
            if held is None or held.keys() >= each.states.keys()
        }
        return {
            each.owner: compared[each.owner]
            for each, has in known
            if each.owner in compared and (_right if has else _none)(compared[each.owner])
        }

    def _resources(
        self, seen: _Seen, has: Mapping[str, Any], held: Mapping[str, State | None] | None
    ) -> list[Compared]:
        read = (held or {}).get
        with self._context.redactor().knowing({} if has else seen.pb.to_contract()):
            return [
                self._inspector.resource(key, state, str(seen.owner), has.get(key, {}), read)
                for key, state in seen.states.items()
            ]

    def _owned(self, part: Sequence[_Seen]) -> list[dict[str, Any]]:
        store, name = self._context.store, self._context.handler.name
        return store.find(store.resources_of_owners(name, [str(each.owner) for each in part]))

    def _held(self, keys: Sequence[str]) -> Mapping[str, State | None] | None:
        """What the system holds for the keys, but for those that could not be read; None where it
        cannot be read at all."""
        connector = self._connector
        if not (isinstance(connector, StateConnector) and connector.readable):
            return None
        if type(connector).read_many is StateConnector.read_many:
            found = self._pool.map(self._read, keys)
            return {key: state for each in found for key, state in each.items()}
        try:
            return {**dict.fromkeys(keys), **connector.read_many(keys, self._call())}
        except DeliveryError:
            return {}

    def _read(self, key: str) -> Mapping[str, State | None]:
        assert isinstance(self._connector, StateConnector)
        try:
            return {key: self._connector.read(key, self._call())}
        except DeliveryError:
            return {}

    def _call(self) -> Call:
        deadline = Deadline(self._context.handler.call_timeout_seconds)
        return Call(deadline, reference="compare/page")


def _in_time(owners: Sequence[Owner], known: Container[Owner]) -> Sequence[Owner]:
    """The first of them, so that no more than MAX_OWNERS have to be read singly: the console waits
    for the answer."""
    others = [number for number, owner in enumerate(owners) if owner not in known]
    return owners[: others[MAX_OWNERS]] if len(others) > MAX_OWNERS else owners


def _right(compared: Sequence[Compared]) -> bool:
    return all(each.what is Comparison.SAME for each in compared)


def _none(compared: Sequence[Compared]) -> bool:
    return all(each.what is Comparison.MISSING for each in compared)


class _InTurn(Reader):
    """Reads one thing after the other: nearly all of it is there already."""

    def __init__(self, client: ListedAccounts) -> None:
        super().__init__(client, threads=1)

    def _beside(self, read: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(read())
        return done
