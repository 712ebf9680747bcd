"""The published NSPS connector contract over HTTP, as a connector of ours serves it.

``POST /process-event`` with a Bearer token, ``GET /health``. So a connector also works behind
PortaOne's own NSPS. (Source: NSPS connector implementation guide: request and error handling.)
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nsps.connector.base import Enriched
from nsps.delivery.verdict import Verdict
from nsps.domain.event import EspfEvent, Owner, SnapshotTime, UnreadableOwner, owner_of
from nsps.domain.outcome import NoAnswer, Outcome, Unclear, Unexpected, Unreachable
from nsps.domain.snapshot import AccountInfo, Block, BlockNotRead, PbData, SimInfo, part_of
from nsps.runtime.trace import Trace

ACCEPTED = "Event accepted for processing"
# What can name a document: no path, and none of the names that Firestore keeps for itself.
_EVENT_ID = re.compile(r"(?!\.{1,2}$|__.*__$)[A-Za-z0-9_.:@+=-]{1,200}")

# Which member says whose a block is; a block without it cannot be used.
_IDENTITY: Mapping[Block, tuple[str, ...]] = {
    Block.ACCOUNT_INFO: ("i_account", "id"),
    Block.SIM_INFO: ("imsi",),
}
# The events that say themselves that their account, customer or number is no more: null is gone.
_OWNER_IS_GONE = frozenset(
    {
        "Subscriber/Deleted",
        "Account/Status/Closed",
        "Customer/Deleted",
        "Customer/Status/Closed",
        "DID/Deleted",
    }
)
_SIM_IS_GONE = "SIM/Deleted"
_SIM_MAY_BE_REMOVED = frozenset({"SIM/Replaced", "Account/SIMCardAssignment"})


@dataclass(frozen=True, slots=True)
class ContractAnswer:
    """One answer of the contract: status code, JSON body, headers."""

    code: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]


class Invalid(ValueError):
    """The body is not an event of the contract. ``details``: pydantic-like loc, msg, type."""

    def __init__(self, *path: str, message: str) -> None:
        super().__init__(message)
        self.details = [{"loc": ["body", *path], "msg": message, "type": "value_error"}]

    @classmethod
    def all_of(cls, mistakes: Iterable[Invalid]) -> Invalid:
        """One error that names every mistake; there is at least one."""
        first, *others = mistakes
        first.details += [detail for each in others for detail in each.details]
        return first


def read_event(
    body: bytes, trace: Trace, received_at: datetime, required: Iterable[Block] = ()
) -> Enriched:
    """The event in a request. Raises Invalid.

    ``required``: the blocks without which the event is refused. Any other that says nothing counts
    as not read. The time of its snapshot is ``updated_at`` ("last enriched"); where
    that is missing, or still to come by our clock, the time of the request.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(message="the body is not JSON") from error
    if not isinstance(document, dict):
        raise Invalid(message="the body is not a JSON object")
    if _not_text(document):
        raise Invalid(message="the body holds half a character (a lone surrogate)")
    event_id = document.get("event_id")
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        raise Invalid("event_id", message="event_id is missing, or no id: send a UUID")
    event = _event(document.get("data"))
    pb_data = document.get("pb_data")
    if pb_data is not None and not isinstance(pb_data, dict):
        raise Invalid("pb_data", message="pb_data is not an object")
    troubles = {block: _trouble(event, block, pb_data or {}) for block in Block}
    if missing := [block for block in required if troubles[block]]:
        raise Invalid.all_of(
            Invalid("pb_data", block.value, message=f"{block} {troubles[block]}")
            for block in missing
        )
    moment = min(_moment(document, "updated_at") or received_at, received_at)
    read_at = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Enriched(
        event_id=event_id,
        event=event,
        owner=_owner(event, event_id),
        t=SnapshotTime(f"{read_at}/{event_id}"),
        pb=PbData.from_contract(pb_data, [block for block in Block if not troubles[block]]),
        created_at=str(document.get("created_at") or moment.isoformat()),
        updated_at=moment.isoformat(),
        trace_id=trace.trace_id,
        request_id=trace.request_id,
    )


def _owner(event: EspfEvent, event_id: str) -> Owner:
    try:
        return owner_of(event, event_id)
    except UnreadableOwner as error:
        raise Invalid("data", "variables", message=str(error)) from None


def _not_text(document: Mapping[str, Any]) -> bool:
    """JSON can write halves of characters, which no system can keep."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return True
    return False


def _event(data: Any) -> EspfEvent:
    if not isinstance(data, dict):
        raise Invalid("data", message="data is missing, or not an object")
    event_type, variables = data.get("event_type"), data.get("variables")
    if not isinstance(event_type, str) or not event_type:
        raise Invalid("data", "event_type", message="event_type is missing, or not a text")
    if not isinstance(variables, dict):
        raise Invalid("data", "variables", message="variables is missing, or not an object")
    return EspfEvent(event_type, variables)


def _is_gone(event: EspfEvent, block: Block, pb_data: Mapping[str, Any]) -> bool:
    """Whether an explicit null of this block means that there is none (any more)."""
    if event.event_type in _OWNER_IS_GONE:
        return True
    if event.event_type == _SIM_IS_GONE:
        return block is Block.SIM_INFO or event.entity("i_account") is None
    if event.event_type in _SIM_MAY_BE_REMOVED and block is Block.SIM_INFO:
        # Who was asked for the card before was asked for the card now.
        return part_of(SimInfo, pb_data.get(Block.PREV_SIM_INFO)) is not None
    return False


def _trouble(event: EspfEvent, block: Block, pb_data: Mapping[str, Any]) -> str | None:
    """Why a block says nothing, and what to do; None if it says what there is, or that it is gone.

    The contract lets any block be left out, and does not tell "not asked for" from "gone".
    """
    given = pb_data.get(block)
    if block is Block.PREV_SIM_INFO:  # most events have no previous card, and it removes nothing
        return None
    if given is None and block in pb_data and _is_gone(event, block, pb_data):
        return None
    if given is None:
        return (
            "is missing: add it to the data that this handler requires in the sending system; "
            "what is not sent is not taken for gone"
        )
    if block is Block.FULL_VD_COUNTER_INFO:
        return None if isinstance(given, list) else "is not a list"
    if not isinstance(given, dict) and not (
        block is Block.ACCESS_POLICY_INFO and isinstance(given, list) and given
    ):
        return "is not an object"
    names = _IDENTITY.get(block)
    if names is None:
        return None if given else "is an empty object, which says nothing"
    part = part_of(AccountInfo if block is Block.ACCOUNT_INFO else SimInfo, given)
    if any(getattr(part, name) for name in names):
        return None
    return f"does not say whose it is: send its {' or '.join(names)}"


def _moment(document: Mapping[str, Any], name: str) -> datetime | None:
    text = document.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(str(text))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(name, message=f"{name} is not an ISO 8601 time") from error


def authorized(header: str | None, token: str) -> bool:
    """Whether the header carries the static Bearer token; compared in constant time."""
    scheme, _, credentials = (header or "").partition(" ")
    same = hmac.compare_digest(credentials.strip().encode(), token.encode())
    return scheme.lower() == "bearer" and same and bool(token)


def answer_for(verdict: Verdict) -> ContractAnswer:
    """The code that says to NSPS whether to send the event again."""
    if verdict.ack and verdict.outcome is not Outcome.REJECTED:
        return ContractAnswer(202, {"message": ACCEPTED, "outcome": verdict.outcome.value}, {})
    if verdict.outcome is Outcome.REJECTED:
        return _error(422, "Validation failed", verdict.reason, "VALIDATION_ERROR")
    if verdict.retry_after is not None:
        later = {"Retry-After": str(max(1, round(verdict.retry_after)))}
        return _error(
            429, "Too many requests to API Core", verdict.reason, "RATE_LIMIT_ERROR", later
        )
    if isinstance(verdict.error, BlockNotRead):
        return _error(422, "Validation failed", verdict.reason, "VALIDATION_ERROR")
    if isinstance(verdict.error, Unexpected):
        return failed(verdict.reason)
    if isinstance(verdict.error, Unclear):
        return _error(500, "API Core HTTP error", verdict.reason, "SERVICE_ERROR")
    if isinstance(verdict.error, NoAnswer | Unreachable) or verdict.outcome is Outcome.WAITING:
        return unavailable(verdict.reason)
    return _error(500, "API Core HTTP error", verdict.reason, "SERVICE_ERROR")


def unauthorized() -> ContractAnswer:
    headers = {"WWW-Authenticate": "Bearer"}
    return _error(401, "Invalid access token", "Unauthorized", "AUTHENTICATION_ERROR", headers)


def not_found() -> ContractAnswer:
    return _error(404, "Resource not found", "Not found", "VALIDATION_ERROR")


def method_not_allowed(allowed: str) -> ContractAnswer:
    return _error(
        405, "Method not allowed", "Method not allowed", "VALIDATION_ERROR", {"Allow": allowed}
    )


def invalid(error: Invalid) -> ContractAnswer:
    answer = _error(422, "Validation failed", "Validation failed", "VALIDATION_ERROR")
    return ContractAnswer(422, {**answer.body, "details": error.details}, {})


def failed(reason: str) -> ContractAnswer:
    return _error(500, "Internal server error", reason, "INTERNAL_ERROR")


def unavailable(reason: str) -> ContractAnswer:
    return _error(503, "Core service is not available", reason, "CONNECTION_ERROR", _SOON)


_SOON = {"Retry-After": "5"}


def _error(
    code: int, message: str, error: str, kind: str, headers: Mapping[str, str] | None = None
) -> ContractAnswer:
    return ContractAnswer(
        code, {"message": message, "error": error or message, "type": kind}, headers or {}
    )
