"""The handlers as the console sees them: what they are, and their functions to be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nsps.cloud.identity_token import IdentityTokens
from nsps.delivery.probe import probe
from nsps.domain.outcome import DeliveryError, Terminal, Transient
from nsps.runtime.settings import HandlerLocation, HandlerSummary
from nsps.transport.deadline import Deadline
from nsps.transport.http import Http

ASK_SECONDS = 90.0


class UnknownHandler(LookupError):
    """There is no handler of that name; the message lists those there are."""


class Handlers:
    """All handlers of the deployment; safe to share between threads."""

    def __init__(
        self,
        summaries: Sequence[HandlerSummary],
        functions: Mapping[str, HandlerLocation],
        http: Http,
    ) -> None:
        self.by_name = {each.name: each for each in summaries}
        self._functions, self._http, self._tokens = functions, http, IdentityTokens()

    @property
    def groups(self) -> dict[str, str | None]:
        """Handler -> the ESPF group that it reports to."""
        return {name: each.group for name, each in self.by_name.items()}

    def get(self, name: str) -> HandlerSummary:
        """Raises UnknownHandler."""
        if name not in self.by_name:
            there = ", ".join(sorted(self.by_name)) or "none"
            raise UnknownHandler(f"there is no handler {name!r}; there are: {there}")
        return self.by_name[name]

    def probe(self, name: str) -> str | None:
        """How a handler's system is: None for well, or why not."""
        location = self._functions[name]
        return probe(location.url, self._http, partial(self._tokens.token, location.audience))

    def ask(self, name: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST a request to a handler's function. Raises Terminal (it refuses), Transient."""
        location = self._functions[name]
        deadline = Deadline(ASK_SECONDS)
        token = self._tokens.token(location.audience, deadline)
        answer = self._http.request(
            "POST",
            location.url + path,
            deadline=deadline,
            headers={"Authorization": f"Bearer {token}"},
            json=body,
            idempotent=True,
        )
        try:
            said = answer.json()
        except DeliveryError:
            said = {}
        if answer.status == 200 and isinstance(said, dict):
            return said
        reason = said.get("error") if isinstance(said, dict) else None
        refusal = f"handler {name}: {reason or f'its function answers HTTP {answer.status}'}"
        if answer.status in (400, 409):
            raise Terminal(refusal)
        raise Transient(refusal)
