"""What the console asks a handler's function for: the body of /preview, /compare, /keys or /try."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nsps.connector.preview import MAX_OWNERS, MAX_PAGE, Inspector
from nsps.connector.trial import Trial
from nsps.domain.event import RECONCILE, EspfEvent, Owner
from nsps.runtime.mistakes import sentences


class InvalidRequest(ValueError):
    """The body cannot be understood; the message says what to write."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    event_type: str
    variables: dict[str, Any] = {}


class AccountPage(BaseModel):
    """A page of PortaBilling's list of accounts: of all, or of a customer's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offset: Annotated[int, Field(ge=0)]
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)]
    customer: int | None = None
    fix: bool = False


class ConsoleRequest(BaseModel):
    """``event`` with ``event_id``, or ``owner``, for a preview; ``owners`` for a comparison, or a
    ``page`` of accounts; ``after`` and ``limit`` for keys; ``owner`` and ``send`` to try it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: _Event | None = None
    event_id: str = ""
    owner: str | None = None
    send: bool = False
    owners: Annotated[tuple[str, ...], Field(max_length=MAX_OWNERS)] = ()
    page: AccountPage | None = None
    after: str = ""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100

    def preview(self, inspector: Inspector) -> dict[str, Any]:
        """Raises InvalidRequest, Transient."""
        if self.event is None and self.owner is None:
            raise InvalidRequest('write {"event": {"event_type", "variables"}} or {"owner"}')
        event = self.event or _Event(event_type=RECONCILE)
        owner = _owner(self.owner) if self.owner else None
        return inspector.preview(EspfEvent(event.event_type, event.variables), self.event_id, owner)

    def tried(self, trial: Trial) -> dict[str, Any]:
        """Raises InvalidRequest, NoState, Transient."""
        if self.owner is None:
            raise InvalidRequest('write {"owner": "account:1"}')
        return trial.of(_owner(self.owner), send=self.send)

    def compare(self, inspector: Inspector) -> dict[str, Any]:
        """Raises InvalidRequest, NoState, Transient."""
        return {"owners": inspector.compare([_owner(text) for text in self.owners])}

    def foreign(self, inspector: Inspector) -> dict[str, Any]:
        """Raises NoState, Transient."""
        return inspector.foreign(self.after, self.limit)


def read_request(body: bytes) -> ConsoleRequest:
    """Raises InvalidRequest."""
    try:
        return ConsoleRequest.model_validate(json.loads(body))
    except ValidationError as error:
        raise InvalidRequest(f"{sentences(error)}: {_WRITE}") from None
    except (ValueError, RecursionError):
        raise InvalidRequest(f"the body is not JSON: {_WRITE}") from None


_WRITE = (
    f'write {{"owners": ["account:1", ...]}} with at most {MAX_OWNERS}, or {{"event": {{...}}}}'
)


def _owner(text: str) -> Owner:
    try:
        return Owner.parse(text)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
