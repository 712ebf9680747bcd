"""Live sessions: changed by a CoA, or ended by a Disconnect (RFC 5176)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nsps.connector.base import Context
from nsps.domain.outcome import DeliveryError, Terminal, Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.deadline import Deadline
from nsps.transport.radius import Nas, RadiusClient
from nsps.transport.sql.table import Row as SqlRow
from nsps.transport.sql.table import Table

from .attributes import Attributes
from .policy import Row
from .settings import Settings

SESSIONS = Table(
    "radacct",
    dict.fromkeys(("acctsessionid", "nasipaddress", "framedipaddress"), "text"),
    written=False,
)
_ADDRESS = "Framed-IP-Address"
# They identify the session, and change nothing in it.
_IDENTIFYING = {
    *("User-Name", "NAS-IP-Address", "NAS-IPv6-Address", "NAS-Identifier", "NAS-Port"),
    *("Acct-Session-Id", "Called-Station-Id", "Calling-Station-Id", "Chargeable-User-Identity"),
    *(_ADDRESS, "Framed-IPv6-Prefix", "Framed-IPv6-Address", "Delegated-IPv6-Prefix"),
}


class LiveSessions:
    """The sessions that radacct holds as not ended, and the NASs that serve them."""

    def __init__(self, settings: Settings, context: Context, attributes: Attributes) -> None:
        self._settings, self._context = settings, context
        self._radius = RadiusClient(attributes.dictionary)

    def end(self, username: str, sessions: Sequence[SqlRow], deadline: Deadline) -> None:
        """Disconnect all of them."""
        self._bring(username, sessions, None, deadline)

    def change(
        self, username: str, sessions: Sequence[SqlRow], reply: Sequence[Row], deadline: Deadline
    ) -> None:
        """Let them have these attributes; one that needs another address is disconnected."""
        self._bring(username, sessions, reply, deadline)

    def _bring(
        self,
        username: str,
        sessions: Sequence[SqlRow],
        reply: Sequence[Row] | None,
        deadline: Deadline,
    ) -> None:
        """Each session in its part of the deadline: a NAS that is away does not keep it from the
        others. Raises what went wrong, first of all what may pass."""
        errors: list[DeliveryError] = []
        for number, session in enumerate(sessions):
            part = deadline.at_most(deadline.remaining() / (len(sessions) - number))
            try:
                self._bring_one(username, session, reply, part)
            except (Transient, Terminal) as error:
                errors.append(error)
        if errors:
            raise next((each for each in errors if isinstance(each, Transient)), errors[0])

    def _bring_one(
        self, username: str, session: SqlRow, reply: Sequence[Row] | None, deadline: Deadline
    ) -> None:
        address = _plain(session["framedipaddress"])
        server = _plain(session["nasipaddress"])
        identity: dict[str, Any] = {
            "User-Name": username,
            "Acct-Session-Id": session["acctsessionid"],
        }
        identity["NAS-IPv6-Address" if ":" in server else "NAS-IP-Address"] = server
        if address:
            identity[_ADDRESS] = address
        nas = Nas(*self._settings.target(server), self._secret(server))
        moved = address and any(
            row["attribute"] == _ADDRESS and row["value"] != address for row in reply or ()
        )
        if reply is None or moved:
            self._radius.disconnect(nas, identity, deadline)
        elif holds := _attributes(reply):
            self._radius.change(nas, {**identity, **holds}, deadline)

    def _secret(self, server: str) -> SecretValue:
        """The secret of this NAS: one for all, or a JSON object with one for each address."""
        secret = self._context.secret("coa_secret")
        if not secret.reveal().lstrip().startswith("{"):
            return secret
        each = secret.json()
        found = each.get(server, each.get("*"))
        if not isinstance(found, str):
            raise Transient(f"the secret coa_secret has none for the NAS {server}: add it, or *")
        return SecretValue(found)


def _plain(address: str | None) -> str:
    """Without the prefix length that a database may show."""
    return (address or "").partition("/")[0]


def _attributes(reply: Sequence[Row]) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for row in reply:
        if row["attribute"] not in _IDENTIFYING:
            made.setdefault(row["attribute"], []).append(row["value"])
    return made
