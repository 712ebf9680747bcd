"""What guards a handler's system, in each instance of its function: switch, breaker and rate.

The switch is read from Firestore, at most two seconds old. Failures in a row open the breaker at
once; the waiting attempts probe the system when that is due; while it comes back, every instance
asks Firestore for its share of the calls. An attempt waits here a little for its turn: given back
to Pub/Sub, it would cost the message an attempt.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nsps.delivery.switch import ProbeGaps, State, Streak, Switch, Switches
from nsps.domain.outcome import Transient
from nsps.runtime import log
from nsps.runtime.settings import BreakerRule

_log = log.get(__name__)

CACHE_SECONDS = 2.0
OFF_CACHE_SECONDS = 0.5
"""While nothing may be called: whoever resumes a handler waits for its first call."""
PATIENCE_SECONDS = 20.0
"""How long an attempt waits for its turn."""
TURN_SECONDS = 2.0
"""How long a call waits for its turn while its lease runs."""
ASK_SECONDS = 0.5
"""How often an instance asks for its share while the handler comes back."""
CLAIM_SECONDS = 1.0
"""How often an instance whose attempts wait looks whether a probe is due."""
OFF_SECONDS = 60.0
"""After so long a tick has taken the endpoint off: a push makes no sense before."""


@dataclass(frozen=True, slots=True)
class Held:
    """Why the system is not to be called now, and when to come again."""

    reason: str
    retry_after: float


class Limited(Protocol):
    """What is called through a gate: a handler's system."""

    @property
    def name(self) -> str: ...
    @property
    def breaker(self) -> BreakerRule: ...
    @property
    def max_rate(self) -> float | None: ...
    @property
    def instance_rate(self) -> float | None: ...


class Gate:
    """One instance's; safe to share between threads.

    ``clock``: monotonic, in seconds. ``ask``: how the system is, None for well; without it only the
    tick asks.
    """

    def __init__(
        self,
        handler: Limited,
        switches: Switches,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        ask: Callable[[], str | None] | None = None,
    ) -> None:
        self._handler, self._switches = handler, switches
        self._clock, self._sleep = clock, sleep
        self._ask_system = ask
        self._lock = threading.Lock()
        self._switch = Switch()
        self._read_at = float("-inf")
        self._streak = Streak()
        self._permits = self._well = self._waiting = 0
        self._asked_at = float("-inf")
        self._entries, self._calls = _Pace(handler.instance_rate), _Pace(handler.instance_rate)

    @property
    def slow(self) -> bool:
        """Whether calls wait for their turn, as far as this instance knows."""
        with self._lock:
            back = self._switch.breaker.state is State.HALF_OPEN
            return not self._switch.off and (back or self._handler.instance_rate is not None)

    def admit(self) -> Held | None:
        """Whether a delivery may go on to the system: None, or why not. May wait for its turn.

        The pace comes last: all who waited while the handler came back go on at one moment.
        """
        return self._permit() or self._pace() or self._switched_off()

    def _permit(self) -> Held | None:
        """Wait until the breaker lets this attempt through."""
        ends = self._clock() + PATIENCE_SECONDS
        with self._lock:
            self._waiting += 1
        try:
            while True:
                turn = self._turn(ends)
                if turn is not None:
                    return turn.held
                if self._clock() >= ends:
                    return Held("the system comes back, and is called slowly", 10)
                self._probe()
                self._sleep(random.uniform(0.1, 0.3))  # noqa: S311
        finally:
            with self._lock:
                self._waiting -= 1

    def turn(self) -> None:
        """Wait until the next call is due: deliveries take longer and shorter to get here."""
        with self._lock:
            wait = self._calls.take(self._clock(), TURN_SECONDS)
        if wait:
            self._sleep(wait)

    def well(self) -> None:
        with self._lock:
            self._streak = Streak()
            if self._switch.breaker.state is State.HALF_OPEN:
                self._well += 1

    def failed(self, owner: str, reason: str, retry_after: float | None) -> None:
        with self._lock:
            now = self._clock()
            self._streak = self._streak.failed(owner, now, retry_after)
            streak, state = self._streak, self._switch.breaker.state
        rule = self._handler.breaker
        opens = streak.opens(now, rule.failures, rule.seconds, rule.owners)
        if state is State.OPEN or not (
            opens or (state is State.HALF_OPEN and streak.opens_again())
        ):
            return
        try:
            gaps = ProbeGaps(rule.first_probe_seconds, rule.longest_probe_seconds)
            switch = self._switches.open(
                self._handler.name, streak.count, reason, streak.retry_after, gaps
            )
        except Transient as error:
            _log.warning("the breaker could not be opened", reason=str(error))
            return
        _log.error("the breaker is open", handler=self._handler.name, reason=reason)
        with self._lock:
            self._note(switch)

    def _switched_off(self) -> Held | None:
        """Read the switch if it is time; Held while it is off."""
        with self._lock:
            kept = OFF_CACHE_SECONDS if self._switch.off else CACHE_SECONDS
            if self._clock() - self._read_at >= kept:
                try:
                    self._note(self._switches.read(self._handler.name))
                except Transient as error:  # what it said last; the ledger cannot be reached either
                    _log.warning("the switch cannot be read", reason=str(error))
            if self._switch.off:
                return Held(f"{self._handler.name}: {self._switch.why()}", OFF_SECONDS)
            return None

    def _pace(self) -> Held | None:
        """Wait until this instance may make its next call."""
        with self._lock:
            wait = self._entries.take(self._clock(), PATIENCE_SECONDS)
        if wait is None:
            rate = self._handler.instance_rate
            return Held(f"more than the {rate:g} calls a second that are allowed", PATIENCE_SECONDS)
        if wait:
            self._sleep(wait)
        return None

    def _turn(self, ends: float) -> _Turn | None:
        """Go, or be held; None: wait on."""
        held = self._switched_off()
        if held is not None:
            waits = self._clock() < ends and self._probed_soon()
            return None if waits else _Turn(held)
        with self._lock:
            if self._free():
                return _GO
            if self._permits == 0 and self._clock() - self._asked_at >= ASK_SECONDS:
                self._ask()
            if self._free():
                return _GO
            if self._permits == 0:
                return None
            self._permits -= 1
            return _GO

    def _probed_soon(self) -> bool:
        """Whether an attempt that waits here will see the system asked how it is."""
        switch = self._switch
        down = switch.pause is None and switch.breaker.state is State.OPEN
        return self._ask_system is not None and down and switch.breaker.wait <= PATIENCE_SECONDS

    def _probe(self) -> None:
        """Ask the system how it is, if that is due by Firestore's clock and no other does."""
        with self._lock:
            if not self._probed_soon() or self._clock() - self._asked_at < CLAIM_SECONDS:
                return
            self._asked_at = self._clock()
        name = self._handler.name
        try:
            if self._ask_system is None or not self._switches.claim_probe(name):
                return
            reason = self._ask_system()
            switch = self._switches.probed(name, reason)
        except Transient as error:
            _log.warning("the system could not be asked how it is", reason=str(error))
            return
        write = _log.info if reason is None else _log.warning
        write("the system was asked how it is", handler=name, reason=reason or "well")
        with self._lock:
            self._note(switch)

    def _free(self) -> bool:
        return self._switch.breaker.state is State.CLOSED

    def _ask(self) -> None:
        self._asked_at = self._clock()
        handler = self._handler
        try:
            granted, switch = self._switches.grant(
                handler.name, self._waiting, self._well, handler.max_rate
            )
        except Transient as error:
            _log.warning("no calls could be asked for", reason=str(error))
            return
        self._well = 0
        self._note(switch)
        self._permits += granted

    def _note(self, switch: Switch) -> None:
        if switch.breaker.changed_at != self._switch.breaker.changed_at:
            self._streak = Streak()
            self._permits = self._well = 0
        self._switch, self._read_at = switch, self._clock()


@dataclass(slots=True)
class _Pace:
    """Evenly spaced turns."""

    rate: float | None
    free_at: float = float("-inf")

    def take(self, now: float, patience: float) -> float | None:
        """Seconds until the caller's turn; None, and no turn taken, if that is too long."""
        if self.rate is None:
            return 0.0
        turn = max(now, self.free_at)
        if turn - now > patience:
            return None
        self.free_at = turn + 1 / self.rate
        return turn - now


@dataclass(frozen=True, slots=True)
class _Turn:
    held: Held | None


_GO = _Turn(None)
