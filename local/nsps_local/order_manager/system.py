"""The order manager itself: orders, the services they make, the notifications it sends."""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import requests

from nsps_local.order_manager.agenda import Agenda

BEHAVIOURS: Mapping[str, str] = {
    "normal": "tells inProgress, then completed",
    "fail": "tells failed, with an error message",
    "reject": "tells rejected",
    "partial": "tells partial: some of the order failed",
    "cancel": "tells cancelled",
    "duplicate": "tells everything twice",
    "out_of_order": "tells completed, then inProgress",
    "unknown": "tells of orders that nobody made, too",
    "noise": "tells milestones, jeopardy, attribute changes and wanted information, too",
    "early": "tells completed before it answers the order itself",
    "late": "tells completed after the late time",
    "silent": "completes and tells nobody: it must be asked",
    "never": "takes the order, and nothing more happens",
    "busy": "answers 503 with Retry-After",
}

Form = Literal["tmf641", "plain"]

_log = logging.getLogger(__name__)
_ATTEMPTS = 20
_ATTEMPT_SECONDS = 0.5
_PLAIN_WORDS = {
    "inProgress": "IN_PROGRESS",
    "completed": "OK",
    "failed": "FAILED",
    "rejected": "FAILED",
    "partial": "FAILED",
    "cancelled": "FAILED",
}
_ENDS = {"fail": "failed", "reject": "rejected", "partial": "partial", "cancel": "cancelled"}


class Invalid(ValueError):
    """The order breaks the form (answered with 400)."""


class Exists(ValueError):
    """There is an order with this externalId (answered with 409)."""


@dataclass(slots=True)
class StoredOrder:
    """One order; ``document`` is the TMF641 resource, which the plain form is translated to."""

    document: dict[str, Any]
    form: Form

    @property
    def id(self) -> str:
        return str(self.document["id"])


@dataclass(frozen=True, slots=True)
class Notification:
    """What was sent to whom, and the status that came back (0: nobody there)."""

    url: str
    body: Mapping[str, Any]
    status: int


@dataclass(slots=True)
class Conduct:
    """How the order manager behaves now."""

    behaviour: str = "normal"
    delay: float = 0.05
    late: float = 5.0


@dataclass(slots=True)
class _State:
    orders: dict[str, StoredOrder] = field(default_factory=dict)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    listeners: dict[str, str] = field(default_factory=dict)
    notifications: list[Notification] = field(default_factory=list)


class OrderManager:
    """Safe to share between threads. ``callback``: told of every order, as POST /hub would do.

    ``callback_token`` goes with every notification, as a Bearer token.
    """

    def __init__(
        self, callback: str | None = None, callback_token: str | None = None, **conduct: Any
    ) -> None:
        self.conduct = Conduct(**conduct)
        self._token = callback_token
        self._state = _State()
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._agenda = Agenda()
        self._session = requests.Session()
        if callback:
            self.listen(callback)

    def close(self) -> None:
        self._agenda.close()
        self._session.close()

    def listen(self, callback: str) -> str:
        """Subscribe to every event; returns the subscription's id."""
        ident = str(uuid.uuid4())
        with self._lock:
            self._state.listeners[ident] = callback.rstrip("/")
        return ident

    def unlisten(self, ident: str) -> bool:
        with self._lock:
            return self._state.listeners.pop(ident, None) is not None

    def order(self, document: Mapping[str, Any], form: Form) -> dict[str, Any]:
        """Take an order; what happens then is the behaviour's. Raises Invalid, Exists."""
        check(document)
        with self._lock:
            external = document.get("externalId")
            if external is not None and self._find(external):
                raise Exists(f"externalId {external} exists")
            stored = StoredOrder(
                {
                    **document,
                    "id": f"SO-{next(self._numbers):06}",
                    "state": "acknowledged",
                    "orderDate": _now(),
                },
                form,
            )
            self._state.orders[stored.id] = stored
            answer = dict(stored.document)
        self._plan(stored)
        return answer

    def find(self, external_id: str | None = None) -> list[dict[str, Any]]:
        with self._lock:
            if external_id is not None:
                return [dict(each.document) for each in self._find(external_id)]
            return [dict(each.document) for each in self._state.orders.values()]

    def get(self, ident: str) -> dict[str, Any] | None:
        with self._lock:
            stored = self._state.orders.get(ident)
            return dict(stored.document) if stored else None

    def services(self) -> dict[str, dict[str, Any]]:
        """What completed orders have made: service id -> characteristic -> value."""
        with self._lock:
            return {key: dict(value) for key, value in self._state.services.items()}

    def notifications(self) -> list[Notification]:
        with self._lock:
            return list(self._state.notifications)

    def _find(self, external_id: str) -> list[StoredOrder]:
        return [
            each
            for each in self._state.orders.values()
            if each.document.get("externalId") == external_id
        ]

    # --- what happens to an order -----------------------------------------------------------------

    def _plan(self, stored: StoredOrder) -> None:
        behaviour, delay = self.conduct.behaviour, self.conduct.delay
        if behaviour == "never":
            self._agenda.at(delay, lambda: self._move(stored, "inProgress"))
        elif behaviour == "silent":
            self._agenda.at(delay, lambda: self._move(stored, "completed"))
        elif behaviour == "early":
            self._reach(stored, "completed")
        elif behaviour == "late":
            self._agenda.at(self.conduct.late, lambda: self._reach(stored, "completed"))
        elif behaviour == "out_of_order":
            self._agenda.at(delay, lambda: self._reach(stored, "completed"))
            self._agenda.at(2 * delay, lambda: self._tell(stored, "inProgress"))
        else:
            self._in_order(stored, behaviour, delay)

    def _in_order(self, stored: StoredOrder, behaviour: str, delay: float) -> None:
        times = 2 if behaviour == "duplicate" else 1
        if behaviour == "unknown":
            self._agenda.at(delay, lambda: self._tell(_stranger(stored), "completed"))
        if behaviour == "noise":
            self._agenda.at(delay, lambda: self._make_noise(stored))
        self._agenda.at(delay, lambda: self._reach(stored, "inProgress", times))
        end = _ENDS.get(behaviour, "completed")
        self._agenda.at(2 * delay, lambda: self._reach(stored, end, times))

    def _reach(self, stored: StoredOrder, state: str, times: int = 1) -> None:
        self._move(stored, state)
        for _ in range(times):
            self._tell(stored, state)

    def _move(self, stored: StoredOrder, state: str) -> None:
        with self._lock:
            stored.document["state"] = state
            if state == "completed":
                stored.document["completionDate"] = _now()
                self._provision(stored.document)
            if state in ("failed", "partial", "rejected"):
                stored.document["errorMessage"] = [
                    {"code": "4711", "message": "the network element refused", "timestamp": _now()}
                ]

    def _provision(self, document: Mapping[str, Any]) -> None:
        for item in document["serviceOrderItem"]:
            service = item["service"]
            key = str(service.get("id", document["id"]))
            if item["action"] == "delete":
                self._state.services.pop(key, None)
            elif item["action"] != "noChange":
                values = service.get("serviceCharacteristic", [])
                known = self._state.services.setdefault(key, {})
                known.update({each["name"]: each["value"] for each in values})

    # --- notifications ----------------------------------------------------------------------------

    def _tell(self, stored: StoredOrder, state: str) -> None:
        if stored.form == "plain":
            self._send("", _plain_notification(stored, state))
            return
        document = {**stored.document, "state": state}
        self._send_event("ServiceOrderStateChangeEvent", document)

    def _make_noise(self, stored: StoredOrder) -> None:
        if stored.form == "plain":
            self._send("", _plain_notification(stored, "inProgress"))
            return
        for kind, more in _noise():
            self._send_event(kind, {**stored.document, **more})

    def _send_event(self, kind: str, document: Mapping[str, Any]) -> None:
        envelope = {
            "eventId": str(uuid.uuid4()),
            "eventTime": _now(),
            "eventType": kind,
            "event": {"serviceOrder": document},
        }
        self._send(f"/listener/{kind[0].lower()}{kind[1:]}", envelope)

    def _send(self, path: str, body: Mapping[str, Any]) -> None:
        with self._lock:
            listeners = list(self._state.listeners.values())
        for listener in listeners:
            self._attempt(listener + path, body, _ATTEMPTS)

    def _attempt(self, url: str, body: Mapping[str, Any], left: int) -> None:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            status = self._session.post(url, json=body, headers=headers, timeout=10).status_code
        except requests.RequestException:
            status = 0
        with self._lock:
            self._state.notifications.append(Notification(url, body, status))
        if not 200 <= status < 300 and left > 1:
            _log.info("notification not taken (%s); again in %s s", status, _ATTEMPT_SECONDS)
            self._agenda.at(_ATTEMPT_SECONDS, lambda: self._attempt(url, body, left - 1))


def check(document: Mapping[str, Any]) -> None:
    """Raise Invalid unless the document is a TMF641 order that can be taken."""
    items = document.get("serviceOrderItem")
    if not isinstance(items, list) or not items:
        raise Invalid("must have required property 'serviceOrderItem'")
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("id"), str):
            raise Invalid("serviceOrderItem.id is missing or not a text")
        if item.get("action") not in ("add", "modify", "delete", "noChange"):
            raise Invalid("serviceOrderItem.action must be add, modify, delete or noChange")
        if not isinstance(item.get("service"), dict):
            raise Invalid("serviceOrderItem.service is missing or not an object")
        _check_characteristics(item["service"].get("serviceCharacteristic", []))


def _check_characteristics(characteristics: object) -> None:
    if not isinstance(characteristics, list):
        raise Invalid("serviceCharacteristic is not a list")
    for each in characteristics:
        if not isinstance(each, dict) or not {"name", "value"} <= set(each):
            raise Invalid("a serviceCharacteristic has no name or no value")


def from_plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """The plain form as the order that it means. Raises Invalid."""
    characteristics = body.get("characteristics")
    if not isinstance(body.get("order"), str) or not isinstance(characteristics, dict):
        raise Invalid('write {"order", "action", "service", "characteristics"}')
    return {
        "externalId": body["order"],
        "serviceOrderItem": [
            {
                "id": "1",
                "action": body.get("action"),
                "service": {
                    "id": str(body.get("service")),
                    "serviceCharacteristic": [
                        {"name": name, "value": value} for name, value in characteristics.items()
                    ],
                },
            }
        ],
    }


def _plain_notification(stored: StoredOrder, state: str) -> dict[str, Any]:
    message = "the network element refused" if state in ("failed", "partial", "rejected") else ""
    return {
        "order": stored.document["externalId"],
        "status": _PLAIN_WORDS[state],
        "message": message,
    }


def _stranger(stored: StoredOrder) -> StoredOrder:
    other = {**stored.document, "id": f"SO-{uuid.uuid4()}", "externalId": str(uuid.uuid4())}
    return StoredOrder(other, stored.form)


def _noise() -> Iterator[tuple[str, dict[str, Any]]]:
    when = _now()
    yield "ServiceOrderCreateEvent", {}
    yield "ServiceOrderAttributeValueChangeEvent", {"description": "looked at"}
    yield (
        "ServiceOrderMilestoneEvent",
        {
            "milestone": [
                {"id": "1", "name": "HLR", "message": "HLR written", "milestoneDate": when}
            ]
        },
    )
    yield (
        "ServiceOrderJeopardyEvent",
        {"jeopardyAlert": [{"id": "1", "message": "slower than promised", "alertDate": when}]},
    )
    yield "ServiceOrderInformationRequiredEvent", {"state": "held"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
