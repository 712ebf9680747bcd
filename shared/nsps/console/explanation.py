"""An event, or a subscriber, explained in plain words: what happened, in order; what each system
was told and answered; what waits for what, until when; what an operator can do now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from nsps.console.find import Subject
from nsps.delivery.switch import Switch, kept_until
from nsps.delivery.timeline import Delivered, EventHistory
from nsps.domain.event import MESSAGE_KEY, RECONCILE, Owner
from nsps.domain.retry import LADDER, PUSH
from nsps.runtime.settings import HandlerSummary

NUMBERS_SHOWN = 3
"""Of many events that wait for the same, so many are named."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. ``at``: ISO 8601, or None where no time is known."""

    at: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that a person can do, by a command or a button.

    ``verb``: doctor, handlers, pause, resume, replay (the ``event``) or reconcile (the ``owner``;
    None: whom nobody can read).
    """

    verb: str
    handler: str = ""
    event: str = ""
    owner: Owner | None = None

    @property
    def command(self) -> str:
        """As one types it."""
        match self.verb:
            case "replay":
                return f"nsps replay {self.event} --handler {self.handler}"
            case "reconcile":
                whom = (
                    f"--{self.owner.kind} {self.owner.id}" if self.owner else "--account I_ACCOUNT"
                )
                return f"nsps reconcile {self.handler} {whom}"
            case "resume":
                return f"nsps resume {self.handler}"
            case "pause":
                return f'nsps pause {self.handler} --reason "..."'
        return f"nsps {self.verb}"

    def to_json(self) -> dict[str, Any]:
        owner = str(self.owner) if self.owner else None
        return {"verb": self.verb, "handler": self.handler, "event": self.event, "owner": owner}


@dataclass(frozen=True, slots=True)
class Advice:
    """What can be done, and what does it."""

    text: str
    deed: Deed

    @property
    def command(self) -> str:
        return self.deed.command

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "command": self.command, "deed": self.deed.to_json()}


@dataclass(frozen=True, slots=True)
class Explanation:
    """``happened`` in order; ``waiting``: what has not ended, for what, until when."""

    happened: tuple[Entry, ...]
    waiting: tuple[str, ...]
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "happened": [{"at": line.at, "text": line.text} for line in self.happened],
            "waiting": list(self.waiting),
            "advice": [each.to_json() for each in self.advice],
        }


@dataclass(frozen=True, slots=True)
class Systems:
    """The handlers as they are now: how they are switched, and how they are configured."""

    switches: Mapping[str, Switch] = field(default_factory=dict)
    handlers: Mapping[str, HandlerSummary] = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def sends_messages(self, handler: str) -> bool:
        known = self.handlers.get(handler)
        return known is not None and known.kind == "message"

    def off(self, handler: str) -> Switch | None:
        """The switch of a handler that is paused or whose system is down."""
        switch = self.switches.get(handler)
        return switch if switch is not None and switch.off else None

    def gone(self, handler: str) -> bool:
        """Whether the deployment has no such handler any more."""
        return bool(self.handlers) and handler not in self.handlers

    def overdue(self, each: Delivered) -> bool:
        """Whether nothing is known of a delivery that should have begun long ago.

        An attempt is written down before the system is called; the longest wait for one is the
        longest back-off.
        """
        if each.begun_at or each.outcome or each.sent_at is None:
            return False
        known = self.handlers.get(each.handler)
        push = known.retries.schedule.push if known else PUSH
        return self.now > _moment(each.sent_at) + timedelta(seconds=push.maximum)


def explain_event(history: EventHistory, systems: Systems) -> Explanation:
    """An event in words."""
    lines = [*_beginning(history)]
    for each in history.deliveries:
        lines += _delivery(each)
    lines.sort(key=lambda line: line.at or "")
    return Explanation(tuple(lines), tuple(_waiting(history, systems)), _advice([history], systems))


def explain_subject(subject: Subject, systems: Systems) -> Explanation:
    """A subscriber in words: the state first, then what its newest events came to."""
    name = _owner(str(subject.owner)) if subject.owner else "Nobody"
    lines = [Entry(None, subject.note)] if subject.note else []
    lines += [Entry(each["changed_at"], _resource(each)) for each in subject.resources]
    if not subject.resources:
        lines.append(Entry(None, f"{name} has nothing in any system that NSPS knows of"))
    lines += [Entry(each["told_at"], _status(each)) for each in subject.statuses]
    for history in subject.events:
        lines.append(Entry(history.received_at or history.opened_at, _short(history)))
    if not subject.events:
        lines.append(Entry(None, "there is no event of it in the history (kept for 3 months)"))
    advice = (*_advice(subject.events, systems), *_reconciles(subject, systems))
    return Explanation(
        tuple(lines), tuple(_together(subject.events, systems)), tuple(dict.fromkeys(advice))
    )


# ---- what happened -----------------------------------------------------------------------------


def _beginning(history: EventHistory) -> Iterator[Entry]:
    if history.event_type == RECONCILE:
        said = f"a reconcile asked for a repair of {_owner(history.owner)}"
    else:
        said = (
            f"PortaBilling sent {history.event_type} ({_number(history)}) "
            f"about {_owner(history.owner)}; "
            "NSPS kept it and answered 200"
        )
    yield Entry(history.received_at or history.opened_at, said)
    if history.state == "unhandled":
        yield Entry(history.opened_at, "no handler wants events of this type: nothing more happens")
    if history.enriched_at:
        took = f" in {history.read_ms:g} ms" if history.read_ms else ""
        yield Entry(
            history.enriched_at, f"PortaBilling was asked what is so now, and answered{took}"
        )
    if history.damaged:
        yield Entry(
            history.enriched_at,
            f"its answer to {' and '.join(history.damaged)} was damaged (a letter that is not "
            "UTF-8, or a raw line end): what could not be read is written as "
            "\N{REPLACEMENT CHARACTER}",
        )
    if history.retry:
        yield Entry(history.retry.get("at"), f"it could not be enriched: {history.retry['error']}")


def _delivery(each: Delivered) -> Iterator[Entry]:
    name = f"{each.handler} (replay {each.run})" if each.run else each.handler
    if each.summary:
        yield Entry(each.last_at, f"{name}: the message is: {each.summary}")
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
        yield Entry(each.finished_at or each.last_at, f"{name}: {_outcome(each)}")
    heard = _heard(each)
    if heard:
        yield heard


_RESULTS = {
    "written": "{key} was written",
    "removed": "{key} was removed",
    "already so": "{key} was so already, nothing had to be written",
    "unchanged": "{key} is as it was last written, nothing was sent",
    "superseded": "{key} was left to a newer event",
    "claimed by a newer snapshot": "{key} belongs to a newer event, nothing was sent",
    "not ours any more": "{key} belongs to somebody else by now, nothing was removed",
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
    said, key = str(result.get("result", "")), str(result.get("key", ""))
    if key.startswith(MESSAGE_KEY):
        words = _MESSAGES.get(said, f"the message: {said}")
    else:
        words = _RESULTS.get(said, f"{{key}} {said}").format(key=key)
    fields = result.get("fields") or {}
    if fields:
        words += f" ({', '.join(_change(name, fields[name]) for name in sorted(fields))})"
    if result.get("order") and key.startswith(MESSAGE_KEY):
        words += f" under {result['order']}"
    elif result.get("order"):
        words += f" as order {result['order']}"
    if result.get("took_ms") is not None:
        words += f"; the system took {result['took_ms']:g} ms"
    if result.get("answer"):
        words += f'; it said "{result["answer"]}"'
    return words


def _change(name: str, change: Mapping[str, Any]) -> str:
    before, after = change["from"], change["to"]
    return f"{name} {after}" if before is None else f"{name} from {before} to {after}"


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


def _outcome(each: Delivered) -> str:
    if each.outcome == "superseded":
        by = f" (event {each.superseded_by})" if each.superseded_by else ""
        return f"not needed: a newer event for the same owner took over{by}"
    words = _OUTCOMES.get(each.outcome or "", str(each.outcome))
    if each.attempts > 1:
        words += f", at attempt {each.attempts}"
    if each.read_again:
        words += ", with newer data: another event of the owner had gone first"
    return words


def _heard(each: Delivered) -> Entry | None:
    """What PortaBilling was told; it is not told again what it was told before."""
    espf = each.espf
    if espf is None or espf.get("status") is None or not espf.get("of_this"):
        return None
    told_at = espf.get("told_at")
    if espf.get("refused"):
        why = f"PortaBilling refused the status for {espf['group']}: {espf['refused']}"
        return Entry(told_at, why)
    if not espf["told"]:
        return None
    if told_at and each.begun_at and _moment(told_at) < _moment(each.begun_at):
        ended = each.finished_at or each.last_at
        return Entry(ended, f"PortaBilling has {espf['status']} for {espf['group']} from before")
    return Entry(told_at, f"PortaBilling was told {espf['status']} for {espf['group']}")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# ---- what waits --------------------------------------------------------------------------------


def _together(histories: Iterable[EventHistory], systems: Systems) -> Iterator[str]:
    """What many events wait for, each reason once."""
    who: dict[str, list[EventHistory]] = {}
    for history in histories:
        for text in _waiting(history, systems):
            who.setdefault(text, []).append(history)
    for text, waiting in who.items():
        yield f"{_events(waiting)}: {text}"


def _events(histories: list[EventHistory]) -> str:
    if len(histories) == 1:
        return _event(histories[0])
    shown = [each.i_event or each.event_id for each in histories[:NUMBERS_SHOWN]]
    more = len(histories) - len(shown)
    return f"{len(histories)} events ({', '.join(shown)}{f' and {more} more' if more else ''})"


def _waiting(history: EventHistory, systems: Systems) -> Iterator[str]:
    if history.unread:
        yield _unread(history)
    for each in history.deliveries:
        comes_after_the_read = history.unread and each.run == 0 and not each.begun_at
        if not each.final and not comes_after_the_read:
            yield _waits(each, systems)
        espf = each.espf
        untold = espf and espf.get("of_this") and espf.get("status") and not espf["told"]
        if espf and untold and not espf.get("refused"):
            told = f"{espf['status']} for {espf['group']}"
            yield f"PortaBilling is to be told {told}: it is tried each minute"


def _unread(history: EventHistory) -> str:
    """What an event waits for that PortaBilling has not been read for."""
    then = ", ".join(each.handler for each in history.deliveries if each.run == 0)
    if history.state == "parked":
        return f"PortaBilling is read again {_when(history.next_try)}, then it goes to {then}"
    if history.retry:
        most = PUSH.maximum // 60
        return f"PortaBilling is read again within {most} minutes, then it goes to {then}"
    return f"PortaBilling is about to be read, then it goes to {then}"


def _waits(each: Delivered, systems: Systems) -> str:
    if systems.gone(each.handler):
        return f"{each.handler}: is not part of this deployment any more; nothing more comes"
    if each.outcome == "accepted":
        return f"{each.handler}: {_answer(each, systems.handlers.get(each.handler))}"
    switch = systems.off(each.handler)
    if switch is not None:
        until = kept_until(switch)
        kept = f"; what waits is kept until {until:%Y-%m-%d %H:%M} UTC" if until else ""
        if each.outcome == "parked":
            kept = "; it is parked, and uses up no try meanwhile"
        return f"{each.handler}: {switch.why()}{kept}"
    if each.waits_for:
        return f"{each.handler}: waits for {each.waits_for}"
    if each.outcome == "parked":
        known = systems.handlers.get(each.handler)
        days = known.retries.ladder.days if known else LADDER.days
        return f"{each.handler}: tried again {_when(each.next_try)}, and further for {days:g} days"
    if each.retry:
        return f"{each.handler}: tried again {_when(each.next_try)} (so far {each.attempts} times)"
    if systems.overdue(each):
        return (
            f"{each.handler}: was sent {_when(each.sent_at)} and has not been begun: its function "
            "does not answer, its queue is long, or the message is lost"
        )
    return f"{each.handler}: is about to have it"


def _answer(each: Delivered, handler: HandlerSummary | None) -> str:
    """Of an order: which, since when, and what comes if nobody answers it."""
    named = [str(result["order"]) for result in each.results if result.get("order")]
    orders = ", ".join(named) or ", ".join(each.orders)
    sent = any(str(result.get("key", "")).startswith(MESSAGE_KEY) for result in each.results)
    if sent:
        words = f"waits for the receipt of its message {orders}"
    else:
        words = f"waits for the system's answer to order {orders}"
    if each.last_at is None:
        return words
    taken = _moment(each.last_at)
    words += f", taken at {taken:%Y-%m-%d %H:%M} UTC"
    if handler is not None:
        ends = taken + timedelta(hours=handler.answer_within_hours)
        words += f"; not answered by {ends:%Y-%m-%d %H:%M} UTC, it is asked for or has failed"
    return words


def _when(text: str | None) -> str:
    return f"about {text[:19].replace('T', ' ')} UTC" if text else "soon"


# ---- what can be done --------------------------------------------------------------------------


def _advice(histories: Iterable[EventHistory], systems: Systems) -> tuple[Advice, ...]:
    """Of each handler what its newest delivery calls for: what came before is of the past."""
    newest: dict[str, tuple[EventHistory, Delivered]] = {}
    advice: list[Advice] = []
    for history in histories:
        if history.retry and not history.enriched_at and history.state != "rejected":
            advice.append(Advice("See how PortaBilling answers", Deed("doctor")))
        for each in history.deliveries:
            if each.outcome != "superseded" or each.handler not in newest:
                newest[each.handler] = (history, each)
    for history, each in newest.values():
        unknown_owner = history.state == "rejected" and not each.run  # again is rejected again
        advise = _reconcile_whom_it_means if unknown_owner else _for_delivery
        advice += advise(history, each, systems)
    advice.sort(key=lambda each: each.deed.verb == "reconcile")  # what is not well first
    return tuple(dict.fromkeys(advice))


def _for_delivery(history: EventHistory, each: Delivered, systems: Systems) -> Iterator[Advice]:
    name, switch = each.handler, systems.off(each.handler)
    again = Deed("replay", name, history.event_id)
    if systems.gone(name):
        return
    if each.outcome in ("rejected", "expired"):
        cause = f"what {name} complains of" if history.enriched_at else "why it was not read"
        yield Advice(f"Correct {cause}, then send it again", again)
    elif each.final:
        yield from _compare(history, name, systems)
    elif switch is not None and switch.pause is not None:
        yield Advice(f"Let {name} go on", Deed("resume", name))
    elif switch is not None:
        text = f"Look after the system of {name}; events go on by themselves when it is well"
        yield Advice(text, Deed("handlers", name))
    elif systems.overdue(each):
        yield Advice("See whether the function is well", Deed("doctor"))
        yield Advice(f"Send it to {name} again", again)
    elif each.outcome == "parked" and not history.enriched_at:
        yield Advice(f"Send it to {name} now instead of waiting", again)
    elif each.retry:
        yield Advice(f"Send it to {name} now instead of waiting", again)
        yield Advice(f"Stop {name} while its system is repaired", Deed("pause", name))


def _reconcile_whom_it_means(
    history: EventHistory, each: Delivered, systems: Systems
) -> Iterator[Advice]:
    """Of an event that does not say readably whom it is about."""
    if not systems.gone(each.handler) and not systems.sends_messages(each.handler):
        yield _reconcile(each.handler, None)


def _compare(history: EventHistory, handler: str, systems: Systems) -> Iterator[Advice]:
    if history.i_account is not None and not systems.sends_messages(handler):
        yield _reconcile(handler, Owner("account", str(history.i_account)))


def _reconciles(subject: Subject, systems: Systems) -> Iterator[Advice]:
    if subject.owner is None or subject.owner.kind not in ("account", "customer"):
        return
    for handler in sorted({str(each["handler"]) for each in subject.resources}):
        if not systems.sends_messages(handler):
            yield _reconcile(handler, subject.owner)


def _reconcile(handler: str, owner: Owner | None) -> Advice:
    text = f"See whether {handler} still has what PortaBilling says"
    return Advice(text, Deed("reconcile", handler, owner=owner))


# ---- names -------------------------------------------------------------------------------------


def _resource(each: Mapping[str, Any]) -> str:
    handler, key = each["handler"], str(each["key"])
    if key.startswith(MESSAGE_KEY):
        return f"{handler} {_message_state(each)}"
    if each["owner"] is None:
        return f"{handler}: {key} was removed"
    held = sorted((each["state"] or {}).items())
    state = ", ".join(f"{name} {value}" for name, value in held if value is not None)
    words = f"{handler} holds {key}" + (f" ({state})" if state else "")
    if each["writing"]:
        return f"{words}; it is being written this moment"
    if each["pending"]:
        return f"{words}; a change has been ordered and not been answered"
    if each["owed"]:
        return f"{words}; its last write, or what has to follow it, has not been confirmed"
    return words if each["sure"] else f"{words}; its last write is in doubt"


def _message_state(each: Mapping[str, Any]) -> str:
    if each["writing"]:
        return "is being sent a message this moment"
    return "took the last message" if each["sure"] else "did not take the last message"


def _status(each: Mapping[str, Any]) -> str:
    if each["refused"]:
        return f"PortaBilling refused the status for {each['group']}: {each['refused']}"
    verb = "was told" if each["told"] else "is to be told"
    because = f": {each['message']}" if each["message"] else ""
    return f"PortaBilling {verb} {each['status']} for {each['group']}{because}"


def _short(history: EventHistory) -> str:
    came = ", ".join(f"{d.handler} {_word(d)}" for d in history.deliveries) or history.state
    return f"{_event(history)}: {came}"


def _word(each: Delivered) -> str:
    run = f" (replay {each.run})" if each.run else ""
    return (each.outcome or "waiting").replace("_", " ") + run


def _event(history: EventHistory) -> str:
    if history.event_type == RECONCILE:
        return f"a reconcile's repair ({history.event_id})"
    return f"{history.event_type} ({_number(history)})"


def _number(history: EventHistory) -> str:
    return f"event {history.i_event}" if history.i_event else history.event_id


def _owner(text: str) -> str:
    kind, _, ident = text.partition(":")
    return {"sim": "SIM card", "did": "number"}.get(kind, kind) + f" {ident}"
