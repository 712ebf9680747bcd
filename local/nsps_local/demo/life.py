"""A subscriber's life in the sandbox, from the first day to the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from nsps_local.demo.systems import Subscriber
from nsps_local.scenario import Sandbox

PORTED = "Ported number"


class Life:
    """One subscriber, who has two of the free SIM cards. ``who`` is known after the first step."""

    def __init__(self, sandbox: Sandbox, name: str, number: str) -> None:
        self._sandbox, self.name, self._number = sandbox, name, number
        sandbox.settings(events={"vocabulary": ["v1"]})  # one event for each change
        self.who: Subscriber

    def steps(self) -> Iterator[tuple[str, Callable[[], list[str]]]]:
        """Each step's title, and what does it; that returns the i_events that it caused."""
        state = self._sandbox.state()
        products = {product["name"]: product["i_product"] for product in state["products"]}
        first, second = state["free_sim_cards"][:2]
        yield "created", lambda: self._create(first, state, products["Mobile S"])
        change = {"i_product": products["Mobile L"]}
        yield "product changed", lambda: self._do("change_product", **change)
        yield "SIM swapped", lambda: self._swap(second)
        yield "number ported", lambda: self._do("add_addon", i_product=products[PORTED])
        yield "blocked", lambda: self._do("block_account")
        yield "unblocked", lambda: self._do("unblock_account")
        yield "terminated", lambda: self._do("close_account")

    def _create(self, card: dict[str, Any], state: dict[str, Any], i_product: int) -> list[str]:
        email = f"{self.name.lower()}@example.net"
        done = self._sandbox.do(
            "add_account",
            msisdn=self._number,
            i_customer=state["customers"][0]["i_customer"],
            i_product=i_product,
            i_sim_card=card["i_sim_card"],
            firstname=self.name,
            lastname="Example",
            email=email,
        )
        self.who = Subscriber(done["i_account"], self._number, email, [card["imsi"]])
        return _events(done)

    def _swap(self, card: dict[str, Any]) -> list[str]:
        self.who.imsis.append(card["imsi"])
        return self._do("swap_sim", i_sim_card=card["i_sim_card"])

    def _do(self, operation: str, **parameters: Any) -> list[str]:
        return _events(self._sandbox.do(operation, i_account=self.who.i_account, **parameters))


def _events(done: dict[str, Any]) -> list[str]:
    return [str(event["i_event"]) for event in done["events"]]
