"""Service orders to an order management system that answers later: TMF641 v4, or plain JSON.

The published asynchronous scenario: the system takes the order (any 2xx), works on it for minutes
or hours, and then sends a notification. (TM Forum TMF641 Service Ordering v4.1; PortaOne docs,
provisioning asynchronous systems.)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from nsps.connector.base import (
    Action,
    Answer,
    AnswerState,
    AsynchronousConnector,
    Call,
    CallbackInvalid,
    CallbackRefused,
    CallbackRequest,
    Enriched,
    Order,
    Parts,
    State,
)
from nsps.domain.fields import Fields
from nsps.domain.outcome import Terminal, Transient, Unclear
from nsps.domain.snapshot import Block, PbData
from nsps.domain.subscriber import is_closed
from nsps.runtime.redact import shortened
from nsps.transport.http import Answer as HttpAnswer
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_IMSI = re.compile(r"[0-9]{6,15}")
_MESSAGE_MAX = 500
_ERRORS_SHOWN = 5

_CHARACTERISTICS = {
    "imsi": "imsi",
    "iccid": "sim_info.iccid",
    "msisdn": "msisdn",
    "serviceGranted": "service_granted",
    "csProfile": "access_policy_info.attributes.cs_profile.value",
    "epsProfile": "access_policy_info.attributes.eps_profile.value",
}

# The standard's states, and the words that plain systems use; letters only, in lower case.
_STATES: Mapping[str, AnswerState] = {
    **dict.fromkeys(
        [
            *("acknowledged", "inprogress", "pending", "held"),
            *("assessingcancellation", "pendingcancellation"),
            *("accepted", "queued", "received", "started", "running", "processing", "retry"),
        ],
        AnswerState.PROGRESS,
    ),
    **dict.fromkeys(["completed", "complete", "done", "ok", "success"], AnswerState.DONE),
    **dict.fromkeys(
        ["failed", "failure", "rejected", "cancelled", "canceled", "partial", "error"],
        AnswerState.FAILED,
    ),
}


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        description="The order manager: for tmf641 what stands before /tmf-api, for plain the "
        "whole address that orders are POSTed to.",
    )
    profile: Literal["tmf641", "plain"] = Field(
        default="tmf641", description="How orders are written and answers read."
    )
    ordering_path: str = Field(
        default="/tmf-api/serviceOrdering/v4",
        description="Where the service ordering API begins, below url (tmf641).",
    )
    resource: Literal["sim", "account"] = Field(
        default="sim",
        description="What one service is: sim, the SIM card of an account (by IMSI); account, "
        "the account.",
    )
    characteristics: dict[str, str] = Field(
        default_factory=lambda: dict(_CHARACTERISTICS),
        description="Service characteristic to where its value is: a path such as "
        "sim_info.iccid or access_policy_info.attributes.cs_profile.value (in a list, the item "
        "of that name), or msisdn, imsi, service_granted.",
    )
    service_type: str | None = Field(
        default=None,
        description="serviceType of every order, if the order manager tells services apart by it.",
    )
    service_specification: str | None = Field(
        default=None, description="Id of the service specification that every order names."
    )
    category: str | None = Field(default=None, description="Category of every order.")
    priority: str | None = Field(
        default=None, description="Priority of every order, 0 (highest) to 4."
    )
    look_first: bool = Field(
        default=True,
        description="Whether to look for an order of ours before making it, so that a lost "
        "answer never makes two (tmf641).",
    )
    states: dict[str, AnswerState] = Field(
        default_factory=dict,
        description="Words of this order manager that are not in the standard, to progress, done "
        "or failed.",
    )
    authentication: Literal["bearer", "x-auth-token", "basic", "none"] = Field(
        default="bearer",
        description="How we prove ourselves to the order manager, with the secret credentials.",
    )
    callback_authentication: Literal["bearer", "x-auth-token", "basic", "signature"] = Field(
        default="bearer",
        description="How the order manager proves itself to us, with the secret callback.",
    )
    allow_http: bool = Field(
        default=False,
        description="Whether url may be http, without TLS; only on a network of your own.",
    )

    @field_validator("characteristics")
    @classmethod
    def _paths(cls, paths: dict[str, str]) -> dict[str, str]:
        Fields.parse("characteristics", paths, lists=True)
        return paths

    @field_validator("states")
    @classmethod
    def _words(cls, states: dict[str, AnswerState]) -> dict[str, AnswerState]:
        return {_word(name): state for name, state in states.items()}

    @model_validator(mode="after")
    def _address(self) -> Settings:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError("url: write https://HOST[:PORT][/PATH] without user and password")
        if parts.scheme == "http" and not self.allow_http:
            raise ValueError("url: write https://..., or allow_http: true on a network of your own")
        return self

    @property
    def orders_url(self) -> str:
        if self.profile == "plain":
            return self.url
        parts = (self.url.rstrip("/"), self.ordering_path.strip("/"), "serviceOrder")
        return "/".join(part for part in parts if part)

    def state(self, word: object) -> AnswerState:
        """Raises CallbackInvalid for a word that is in neither the standard nor the settings."""
        known = {**_STATES, **self.states}
        state = known.get(_word(word)) if isinstance(word, str) else None
        if state is None:
            raise CallbackInvalid(
                f"the order's state {str(word)[:40]!r} is unknown: send one of TMF641's, or name "
                "it in the handler's setting states"
            )
        return state


class OrderManagement(AsynchronousConnector[Settings]):
    """One order per change of a service; the service is a SIM card or an account."""

    settings_model = Settings

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(settings, parts)
        paths = settings.characteristics
        self._characteristics = Fields.parse("characteristics", paths, lists=True)

    @property
    def askable(self) -> bool:
        return self._standard

    @property
    def _standard(self) -> bool:
        return self.settings.profile == "tmf641"

    def reads(self) -> Iterator[tuple[str, Block]]:
        return self._characteristics.reads()

    # --- what the system should have --------------------------------------------------------------

    def desired(self, event: Enriched) -> Mapping[str, State]:
        account = event.pb.account_info
        if account is None or is_closed(account):
            return {}
        key = self._key(event.pb)
        if key is None:
            return {}
        return {key: self._characteristics.values(event.pb)}

    def _key(self, pb: PbData) -> str | None:
        account = pb.account_info
        if self.settings.resource == "account":
            i_account = account.i_account if account else None
            return None if i_account is None else f"account:{i_account}"
        imsi = pb.sim_info.imsi if pb.sim_info else None
        if not imsi:
            return None
        if not _IMSI.fullmatch(imsi):
            raise Terminal("the SIM card's IMSI is not 6 to 15 digits; correct it in PortaBilling")
        return f"imsi:{imsi}"

    # --- ordering --------------------------------------------------------------------------------

    def submit(self, order: Order, call: Call) -> str:
        if self._standard and self.settings.look_first:
            known = self._taken(order, call)
            if known is not None:
                return known
        form = tmf_order if self._standard else plain_order
        answer = self._request("POST", self.settings.orders_url, call, form(order, self.settings))
        if answer.ok:
            name = tmf_id if self._standard else plain_id
            return name(answer, order, self.settings)
        if self._standard and says_exists(answer):
            known = self._taken(order, call)
            if known is not None:
                return known
        raise self._refusal(answer, "the order")

    def ask(self, order_id: str, call: Call) -> Answer:
        """Ask for the order by its id, or by our reference where its id was never told."""
        document = self._retrieve(order_id, call)
        if document is None:
            known = self._look_up(order_id, call)
            document = self._retrieve(_text(known["id"]), call) if known is not None else None
        if document is None:
            raise Transient("the order manager does not know the order (yet)")
        try:
            return answer_of(document, self.settings, order=order_id)
        except CallbackInvalid as error:
            raise Transient(f"the order manager's answer cannot be read: {error}") from None

    def _retrieve(self, ident: str, call: Call) -> Mapping[str, Any] | None:
        url = f"{self.settings.orders_url}/{quote(ident, safe='')}"
        answer = self._request("GET", url, call)
        if answer.status == 404:
            return None
        document = answer.json() if answer.ok else None
        if not isinstance(document, dict):
            raise self._refusal(answer, "a question about the order", final=False)
        return document

    def _taken(self, order: Order, call: Call) -> str | None:
        """The id of this very order, placed by an earlier attempt. Raises Terminal if it failed."""
        known = self._look_up(order.reference, call)
        if known is None:
            return None
        refuse_failed(known, known.get("state"), self.settings)
        return _text(known["id"])

    def _look_up(self, reference: str, call: Call) -> Mapping[str, Any] | None:
        """The order with this externalId, which has an id; None if there is none, or no search."""
        query = {"externalId": reference, "limit": 10}
        answer = self._request("GET", self.settings.orders_url, call, params=query)
        if answer.status in (400, 404, 405, 501):
            return None
        found = answer.json() if answer.ok else None
        if not isinstance(found, list):
            raise self._refusal(answer, "the search for the order", final=False)
        # A manager that does not know the filter answers with other orders.
        for each in found:
            if isinstance(each, dict) and each.get("externalId") == reference:
                return each if _text(each.get("id")) else None
        return None

    def check(self, call: Call) -> None:
        """A list of one order; the plain form has nothing to read: any life will do there."""
        url = self.settings.orders_url
        if self._standard:
            answer = self._request("GET", url, call, params={"limit": 1, "fields": "id"})
        else:
            answer = self._request("OPTIONS", url, call)
        if answer.ok or (not self._standard and answer.status in (400, 404, 405, 501)):
            return
        raise self._refusal(answer, "a harmless question", final=False)

    def _request(
        self,
        method: str,
        url: str,
        call: Call,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> HttpAnswer:
        headers = {"Accept": "application/json", **self._proof()}
        if call.request_id:
            headers["x-request-id"] = call.request_id
        return self.parts.http.request(
            method,
            url,
            json=body,
            params=params,
            headers=headers,
            deadline=call.deadline,
            idempotent=method == "GET",
        )

    def _proof(self) -> dict[str, str]:
        """The header by which the order manager knows us."""
        way = self.settings.authentication
        if way == "none":
            return {}
        if not self.parts.has_secret("credentials"):
            raise Transient(
                "the handler has no secret credentials: give it one, or set authentication to none"
            )
        credentials = self.parts.secret("credentials").reveal()
        if way == "x-auth-token":
            return {"X-Auth-Token": credentials}
        if way == "basic":
            return {"Authorization": f"Basic {_base64(credentials)}"}
        return {"Authorization": f"Bearer {credentials}"}

    def _refusal(self, answer: HttpAnswer, what: str, final: bool = True) -> Transient | Terminal:
        """How an answer that is none is to be read; ``final``: whether it can be the last word."""
        words = self._without_secrets(said_in(answer.body))
        said = f"{answer.url} answered {what} with {answer.status} {words}".rstrip()
        if final and answer.status in _FINAL:
            return Terminal(said)
        if final and answer.status >= 500 and answer.status != 503:
            return Unclear(f"{said}: it may have taken the order")
        hint = _HINTS.get(answer.status)
        return Transient(f"{said} ({hint})" if hint else said, answer.retry_after())

    def _without_secrets(self, text: str) -> str:
        """Redaction proper is the kit's; what we know ourselves must not even reach an error."""
        for name in ("credentials", "callback", "callback_next"):
            if self.parts.has_secret(name):
                secret = self.parts.secret(name).reveal()
                for form in (secret, _base64(secret), *secret.split(":", 1)[1:]):
                    text = text.replace(form, "***")
        return text

    # --- hearing ---------------------------------------------------------------------------------

    def authenticate(self, request: CallbackRequest) -> None:
        proof = self._shown_proof(request)
        if not proof:
            raise CallbackRefused(f"no proof: {_PROOFS[self.settings.callback_authentication]}")
        for name in ("callback", "callback_next"):
            if self.parts.has_secret(name):
                expected = self._expected_proof(self.parts.secret(name).reveal(), request.body)
                if hmac.compare_digest(proof.encode(), expected.encode()):
                    return
        raise CallbackRefused("the proof is not valid: is secret callback the order manager's?")

    def _shown_proof(self, request: CallbackRequest) -> str:
        headers = {name.lower(): value for name, value in request.headers.items()}
        way = self.settings.callback_authentication
        if way == "signature":
            return headers.get("x-signature", "").strip().lower().removeprefix("sha256=")
        if way == "x-auth-token":
            return headers.get("x-auth-token", "").strip()
        scheme, _, proof = headers.get("authorization", "").strip().partition(" ")
        return proof.strip() if scheme.lower() == way else ""

    def _expected_proof(self, secret: str, body: bytes) -> str:
        way = self.settings.callback_authentication
        if way == "signature":
            return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return _base64(secret) if way == "basic" else secret

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        try:
            document = json.loads(request.body)
        except (ValueError, RecursionError):
            raise CallbackInvalid("the notification is not JSON") from None
        if isinstance(document, list):
            return [answer for each in document for answer in self._heard(each, request)]
        return list(self._heard(document, request))

    def _heard(self, document: object, request: CallbackRequest) -> Iterator[Answer]:
        if not isinstance(document, dict):
            raise CallbackInvalid("the notification is not a JSON object")
        if "event" in document or "eventType" in document:
            yield from event_answers(document, request.path, self.settings)
        else:
            yield plain_answer(document, self.settings)


_FINAL = frozenset({400, 413, 415, 422})
_HINTS: Mapping[int, str] = {
    401: "are the secret credentials and the setting authentication right?",
    403: "are the secret credentials and the setting authentication right?",
    404: "nothing is at this address: check the setting url",
    405: "this address takes no orders: check the setting url",
}
_PROOFS: Mapping[str, str] = {
    "bearer": "send Authorization: Bearer TOKEN",
    "x-auth-token": "send X-Auth-Token: TOKEN",
    "basic": "send Authorization: Basic BASE64",
    "signature": "send X-Signature: sha256=HEX, the HMAC-SHA256 of the body",
}


# --- orders --------------------------------------------------------------------------------------


def tmf_order(order: Order, settings: Settings) -> dict[str, Any]:
    """The order as TMF641 writes it: one item, whose service has our key as its id."""
    service: dict[str, Any] = {
        "id": order.key,
        "serviceCharacteristic": [
            {"name": name, "valueType": _value_type(value), "value": value}
            for name, value in _told(order).items()
        ],
    }
    if settings.service_type:
        service["serviceType"] = settings.service_type
    if settings.service_specification:
        service["serviceSpecification"] = {"id": settings.service_specification}
    document: dict[str, Any] = {
        "externalId": order.reference,
        "serviceOrderItem": [{"id": "1", "action": order.action.value, "service": service}],
    }
    optional = {
        "category": settings.category,
        "priority": settings.priority,
        "description": order.group,
    }
    return document | {name: value for name, value in optional.items() if value}


def plain_order(order: Order, settings: Settings) -> dict[str, Any]:
    """The order in a form that any system can be taught; answered by its ``order``."""
    document = {
        "order": order.reference,
        "action": order.action.value,
        "service": order.key,
        "characteristics": _told(order),
        "category": settings.category,
        "group": order.group,
    }
    return {name: value for name, value in document.items() if value is not None}


def _told(order: Order) -> dict[str, Any]:
    """What an order says of the service: a change says what is empty now, too."""
    kind, _, ident = order.key.partition(":")
    known = {"imsi": ident} if kind == "imsi" else {"i_account": ident}
    values = {**known, **order.state}
    if order.action is Action.MODIFY:
        return values
    return {name: value for name, value in values.items() if value is not None}


def _value_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "string"


def tmf_id(answer: HttpAnswer, order: Order, settings: Settings) -> str:
    """The id by which notifications will name the order. Raises Unclear, Terminal."""
    if not answer.body.strip() and answer.status in (202, 204):
        return order.reference
    document = answer.json()
    if not isinstance(document, dict):
        raise Unclear(f"{answer.url}: the answer to the order is no service order")
    refuse_failed(document, document.get("state"), settings)
    return _text(document.get("id")) or order.reference


def refuse_failed(document: Mapping[str, Any], word: object, settings: Settings) -> None:
    """Read the state in the order's own answer as a notification's. Raises Terminal if it failed.

    A word that nobody knows says nothing yet: the order was taken, and its answer is waited for.
    """
    try:
        state = settings.state(word)
    except CallbackInvalid:
        return
    if state is AnswerState.FAILED:
        raise Terminal(f"the order manager rejected the order: {message_of(document)}".rstrip(": "))


def plain_id(answer: HttpAnswer, order: Order, settings: Settings) -> str:
    """Our reference, unless the answer gives the order a name of its own. Raises Terminal."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return order.reference
    if not isinstance(document, dict):
        return order.reference
    refuse_failed(document, document.get("status", document.get("state")), settings)
    return _text(document.get("order")) or _text(document.get("id")) or order.reference


def says_exists(answer: HttpAnswer) -> bool:
    """Whether the order manager has an order with this externalId already."""
    if answer.status == 409:
        return True
    text = answer.text[:10_000].lower()
    return answer.status in (400, 422) and "externalid" in text and "exist" in text


def said_in(body: bytes) -> str:
    """An error body in one line: TMF's {code, reason, message}, or text."""
    text = body[:65_536].decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return _line(text)
    if not isinstance(document, dict):
        return _line(_text(document))
    parts = (_text(document.get(name)) for name in ("reason", "message", "error"))
    return _line(": ".join(dict.fromkeys(part for part in parts if part)))


# --- notifications -------------------------------------------------------------------------------


def event_answers(document: Mapping[str, Any], path: str, settings: Settings) -> Iterator[Answer]:
    """The answer in a TMF641 event; none in one about anything else. Raises CallbackInvalid."""
    kind = _text(document.get("eventType")) or path.rstrip("/").rpartition("/")[2]
    event = document.get("event")
    resource = event.get("serviceOrder") if isinstance(event, dict) else None
    if not isinstance(resource, dict):
        if "cancel" in kind.lower() and isinstance(event, dict):
            return
        raise CallbackInvalid("the event holds no event.serviceOrder")
    word = _word(kind)
    if "delete" in word:
        return
    at = document.get("eventTime") or document.get("timeOcurred")
    answer = answer_of({"state": "acknowledged", **resource}, settings, at=at)
    note = next((text for part, text in _NOTES.items() if part in word), "")
    yield replace(answer, message=answer.message or note) if note else answer


_NOTES = {
    "informationrequired": "the order manager needs more information",
    "milestone": "a milestone was reached",
    "jeopardy": "the order is late or at risk",
}


def answer_of(
    document: Mapping[str, Any], settings: Settings, order: str = "", at: object = None
) -> Answer:
    """What a service order resource says of the order. Raises CallbackInvalid.

    Named by our own reference where it holds that: a notification can be here before the id is.
    """
    name = order or _text(document.get("externalId")) or _text(document.get("id"))
    if not name:
        raise CallbackInvalid("the service order has neither id nor externalId")
    return Answer(name, settings.state(document.get("state")), message_of(document), moment(at))


def plain_answer(document: Mapping[str, Any], settings: Settings) -> Answer:
    """``{"order", "status", "message"}``, or the standard's names. Raises CallbackInvalid."""
    names = ("order", "externalId", "reference", "id")
    name = next((text for each in names if (text := _text(document.get(each)))), "")
    if not name:
        raise CallbackInvalid(f"the notification names no order: send one of {', '.join(names)}")
    state = settings.state(document.get("status", document.get("state")))
    at = document.get("time", document.get("timestamp"))
    return Answer(name, state, message_of(document), moment(at))


def message_of(document: Mapping[str, Any]) -> str:
    """Why: the order's error messages and its items', milestones and alerts; in one line."""
    texts = [_text(document.get("message"))]
    items = document.get("serviceOrderItem")
    for part in (document, *(items if isinstance(items, list) else ())):
        for name in ("errorMessage", "milestone", "jeopardyAlert"):
            texts += _messages(part.get(name) if isinstance(part, dict) else None)
    found = dict.fromkeys(text for text in texts if text)
    return _line("; ".join(list(found)[:_ERRORS_SHOWN]))


def _messages(entries: object) -> Iterator[str]:
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, dict):
            parts = (_text(each.get(name)) for name in ("code", "message", "reason"))
            yield " ".join(part for part in parts if part)


def moment(value: object) -> datetime | None:
    """A time as systems write it; without a zone it is UTC. None if it is none."""
    try:
        found = datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def _word(value: str) -> str:
    return "".join(letter for letter in value.lower() if letter.isalpha())


def _line(text: str) -> str:
    return shortened(" ".join(_CONTROL.sub(" ", text).split()), _MESSAGE_MAX)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
