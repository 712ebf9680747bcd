"""Connectors of kind message, for a system in memory."""

from __future__ import annotations

from nsps.connector.base import Call, Enriched, Message, MessageConnector, Ordering

from tests.machine.connectors.settings import SystemSettings
from tests.machine.systems import SYSTEMS


class Letters(MessageConnector[SystemSettings]):
    """A letter for each event."""

    settings_model = SystemSettings

    def check(self, call: Call) -> None:
        SYSTEMS[self.settings.system].check()

    def message(self, event: Enriched) -> Message | None:
        return Message(f"about {event.event.event_type}", event.event.event_type)

    def send(self, message: Message, call: Call) -> str:
        SYSTEMS[self.settings.system].send(message.content, call)
        return "taken"


class Partner(Letters):
    """The same to a system whose event types are unknown: never older data after newer."""

    @property
    def ordering(self) -> Ordering:
        return Ordering.NEWEST
