"""How everything is, who asks, and who did what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.cloud.firestore import FieldFilter, Query

from nsps.console.api.checks import checked, without
from nsps.console.api.common import sees
from nsps.console.api.context import ConsoleContext, ConsoleRequest
from nsps.console.requests import AuditQuery
from nsps.delivery.timeline import plain

AUDIT_PAGE = 200


def me(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    return {"email": request.person.email, "role": request.person.role.name}


def overview(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    found = context.overview.read()
    return found if sees(context, request) else context.masking.overview(found)


def health(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    return context.health.look()


def audit(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    query = checked(AuditQuery, request.query)
    entries: list[dict[str, Any]] = []
    now, after = datetime.now(UTC), query.after
    while len(entries) < query.limit:
        found = _audit_page(context, query, after)
        for each in found:
            after = each["at"]
            if each["expire_at"] > now and query.holds(each):
                entries.append(plain(without(each, "expire_at")))
            if len(entries) == query.limit:
                break
        if len(found) < AUDIT_PAGE:
            break
    more = len(entries) == query.limit and after is not None
    return {"entries": entries, "next": after.isoformat() if more and after else None}


def _audit_page(
    context: ConsoleContext, query: AuditQuery, after: datetime | None
) -> list[dict[str, Any]]:
    wanted: Any = context.store.client.collection("audit")
    ends = min(filter(None, (after, query.until)), default=None)
    if ends is not None:
        wanted = wanted.where(filter=FieldFilter("at", "<" if after else "<=", ends))
    if query.since is not None:
        wanted = wanted.where(filter=FieldFilter("at", ">=", query.since))
    newest = wanted.order_by("at", direction=Query.DESCENDING)
    return context.store.find(newest.limit(AUDIT_PAGE))
