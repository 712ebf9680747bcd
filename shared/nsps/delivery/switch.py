"""The switch of a handler: a person's pause, and the breaker; either holds its events back.

Document handlers/{handler} is the truth. The handler's function looks at it before it calls its
system, and asks soon after the breaker has opened how the system is. The retries function takes the
push endpoint off the subscription of a handler that stays switched off (Pub/Sub then keeps the
messages and counts no attempts), asks how the system is, and puts the endpoint back. A pause and
the breaker are independent: neither undoes the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from nsps.cloud import audit
from nsps.cloud.store import Store, Tx

TICK_SECONDS = 60.0
"""How often the scheduler's tick comes."""
LONGEST_WAIT_SECONDS = 3600.0
"""The longest Retry-After that the first probe waits for."""
STEP_SECONDS = 10.0
"""While a handler comes back, its rate doubles after so long."""
FREE_RATE = 64.0
"""Calls a second at which coming back is over."""
SAVED_SECONDS = 2.0
"""Calls that were not made in time are lost, but for so many seconds' worth."""
KEPT_DAYS = 30
"""Pub/Sub keeps messages for 31 days, and one that waits may be a day old when the switch falls."""
WARN_DAYS = 24


class SwitchRefused(Exception):
    """The switch cannot be turned so; the message says why, for people."""


# ---- what the switch says ------------------------------------------------------------------


class State(StrEnum):
    """The breaker's: ``half_open`` lets events through slowly."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Pause:
    """A person's: only a person ends it."""

    by: str
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeGaps:
    """Seconds between two probes of a system that is down: ``first``, doubling to ``longest``."""

    first: float = 5.0
    longest: float = 600.0

    def after(self, probes: int) -> float:
        """Seconds until the next probe after so many that failed."""
        return float(min(self.first * 2.0 ** min(probes, 16), self.longest))


@dataclass(frozen=True, slots=True)
class Breaker:
    """``failures``, ``reason``: what opened it last. ``probes``: failed ones since it opened.

    ``next_probe``: when the system is asked how it is; once more, while it is half open. ``wait``:
    seconds until then from when that was decided. ``gaps``: between the probes, as the handler has
    them that opened it.
    ``granted``, ``well``: calls let through, and calls that succeeded, since it is half open.
    """

    state: State = State.CLOSED
    failures: int = 0
    reason: str = ""
    opened_at: datetime | None = None
    next_probe: datetime | None = None
    wait: float = 0.0
    probes: int = 0
    changed_at: datetime | None = None
    granted: float = 0.0
    well: int = 0
    gaps: ProbeGaps = field(default_factory=ProbeGaps)


@dataclass(frozen=True, slots=True)
class Switch:
    """A handler's whole switch. ``endpoint_off``: as the last tick left the subscription."""

    pause: Pause | None = None
    breaker: Breaker = field(default_factory=Breaker)
    endpoint_off: bool = False

    @property
    def off(self) -> bool:
        """Whether nothing may be called and no message pushed."""
        return self.pause is not None or self.breaker.state is State.OPEN

    def stops_pushes(self, now: datetime) -> bool:
        """Whether the push endpoint is to be off.

        A breaker that has just opened leaves it on: attempts wait for the probe, which is due
        before the next tick.
        """
        if self.pause is not None:
            return True
        breaker = self.breaker
        if breaker.state is not State.OPEN:
            return False
        next_tick = now + timedelta(seconds=TICK_SECONDS)
        return self.endpoint_off or (breaker.next_probe or now) > next_tick

    @property
    def off_since(self) -> datetime | None:
        opened = self.breaker.opened_at if self.breaker.state is State.OPEN else None
        moments = [self.pause.at if self.pause else None, opened]
        return min((moment for moment in moments if moment is not None), default=None)

    def why(self) -> str:
        """Why events wait, for people; empty if they do not."""
        if self.pause is not None:
            when = _minute(self.pause.at)
            return f"paused by {self.pause.by} since {when}: {self.pause.reason}"
        if self.breaker.state is State.OPEN:
            return f"its system is down: {self.breaker.reason}"
        return ""

    @classmethod
    def read(cls, data: Mapping[str, Any] | None) -> Switch:
        """From the document; anything that is not there is as it is at first."""
        if not data:
            return cls()
        pause, breaker = data.get("pause"), data.get("breaker") or {}
        typed = {
            "state": State(breaker.get("state", "closed")),
            "gaps": ProbeGaps(**breaker.get("gaps", {})),
        }
        return cls(
            pause=Pause(pause["by"], pause["at"], pause["reason"]) if pause else None,
            breaker=Breaker(**{**breaker, **typed}),
            endpoint_off=bool(data.get("endpoint_off")),
        )

    def write(self) -> dict[str, Any]:
        pause, breaker = self.pause, self.breaker
        return {
            "pause": {"by": pause.by, "at": pause.at, "reason": pause.reason} if pause else None,
            "breaker": {
                "state": breaker.state.value,
                "failures": breaker.failures,
                "reason": breaker.reason,
                "opened_at": breaker.opened_at,
                "next_probe": breaker.next_probe,
                "wait": breaker.wait,
                "probes": breaker.probes,
                "changed_at": breaker.changed_at,
                "granted": breaker.granted,
                "well": breaker.well,
                "gaps": {"first": breaker.gaps.first, "longest": breaker.gaps.longest},
            },
            "endpoint_off": self.endpoint_off,
        }


def kept_until(switch: Switch) -> datetime | None:
    """Until when Pub/Sub keeps what waits for this handler; None while it is not switched off."""
    since = switch.off_since
    return since + timedelta(days=KEPT_DAYS) if since else None


def warning(handler: str, switch: Switch, now: datetime) -> str | None:
    """What an operator must know of a handler that has been switched off for long."""
    since, until = switch.off_since, kept_until(switch)
    if since is None or until is None or now < since + timedelta(days=WARN_DAYS):
        return None
    days = (now - since).days
    if now >= until:
        return (
            f"{handler} has been switched off for {days} days: Pub/Sub is dropping what waits for "
            f"it ({switch.why()}); resume it, then {_CATCH_UP}"
        )
    return (
        f"{handler} has been switched off for {days} days: from {_minute(until)} on Pub/Sub drops "
        f"what waits for it ({switch.why()}); resume it before, or afterwards {_CATCH_UP}"
    )


_CATCH_UP = "reconcile it (if it keeps no state: replay its events)"


# ---- what the breaker does -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Streak:
    """Failures in a row, as one instance sees them."""

    count: int = 0
    since: float = 0.0
    owners: frozenset[str] = frozenset()
    retry_after: float = 0.0

    def failed(self, owner: str, now: float, retry_after: float | None) -> Streak:
        return Streak(
            count=self.count + 1,
            since=self.since if self.count else now,
            owners=self.owners | {owner} if len(self.owners) < _OWNERS else self.owners,
            retry_after=retry_after or 0.0,
        )

    def opens(self, now: float, failures: int, seconds: float, owners: int) -> bool:
        """Whether the system is down: many failures, or for long, and not one event's alone."""
        often = self.count >= failures or now - self.since >= seconds
        return self.count > 0 and often and len(self.owners) >= owners

    def opens_again(self) -> bool:
        """While it comes back: failures of two owners in a row; one alone may be its event's."""
        return len(self.owners) >= 2


_OWNERS = 100


def opened(
    breaker: Breaker,
    failures: int,
    reason: str,
    now: datetime,
    retry_after: float = 0.0,
    gaps: ProbeGaps | None = None,
) -> Breaker:
    """Failures opened it; once more, if it was coming back: then the next probe comes later."""
    if breaker.state is State.OPEN:
        return breaker
    again = breaker.state is State.HALF_OPEN
    probes = breaker.probes if again else 0
    gaps = gaps or breaker.gaps
    wait = max(gaps.after(probes), min(retry_after, LONGEST_WAIT_SECONDS))
    return Breaker(
        state=State.OPEN,
        failures=failures,
        reason=reason,
        opened_at=breaker.opened_at if again else now,
        next_probe=now + timedelta(seconds=wait),
        wait=wait,
        probes=probes,
        changed_at=now,
        gaps=gaps,
    )


def probe_due(switch: Switch, now: datetime) -> bool:
    """Whether to ask the system how it is; never while a person keeps it paused.

    While it comes back too, once the rate has risen: without events nothing else closes it.
    """
    breaker = switch.breaker
    if switch.pause is not None or breaker.state is State.CLOSED:
        return False
    return breaker.next_probe is None or breaker.next_probe <= now


def probing(breaker: Breaker, now: datetime) -> Breaker:
    """A probe is on its way: counted before it is sent, so that no second one is."""
    probes = breaker.probes + 1
    wait = breaker.gaps.after(probes)
    next_probe = now + timedelta(seconds=wait)
    return replace(breaker, probes=probes, next_probe=next_probe, wait=wait)


def answered(breaker: Breaker, reason: str | None, now: datetime) -> Breaker:
    """What a probe said: None for well, or why not.

    Well once, it comes back slowly; well once more, when the rate has risen, it closes.
    """
    if breaker.state is State.CLOSED:
        return breaker
    if breaker.state is State.HALF_OPEN:
        if reason is None:
            return closed(breaker, now)
        return opened(breaker, breaker.failures, reason, now)
    if reason is not None:
        return replace(breaker, reason=reason)
    return replace(
        breaker,
        state=State.HALF_OPEN,
        next_probe=now + timedelta(seconds=RISING_SECONDS),
        changed_at=now,
        granted=0.0,
        well=0,
    )


def pace(elapsed: float, top: float) -> float:
    """Calls a second after so long of coming back: 1, doubling every step, at most ``top``."""
    return min(2.0 ** min(int(elapsed / STEP_SECONDS), 30), top)


_RISES = math.ceil(math.log2(FREE_RATE))
RISING_SECONDS = _RISES * STEP_SECONDS
"""After so long every handler that comes back has its full rate."""


def budget(elapsed: float, top: float) -> float:
    """Calls that coming back for so long has room for."""
    rising = min(int(elapsed / STEP_SECONDS), _RISES)
    steps = sum(pace(step * STEP_SECONDS, top) * STEP_SECONDS for step in range(rising))
    return steps + (elapsed - rising * STEP_SECONDS) * pace(elapsed, top)


def grant(
    breaker: Breaker, wanted: int, well: int, now: datetime, max_rate: float | None
) -> tuple[int, Breaker]:
    """How many calls an instance may make now, of all instances' budget.

    ``well``: its calls that succeeded since it asked last. At the full rate, and with a call that
    succeeded, the breaker closes.
    """
    if breaker.state is not State.HALF_OPEN or breaker.changed_at is None:
        return (wanted if breaker.state is State.CLOSED else 0), breaker
    top = min(max_rate or FREE_RATE, FREE_RATE)
    elapsed = max(0.0, (now - breaker.changed_at).total_seconds())
    well += breaker.well
    if well and pace(elapsed, FREE_RATE) >= top:
        return wanted, closed(breaker, now)
    room = budget(elapsed, top) + 1
    used = max(breaker.granted, room - 1 - SAVED_SECONDS * pace(elapsed, top))
    granted = max(0, min(wanted, int(room - used)))
    return granted, replace(breaker, granted=used + granted, well=well)


def closed(breaker: Breaker, now: datetime) -> Breaker:
    """All is well; what opened it last stays to be read."""
    return Breaker(
        failures=breaker.failures,
        reason=breaker.reason,
        opened_at=breaker.opened_at,
        changed_at=now,
    )


# ---- turned by people ----------------------------------------------------------------------


def pause(store: Store, handler: str, who: str, reason: str, role: str = "operator") -> Switch:
    """Stop a handler until somebody resumes it. Raises SwitchRefused, StoreUnavailable."""
    if not reason.strip():
        raise SwitchRefused("say why it is paused: whoever finds it so will want to know")

    def body(tx: Tx) -> Switch:
        before = _read(store, tx, handler)
        if before.pause is not None:
            raise SwitchRefused(f"{handler} is {before.why()}")
        after = replace(before, pause=Pause(who, tx.now, reason))
        tx.merge(store.handler(handler), {"pause": after.write()["pause"]})
        audit.note(store, tx, who, role, "pause", handler, reason)
        return after

    return store.transact(body)


def resume(store: Store, handler: str, who: str, reason: str, role: str = "operator") -> Switch:
    """End a pause; an open breaker stays open. Raises SwitchRefused, StoreUnavailable."""

    def body(tx: Tx) -> Switch:
        before = _read(store, tx, handler)
        if before.pause is None:
            why = before.why()
            raise SwitchRefused(
                f"{handler} is not paused"
                + (f"; {why}. It comes back by itself when the system is well" if why else "")
            )
        after = replace(before, pause=None)
        tx.merge(store.handler(handler), {"pause": None})
        details = {"paused_by": before.pause.by, "paused_at": before.pause.at}
        audit.note(store, tx, who, role, "resume", handler, reason, details)
        return after

    return store.transact(body)


# ---- turned by the functions ---------------------------------------------------------------


class Switches:
    """The switches of all handlers, in Firestore."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, handler: str) -> Switch:
        """Raises StoreUnavailable."""
        return Switch.read(self._store.read(self._store.handler(handler)))

    def read_all(self, handlers: Iterable[str]) -> tuple[dict[str, Switch], datetime]:
        """Every handler's switch, and Firestore's own time. Raises StoreUnavailable."""
        references = {self._store.handler(name).path: name for name in handlers}

        def body(tx: Tx) -> tuple[dict[str, Switch], datetime]:
            found = tx.read(map(self._store.handler, references.values()))
            return {references[path]: Switch.read(data) for path, data in found.items()}, tx.now

        return self._store.transact(body)

    def open(
        self,
        handler: str,
        failures: int,
        reason: str,
        retry_after: float = 0.0,
        gaps: ProbeGaps | None = None,
    ) -> Switch:
        """An instance saw the system fail. Raises StoreUnavailable."""
        return self._turn(
            handler, lambda b, now: opened(b, failures, reason, now, retry_after, gaps)
        )

    def claim_probe(self, handler: str) -> bool:
        """Whether the caller, and no other, asks the system now. Raises StoreUnavailable."""

        def body(tx: Tx) -> bool:
            switch = _read(self._store, tx, handler)
            if not probe_due(switch, tx.now):
                return False
            self._put(tx, handler, replace(switch, breaker=probing(switch.breaker, tx.now)))
            return True

        return self._store.transact(body)

    def probed(self, handler: str, reason: str | None) -> Switch:
        """What the system said: None for well, or why not. Raises StoreUnavailable."""
        return self._turn(handler, lambda breaker, now: answered(breaker, reason, now))

    def grant(
        self, handler: str, wanted: int, well: int, max_rate: float | None
    ) -> tuple[int, Switch]:
        """How many calls this instance may make now. Raises StoreUnavailable."""

        def body(tx: Tx) -> tuple[int, Switch]:
            switch = _read(self._store, tx, handler)
            granted, breaker = grant(switch.breaker, wanted, well, tx.now, max_rate)
            after = replace(switch, breaker=breaker)
            if breaker != switch.breaker:
                self._put(tx, handler, after)
            return (0 if switch.off else granted), after

        return self._store.transact(body)

    def endpoint(self, handler: str, *, off: bool) -> None:
        """Record what the tick did to the subscription. Raises StoreUnavailable."""
        reference = self._store.handler(handler)
        fields = {"endpoint_off": off}
        self._store.call(lambda: reference.set(fields, merge=True))

    def _turn(self, handler: str, how: Callable[[Breaker, datetime], Breaker]) -> Switch:
        def body(tx: Tx) -> Switch:
            switch = _read(self._store, tx, handler)
            after = replace(switch, breaker=how(switch.breaker, tx.now))
            if after != switch:
                self._put(tx, handler, after)
            return after

        return self._store.transact(body)

    def _put(self, tx: Tx, handler: str, switch: Switch) -> None:
        tx.merge(self._store.handler(handler), {"breaker": switch.write()["breaker"]})


def _read(store: Store, tx: Tx, handler: str) -> Switch:
    reference = store.handler(handler)
    return Switch.read(tx.read([reference])[reference.path])


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
