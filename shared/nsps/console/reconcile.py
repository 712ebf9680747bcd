"""Reconcile: what PortaBilling says against the ledger and against the external system.

Three passes over one handler: every account of PortaBilling (and every customer, where the handler
wants customers' events); then what the ledger knows of owners that the first pass did not meet;
then, where the connector can list its system, what stands there and NSPS never wrote. The accounts
are compared by the page of PortaBilling's list (nsps.connector.by_list). Which accounts were met is
kept as one bit each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nsps.cloud.store import Store
from nsps.console.handlers import Handlers
from nsps.console.job_documents import seen_among
from nsps.console.jobs import Job, Page
from nsps.console.sending import Sending
from nsps.domain.event import Owner
from nsps.domain.outcome import Terminal
from nsps.portabilling.lists import Lists
from nsps.runtime.settings import HandlerSummary

AT_ONCE = 8
REPAIRED = frozenset({"missing", "different", "left over", "unrecorded"})
"""What --fix sends an event for."""
MAX_OWNERS = 100
AT_MOST = 1000
"""Documents of the ledger, and keys of a system, that are looked at in one page."""
_ACCOUNTS, _CUSTOMERS, _LEDGER, _SYSTEM = "accounts", "customers", "ledger", "system"


@dataclass(frozen=True, slots=True)
class _Compared:
    """What a page's comparison said, and where to go on. ``owners``: as the handler's function
    gives them, but for those that are right and were counted in ``found``. ``done``: entries of a
    list that were looked at."""

    owners: Sequence[Mapping[str, Any]]
    cursor: dict[str, Any] | None
    done: int = 0
    total: int | None = None
    seen: Sequence[int] = ()
    found: Mapping[str, int] = field(default_factory=dict)
    singly: Mapping[str, int] = field(default_factory=dict)


class Reconcile:
    """Works reconciles off; safe to share between threads."""

    def __init__(self, store: Store, handlers: Handlers, lists: Lists, sending: Sending) -> None:
        self._store, self._handlers = store, handlers
        self._lists, self._sending = lists, sending
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="repair")

    def page(self, job: Job, size: int) -> Page:
        """The next owners. Raises Transient, Terminal."""
        handler = self._handlers.get(str(job.spec["handler"]))
        if job.cursor.get("phase") == _SYSTEM:
            return self._system(job, handler)
        page = self._page(job, handler, size)
        found = dict(page.found)
        findings: dict[str, Mapping[str, Any]] = {}
        broken = []
        for each in page.owners:
            for resource in each["resources"]:
                found[resource["what"]] = found.get(resource["what"], 0) + 1
            wrong = [r for r in each["resources"] if r["what"] != "same"]
            if wrong:
                findings[each["owner"]] = {"owner": each["owner"], "resources": wrong}
            if any(r["what"] in REPAIRED for r in wrong):
                broken.append(Owner.parse(each["owner"]))
        sent = self._repair(job, handler.name, broken) if job.fix else 0
        if sent:
            found["repairs sent"] = sent
        return Page(
            page.cursor, page.done, found, findings, sent, page.total, page.seen, page.singly
        )

    def _compare(self, handler: str, owners: Sequence[Owner]) -> list[dict[str, Any]]:
        if not owners:
            return []
        request = {"owners": [str(owner) for owner in owners]}
        compared: list[dict[str, Any]] = self._handlers.ask(handler, "/compare", request)["owners"]
        return compared

    def _repair(self, job: Job, handler: str, owners: Sequence[Owner]) -> int:
        send = partial(self._sending.reconcile, job.id, handler=handler)
        return len(list(self._pool.map(send, owners)))

    # ---- which owners ------------------------------------------------------------------------

    def _page(self, job: Job, handler: HandlerSummary, size: int) -> _Compared:
        spec, phase = job.spec, job.cursor.get("phase")
        if spec.get("account") is not None:
            owner = Owner("account", str(spec["account"]))
            return _Compared(self._compare(handler.name, [owner]), None, 1, 1)
        if phase in (None, _ACCOUNTS):
            return self._accounts(job, handler, size)
        if phase == _CUSTOMERS:
            return self._customers(job, handler, size)
        return self._ledger(job, handler)

    def _accounts(self, job: Job, handler: HandlerSummary, size: int) -> _Compared:
        """The next accounts of PortaBilling's list, which the handler's function reads itself."""
        i_customer, offset = job.spec.get("customer"), int(job.cursor.get("offset", 0))
        asked = {"offset": offset, "limit": size, "customer": i_customer, "fix": job.fix}
        said = self._handlers.ask(handler.name, "/compare", {"page": asked})
        ids, owners = said["accounts"], said["owners"]
        if said["more"]:
            cursor: dict[str, Any] | None = {"phase": _ACCOUNTS, "offset": offset + len(ids)}
        elif i_customer is not None:
            cursor = None
            if _wants_customers(handler):
                owners += self._compare(handler.name, [Owner("customer", str(i_customer))])
        else:
            cursor = {"phase": _CUSTOMERS if _wants_customers(handler) else _LEDGER}
        return _Compared(
            owners,
            cursor,
            len(ids),
            said["total"],
            ids if i_customer is None else (),
            {"same": said["same"]} if said["same"] else {},
            said["singly"],
        )

    def _customers(self, job: Job, handler: HandlerSummary, size: int) -> _Compared:
        offset, size = int(job.cursor.get("offset", 0)), min(size, MAX_OWNERS)
        listed = self._lists.customers(offset, size)
        more = listed.goes_on(offset, size)
        cursor = {"phase": _CUSTOMERS, "offset": offset + len(listed.ids)}
        owners = [Owner("customer", str(each)) for each in listed.ids]
        return _Compared(
            self._compare(handler.name, owners),
            cursor if more else {"phase": _LEDGER},
            len(listed.ids),
        )

    def _ledger(self, job: Job, handler: HandlerSummary) -> _Compared:
        """Owners that the ledger knows and the lists did not name."""
        resources = self._store.client.collection("handlers", handler.name, "resources")
        query = resources.select(["owner"]).order_by("__name__").limit(AT_MOST)
        if job.cursor.get("after"):
            query = query.start_after({"__name__": job.cursor["after"]})
        snapshots = self._store.call(lambda: list(query.stream()))
        owned = [(each.id, (each.to_dict() or {}).get("owner")) for each in snapshots]
        owners = {text: Owner.parse(text) for _, text in owned if text}
        accounts = {each.i_account for each in owners.values() if each.i_account is not None}
        seen = seen_among(self._store, job.id, accounts)
        listed = {"event"} | ({"customer"} if _wants_customers(handler) else set())
        left: dict[Owner, None] = {}
        after = None
        for ident, text in owned:
            owner = owners.get(text)
            if owner and owner.kind not in listed and owner.i_account not in seen:
                left[owner] = None
            after = ident
            if len(left) == MAX_OWNERS:
                break
        whole = len(owned) < AT_MOST and (not owned or after == owned[-1][0])
        cursor = {"phase": _SYSTEM} if whole else {"phase": _LEDGER, "after": after}
        return _Compared(self._compare(handler.name, list(left)), cursor)

    # ---- what stands in the system -----------------------------------------------------------

    def _system(self, job: Job, handler: HandlerSummary) -> Page:
        """Keys that the system holds and NSPS did not write: reported, never removed."""
        request = {"after": job.cursor.get("after", ""), "limit": AT_MOST}
        try:
            answer = self._handlers.ask(handler.name, "/keys", request)
        except Terminal:  # the connector cannot list its system
            return Page(None)
        foreign = [str(key) for key in answer["foreign"]]
        first = int(job.cursor.get("number", 0))
        findings = {
            f"~{number:07}": {  # not by its key: a name is in cursors, and a key names a subscriber
                "owner": "",
                "resources": [
                    {
                        "key": key,
                        "what": "foreign",
                        "against": "system",
                        "fields": {},
                        "reason": "NSPS did not write it, and never removes what it did not write",
                    }
                ],
            }
            for number, key in enumerate(foreign, first)
        }
        found = {"foreign": len(foreign)} if foreign else {}
        more = {"phase": _SYSTEM, "after": answer["last"], "number": first + len(foreign)}
        cursor = more if answer["last"] else None
        return Page(cursor, 0, found, findings)


def _wants_customers(handler: HandlerSummary) -> bool:
    """Whether the handler keeps something for customers themselves."""
    return any(pattern.lower().startswith(("customer/", "*/")) for pattern in handler.events)
