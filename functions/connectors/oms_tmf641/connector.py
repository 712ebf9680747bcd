"""Service orders to an order management system that answers later: TMF641 v4, or plain JSON.

The published asynchronous scenario: the system takes the order (any 2xx), works on it for minutes
or hours, and then sends a notification. (TM Forum TMF641 Service Ordering v4.1; PortaOne docs,
provisioning asynchronous systems.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from nsps.connector.base import (
    Answer,
    AsynchronousConnector,
    Call,
    CallbackInvalid,
    CallbackRequest,
    Context,
    Enriched,
    Order,
    State,
)
from nsps.connector.proof import check_proof
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import Block, PbData
from nsps.domain.subscriber import is_closed
from nsps.transport.answers import AnswerRules, Meaning
from nsps.transport.rest import Rest

from . import notifications, tmf641
from .settings import Settings

_IMSI = re.compile(r"[0-9]{6,15}")


class OrderManagement(AsynchronousConnector[Settings]):
    """One order per change of a service; the service is a SIM card or an account."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._characteristics = settings.sources
        self._standard = settings.profile == "tmf641"
        self._states = notifications.STATES | settings.states
        self._orders = Rest(
            context.http,
            settings.orders_url,
            context.authentication(settings.authentication),
            AnswerRules(tmf641.ANSWERS),
            hide=context.hide("callback", "callback_next"),
        )

    @property
    def askable(self) -> bool:
        return self._standard

    @classmethod
    def reads(cls, settings: Settings) -> Iterator[tuple[str, Block]]:
        return settings.sources.reads()

    def desired(self, event: Enriched) -> Mapping[str, State]:
        account = event.pb.account_info
        if account is None or is_closed(account):
            return {}
        key = self._key(event.pb)
        return {} if key is None else {key: self._characteristics.values(event.pb)}

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

    def submit(self, order: Order, call: Call) -> str:
        """Place the order, unless an earlier attempt of ours did."""
        if self._standard and self.settings.look_first:
            placed = self._placed(order, call)
            if placed is not None:
                return placed
        write = tmf641.standard_order if self._standard else tmf641.plain_order
        response = self._orders.request(
            "POST", "", call, body=write(order, self.settings), rules=tmf641.ORDER_ANSWERS
        )
        if self._standard and response.rule.meaning is Meaning.EXISTS:
            placed = self._placed(order, call)
            if placed is not None:
                return placed
        response.is_done()
        read_id = tmf641.standard_id if self._standard else tmf641.plain_id
        return read_id(response, self._states) or order.reference

    def ask(self, order_id: str, call: Call) -> Answer:
        """Ask for the order by its id, or by our reference where we never learned the id."""
        document = self._retrieve(order_id, call)
        if document is None:
            found = self._look_up(order_id, call)
            document = self._retrieve(notifications.text(found["id"]), call) if found else None
        if document is None:
            raise Transient("the order manager does not know the order (yet)")
        try:
            return notifications.answer_of(document, self._states, order=order_id)
        except CallbackInvalid as error:
            raise Transient(f"the order manager's answer cannot be read: {error}") from None

    def _retrieve(self, order_id: str, call: Call) -> Mapping[str, Any] | None:
        return self._orders.get(quote(order_id, safe=""), call)

    def _placed(self, order: Order, call: Call) -> str | None:
        """The id of this very order, placed by an earlier attempt. Raises Terminal if it failed."""
        found = self._look_up(order.reference, call)
        if found is None:
            return None
        tmf641.refuse_failed(found, found.get("state"), self._states)
        return notifications.text(found["id"])

    def _look_up(self, reference: str, call: Call) -> Mapping[str, Any] | None:
        """The order with this externalId, which has an id; None if there is none, or no search."""
        query = {"externalId": reference, "limit": 10}
        response = self._orders.request("GET", "", call, query=query, rules=tmf641.SEARCH_ANSWERS)
        return tmf641.find(response, reference) if response.is_done(Meaning.ABSENT) else None

    def check(self, call: Call) -> None:
        """A list of one order; the plain form has nothing to read: any answer will do there."""
        if self._standard:
            query = {"limit": 1, "fields": "id"}
            self._orders.request("GET", "", call, query=query, rules=tmf641.ORDER_ANSWERS).is_done()
        else:
            self._orders.request("OPTIONS", "", call, rules=tmf641.PLAIN_CHECK_ANSWERS).is_done()

    def authenticate(self, request: CallbackRequest) -> None:
        names = [each for each in ("callback", "callback_next") if self.context.has_secret(each)]
        secrets = [self.context.secret(name) for name in names]
        check_proof(self.settings.callback_authentication, request, secrets)

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        return notifications.parse(request, self._states)
