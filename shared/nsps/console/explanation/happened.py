"""What happened to an event, and what the systems hold of a subscriber, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from nsps.console.explanation.model import Entry
from nsps.console.explanation.naming import event_name, event_number, owner_name, value_words
from nsps.console.find import Subject
from nsps.delivery.timeline import Delivered, EventHistory
from nsps.domain.event import MESSAGE_KEY, RECONCILE


def event_entries(history: EventHistory) -> Iterator[Entry]:
    """Everything that is recorded of an event; not yet in the order of time."""
    yield from _beginning(history)
    for each in history.deliveries:
        yield from _delivery(each)


def subject_entries(subject: Subject) -> Iterator[Entry]:
    """What each system holds, what PortaBilling was sent, the newest events."""
    name = owner_name(str(subject.owner)) if subject.owner else "No owner"
    if subject.note:
        yield Entry(None, subject.note)
    for each in subject.resources:
        yield Entry(each["changed_at"], _resource(each))
    if not subject.resources:
        yield Entry(None, f"{name} has nothing in any system that NSPS knows of")
    for each in subject.statuses:
        yield Entry(each["sent_at"], _status(each))
    for history in subject.events:
        yield Entry(history.received_at or history.opened_at, _short(history))
    if not subject.events:
        yield Entry(None, "there is no event of it in the history (kept for 3 months)")


# ---- an event ----------------------------------------------------------------------------------


def _beginning(history: EventHistory) -> Iterator[Entry]:
    about = owner_name(history.owner)
    if history.event_type == RECONCILE:
        text = f"a reconcile asked for a repair of {about}"
    else:
        text = (
            f"PortaBilling sent {history.event_type} ({event_number(history)}) about {about}; "
            "NSPS stored it and answered 200"
        )
    yield Entry(history.received_at or history.opened_at, text)
    if history.state == "unhandled":
        yield Entry(history.opened_at, "no handler wants events of this type: nothing more happens")
    if history.enriched_at:
        took = f" in {history.read_ms:g} ms" if history.read_ms else ""
        yield Entry(history.read_by, f"PortaBilling was read{took}")
    if history.damaged:
        yield Entry(
            history.read_by,
            f"its answer to {' and '.join(history.damaged)} was damaged (a letter that is not "
            "UTF-8, or a raw line end): what could not be read is written as "
            "\N{REPLACEMENT CHARACTER}",
        )
    if history.retry:
        error = f"its data could not be read: {history.retry['error']}"
        yield Entry(history.retry.get("at"), error)


def _delivery(each: Delivered) -> Iterator[Entry]:
    name = f"{each.handler} (replay {each.run})" if each.run else each.handler
    if each.summary:
        yield Entry(each.last_at, f"{name}: message: {each.summary}")
    for failure in each.failures:
        times = f" ({failure['times']} times)" if failure["times"] > 1 else ""
        yield Entry(failure["at"], f"{name}: {failure['error']}{times}")
    for result in each.results:
        yield Entry(each.last_at, f"{name}: {_result(result)}")
    for error in each.errors:
        yield Entry(each.last_at, f"{name}: {error}")
    if each.retry and not each.failures:
        # a replay that could not be read yet
        yield Entry(each.retry.get("at"), f"{name}: {each.retry['error']}")
    if each.outcome:
        yield Entry(each.finished_at or each.last_at, f"{name}: {outcome_words(each)}")
    yield from _reported(each)


_RESULTS = {
    "written": "{key} was written",
    "removed": "{key} was removed",
    "already so": "{key} had this state already, nothing was written",
    "unchanged": "{key} is as it was last written, nothing was sent",
    "superseded": "{key} was left to a newer event",
    "claimed by a newer snapshot": "{key} belongs to a newer event, nothing was sent",
    "not ours any more": "{key} belongs to another owner by now, nothing was removed",
    "ordered": "a change of {key} was ordered",
    "ordered already": "the same change of {key} had been ordered already",
    "refused": "{key} was refused",
}


_MESSAGES = {
    "written": "the message was taken",
    "sent": "the message was taken, its receipt is to come",
    "ordered already": "the message was sent before, its receipt is to come",
    "superseded": "the message was left to a newer event",
    "claimed by a newer snapshot": "a newer event's message came first, nothing was sent",
    "refused": "the message was refused",
}


def _result(result: Mapping[str, Any]) -> str:
    kind, key = str(result.get("result", "")), str(result.get("key", ""))
    is_message = key.startswith(MESSAGE_KEY)
    if is_message:
        text = _MESSAGES.get(kind, f"the message: {kind}")
    else:
        text = _RESULTS.get(kind, f"{{key}} {kind}").format(key=key)
    fields = result.get("fields") or {}
    if fields:
        text += f" ({', '.join(_change(name, fields[name]) for name in sorted(fields))})"
    if result.get("order"):
        text += f" {'under' if is_message else 'as order'} {result['order']}"
    if result.get("took_ms") is not None:
        text += f"; the system took {result['took_ms']:g} ms"
    if result.get("answer"):
        text += f'; it answered "{result["answer"]}"'
    return text


def _change(name: str, change: Mapping[str, Any]) -> str:
    before, after = value_words(change["from"]), value_words(change["to"])
    return f"{name} {after}" if change["from"] is None else f"{name} from {before} to {after}"


_OUTCOMES = {
    "delivered": "done",
    "unchanged": "done, the system had this state already",
    "accepted": "the system took it and answers later",
    "retrying": "not done yet",
    "rejected": "failed for good, it is not tried again by itself",
    "expired": "given up: all tries were used",
    "parked": "not done yet: all quick attempts were used",
    "waiting": "not done yet",
}


def outcome_words(each: Delivered) -> str:
    """What a delivery came to."""
    if each.outcome == "superseded":
        by = f" (event {each.superseded_by})" if each.superseded_by else ""
        return f"not needed: another event of the owner, with the same data or newer, took over{by}"
    text = _OUTCOMES.get(each.outcome or "", str(each.outcome))
    if each.attempts > 1:
        text += f", at attempt {each.attempts}"
    if each.read_again:
        text += ", with data read again: a newer event of the owner had been delivered before it"
    return text


def _reported(each: Delivered) -> Iterator[Entry]:
    """Which status was sent to PortaBilling; what it has already is not sent again."""
    espf = each.espf
    if espf is None or espf.get("status") is None or not espf.get("of_this"):
        return
    status, sent_at = f"status {espf['status']} for {espf['group']}", espf.get("sent_at")
    if espf.get("refused"):
        why = f"PortaBilling refused the status for {espf['group']}: {espf['refused']}"
        yield Entry(sent_at, why)
    elif espf["sent"] and _is_earlier(sent_at, each.begun_at):
        yield Entry(each.finished_at or each.last_at, f"PortaBilling already had {status}")
    elif espf["sent"]:
        yield Entry(sent_at, f"PortaBilling was sent {status}")


def _is_earlier(first: str | None, second: str | None) -> bool:
    if not first or not second:
        return False
    return datetime.fromisoformat(first) < datetime.fromisoformat(second)


# ---- a subscriber ------------------------------------------------------------------------------


def _resource(each: Mapping[str, Any]) -> str:
    handler, key = each["handler"], str(each["key"])
    if key.startswith(MESSAGE_KEY):
        return f"{handler} {_message_state(each)}"
    if each["owner"] is None:
        return f"{handler}: {key} was removed"
    held = sorted((each["state"] or {}).items())
    state = ", ".join(f"{name} {value}" for name, value in held if value is not None)
    text = f"{handler} holds {key}" + (f" ({state})" if state else "")
    if each["writing"]:
        return f"{text}; it is being written this moment"
    if each["pending"]:
        return f"{text}; a change has been ordered and not been answered"
    if each["owed"]:
        return f"{text}; its last write, or what has to follow it, has not been confirmed"
    return text if each["sure"] else f"{text}; its last write is in doubt"


def _message_state(each: Mapping[str, Any]) -> str:
    if each["writing"]:
        return "is being sent a message this moment"
    return "took the last message" if each["sure"] else "did not take the last message"


def _status(each: Mapping[str, Any]) -> str:
    if each["refused"]:
        return f"PortaBilling refused the status for {each['group']}: {each['refused']}"
    verb = "was sent" if each["sent"] else "is to be sent"
    because = f": {each['message']}" if each["message"] else ""
    return f"PortaBilling {verb} status {each['status']} for {each['group']}{because}"


def _short(history: EventHistory) -> str:
    outcomes = ", ".join(f"{d.handler} {_outcome_of(d)}" for d in history.deliveries)
    return f"{event_name(history)}: {outcomes or history.state}"


def _outcome_of(each: Delivered) -> str:
    run = f" (replay {each.run})" if each.run else ""
    return (each.outcome or "waiting").replace("_", " ") + run
