"""The external systems of the machine, in memory: what they hold, and all that they saw, in order.

A call takes effect while its deadline lasts, or never; it may do so after whoever made it has gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nsps.connector.base import Action, Answer, AnswerState, Call, Order
from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unreachable
from nsps.transport.deadline import Deadline

from tests.machine import steps
from tests.machine.steps import Attempt, Crashed, Go

CLAIM, RELEASE, SEND, ORDER, FOLLOW = "claim", "release", "send", "order", "follow"


@dataclass
class Seen:
    """One effect. ``t`` and ``owner``: of the snapshot that caused it. ``delivery``: for which.

    ``cut``: whoever asked for it was cut off before the effect could be recorded.
    """

    what: str
    key: str
    state: Mapping[str, Any] | None
    owner: str
    t: str
    delivery: str
    cut: bool = False

    def __str__(self) -> str:
        about = f"{self.owner} as of {self.t[11:26]}"
        return f"{self.what} {self.key} {dict(self.state or {})} for {about}"


@dataclass
class Doing:
    """A call under way."""

    key: str
    who: str
    deadline: Deadline
    effect: Callable[[], None]
    detached: bool = False
    """Nobody waits for it any more; it takes effect when the machine says so, or never."""


class System:
    """One external system. ``name`` is the handler's."""

    def __init__(self, name: str, history: Callable[[str], None]) -> None:
        self.name, self._event_history = name, history
        self.down = False
        self.next: list[str] = []
        """What the next calls do instead: "refuse" or "busy"."""
        self.states: dict[str, dict[str, Any]] = {}
        self.followed: dict[str, dict[str, Any] | None] = {}
        """The state that what follows a write was last carried out for."""
        self.seen: list[Seen] = []
        self.under_way: list[Doing] = []
        self.overlaps: list[str] = []

    # ---- what a connector calls --------------------------------------------------------------

    def check(self) -> None:
        if self.down:
            raise Unreachable(f"{self.name} is down")

    def write(self, key: str, state: Mapping[str, Any], call: Call) -> None:
        self._effect(self._tagged(CLAIM, key, state, call), call)

    def delete(self, key: str, call: Call) -> None:
        self._effect(self._tagged(RELEASE, key, None, call), call)

    def follow(self, key: str, state: Mapping[str, Any] | None, call: Call) -> None:
        """What has to follow a write: the subscriber's session is told."""
        self._effect(self._tagged(FOLLOW, key, state, call), call)

    def send(self, text: str, call: Call) -> None:
        self._effect(self._tagged(SEND, call.reference, {"text": text}, call), call)

    def _effect(self, seen: Seen, call: Call) -> None:
        self._call(seen, call, lambda: self.take_in(seen))

    def _tagged(self, what: str, key: str, state: Any, call: Call) -> Seen:
        attempt = steps.current()
        about = attempt.about if attempt else {}
        delivery = call.reference.partition("/")[0]
        kept = None if state is None else dict(state)
        return Seen(what, key, kept, about.get("owner", ""), about.get("t", ""), delivery)

    def _call(self, seen: Seen, call: Call, effect: Callable[[], None]) -> None:
        self.check()
        if call.deadline.expired:
            raise NoAnswer("too late to be sent")
        instead = self.next.pop(0) if self.next else ""
        doing = Doing(seen.key, _name(steps.current()), call.deadline, effect)
        self._enter(doing)
        try:
            verb = "follows up" if seen.what == FOLLOW else "calls"
            self._answered(seen, doing, instead, steps.stop(f"{verb} {self.name}"))
        except Crashed as crash:
            doing.detached = crash.late and not seen.cut
            seen.cut = True
            raise
        finally:
            if not doing.detached and doing in self.under_way:
                self.under_way.remove(doing)

    def _answered(self, seen: Seen, doing: Doing, instead: str, how: Go) -> None:
        if how is Go.FAIL or instead == "busy":
            self._event_history(f"  {self.name}: not now")
            raise Transient("not now", retry_after=5 if instead == "busy" else None)
        if instead == "refuse":
            self._event_history(f"  {self.name}: {seen.what} {seen.key} refused")
            raise Terminal("refused for good")
        if doing.deadline.expired:
            raise NoAnswer("too late")
        if how is Go.LATE:
            seen.cut = doing.detached = True
            raise NoAnswer("no answer in time")
        doing.effect()
        attempt = steps.current()
        if attempt is not None:
            attempt.unrecorded = lambda: setattr(seen, "cut", True)
        how = steps.stop(f"called {self.name}")
        if how is not Go.ON or doing.deadline.expired:
            seen.cut = True
            raise NoAnswer("the answer is lost")

    def take_in(self, seen: Seen) -> None:
        """The effect itself."""
        self._event_history(f"  {self.name}: {seen}")
        self.seen.append(seen)
        if seen.what == CLAIM:
            self.states[seen.key] = dict(seen.state or {})
        elif seen.what == RELEASE:
            self.states.pop(seen.key, None)
        elif seen.what == FOLLOW:
            self.followed[seen.key] = None if seen.state is None else dict(seen.state)

    def _enter(self, doing: Doing) -> None:
        for other in self.under_way:
            if other.key == doing.key:
                text = f"{other.who} and {doing.who} both write {doing.key}"
                self.overlaps.append(text)
                self._event_history(f"  {self.name}: {text}")
        self.under_way.append(doing)

    # ---- what the machine does ---------------------------------------------------------------

    def land(self, number: int) -> None:
        """A call that nobody waits for takes effect now."""
        late = [doing for doing in self.under_way if doing.detached]
        if late:
            doing = late[number % len(late)]
            self.under_way.remove(doing)
            doing.effect()

    def before(self, seconds: float) -> None:
        """So much time is about to pass: what ends within it takes effect, or is given up."""
        for doing in list(self.under_way):
            if doing.deadline.remaining() <= seconds:
                self.under_way.remove(doing)
                if doing.detached:
                    doing.effect()


@dataclass
class Placed:
    """An order that the order manager has. ``said``: how it ended."""

    ident: str
    order: Order
    seen: Seen
    at: float
    said: AnswerState | None = None


class OrderSystem(System):
    """Takes orders, carries them out when the machine says so, and tells it then."""

    def __init__(
        self, name: str, history: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        super().__init__(name, history)
        self._clock = clock
        self.placed: dict[str, Placed] = {}
        """By our reference."""
        self.notices: list[dict[str, str]] = []
        """Notifications that are still to be sent."""

    def submit(self, order: Order, call: Call) -> str:
        if order.reference not in self.placed:
            state = None if order.action is Action.DELETE else order.state
            seen = self._tagged(ORDER, order.key, state, call)
            self._call(seen, call, lambda: self.place(order, seen))
        else:
            self.check()
        return self.placed[order.reference].ident

    def place(self, order: Order, seen: Seen) -> None:
        if order.reference in self.placed:
            return
        if any(other.order.key == order.key for other in self.open()):
            self.overlaps.append(f"two orders are open for {order.key}")
        ident = f"so-{len(self.placed) + 1}"
        self.placed[order.reference] = Placed(ident, order, seen, self._clock())
        self._event_history(f"  {self.name}: order {ident}: {seen}")

    def open(self) -> list[Placed]:
        return [placed for placed in self.placed.values() if placed.said is None]

    def carry_out(self, placed: Placed, *, done: bool) -> None:
        """The order ends, and its notification is to be sent."""
        placed.said = AnswerState.DONE if done else AnswerState.FAILED
        seen = placed.seen
        if done:
            what = RELEASE if seen.state is None else CLAIM
            self.take_in(Seen(what, seen.key, seen.state, seen.owner, seen.t, seen.delivery))
        else:
            self._event_history(f"  {self.name}: order {placed.ident} failed")
        name = placed.ident if len(self.placed) % 2 else placed.order.reference
        self.notices.append({"order": name, "state": placed.said.value})

    def ask(self, order_id: str) -> Answer:
        self.check()
        found = [each for each in self.placed.values() if each.ident == order_id]
        if not found:
            raise Terminal("no such order")
        return Answer(order_id, found[0].said or AnswerState.PROGRESS)


def _name(attempt: Attempt | None) -> str:
    return attempt.name if attempt else ""


SYSTEMS: dict[str, System] = {}
"""By the name that a connector is given in its settings."""

_names = itertools.count(1)


def register(system: System) -> str:
    """The name under which connectors find it."""
    name = f"{system.name}-{next(_names)}"
    SYSTEMS[name] = system
    return name
