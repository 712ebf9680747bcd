"""A connector of kind asynchronous, for an order manager in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

from nsps.connector.base import (
    Answer,
    AnswerState,
    AsynchronousConnector,
    Call,
    CallbackRefused,
    CallbackRequest,
    Enriched,
    Order,
    State,
)

from tests.machine.connectors.settings import SystemSettings, sim_of
from tests.machine.systems import SYSTEMS, OrderSystem

PROOF = "right"


class Orders(AsynchronousConnector[SystemSettings]):
    """An order for each change of a SIM card; it can be asked for."""

    settings_model = SystemSettings

    @property
    def askable(self) -> bool:
        return True

    @property
    def _system(self) -> OrderSystem:
        return cast(OrderSystem, SYSTEMS[self.settings.system])

    def check(self, call: Call) -> None:
        self._system.check()

    def desired(self, event: Enriched) -> Mapping[str, State]:
        return sim_of(event)

    def submit(self, order: Order, call: Call) -> str:
        return self._system.submit(order, call)

    def authenticate(self, request: CallbackRequest) -> None:
        if request.headers.get("X-Proof") != PROOF:
            raise CallbackRefused("no proof")

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        notice = json.loads(request.body)
        return [Answer(notice["order"], AnswerState(notice["state"]))]

    def ask(self, order_id: str, call: Call) -> Answer:
        return self._system.ask(order_id)
