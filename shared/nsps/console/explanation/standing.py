"""How an event or a subscriber stands at each system: the newest delivery, the worst first."""

from __future__ import annotations

from collections.abc import Iterable

from nsps.console.event_json import URGENCY
from nsps.console.explanation.happened import outcome_words
from nsps.console.explanation.model import Standing, Systems
from nsps.console.explanation.naming import event_name
from nsps.console.explanation.waiting import unread, wait_of
from nsps.delivery.timeline import Delivered, EventHistory

NOT_READ = "PortaBilling not read"


def newest_deliveries(
    histories: Iterable[EventHistory],
) -> dict[str, tuple[EventHistory, Delivered]]:
    """Of each handler its newest delivery; one that was superseded only where there is no other.

    ``histories``: the oldest first.
    """
    newest: dict[str, tuple[EventHistory, Delivered]] = {}
    for history in histories:
        for each in history.deliveries:
            if each.outcome != "superseded" or each.handler not in newest:
                newest[each.handler] = (history, each)
    return newest


def standings(histories: Iterable[EventHistory], systems: Systems) -> tuple[Standing, ...]:
    """Of an event, or of the events of one subscriber (the oldest first)."""
    found = [*histories]
    standing = [_of_read(history) for history in found if history.unread]
    for history, each in newest_deliveries(found).values():
        waits_for_the_read = history.unread and each.run == 0 and not each.begun_at
        if not waits_for_the_read:
            standing.append(_of_delivery(history, each, systems))
    standing.sort(key=lambda each: URGENCY.index(each.outcome) if each.handler else -1)
    return tuple(standing)


def _of_read(history: EventHistory) -> Standing:
    text = unread(history)
    if history.retry:
        text += f": {history.retry['error']}"
    return Standing("", NOT_READ, text, history.event_id, event_name(history))


def _of_delivery(history: EventHistory, each: Delivered, systems: Systems) -> Standing:
    text = outcome_words(each) if each.final else wait_of(each, systems)
    complaints = "; ".join(_complaints(each))
    if complaints:
        text += f": {complaints}"
    outcome = each.outcome or "waiting"
    return Standing(each.handler, outcome, text, history.event_id, event_name(history))


def _complaints(each: Delivered) -> Iterable[str]:
    """What a system, or NSPS, said of a delivery that is not done."""
    if each.outcome not in ("rejected", "expired", "retrying", "parked"):
        return ()
    newest = [each.retry] if each.retry else each.failures[-1:]
    return dict.fromkeys(each.errors or [str(failure["error"]) for failure in newest])
