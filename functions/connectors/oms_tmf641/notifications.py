"""Notifications of orders: TMF641's events, and the plain form; the states that both name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from nsps.connector.base import Answer, AnswerState, CallbackInvalid, CallbackRequest
from nsps.runtime.redact import shortened

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_MESSAGE_MAX = 500
_ERRORS_SHOWN = 5

States = Mapping[str, AnswerState]
"""What each state's name means; names have letters only, in lower case."""

STATES: dict[str, AnswerState] = {
    **dict.fromkeys(
        [
            *("acknowledged", "inprogress", "pending", "held"),
            *("assessingcancellation", "pendingcancellation"),
            *("accepted", "queued", "received", "started", "running", "processing", "retry"),
        ],
        AnswerState.PROGRESS,
    ),
    **dict.fromkeys(["completed", "complete", "done", "ok", "success"], AnswerState.DONE),
    **dict.fromkeys(
        ["failed", "failure", "rejected", "cancelled", "canceled", "partial", "error"],
        AnswerState.FAILED,
    ),
}
"""The standard's states, and the words that plain systems use."""

_NOTES = {
    "informationrequired": "the order manager needs more information",
    "milestone": "a milestone was reached",
    "jeopardy": "the order is late or at risk",
}
"""What the kind of an event says where the event has no message."""


def parse(request: CallbackRequest, states: States) -> list[Answer]:
    """The answers in a notification, or in a list of them. Raises CallbackInvalid."""
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError):
        raise CallbackInvalid("the notification is not JSON") from None
    entries = document if isinstance(document, list) else [document]
    return [answer for each in entries for answer in _answers(each, request.path, states)]


def _answers(document: object, path: str, states: States) -> Iterator[Answer]:
    if not isinstance(document, dict):
        raise CallbackInvalid("the notification is not a JSON object")
    if "event" in document or "eventType" in document:
        yield from _event_answers(document, path, states)
    else:
        yield _plain_answer(document, states)


def _event_answers(document: Mapping[str, Any], path: str, states: States) -> Iterator[Answer]:
    """The answer in a TMF641 event; none in one about anything else."""
    kind = text(document.get("eventType")) or path.rstrip("/").rpartition("/")[2]
    event = document.get("event")
    resource = event.get("serviceOrder") if isinstance(event, dict) else None
    if not isinstance(resource, dict):
        if "cancel" in kind.lower() and isinstance(event, dict):
            return
        raise CallbackInvalid("the event holds no event.serviceOrder")
    kind = letters(kind)
    if "delete" in kind:
        return
    at = document.get("eventTime") or document.get("timeOcurred")  # the standard's spelling
    answer = answer_of({"state": "acknowledged", **resource}, states, at=at)
    note = next((note for part, note in _NOTES.items() if part in kind), "")
    yield replace(answer, message=answer.message or note)


def answer_of(
    document: Mapping[str, Any], states: States, order: str = "", at: object = None
) -> Answer:
    """What a service order resource says of the order. Raises CallbackInvalid.

    Named by our own reference where it holds that: a notification can be here before the id is.
    """
    name = order or text(document.get("externalId")) or text(document.get("id"))
    if not name:
        raise CallbackInvalid("the service order has neither id nor externalId")
    state = state_of(document.get("state"), states)
    return Answer(name, state, message_of(document), _moment(at))


def _plain_answer(document: Mapping[str, Any], states: States) -> Answer:
    """``{"order", "status", "message"}``, or the standard's names."""
    names = ("order", "externalId", "reference", "id")
    name = next((found for each in names if (found := text(document.get(each)))), "")
    if not name:
        raise CallbackInvalid(f"the notification names no order: send one of {', '.join(names)}")
    state = state_of(document.get("status", document.get("state")), states)
    at = document.get("time", document.get("timestamp"))
    return Answer(name, state, message_of(document), _moment(at))


def state_of(word: object, states: States) -> AnswerState:
    """Raises CallbackInvalid for a word that is in neither the standard nor the settings."""
    state = states.get(letters(word)) if isinstance(word, str) else None
    if state is None:
        raise CallbackInvalid(
            f"the order's state {str(word)[:40]!r} is unknown: send one of TMF641's, or name "
            "it in the handler's setting states"
        )
    return state


def message_of(document: Mapping[str, Any]) -> str:
    """Why: the order's error messages and its items', milestones and alerts; in one line."""
    texts = [text(document.get("message"))]
    items = document.get("serviceOrderItem")
    for part in (document, *(items if isinstance(items, list) else ())):
        for name in ("errorMessage", "milestone", "jeopardyAlert"):
            texts += _messages(part.get(name) if isinstance(part, dict) else None)
    found = dict.fromkeys(each for each in texts if each)
    line = "; ".join(list(found)[:_ERRORS_SHOWN])
    return shortened(" ".join(_CONTROL.sub(" ", line).split()), _MESSAGE_MAX)


def _messages(entries: object) -> Iterator[str]:
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, dict):
            parts = (text(each.get(name)) for name in ("code", "message", "reason"))
            yield " ".join(part for part in parts if part)


def _moment(value: object) -> datetime | None:
    """A time as systems write it; without a zone it is UTC. None if it is none."""
    try:
        found = datetime.fromisoformat(text(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def text(value: object) -> str:
    """A name or number as text; empty for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def letters(word: str) -> str:
    """A state's name as it is compared: ``IN_PROGRESS`` and ``inProgress`` are the same."""
    return "".join(letter for letter in word.lower() if letter.isalpha())
