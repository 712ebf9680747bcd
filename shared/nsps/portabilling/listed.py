"""Accounts and their SIM cards as PortaBilling's lists give them, many in one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any

from nsps.domain.snapshot import SimInfo, as_integer, readers
from nsps.portabilling.client import PortaBilling, ServicePaths
from nsps.portabilling.errors import Fault, NotFound, OtherAnswer, Reading
from nsps.portabilling.lists import Lists

KEPT_SECONDS = 300.0
"""How old a card of the list may be when it is used."""
MOST_KEPT = 100_000
"""Cards that are kept for accounts to come, some 400 bytes each."""
_MEMBERS = tuple(name for name, _ in readers(SimInfo))
_SHARED = frozenset({"product_info", "access_policy_info", "customer_info"})

Entry = Mapping[str, Any]


class SimCards:
    """The cards of accounts, from the list of cards; safe to share between threads.

    The list is not in the order of accounts: it is read as far as the accounts at hand need it, and
    what was read for accounts to come is kept. So is what was given last: a page that got no answer
    is asked for again.
    """

    def __init__(self, lists: Lists, clock: Callable[[], float] = time.monotonic) -> None:
        self._lists, self._clock = lists, clock
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._kept: dict[int, Entry] = {}
        self._given: set[int] = set()
        self._offset, self._over, self._began = 0, False, self._clock()

    def of(self, accounts: Collection[int], *, first: bool) -> dict[int, Entry]:
        """By account, the card of each that the list has one for. ``first``: of a new comparison.

        Raises Transient where PortaBilling is down; one that gives no list has no cards here.
        """
        with self._lock:
            if first or self._clock() - self._began > KEPT_SECONDS:
                self._begin()
            for done in self._given.difference(accounts):
                del self._kept[done]
            while not self._over and len(self._kept) < MOST_KEPT:
                if all(each in self._kept for each in accounts):
                    break
                self._read_on()
            self._given = self._kept.keys() & set(accounts)
            return {each: self._kept[each] for each in self._given}

    def _read_on(self) -> None:
        try:
            cards = self._lists.sim_cards(self._offset)
        except (Fault, NotFound, OtherAnswer):
            cards = []
        self._offset, self._over = self._offset + len(cards), not cards
        for card in cards:
            i_account = as_integer(card.get("i_account"))
            if i_account is not None:
                self._kept[i_account] = {name: card[name] for name in _MEMBERS if name in card}


class ListedAccounts:
    """A client for the accounts of one page: what the lists have said of them is not asked again,
    and what several of them share (a product, a customer) is asked once. Safe to share."""

    def __init__(
        self, client: PortaBilling, accounts: Mapping[int, Entry], cards: Mapping[int, Entry]
    ) -> None:
        self._client, self._accounts, self._cards = client, accounts, cards
        self._shared: dict[tuple[str, str], Future[Reading]] = {}
        self._lock = threading.Lock()

    @property
    def services(self) -> ServicePaths:
        return self._client.services

    def call(self, what: str, params: Mapping[str, Any]) -> Reading:
        """As PortaBilling.call."""
        i_account = as_integer(params.get("i_account")) or 0
        if what == "account_info" and i_account in self._accounts:
            return Reading({"account_info": dict(self._accounts[i_account])})
        if what == "sim_card_info" and i_account in self._cards:
            return Reading({"card_info": dict(self._cards[i_account])})
        if what in _SHARED:
            return self._once(what, params)
        return self._client.call(what, params)

    def _once(self, what: str, params: Mapping[str, Any]) -> Reading:
        key = (what, str(sorted(params.items())))
        with self._lock:
            known = self._shared.get(key)
            mine = known or self._shared.setdefault(key, Future())
        if known is None:
            try:
                mine.set_result(self._client.call(what, params))
            except Exception as error:
                mine.set_exception(error)
        return mine.result()
