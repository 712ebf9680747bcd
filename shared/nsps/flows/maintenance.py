"""What a tick does about the handlers' switches: endpoints, probes, warnings; and at once, for one
handler, when a person turns its switch.

Whatever two ticks at once, a deployment or a crash leave behind, the next tick brings the
subscriptions to what the switches say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

from nsps.cloud.identity_token import IdentityTokens
from nsps.cloud.subscriptions import Subscriptions
from nsps.delivery.probe import probe
from nsps.delivery.switch import State, Switch, Switches, probe_due, warning
from nsps.domain.outcome import Transient
from nsps.runtime import log
from nsps.runtime.settings import HandlerLocation
from nsps.transport.http import Http

_log = log.get(__name__)

AT_ONCE = 8


class Maintenance:
    """One per instance; safe to share between threads and instances."""

    def __init__(
        self,
        functions: Mapping[str, HandlerLocation],
        switches: Switches,
        subscriptions: Callable[[], Subscriptions],
        http: Http,
        tokens: IdentityTokens,
    ) -> None:
        self._functions, self._switches = functions, switches
        self._subscriptions, self._http, self._tokens = subscriptions, http, tokens

    def tick(self) -> tuple[dict[str, Switch], datetime]:
        """Bring every handler to its switch.

        The switches afterwards, and Firestore's time at the beginning. Raises StoreUnavailable.
        """
        switches, now = self._switches.read_all(self._functions)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            keep = partial(self._keep, now=now)
            after = pool.map(keep, switches, switches.values())
            return dict(zip(switches, after, strict=True)), now

    def bring(self, handler: str) -> None:
        """Bring one handler to its switch now. What cannot be done is left to the next tick."""
        try:
            switches, now = self._switches.read_all([handler])
        except Transient as error:
            _log.warning("the switch waits for the next tick", handler=handler, reason=str(error))
            return
        self._keep(handler, switches[handler], now)

    def _keep(self, handler: str, switch: Switch, now: datetime) -> Switch:
        reason = warning(handler, switch, now)
        if reason:
            _log.error("switched off for too long", handler=handler, reason=reason)
        try:
            switch = self._asked(handler, switch, now)
            if switch.off or switch.breaker.state is not State.CLOSED:
                state = "paused" if switch.pause else switch.breaker.state.value
                _log.warning("not in service", handler=handler, state=state, reason=switch.why())
            self._endpoint(handler, switch, now)
        except Transient as error:
            _log.warning("the switch waits for the next tick", handler=handler, reason=str(error))
        return switch

    def _asked(self, handler: str, switch: Switch, now: datetime) -> Switch:
        """Ask the system how it is, if it is time."""
        if not probe_due(switch, now) or not self._switches.claim_probe(handler):
            return switch
        location = self._functions[handler]
        reason = probe(location.url, self._http, partial(self._tokens.token, location.audience))
        write = _log.info if reason is None else _log.warning
        write("the system was asked how it is", handler=handler, reason=reason or "well")
        return self._switches.probed(handler, reason)

    def _endpoint(self, handler: str, switch: Switch, now: datetime) -> None:
        location, off = self._functions[handler], switch.stops_pushes(now)
        subscriptions = self._subscriptions()
        if subscriptions.is_off(location) != off:
            subscriptions.turn(location, off=off)
            why = switch.why() or "its system is well"
            said = "pushes are stopped" if off else "pushes go on"
            _log.warning(said, handler=handler, reason=why)
        if switch.endpoint_off != off:
            self._switches.endpoint(handler, off=off)
