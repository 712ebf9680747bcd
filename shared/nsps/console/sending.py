"""The event by which the console has an owner's resources brought to what PortaBilling says."""

from __future__ import annotations

from typing import Any

from nsps.delivery.resend import Resend
from nsps.domain.event import RECONCILE, EspfEvent, Owner, event_id, naming


class Sending:
    """Sends it the way of every event, for one handler; safe to share between threads."""

    def __init__(self, deployment: str, resend: Resend) -> None:
        self._deployment, self._resend = deployment, resend

    def reconcile(self, job: str, owner: Owner, handler: str) -> None:
        """Bring an owner's resources to what PortaBilling says. Raises Transient."""
        variables: dict[str, Any] = {**naming(owner), "i_event": f"{job}/{handler}/{owner}"}
        event = EspfEvent(RECONCILE, variables)
        self._resend.send(event_id(self._deployment, event), event.json(), handler, {})
