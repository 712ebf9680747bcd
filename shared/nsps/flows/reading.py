"""Reading PortaBilling for events, behind a breaker as a handler's system has one.

While PortaBilling is down the events wait with Pub/Sub and nothing is called, but for one event at
a time that asks how it is; then they come back slowly. The switch is that of the reserved name
``portabilling``. An error that speaks of one object only is an answer: it never counts as down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from nsps.delivery.gate import Gate
from nsps.delivery.switch import Switches
from nsps.domain.event import Owner
from nsps.domain.outcome import Transient
from nsps.portabilling.errors import Fault, OtherAnswer, is_outage
from nsps.runtime import log
from nsps.runtime.settings import PORTABILLING, BreakerRule

T = TypeVar("T")

_log = log.get(__name__)

CLAIM_SECONDS = 2.0
"""How often an instance looks whether it is time to ask PortaBilling how it is."""


class NotAsked(Transient):
    """PortaBilling was not called for this event, since it is down: the event waits."""


@dataclass(frozen=True, slots=True)
class PortaBillingApi:
    """What the gate has to know of PortaBilling."""

    name: str = PORTABILLING
    breaker: BreakerRule = field(default_factory=BreakerRule)
    max_rate: float | None = None
    instance_rate: float | None = None


class Reading:
    """One instance's; safe to share between threads. ``clock``: monotonic, in seconds."""

    def __init__(
        self, gate: Gate, switches: Switches, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gate, self._switches, self._clock = gate, switches, clock
        self._lock = threading.Lock()
        self._claimed_at = float("-inf")

    def read(self, owner: Owner, read: Callable[[], T]) -> T:
        """What ``read`` returns. Raises NotAsked without calling it, or what it raises."""
        held = self._gate.admit()
        if held is None:
            return self._watched(owner, read)
        if self._claims_probe():
            return self._probe(read)
        raise NotAsked(f"PortaBilling is not asked now: {held.reason}", held.retry_after)

    def _watched(self, owner: Owner, read: Callable[[], T]) -> T:
        try:
            value = read()
        except Transient as error:
            if is_outage(error):
                self._gate.failed(str(owner), str(error), error.retry_after)
            elif isinstance(error, Fault | OtherAnswer):
                self._gate.well()
            raise
        self._gate.well()
        return value

    def _claims_probe(self) -> bool:
        """Whether this event is the one that asks PortaBilling how it is."""
        with self._lock:
            now = self._clock()
            if now - self._claimed_at < CLAIM_SECONDS:
                return False
            self._claimed_at = now
        try:
            return self._switches.claim_probe(PORTABILLING)
        except Transient as error:
            _log.warning("the switch cannot be read", reason=str(error))
            return False

    def _probe(self, read: Callable[[], T]) -> T:
        try:
            value = read()
        except Transient as error:
            reason = str(error) if is_outage(error) else None
            self._probed(reason)
            raise
        self._probed(None)
        return value

    def _probed(self, reason: str | None) -> None:
        write = _log.info if reason is None else _log.warning
        write("PortaBilling was asked how it is", reason=reason or "well")
        try:
            self._switches.probed(PORTABILLING, reason)
        except Transient as error:  # the next probe says it again
            _log.warning("the answer could not be recorded", reason=str(error))
