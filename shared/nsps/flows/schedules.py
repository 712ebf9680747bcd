"""What is due at a time, event or not: each tick calls the handlers that have a schedule."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from nsps.console.handlers import Handlers
from nsps.domain.outcome import DeliveryError
from nsps.runtime import log

_log = log.get(__name__)

AT_ONCE = 8


class Schedules:
    """One per instance; safe to share between threads and instances."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def tick(self) -> None:
        """Call each handler that has a schedule, in service or not. Never raises."""
        due = [name for name, each in self._handlers.by_name.items() if each.scheduled]
        if due:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self._call, due))

    def _call(self, handler: str) -> None:
        try:
            self._handlers.ask(handler, "/scheduled", {})
        except DeliveryError as error:
            _log.error("the schedule was not kept", handler=handler, reason=str(error))
