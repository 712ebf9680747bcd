"""The parts of a running sandbox, for those who need most of them."""

from __future__ import annotations

from dataclasses import dataclass

from nsps_local.sandbox.billing import Billing
from nsps_local.sandbox.calls import Calls
from nsps_local.sandbox.config import SandboxConfig
from nsps_local.sandbox.event_queue import EventQueue
from nsps_local.sandbox.faults import Faults
from nsps_local.sandbox.sessions import Sessions
from nsps_local.sandbox.status import StatusBook
from nsps_local.sandbox.store import Store


@dataclass(frozen=True, slots=True)
class SandboxRuntime:
    config: SandboxConfig
    store: Store
    queue: EventQueue
    billing: Billing
    sessions: Sessions
    statuses: StatusBook
    faults: Faults
    calls: Calls
