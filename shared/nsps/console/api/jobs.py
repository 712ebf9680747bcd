"""What is parked, replays and reconciles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsps.cloud.messages import ENRICHMENT
from nsps.console.api.checks import at_cursor, body_of, limit_of, without
from nsps.console.api.common import sees
from nsps.console.api.context import ConsoleContext, ConsoleRequest, no_event
from nsps.console.find import EVENTS
from nsps.console.jobs import JobConflict
from nsps.console.requests import ReasonBody, ReconcileBody, ReplayBody
from nsps.delivery.timeline import plain


def parked(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    stage = request.query.get("handler") or None
    if stage not in (None, ENRICHMENT):
        context.handlers.get(stage)
    limit, after = limit_of(request.query, EVENTS), request.query.get("after", "")
    page = at_cursor(lambda: context.parked.page(stage, limit, after))
    events = page.events
    if not sees(context, request):
        events = list(map(context.masking.parked, events))
    return {"parked": events, "next": page.next}


def send_parked(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    """What is parked is sent within a minute instead of at its next try."""
    reason = body_of(request, ReasonBody).reason
    context.parked.send_now(request.name, request.person, reason)
    return {"name": request.name}


def jobs(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    limit, after = limit_of(request.query, 20), request.query.get("after", "")
    found, following = at_cursor(lambda: context.jobs.latest(limit, after))
    return {"jobs": [_job(context, request, job) for job in found], "next": following}


def job(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    job = context.jobs.get(request.name)
    query, limit = request.query, limit_of(request.query, 100)
    findings, following = context.jobs.findings(
        request.name, limit, query.get("after", ""), query.get("what", "")
    )
    shown = [plain(without(each, "expire_at")) for each in findings]
    if not sees(context, request):
        shown = [context.masking.resources(each) for each in shown]
    return {**_job(context, request, job), "findings": shown, "next": following}


def replays(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    body = body_of(request, ReplayBody)
    if body.handler is not None:
        context.handlers.get(body.handler)
    if body.event is not None and not context.finding.timeline.find(body.event):
        raise no_event(body.event)
    ident = context.jobs.start(
        "replay",
        body.spec(),
        request.person,
        dry_run=body.dry_run,
        rate=body.rate,
        reason=body.reason,
    )
    return {"job": ident}


def reconciles(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    body = body_of(request, ReconcileBody)
    if context.handlers.get(body.handler).kind == "message":
        raise JobConflict(
            f"{body.handler} sends messages and keeps no state: there is nothing to compare; "
            "replay its events instead"
        )
    ident = context.jobs.start(
        "reconcile",
        body.spec(),
        request.person,
        fix=body.fix,
        rate=body.rate,
        reason=body.reason,
    )
    return {"job": ident}


def stop_job(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    context.jobs.stop(request.name, request.person, body_of(request, ReasonBody).reason)
    return _job(context, request, context.jobs.get(request.name))


def resume_job(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    context.jobs.resume(request.name, request.person, body_of(request, ReasonBody).reason)
    return _job(context, request, context.jobs.get(request.name))


def _job(
    context: ConsoleContext, request: ConsoleRequest, job: Mapping[str, Any]
) -> dict[str, Any]:
    shown: dict[str, Any] = plain(without(job, "expire_at"))
    return shown if sees(context, request) else context.masking.job(shown)
