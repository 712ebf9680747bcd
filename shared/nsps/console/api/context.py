"""A request, and what it is answered from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nsps.cloud.queues import Queue
from nsps.cloud.store import Store
from nsps.console.find import Finding
from nsps.console.handlers import Handlers
from nsps.console.health import Health
from nsps.console.identity import Identity, Person, Role
from nsps.console.jobs import Jobs
from nsps.console.masking import Masking
from nsps.console.now import Now
from nsps.console.overview import Overview
from nsps.console.parked import Parked
from nsps.delivery.switch import Switches


class HandlerRefuses(Exception):
    """A handler's function refuses what is asked of it; the message says why."""


class NotThere(Exception):
    """What was asked for is not there."""


def no_event(name: str) -> NotThere:
    """That the history has no such event."""
    kept = "in the history (kept for 3 months): `nsps events` lists the newest"
    return NotThere(f"no event {name} {kept}")


@dataclass(frozen=True, slots=True)
class ConsoleRequest:
    """One request. ``name``: the part of the path that names something."""

    person: Person
    name: str
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ConsoleContext:
    """What the API answers from."""

    store: Store
    handlers: Handlers
    identity: Identity
    jobs: Jobs
    finding: Finding
    health: Health
    turn: Callable[[str], None]
    """Brings a handler's subscription to its switch at once."""
    now: Now
    masking: Masking
    queues: Callable[[], Mapping[str, Queue]]
    sees_subscribers: Role = Role.operator
    """From this role on numbers and names are shown as they are."""
    parked: Parked = field(init=False)
    switches: Switches = field(init=False)
    overview: Overview = field(init=False)

    def __post_init__(self) -> None:
        switches = Switches(self.store)
        object.__setattr__(self, "parked", Parked(self.store))
        object.__setattr__(self, "switches", switches)
        overview = Overview(self.store, self.handlers, switches, self.jobs.failed, self.queues)
        object.__setattr__(self, "overview", overview)
