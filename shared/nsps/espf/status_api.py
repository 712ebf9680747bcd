"""The ESPF status API: tells PortaBilling how the provisioning of an account went, per group.

``POST <url>/espf/v1/account/i/<i_account>/status``. Unlike the main API it uses real HTTP codes.
(Source: PortaOne docs, sending provisioning status via the ESPF API.)
"""

from __future__ import annotations

import json

from nsps.domain.outcome import Terminal, Transient
from nsps.espf.outbox import CALL_SECONDS
from nsps.portabilling.absence import Absence
from nsps.portabilling.body import parsed
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.errors import fault_of, looks_like_html, shown_code
from nsps.transport.http import Answer

STATUSES = frozenset({"OK", "IN_PROGRESS", "RETRY", "FAILED"})
MESSAGE_LIMIT = 4000
GROUP_NAME_LIMIT = 64
JSON_TYPE = "application/json"
_PATH = "/espf/v1"
_UNKNOWN = Absence(frozenset({"account", "group", "service_group"}))


class EspfStatusApi:
    """Posts statuses with the token of the main API.

    ``content_type``: what the JSON body is called; one page of the documentation says
    ``application/x-www-form-urlencoded`` (and shows JSON).
    """

    def __init__(self, client: PortaBilling, content_type: str = JSON_TYPE) -> None:
        self._client, self._content_type = client, content_type

    def post(self, i_account: int, group: str, status: str, message: str = "") -> None:
        """Post one status: OK, IN_PROGRESS, RETRY or FAILED, for a registered service group.

        The message is cut to 4000 characters; a post takes CALL_SECONDS at most. Raises Transient
        (try again), NoAnswer (it may have been taken), Terminal (PortaBilling does not know the
        account or the group).
        """
        if status not in STATUSES:
            raise ValueError(f"ESPF status {status!r}: write one of {', '.join(sorted(STATUSES))}")
        body = {"status": status, "group": group}
        if message:
            body["message"] = message[:MESSAGE_LIMIT]
        answer = self._send("POST", f"/account/i/{i_account}/status", body)
        _check(answer, "status", "the account, or the service group, is not known there")

    def groups(self) -> set[str]:
        """The names of the service groups that are registered."""
        answer = self._send("GET", "/groups", None)
        _check(answer, "groups", "the groups cannot be listed")
        try:
            listed = parsed(answer.body).document["group_list"]
            return {each["name"] for each in listed if isinstance(each["name"], str)}
        except (ValueError, RecursionError, LookupError, TypeError):
            raise Transient("ESPF groups: the answer has no group_list: check the url") from None

    def ensure_group(self, name: str) -> bool:
        """Register a service group unless it is there; True if it was registered now."""
        if not name.strip() or len(name) > GROUP_NAME_LIMIT:
            raise ValueError(f"ESPF group name: write 1 to {GROUP_NAME_LIMIT} characters")
        if name in self.groups():
            return False
        answer = self._send("POST", "/group/create", {"name": name})
        _check(answer, "group/create", "the group's name was refused")
        return True

    def _send(self, verb: str, path: str, document: dict[str, str] | None) -> Answer:
        body = None if document is None else json.dumps(document).encode()
        return self._client.send(
            verb,
            _PATH + path,
            body=body,
            content_type=self._content_type,
            within=CALL_SECONDS,
        )


def _check(answer: Answer, name: str, refused: str) -> None:
    """Raise what an answer means. A 4xx in HTML comes from a wrong url, not from ESPF's API, and a
    fault that names neither account nor group is not about this status."""
    if answer.ok and not looks_like_html(answer):
        return
    code = fault_of(answer.body)
    where = f"ESPF {name}: HTTP {answer.status}"
    if code is not None and _UNKNOWN.said_by_fault(code):
        raise Terminal(f"{where}: {refused}")
    if code is not None:
        hint = "check the url and what the API user may do"
        raise Transient(f"{where}: {shown_code(code)}: {hint}", answer.retry_after())
    if answer.status in (400, 404, 409, 422) and not looks_like_html(answer):
        raise Terminal(f"{where}: {refused}; register the group, or look at the account")
    hints = {
        403: ": the API user may not use the ESPF API; give it the right in PortaBilling",
    }
    page = ": a web page instead of ESPF's answer; check the url" if looks_like_html(answer) else ""
    raise Transient(where + (page or hints.get(answer.status, "")), answer.retry_after())
