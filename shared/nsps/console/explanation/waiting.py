"""What has not ended: what it waits for, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from nsps.console.explanation.model import Systems
from nsps.console.explanation.naming import event_name
from nsps.delivery.switch import kept_until
from nsps.delivery.timeline import Delivered, EventHistory
from nsps.domain.event import MESSAGE_KEY
from nsps.domain.retry import LONG_RETRIES, PUSH
from nsps.runtime.settings import HandlerSummary

NUMBERS_SHOWN = 3
"""Of many events that wait for the same, so many are named."""


def together(histories: Iterable[EventHistory], systems: Systems) -> Iterator[str]:
    """What many events wait for, each reason once."""
    by_reason: dict[str, list[EventHistory]] = {}
    for history in histories:
        for text in waiting(history, systems):
            by_reason.setdefault(text, []).append(history)
    for text, events in by_reason.items():
        yield f"{_events(events)}: {text}"


def _events(histories: list[EventHistory]) -> str:
    if len(histories) == 1:
        return event_name(histories[0])
    shown = [each.i_event or each.event_id for each in histories[:NUMBERS_SHOWN]]
    more = len(histories) - len(shown)
    return f"{len(histories)} events ({', '.join(shown)}{f' and {more} more' if more else ''})"


def waiting(history: EventHistory, systems: Systems) -> Iterator[str]:
    """What one event waits for."""
    if history.unread:
        yield unread(history)
    for each in history.deliveries:
        comes_after_the_read = history.unread and each.run == 0 and not each.begun_at
        if not each.final and not comes_after_the_read:
            yield f"{each.handler}: {wait_of(each, systems)}"
        espf = each.espf
        unsent = espf and espf.get("of_this") and espf.get("status") and not espf["sent"]
        if espf and unsent and not espf.get("refused"):
            status = f"status {espf['status']} for {espf['group']}"
            yield f"PortaBilling is to be sent {status}: it is tried each minute"


def unread(history: EventHistory) -> str:
    """What an event waits for that PortaBilling has not been read for."""
    then = ", ".join(each.handler for each in history.deliveries if each.run == 0)
    if history.state == "parked":
        return f"PortaBilling is read again {_when(history.next_try)}, then it goes to {then}"
    if history.retry:
        most = PUSH.maximum // 60
        return f"PortaBilling is read again within {most} minutes, then it goes to {then}"
    return f"PortaBilling is about to be read, then it goes to {then}"


def wait_of(each: Delivered, systems: Systems) -> str:
    """What a delivery waits for that has not ended."""
    if systems.gone(each.handler):
        return "is not part of this deployment any more; nothing more comes"
    known = systems.handlers.get(each.handler)
    if each.outcome == "accepted":
        return _answer(each, known)
    switch = systems.off(each.handler)
    if switch is not None:
        until = kept_until(switch)
        kept = f"; what waits is kept until {until:%Y-%m-%d %H:%M} UTC" if until else ""
        if each.outcome == "parked":
            kept = "; it is parked, and uses up no try meanwhile"
        return f"{switch.why()}{kept}"
    if each.waits_for:
        return f"waits for {each.waits_for}"
    if each.outcome == "parked":
        days = known.retries.long.days if known else LONG_RETRIES.days
        return f"tried again {_when(each.next_try)}, and further for {days:g} days"
    if each.retry:
        attempts = "1 attempt" if each.attempts == 1 else f"{each.attempts} attempts"
        return f"tried again {_when(each.next_try)}; {attempts} so far"
    if systems.overdue(each):
        return (
            f"was sent {_when(each.sent_at)} and has not been begun: its function "
            "does not answer, its queue is long, or the message is lost"
        )
    return "is about to receive it"


def _answer(each: Delivered, handler: HandlerSummary | None) -> str:
    """Of an order: which, since when, and what comes if nothing answers it."""
    named = [str(result["order"]) for result in each.results if result.get("order")]
    orders = ", ".join(named) or ", ".join(each.orders)
    sent = any(str(result.get("key", "")).startswith(MESSAGE_KEY) for result in each.results)
    text = (
        f"waits for the receipt of its message {orders}"
        if sent
        else f"waits for the system's answer to order {orders}"
    )
    if each.last_at is None:
        return text
    taken = datetime.fromisoformat(each.last_at)
    text += f", taken at {taken:%Y-%m-%d %H:%M} UTC"
    if handler is not None:
        ends = taken + timedelta(hours=handler.answer_within_hours)
        then = (
            "it has failed, or arrived where only failures are reported"
            if sent
            else "it is asked for or has failed"
        )
        text += f"; not answered by {ends:%Y-%m-%d %H:%M} UTC, {then}"
    return text


def _when(text: str | None) -> str:
    return f"about {text[:19].replace('T', ' ')} UTC" if text else "soon"
