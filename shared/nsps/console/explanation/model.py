"""What an explanation consists of, and what it needs to know of the handlers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from nsps.delivery.switch import Switch
from nsps.delivery.timeline import Delivered
from nsps.domain.event import Owner
from nsps.domain.retry import PUSH
from nsps.runtime.settings import HandlerSummary


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. ``at``: ISO 8601, or None where no time is known."""

    at: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a person can do, by a command or a button.

    ``name``: doctor, handlers, pause, resume, replay (the ``event``) or reconcile (the ``owner``;
    None where it cannot be read from the event).
    """

    name: str
    handler: str = ""
    event: str = ""
    owner: Owner | None = None

    @property
    def command(self) -> str:
        """As one types it."""
        match self.name:
            case "replay":
                return f"nsps replay {self.event} --handler {self.handler}"
            case "reconcile":
                owner = (
                    f"--{self.owner.kind} {self.owner.id}" if self.owner else "--account I_ACCOUNT"
                )
                return f"nsps reconcile {self.handler} {owner}"
            case "resume":
                return f"nsps resume {self.handler}"
            case "pause":
                return f'nsps pause {self.handler} --reason "..."'
        return f"nsps {self.name}"

    def to_json(self) -> dict[str, Any]:
        owner = str(self.owner) if self.owner else None
        return {"name": self.name, "handler": self.handler, "event": self.event, "owner": owner}


@dataclass(frozen=True, slots=True)
class Advice:
    """What can be done, and what does it."""

    text: str
    action: Action

    @property
    def command(self) -> str:
        return self.action.command

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "command": self.command, "action": self.action.to_json()}


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands at one handler: why it failed, or what it waits for and until when.

    ``handler``: empty of an event that PortaBilling could not be read for. ``event``: the id of
    the event it is the newest delivery of, ``event_name`` in words.
    """

    handler: str
    outcome: str
    text: str
    event: str
    event_name: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """``standing``: at each handler, the worst first; ``happened`` in order; ``waiting``: what has
    not ended, for what, until when."""

    standing: tuple[Standing, ...]
    happened: tuple[Entry, ...]
    waiting: tuple[str, ...]
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "standing": [asdict(each) for each in self.standing],
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
        return self.now > datetime.fromisoformat(each.sent_at) + timedelta(seconds=push.maximum)
