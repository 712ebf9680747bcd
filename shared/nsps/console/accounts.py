"""The lists of PortaBilling: accounts and customers, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nsps.portabilling.client import PortaBilling
from nsps.portabilling.faults import BadAnswer, NotFound
from nsps.snapshot import as_integer

LIST_PAGE = 1000
"""PortaBilling gives no more at once."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Ids of one page. ``total``: of the whole list, where PortaBilling says it."""

    ids: tuple[int, ...]
    total: int | None


class Lists:
    """Reads lists through one client; safe to share between threads."""

    def __init__(self, client: PortaBilling) -> None:
        self._client = client

    def accounts(self, offset: int, i_customer: int | None = None) -> Listed:
        """Every account, closed ones too. Raises Transient."""
        only = {} if i_customer is None else {"i_customer": i_customer}
        return self._page(
            self._client.services.account_list, "account_list", "i_account", offset, only
        )

    def customers(self, offset: int) -> Listed:
        """Every customer. Raises Transient."""
        return self._page(
            self._client.services.customer_list, "customer_list", "i_customer", offset, {}
        )

    def account_of_number(self, msisdn: str) -> int | None:
        """The account whose id is the number (also as NUMBER@msisdn). Raises Transient."""
        for name in (msisdn, f"{msisdn}@msisdn"):
            method = self._client.services.account_list
            found = self._call(method, "account_list", {"id": name, "limit": 1, "offset": 0})
            if found and found[0].get("id") == name:
                return as_integer(found[0].get("i_account"))
        return None

    def _page(
        self, method: str, member: str, key: str, offset: int, only: Mapping[str, Any]
    ) -> Listed:
        params = {"limit": LIST_PAGE, "offset": offset, "get_total": 1, **only}
        try:
            answer = self._client.call(method, params)
        except NotFound:
            return Listed((), None)
        entries = _entries(method, answer, member)
        ids = tuple(number for each in entries if (number := as_integer(each.get(key))) is not None)
        if len(ids) < len(entries):
            raise BadAnswer(f"PortaBilling {method}: an entry of {member} has no {key}")
        return Listed(ids, as_integer(answer.get("total")))

    def _call(self, method: str, member: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            return _entries(method, self._client.call(method, params), member)
        except NotFound:
            return []


def _entries(method: str, answer: Mapping[str, Any], member: str) -> list[dict[str, Any]]:
    entries = answer.get(member, []) if answer else []
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise BadAnswer(f"PortaBilling {method}: {member} is not a list")
    return entries
