"""The lists of PortaBilling: accounts, customers and SIM cards, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import as_integer
from nsps.domain.subscriber import account_ids
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.errors import Fault, NotFound, OtherAnswer

LIST_PAGE = 1000
"""PortaBilling gives no more at once."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Ids of one page. ``total``: of the whole list, where PortaBilling says it. ``entries``: what
    the list says of each id; none where a text of the answer could not be read."""

    ids: tuple[int, ...]
    total: int | None
    entries: Mapping[int, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    def goes_on(self, offset: int, limit: int) -> bool:
        """Whether the list has more after this page, which was asked for so."""
        if self.total is not None and self.ids:
            return offset + len(self.ids) < self.total
        return len(self.ids) == limit


class Lists:
    """Reads lists through one client; safe to share between threads."""

    def __init__(self, client: PortaBilling) -> None:
        self._client = client

    def accounts(
        self,
        offset: int,
        i_customer: int | None = None,
        limit: int = LIST_PAGE,
        *,
        features: bool = False,
    ) -> Listed:
        """Every account, closed ones too, or those of one customer. ``features``: with their
        service features. Raises Transient, and Terminal where PortaBilling does not give its list.
        """
        more = {"get_statuses": 1} | ({"get_service_features": 1} if features else {})
        only = {} if i_customer is None else {"i_customer": i_customer}
        return self._page("account_list", "i_account", offset, {**more, **only, "limit": limit})

    def customers(self, offset: int, limit: int = LIST_PAGE) -> Listed:
        """Every customer. Raises as ``accounts``."""
        return self._page("customer_list", "i_customer", offset, {"limit": limit})

    def sim_cards(self, offset: int) -> list[dict[str, Any]]:
        """The next cards, at most LIST_PAGE; none at the end. Raises what PortaBilling.call raises,
        all of it Transient."""
        params = {"limit": LIST_PAGE, "offset": offset}
        answer = self._client.call("sim_card_list", params).members
        named = {"sim_card_list": answer.get("card_list", answer.get("sim_card_list"))}
        return self._entries("sim_card_list", named)

    def account_of_number(self, msisdn: str) -> int | None:
        """The account whose id is the number (also as NUMBER@msisdn). Raises Transient."""
        for name in account_ids(msisdn):
            try:
                reading = self._client.call("account_list", {"id": name, "limit": 1, "offset": 0})
            except NotFound:
                continue
            found = self._entries("account_list", reading.members)
            if found and found[0].get("id") == name:
                return as_integer(found[0].get("i_account"))
        return None

    def _page(self, what: str, key: str, offset: int, only: Mapping[str, Any]) -> Listed:
        try:
            return self._read(what, key, offset, only)
        except NotFound:  # the customer whose accounts were asked for
            return Listed((), None)
        except (Fault, OtherAnswer) as error:
            raise Terminal(
                f"the list could not be read, so nothing can be said of what it holds: {error}; "
                "when that is put right, `nsps jobs resume` goes on"
            ) from error

    def _read(self, what: str, key: str, offset: int, only: Mapping[str, Any]) -> Listed:
        reading = self._client.call(what, {"offset": offset, "get_total": 1, **only})
        answer = reading.members
        entries, total = self._entries(what, answer), as_integer(answer.get("total"))
        ids = tuple(number for each in entries if (number := as_integer(each.get(key))) is not None)
        where = f"PortaBilling {getattr(self._client.services, what)}"
        if len(ids) < len(entries):
            raise OtherAnswer(f"{where}: an entry of {what} has no {key}")
        if not ids and total is not None and total > offset:
            raise OtherAnswer(f"{where}: of {total} entries it gave none from {offset} on")
        return Listed(ids, total, {} if reading.damaged else dict(zip(ids, entries, strict=True)))

    def _entries(self, what: str, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
        entries = answer.get(what)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise OtherAnswer(
                f"PortaBilling {getattr(self._client.services, what)}: the answer has no list "
                f"{what}: check the service path {what} in the configuration"
            )
        return entries
