"""The PortaBilling API: ``POST <url>/rest/<Service>/<method>`` with a Bearer token.

Every fault, of authentication too, comes as HTTP 500. (Source: PortaOne docs, retrieving data from
PortaBilling; public clients.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from nsps.portabilling.absence import absence_of
from nsps.portabilling.errors import (
    AUTH_CODES,
    Reading,
    SessionDied,
    answer_of,
    fault_of,
    raise_empty,
)
from nsps.portabilling.login import ApiCredentials, Login, Token
from nsps.transport.deadline import Deadline
from nsps.transport.http import Answer, Http

T = TypeVar("T")

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ServicePaths:
    """Which API method reads what. Those for SIM cards, access policies and counters are not
    public for every release: check them on your server, ``https://HOST/doc/api``."""

    account_info: str = "Account/get_account_info"
    sim_card_info: str = "SIMCard/get_card_info"
    access_policy_info: str = "AccessPolicy/get_access_policy_info"
    product_info: str = "Product/get_product_info"
    full_vd_counter_info: str = "Account/get_full_vd_counter_info"
    customer_info: str = "Customer/get_customer_info"
    number_info: str = "DID/get_number_info"
    invoice_info: str = "Invoice/get_invoice_info"
    account_list: str = "Account/get_account_list"
    sim_card_list: str = "SIMCard/get_card_list"
    customer_list: str = "Customer/get_customer_list"

    @classmethod
    def of(cls, configured: Mapping[str, str]) -> ServicePaths:
        """The defaults with what is configured; ValueError for a name that there is not."""
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(configured) - known)
        if unknown:
            raise ValueError(
                f"services: there is no {unknown[0]!r}; write one of {', '.join(sorted(known))}"
            )
        return cls(**configured)


class PortaBilling:
    """A client for one PortaBilling and one API user; safe to share between threads.

    ``url``: https://HOST[:PORT]. ``timeout_seconds``: for a whole call, with the login it may need.
    ``http``: the instance's pooled connections.
    ``absence``: what else means that an object is not there: fault codes, and ``empty``, by the
    names of ServicePaths. ``refused``: called when the credentials were not accepted (so that the
    secret is read again).
    """

    def __init__(
        self,
        url: str,
        credentials: Callable[[], ApiCredentials],
        timeout_seconds: float = TIMEOUT_SECONDS,
        http: Http | None = None,
        *,
        services: ServicePaths | None = None,
        absence: Mapping[str, frozenset[str]] | None = None,
        refused: Callable[[], object] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.services = services or ServicePaths()
        self.timeout_seconds = timeout_seconds
        self._absence = absence or {}
        self._http = http or Http()
        self._login = Login(self._http, self.url, credentials, refused=refused)

    def call(self, what: str, params: Mapping[str, Any], *, within: float | None = None) -> Reading:
        """Make a reading call, by its name in ServicePaths. ``within``: as for ``send``.

        An answer without any member is BadAnswer, or NotFound where that is configured. If the
        token has died, logs in once and repeats the call once. Raises NotFound, Fault,
        LoginRefused, BadAnswer, NoAnswer or Transient; all of them are Transient.
        """
        method: str = getattr(self.services, what)
        absence = absence_of(what, params, self._absence)

        def attempt(token: Token, deadline: Deadline) -> Reading:
            answer = self._http.request(
                "POST",
                f"{self.url}/rest/{method}",
                deadline=deadline,
                headers=_headers(token),
                json={"params": params},
                idempotent=True,
            )
            reading = answer_of(method, answer, absence)
            if not reading.members:
                raise_empty(method, absence)
            return reading

        return self.with_token(attempt, within)

    def send(
        self,
        verb: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = "",
        within: float | None = None,
    ) -> Answer:
        """Send a request to another API of the same server, with the same token (ESPF's).

        ``within``: seconds for it, where it may take less than other calls. Sent again only if the
        token was refused, after a new login. Raises Transient, NoAnswer, LoginRefused; any other
        answer is returned.
        """

        def attempt(token: Token, deadline: Deadline) -> Answer:
            headers = _headers(token) | ({"Content-Type": content_type} if content_type else {})
            answer = self._http.request(
                verb, self.url + path, deadline=deadline, headers=headers, data=body
            )
            if answer.status == 401 or fault_of(answer.body) in AUTH_CODES:
                raise SessionDied(f"{verb} {path}: HTTP {answer.status}: token not accepted", "401")
            return answer

        return self.with_token(attempt, within)

    def with_token(self, attempt: Callable[[Token, Deadline], T], within: float | None = None) -> T:
        """Run an attempt with the token and the deadline; once more if the token had died."""
        deadline = Deadline(min(self.timeout_seconds, within or self.timeout_seconds))
        token = self._login.token(deadline)
        try:
            return attempt(token, deadline)
        except SessionDied:
            return attempt(self._login.token(deadline, dead=token), deadline)


def _headers(token: Token) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.access}", "Accept": "application/json"}
