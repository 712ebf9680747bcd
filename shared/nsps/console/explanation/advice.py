"""What a person can do about an event or a subscriber, and the command or button for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nsps.console.explanation.model import Action, Advice, Systems
from nsps.console.explanation.standing import newest_deliveries
from nsps.console.find import Subject
from nsps.delivery.timeline import Delivered, EventHistory
from nsps.domain.event import Owner


def advice_for(histories: Iterable[EventHistory], systems: Systems) -> tuple[Advice, ...]:
    """Of each handler what its newest delivery calls for: what came before is of the past."""
    found = [*histories]
    advice: list[Advice] = []
    for history in found:
        if history.retry and not history.enriched_at and history.state != "rejected":
            advice.append(Advice("Check whether PortaBilling answers", Action("doctor")))
    for history, each in newest_deliveries(found).values():
        unknown_owner = history.state == "rejected" and not each.run  # again is rejected again
        advise = _reconcile_its_owner if unknown_owner else _for_delivery
        advice += advise(history, each, systems)
    advice.sort(key=lambda each: each.action.name == "reconcile")  # what is not well first
    return tuple(dict.fromkeys(advice))


def _for_delivery(history: EventHistory, each: Delivered, systems: Systems) -> Iterator[Advice]:
    name, switch = each.handler, systems.off(each.handler)
    again = Action("replay", name, history.event_id)
    if systems.gone(name):
        return
    if each.outcome in ("rejected", "expired"):
        cause = f"what {name} complains of" if history.enriched_at else "why it was not read"
        yield Advice(f"Correct {cause}, then send it again", again)
    elif each.final:
        yield from _compare(history, name, systems)
    elif switch is not None and switch.pause is not None:
        yield Advice(f"Resume {name}", Action("resume", name))
    elif switch is not None:
        text = f"Repair the system of {name}: what waits is sent by itself once it answers"
        yield Advice(text, Action("handlers", name))
    elif systems.overdue(each):
        yield Advice("Check whether its function answers", Action("doctor"))
        yield Advice(f"Send it to {name} again", again)
    elif each.outcome == "parked" and not history.enriched_at:
        yield Advice(f"Send it to {name} now instead of waiting", again)
    elif each.retry:
        yield Advice(f"Send it to {name} now instead of waiting", again)
        yield Advice(f"Stop {name} while its system is repaired", Action("pause", name))


def _reconcile_its_owner(
    history: EventHistory, each: Delivered, systems: Systems
) -> Iterator[Advice]:
    """Of an event whose owner cannot be read."""
    if not systems.gone(each.handler) and not systems.sends_messages(each.handler):
        yield _reconcile(each.handler, None)


def _compare(history: EventHistory, handler: str, systems: Systems) -> Iterator[Advice]:
    if history.i_account is not None and not systems.sends_messages(handler):
        yield _reconcile(handler, Owner("account", str(history.i_account)))


def comparisons(subject: Subject, systems: Systems) -> Iterator[Advice]:
    """Each system that holds something of a subscriber can be compared."""
    if subject.owner is None or subject.owner.kind not in ("account", "customer"):
        return
    for handler in sorted({str(each["handler"]) for each in subject.resources}):
        if not systems.sends_messages(handler):
            yield _reconcile(handler, subject.owner)


def _reconcile(handler: str, owner: Owner | None) -> Advice:
    text = f"Check whether {handler} still has what PortaBilling says"
    return Advice(text, Action("reconcile", handler, owner=owner))
