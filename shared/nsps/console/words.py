"""An event, or a subscriber, explained in plain words: what happened, in order; what each system
was told and answered; what waits for what, until when; what an operator can do now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nsps.console.find import Subject
from nsps.event import RECONCILE
from nsps.switch import Switch, kept_until
from nsps.timeline import Delivered, Story

Switches = Mapping[str, Switch]


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. ``at``: ISO 8601, or None where no time is known."""

    at: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What can be done, and the command that does it."""

    text: str
    command: str


@dataclass(frozen=True, slots=True)
class Words:
    """``happened`` in order; ``waiting``: what has not ended, for what, until when."""

    happened: tuple[Line, ...]
    waiting: tuple[str, ...]
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "happened": [{"at": line.at, "text": line.text} for line in self.happened],
            "waiting": list(self.waiting),
            "advice": [{"text": each.text, "command": each.command} for each in self.advice],
        }


def of_story(story: Story, switches: Switches) -> Words:
    """An event in words."""
    lines = [*_beginning(story)]
    for each in story.deliveries:
        lines += _delivery(each)
    waiting = [*_waiting(story, switches)]
    advice = [*_advice(story, switches)]
    lines.sort(key=lambda line: line.at or "")
    return Words(tuple(lines), tuple(waiting), tuple(dict.fromkeys(advice)))


def of_subject(subject: Subject, switches: Switches) -> Words:
    """A subscriber in words: the state first, then what its newest events came to."""
    name = _owner(str(subject.owner)) if subject.owner else "Nobody"
    lines = [Line(None, subject.note)] if subject.note else []
    lines += [Line(each["changed_at"], _resource(each)) for each in subject.resources]
    if not subject.resources:
        lines.append(Line(None, f"{name} has nothing in any system that NSPS knows of"))
    lines += [Line(each["told_at"], _status(each)) for each in subject.statuses]
    waiting: list[str] = []
    advice: list[Advice] = []
    for story in subject.events:
        lines.append(Line(story.received_at or story.opened_at, _short(story)))
        waiting += [
            f"{story.event_type} ({_number(story)}): {w}" for w in _waiting(story, switches)
        ]
        advice += [*_advice(story, switches)]
    if not subject.events:
        lines.append(Line(None, "there is no event of it in the history (kept for 3 months)"))
    advice += [*_reconciles(subject)]
    return Words(tuple(lines), tuple(dict.fromkeys(waiting)), tuple(dict.fromkeys(advice)))


# ---- what happened -----------------------------------------------------------------------------


def _beginning(story: Story) -> Iterator[Line]:
    if story.event_type == RECONCILE:
        said = f"a reconcile asked for a repair of {_owner(story.owner)}"
    else:
        said = (
            f"PortaBilling sent {story.event_type} ({_number(story)}) about {_owner(story.owner)}; "
            "NSPS kept it and answered 200"
        )
    yield Line(story.received_at or story.opened_at, said)
    if story.state == "unhandled":
        yield Line(story.opened_at, "no handler wants events of this type: nothing more happens")
    if story.enriched_at:
        took = f" in {story.read_ms:g} ms" if story.read_ms else ""
        yield Line(story.enriched_at, f"PortaBilling was asked what is so now, and answered{took}")
    if story.retry:
        yield Line(story.retry.get("at"), f"PortaBilling could not be read: {story.retry['error']}")


def _delivery(each: Delivered) -> Iterator[Line]:
    name = f"{each.handler} (replay {each.run})" if each.run else each.handler
    for result in each.results:
        yield Line(each.last_at, f"{name}: {_result(result)}")
    if each.summary:
        yield Line(each.last_at, f"{name}: {each.summary}")
    for error in each.errors:
        yield Line(each.last_at, f"{name} answered: {error}")
    if each.retry and each.outcome in (None, "retrying", "parked", "waiting"):
        yield Line(each.retry.get("at"), f"{name} answered: {each.retry['error']}")
    if each.outcome:
        yield Line(each.finished_at or each.last_at, f"{name}: {_outcome(each)}")
    heard = _heard(each)
    if heard:
        yield Line((each.espf or {}).get("told_at"), heard)


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


def _result(result: Mapping[str, Any]) -> str:
    said = str(result.get("result", ""))
    words = _RESULTS.get(said, f"{{key}} {said}").format(key=result.get("key", ""))
    fields = result.get("fields") or {}
    if fields:
        words += f" ({', '.join(_change(name, *pair) for name, pair in fields.items())})"
    if result.get("order"):
        words += f" as order {result['order']}"
    if result.get("took_ms") is not None:
        words += f"; the system took {result['took_ms']:g} ms"
    return words


def _change(name: str, before: Any, after: Any) -> str:
    return f"{name} {after}" if before is None else f"{name} from {before} to {after}"


_OUTCOMES = {
    "delivered": "done",
    "unchanged": "done, the system had this state already",
    "accepted": "the system took the order and answers later",
    "retrying": "not done yet",
    "rejected": "refused for good",
    "expired": "given up: all tries were used",
    "parked": "not done yet: all quick attempts were used",
    "waiting": "not done yet",
}


def _outcome(each: Delivered) -> str:
    if each.outcome == "superseded":
        by = f" (event {each.superseded_by})" if each.superseded_by else ""
        return f"not needed: a newer event for the same owner took over{by}"
    words = _OUTCOMES.get(each.outcome or "", str(each.outcome))
    return f"{words}, at attempt {each.attempts}" if each.attempts > 1 else words


def _heard(each: Delivered) -> str:
    espf = each.espf
    if espf is None or espf.get("status") is None or not espf.get("of_this"):
        return ""
    if espf.get("refused"):
        return f"PortaBilling refused the status for {espf['group']}: {espf['refused']}"
    if not espf["told"]:
        return ""
    return f"PortaBilling was told {espf['status']} for {espf['group']}"


# ---- what waits --------------------------------------------------------------------------------


def _waiting(story: Story, switches: Switches) -> Iterator[str]:
    if story.state in ("received", "parked") and story.retry:
        yield f"PortaBilling is read again {_when(story.next_try)}"
    elif story.state == "received":
        yield "it waits to be enriched"
    for each in story.deliveries:
        if story.state in ("unhandled", "expired"):
            break
        if not each.final:
            yield _waits(each, switches.get(each.handler), enriched=bool(story.enriched_at))
        espf = each.espf
        untold = espf and espf.get("of_this") and espf.get("status") and not espf["told"]
        if espf and untold and not espf.get("refused"):
            told = f"{espf['status']} for {espf['group']}"
            yield f"PortaBilling is to be told {told}, within a minute"


def _waits(each: Delivered, switch: Switch | None, *, enriched: bool) -> str:
    if switch is not None and switch.off and each.outcome != "accepted":
        until = kept_until(switch)
        kept = f"; what waits is kept until {until:%Y-%m-%d %H:%M} UTC" if until else ""
        return f"{each.handler}: {switch.why()}{kept}"
    if each.outcome == "accepted":
        orders = ", ".join(each.orders)
        return f"{each.handler}: waits for the system's answer to {orders or 'its order'}"
    if each.waits_for:
        return f"{each.handler}: waits for {each.waits_for}"
    if each.outcome == "parked":
        return f"{each.handler}: tried again {_when(each.next_try)}, then every day"
    if each.retry:
        return f"{each.handler}: tried again {_when(each.next_try)} (so far {each.attempts} times)"
    return f"{each.handler}: " + ("is about to have it" if enriched else "waits for enrichment")


def _when(text: str | None) -> str:
    return f"about {text[:19].replace('T', ' ')} UTC" if text else "soon"


# ---- what can be done --------------------------------------------------------------------------


def _advice(story: Story, switches: Switches) -> Iterator[Advice]:
    for each in story.deliveries:
        switch = switches.get(each.handler)
        again = f"nsps replay {story.event_id} --handler {each.handler}"
        if switch is not None and switch.pause is not None and not each.final:
            yield Advice(f"Let {each.handler} go on", f"nsps resume {each.handler}")
        elif each.outcome in ("rejected", "expired"):
            yield Advice(f"Correct what {each.handler} complains of, then send it again", again)
        elif each.retry and not each.final:
            yield Advice(f"Send it to {each.handler} now instead of waiting", again)
            yield Advice(
                f"Stop {each.handler} while its system is repaired",
                f'nsps pause {each.handler} --reason "..."',
            )
        elif each.final and story.i_account is not None:
            yield Advice(
                f"See whether {each.handler} still has what PortaBilling says",
                f"nsps reconcile {each.handler} --account {story.i_account}",
            )


def _reconciles(subject: Subject) -> Iterator[Advice]:
    if subject.owner is None or subject.owner.kind not in ("account", "customer"):
        return
    option = f"--{subject.owner.kind} {subject.owner.id}"
    for handler in sorted({str(each["handler"]) for each in subject.resources}):
        yield Advice(
            f"See whether {handler} still has what PortaBilling says",
            f"nsps reconcile {handler} {option}",
        )


# ---- names -------------------------------------------------------------------------------------


def _resource(each: Mapping[str, Any]) -> str:
    handler, key = each["handler"], each["key"]
    if each["owner"] is None:
        return f"{handler}: {key} was removed"
    state = ", ".join(f"{name} {value}" for name, value in (each["state"] or {}).items())
    words = f"{handler} holds {key}" + (f" ({state})" if state else "")
    if each["writing"]:
        return f"{words}; it is being written this moment"
    if each["pending"]:
        return f"{words}; a change has been ordered and not been answered"
    return words if each["sure"] else f"{words}; its last write is in doubt"


def _status(each: Mapping[str, Any]) -> str:
    if each["refused"]:
        return f"PortaBilling refused the status for {each['group']}: {each['refused']}"
    verb = "was told" if each["told"] else "is to be told"
    because = f": {each['message']}" if each["message"] else ""
    return f"PortaBilling {verb} {each['status']} for {each['group']}{because}"


def _short(story: Story) -> str:
    came = ", ".join(f"{d.handler} {_word(d)}" for d in story.deliveries) or story.state
    return f"{story.event_type} ({_number(story)}): {came}"


def _word(each: Delivered) -> str:
    run = f" (replay {each.run})" if each.run else ""
    return (each.outcome or "waiting").replace("_", " ") + run


def _number(story: Story) -> str:
    return f"event {story.i_event}" if story.i_event else story.event_id


def _owner(text: str) -> str:
    kind, _, ident = text.partition(":")
    return {"sim": "SIM card", "did": "number"}.get(kind, kind) + f" {ident}"


def joined(words: Iterable[Words]) -> Words:
    """Several into one."""
    many = list(words)
    return Words(
        tuple(line for each in many for line in each.happened),
        tuple(dict.fromkeys(text for each in many for text in each.waiting)),
        tuple(dict.fromkeys(advice for each in many for advice in each.advice)),
    )
