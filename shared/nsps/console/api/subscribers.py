"""A subscriber: found, explained, asked of its systems, erased."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nsps.console import erase as erasing
from nsps.console.api.checks import BadRequest, body_of, limit_of, number_of
from nsps.console.api.common import events_json, note_look_up, sees, systems_now
from nsps.console.api.context import ConsoleContext, ConsoleRequest, NotThere
from nsps.console.event_json import event_json
from nsps.console.explanation import Systems, explain_subject
from nsps.console.find import EVENTS, Subject, kind_of
from nsps.console.masking import hidden
from nsps.console.requests import EraseBody
from nsps.domain.event import Owner
from nsps.domain.subscriber import as_msisdn


def account(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    return _owner(context, request, "account")


def customer(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    found = _owner(context, request, "customer")
    accounts = context.finding.accounts_of(number_of("customer", request.name))
    error = accounts.error if sees(context, request) else hidden(accounts.error)
    return {**found, "accounts": {**asdict(accounts), "error": error}}


def _owner(context: ConsoleContext, request: ConsoleRequest, kind: str) -> dict[str, Any]:
    owner = Owner(kind, str(number_of(kind, request.name)))
    note_look_up(context, request, str(owner))
    subject = context.finding.owner(owner, limit=limit_of(request.query, EVENTS))
    return _subject(context, request, subject, systems_now(context))


def find(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    kinds = ("imsi", "msisdn", "iccid")
    given = [(kind, request.query[kind]) for kind in kinds if request.query.get(kind)]
    if len(given) != 1:
        raise BadRequest("write ?imsi=NUMBER, ?msisdn=NUMBER or ?iccid=NUMBER")
    ((kind, number),) = given
    if kind == "msisdn":
        number = as_msisdn(number) or ""
        if not number:
            raise BadRequest("the MSISDN is not 1 to 15 digits: write ?msisdn=NUMBER")
    number = number.strip()
    subjects = _of_number(context, request, kind, number)
    if not subjects:
        raise NotThere(
            f"no system that NSPS writes to has {kind.upper()} {number}, and none had it in "
            "the last months: look in PortaBilling which account it belongs to, then ask for "
            "account:N"
        )
    systems = systems_now(context)
    return {"found": [_subject(context, request, each, systems) for each in subjects]}


def _of_number(
    context: ConsoleContext, request: ConsoleRequest, kind: str, number: str
) -> list[Subject]:
    subjects = context.finding.number(kind, number)
    owners = [str(each.owner) for each in subjects if each.owner] or [f"an unknown {kind}"]
    for owner in owners:
        note_look_up(context, request, owner, by=kind)
    return subjects


def search(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    """Whatever a person may have at hand: an account, a customer, a number, an event."""
    text = request.query.get("q", "").strip()
    kind, number = kind_of(text)
    if not number or len(number) > 200:
        raise BadRequest(
            "q: write account:N, customer:N, an MSISDN, IMSI or ICCID, or an event's number"
        )
    systems, finding = systems_now(context), context.finding
    if kind in ("account", "customer"):
        owners = [Owner(kind, str(number_of(kind, number)))]
    else:
        owners = finding.numbered(number) if kind != "event" else []
    for owner in owners:
        note_look_up(context, request, str(owner))
    subjects = [finding.owner(owner) for owner in owners]
    if kind in ("imsi", "msisdn", "iccid"):
        subjects += _of_number(context, request, kind, number)
    named = kind not in ("account", "customer", "imsi", "iccid")
    events = finding.timeline.find(number) if named else []
    if not subjects and not events and kind == "msisdn":
        listed = finding.listed_customer(number)
        if listed is not None:
            note_look_up(context, request, str(listed))
            subjects = [finding.owner(listed)]
    return {
        "found": [_subject(context, request, each, systems) for each in subjects],
        "events": events_json(context, request, events),
    }


def account_now(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    return _now(context, request, "account")


def customer_now(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    return _now(context, request, "customer")


def _now(context: ConsoleContext, request: ConsoleRequest, kind: str) -> dict[str, Any]:
    """What PortaBilling and each system say of a subscriber at this moment."""
    owner = Owner(kind, str(number_of(kind, request.name)))
    note_look_up(context, request, str(owner), by="asking its systems")
    found = context.now.of(owner)
    if sees(context, request):
        return found
    mask = context.masking
    handlers = [mask.resources({**each, "owner": str(owner)}) for each in found["handlers"]]
    return {"portabilling": mask.document(found["portabilling"]), "handlers": handlers}


def _subject(
    context: ConsoleContext, request: ConsoleRequest, subject: Subject, systems: Systems
) -> dict[str, Any]:
    if not sees(context, request):
        subject = context.masking.subject(subject)
    return {
        "owner": str(subject.owner) if subject.owner else None,
        "note": subject.note,
        "resources": [dict(each) for each in subject.resources],
        "statuses": [dict(each) for each in subject.statuses],
        "events": [event_json(event_history) for event_history in subject.events],
        "explanation": explain_subject(subject, systems).to_json(),
    }


def kept(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    i_account, held = number_of("account", request.name), request.query.get("held") == "true"
    return _kept(erasing.find(context.store, i_account, held=held))


def erase(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    i_account, body = number_of("account", request.name), body_of(request, EraseBody)
    found = erasing.find(context.store, i_account, held=body.held)
    count = erasing.erase(context.store, i_account, found, request.person, body.reason)
    return {**_kept(found), "deleted": count}


def _kept(found: erasing.Found) -> dict[str, Any]:
    return {"kept": found.kinds, "against": list(found.against)}
