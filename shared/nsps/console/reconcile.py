"""Reconcile: what PortaBilling says against the ledger and against the external system.

Three passes over one handler: every account of PortaBilling (and every customer, where the handler
wants customers' events); then what the ledger knows of owners that the first pass did not meet;
then, where the connector can list its system, what stands there and NSPS never wrote. A page holds
at most a hundred owners; which accounts were met is kept as one bit each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from nsps.cloud.store import Store
from nsps.console.handlers import Handlers
from nsps.console.job_documents import seen_among
from nsps.console.jobs import Job, Page
from nsps.console.sending import Sending
from nsps.domain.event import Owner
from nsps.domain.outcome import Terminal
from nsps.portabilling.lists import LIST_PAGE, Listed, Lists
from nsps.runtime.settings import HandlerSummary

AT_ONCE = 8
REPAIRED = frozenset({"missing", "different", "left over", "unrecorded"})
"""What --fix sends an event for."""
MAX_OWNERS = 100
_ACCOUNTS, _CUSTOMERS, _LEDGER, _SYSTEM = "accounts", "customers", "ledger", "system"


@dataclass(frozen=True, slots=True)
class _Owners:
    """Owners to compare, and where to go on. ``done``: entries that were looked at for them."""

    owners: tuple[Owner, ...]
    cursor: dict[str, Any] | None
    done: int
    total: int | None = None
    seen: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A page of PortaBilling's list of a job, from ``start`` on."""

    list: tuple[str, str]
    start: int
    listed: Listed

    def holds(self, offset: int) -> bool:
        return self.start <= offset < self.start + len(self.listed.ids)


class Reconcile:
    """Works reconciles off; safe to share between threads."""

    def __init__(self, store: Store, handlers: Handlers, lists: Lists, sending: Sending) -> None:
        self._store, self._handlers = store, handlers
        self._lists, self._sending = lists, sending
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="repair")
        self._kept: _Kept | None = None

    def page(self, job: Job, size: int) -> Page:
        """The next owners. Raises Transient, Terminal."""
        handler = self._handlers.get(str(job.spec["handler"]))
        if job.cursor.get("phase") == _SYSTEM:
            return self._system(job, handler, size)
        owners = self._owners(job, handler, size)
        compared = self._compare(handler.name, owners.owners)
        found: dict[str, int] = {}
        findings: dict[str, Mapping[str, Any]] = {}
        broken = []
        for each in compared:
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
        return Page(owners.cursor, owners.done, found, findings, sent, owners.total, owners.seen)

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

    def _owners(self, job: Job, handler: HandlerSummary, size: int) -> _Owners:
        spec, phase = job.spec, job.cursor.get("phase")
        if spec.get("account") is not None:
            return _Owners((Owner("account", str(spec["account"])),), None, 1, 1)
        if phase in (None, _ACCOUNTS):
            return self._accounts(job, handler, size)
        if phase == _CUSTOMERS:
            return self._customers(job, size)
        return self._ledger(job, handler, size)

    def _accounts(self, job: Job, handler: HandlerSummary, size: int) -> _Owners:
        i_customer = job.spec.get("customer")
        ids, total, more = self._listed(job, _ACCOUNTS, size)
        owners = tuple(Owner("account", str(each)) for each in ids)
        offset = job.cursor.get("offset", 0) + len(ids)
        if more:
            cursor: dict[str, Any] | None = {"phase": _ACCOUNTS, "offset": offset}
        elif i_customer is not None:
            cursor = None
            owners += (Owner("customer", str(i_customer)),) if _wants_customers(handler) else ()
        else:
            cursor = {"phase": _CUSTOMERS if _wants_customers(handler) else _LEDGER}
        seen = ids if i_customer is None else ()
        return _Owners(owners, cursor, len(ids), total, seen)

    def _customers(self, job: Job, size: int) -> _Owners:
        ids, _, more = self._listed(job, _CUSTOMERS, size)
        offset = job.cursor.get("offset", 0) + len(ids)
        cursor = {"phase": _CUSTOMERS, "offset": offset} if more else {"phase": _LEDGER}
        return _Owners(tuple(Owner("customer", str(each)) for each in ids), cursor, len(ids))

    def _listed(self, job: Job, phase: str, size: int) -> tuple[tuple[int, ...], int | None, bool]:
        """``size`` ids at the cursor, the list's length, whether there are more.

        PortaBilling gives a thousand at once; the newest thousand is kept.
        """
        offset = int(job.cursor.get("offset", 0))
        kept = self._kept
        if kept is None or kept.list != (job.id, phase) or not kept.holds(offset):
            kept = _Kept((job.id, phase), offset, self._read(job, phase, offset))
            self._kept = kept
        at, ids = offset - kept.start, kept.listed.ids
        wanted = ids[at : at + min(size, MAX_OWNERS - 1)]
        total, end = kept.listed.total, offset + len(wanted)
        more = end < kept.start + len(ids) or len(ids) == LIST_PAGE
        if total is not None and ids:
            more = end < total
        return wanted, total, more

    def _read(self, job: Job, phase: str, offset: int) -> Listed:
        if phase == _ACCOUNTS:
            return self._lists.accounts(offset, job.spec.get("customer"))
        return self._lists.customers(offset)

    def _ledger(self, job: Job, handler: HandlerSummary, size: int) -> _Owners:
        """Owners that the ledger knows and the lists did not name."""
        resources = self._store.client.collection("handlers", handler.name, "resources")
        query = resources.order_by("__name__").limit(size)
        if job.cursor.get("after"):
            query = query.start_after({"__name__": job.cursor["after"]})
        snapshots = self._store.call(lambda: list(query.stream()))
        data = [each.to_dict() or {} for each in snapshots]
        owners = {str(each["owner"]) for each in data if each.get("owner")}
        kinds = [Owner.parse(text) for text in sorted(owners)]
        accounts = {each.i_account for each in kinds if each.i_account is not None}
        seen = seen_among(self._store, job.id, accounts)
        listed = {"event"} | ({"customer"} if _wants_customers(handler) else set())
        left = tuple(
            each for each in kinds if each.kind not in listed and each.i_account not in seen
        )
        if len(snapshots) == size:
            return _Owners(left, {"phase": _LEDGER, "after": snapshots[-1].id}, 0)
        return _Owners(left, {"phase": _SYSTEM}, 0)

    # ---- what stands in the system -----------------------------------------------------------

    def _system(self, job: Job, handler: HandlerSummary, size: int) -> Page:
        """Keys that the system holds and NSPS did not write: reported, never removed."""
        request = {"after": job.cursor.get("after", ""), "limit": size}
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
