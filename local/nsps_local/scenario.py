"""The short scenario of ``make run``: a subscriber's life in the sandbox, event by event."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import requests
from nsps.console.explanation import Systems, explain_event
from nsps.delivery.timeline import EventHistory
from nsps.domain.outcome import Transient

from nsps_local.cli.show import console, explained, headline

if TYPE_CHECKING:
    from nsps_local.cli.running import Running

WAIT_SECONDS = 60.0


class ScenarioFailed(Exception):
    """An event did not come to its end in time, or the sandbox refused a step."""


class Sandbox:
    """The sandbox's control calls that the scenario makes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def do(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One operation on a subscriber; the answer names the events it caused."""
        url = f"{self._url}/sandbox/do/{operation}"
        answer = requests.post(url, json=parameters, timeout=20)
        if answer.status_code != 200:
            raise ScenarioFailed(f"{operation}: {answer.text.strip()}")
        document: dict[str, Any] = answer.json()
        return document

    def settings(self, **settings: Any) -> None:
        """Change how the sandbox behaves."""
        answer = requests.post(f"{self._url}/sandbox/settings", json=settings, timeout=20)
        answer.raise_for_status()

    def statuses(self, i_account: int) -> dict[str, str]:
        """What ESPF was told last about an account, by group."""
        url = f"{self._url}/sandbox/statuses"
        answer = requests.get(url, params={"i_account": i_account}, timeout=20)
        return {told["group"]: told["status"] for told in answer.json()["statuses"]}

    def state(self) -> dict[str, Any]:
        answer = requests.get(f"{self._url}/sandbox/state", timeout=20)
        document: dict[str, Any] = answer.json()
        return document


def play(running: Running, stopped: threading.Event) -> None:
    """Play the scenario and print what happened to each event. Raises ScenarioFailed."""
    sandbox = Sandbox(running.description["sandbox"]["url"])
    for title, change in _steps(sandbox):
        if stopped.is_set():
            return
        console.print(f"\n[bold]{title}[/]")
        for event in change()["events"]:
            _print(finished(running, str(event["i_event"]), stopped))


def _print(history: EventHistory) -> None:
    """What happened, as ``nsps explain`` says it."""
    console.print(headline(history.event_type, history.i_event, history.owner, history.event_id))
    happened = explain_event(history, Systems()).to_json()["happened"]
    text = explained({"happened": happened, "waiting": (), "advice": ()})
    console.print(text, soft_wrap=True, end="")


def _steps(sandbox: Sandbox) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each step's title and what it does in the sandbox."""
    state = sandbox.state()
    customer = state["customers"][0]["i_customer"]
    small, large = (product["i_product"] for product in state["products"][:2])
    cards = state["free_sim_cards"]
    if len(cards) < 3:
        raise ScenarioFailed(
            "fewer than three SIM cards are free; remove the state and start again"
        )
    first, second = (card["i_sim_card"] for card in cards[:2])
    made: dict[str, int] = {}

    def account(name: str, card: dict[str, Any], **more: Any) -> dict[str, Any]:
        done = sandbox.do(
            "add_account",
            msisdn=card["msisdn"],
            i_customer=customer,
            i_product=small,
            firstname=name,
            lastname="Example",
            **more,
        )
        made[name] = done["i_account"]
        return done

    yield "A new mobile account with a SIM", lambda: account("Ada", cards[0], i_sim_card=first)
    yield (
        "Another product",
        lambda: sandbox.do("change_product", i_account=made["Ada"], i_product=large),
    )
    yield (
        "A SIM swap: the old card is lost",
        lambda: sandbox.do("swap_sim", i_account=made["Ada"], i_sim_card=second),
    )
    yield "Blocked", lambda: sandbox.do("block_account", i_account=made["Ada"])
    yield "Unblocked", lambda: sandbox.do("unblock_account", i_account=made["Ada"])
    yield "A second account, without a SIM", lambda: account("Ben", cards[2])
    yield (
        "The SIM moves to the second account",
        lambda: sandbox.do("move_sim", i_sim_card=second, i_account=made["Ben"]),
    )


def finished(running: Running, i_event: str, stopped: threading.Event) -> EventHistory:
    """The event's history once nothing more will happen and its status was sent."""
    ends = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < ends and not stopped.is_set():
        try:
            histories = running.timeline.find(i_event)
        except Transient:
            histories = []
        if histories and histories[-1].final and _reported(histories[-1]):
            return histories[-1]
        stopped.wait(0.05)
    raise ScenarioFailed(f"event {i_event} is not finished after {WAIT_SECONDS:g} s")


def _reported(history: EventHistory) -> bool:
    return all(each.espf is None or each.espf.get("sent", False) for each in history.deliveries)
