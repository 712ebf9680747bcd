"""A small operator's systems, all on one stack, in which the runbook's situations are made.

Three handlers: ``subscribers`` (a database), ``hss`` (a vendor's connector over HTTP, which can be
down or refuse) and ``orders`` (an order manager that answers late). Who asks is as on the page.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import requests
from nsps.cloud.store import Store
from nsps.cloud.subscriptions import Subscriptions
from nsps.delivery.gate import CACHE_SECONDS
from nsps.delivery.switch import State, Switch, Switches
from nsps.delivery.timeline import Delivered
from nsps.domain.outcome import Outcome
from nsps.runtime.settings import HandlerLocation
from nsps_local import cli, order_manager
from nsps_local.cli import show
from nsps_testing.waiting import wait_for

from tests.end_to_end import processes
from tests.end_to_end.recorder import Received, Recorder
from tests.end_to_end.whole_stack import DATABASE, WholeStack, configuration, webhook

TOKEN, CALLBACK_TOKEN = "orders-token-4711", "notification-token-4711"
SIMS = ["SIM/*", "Account/Blocked", "Account/Unblocked"]
COLUMNS = 240  # nothing is wrapped: where a line ends is not what is compared
GENTLE_SECONDS = 0.7


@dataclass
class Hss:
    """The vendor's connector: ``down``, or refusing an IMSI that its AuC does not know."""

    recorder: Recorder
    down: bool = False
    unknown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.recorder.answer = self.answer
        self.recorder.health = lambda: 503 if self.down else 200

    def answer(self, received: Received) -> int:
        if self.down:
            return 503
        return 422 if received.imsi in self.unknown else 200


@dataclass
class Site:
    """The stack and what stands around it."""

    stack: WholeStack
    hss: Hss
    manager: str
    desk: Path
    _hurried_at: float = 0.0

    @property
    def store(self) -> Store:
        return self.stack.running.store

    def run(self, line: str) -> str:
        """A line of the runbook, as a person types it in the folder ``desk``; what it prints."""
        words = shlex.split(line)
        assert words.pop(0) == "nsps"
        said = io.StringIO()
        with ExitStack() as around:
            around.enter_context(redirect_stdout(said))
            around.enter_context(redirect_stderr(said))
            around.enter_context(chdir(self.desk))
            around.enter_context(mock.patch.dict(os.environ, {"NSPS_STATE": str(self.stack.state)}))
            around.enter_context(mock.patch.object(show.console, "_width", COLUMNS))
            cli.main(words)
        return "\n".join(line.rstrip() for line in said.getvalue().splitlines()).strip("\n")

    # ---- what is waited for ----------------------------------------------------------------

    def switch(self, handler: str) -> Switch:
        return Switches(self.store).read(handler)

    @staticmethod
    def pause_known() -> None:
        """Every instance has looked at its switch since: none goes by an older one for longer."""
        time.sleep(CACHE_SECONDS)

    def wait_in_service(self, handler: str) -> None:
        """Its breaker closes with a call that succeeds."""

        def closed() -> bool:
            self._hurry_gently()
            return self.switch(handler).breaker.state is State.CLOSED

        wait_for(closed, 60, f"{handler} to be in service")

    def delivery(self, i_event: int, handler: str) -> Delivered | None:
        """The newest delivery of an event for a handler."""
        histories = self.stack.histories(i_event)
        mine = [d for d in histories[-1].deliveries if d.handler == handler] if histories else []
        return mine[-1] if mine else None

    def until_outcome(self, i_event: int, handler: str, outcome: Outcome) -> None:
        def so() -> bool:
            self.stack.hurry()
            found = self.delivery(i_event, handler)
            return found is not None and found.outcome == outcome

        wait_for(so, 60, f"event {i_event} to be {outcome} for {handler}")

    def until_others_have(self, i_event: int, but: str) -> None:
        """Every other handler has finished with the event."""

        def so() -> bool:
            histories = self.stack.histories(i_event)
            others = [d for d in histories[-1].deliveries if d.handler != but] if histories else []
            return bool(others) and all(each.final for each in others)

        wait_for(so, 60, f"event {i_event} to be finished for all but {but}")

    def until_first_page(self, kind: str) -> None:
        """A running job of that kind has done something."""
        wait_for(lambda: any(each["done"] for each in self._running(kind)), 30, f"a page of {kind}")

    def until_over(self, kind: str) -> None:
        """No job of that kind is running any more."""
        wait_for(lambda: not self._running(kind), 60, f"the end of {kind}")

    def _running(self, kind: str) -> list[dict[str, Any]]:
        jobs = [each.to_dict() or {} for each in self.store.client.collection("jobs").stream()]
        return [each for each in jobs if each["kind"] == kind and each["state"] == "running"]

    def event_id(self, i_event: int) -> str:
        return self.stack.histories(i_event)[-1].event_id

    def location(self, handler: str) -> HandlerLocation:
        functions = processes.environment(self.stack.pid("retries"))["NSPS_FUNCTIONS"]
        return HandlerLocation(**json.loads(functions)[handler])

    def subscriptions(self) -> Subscriptions:
        push = json.loads(processes.environment(self.stack.pid("retries"))["NSPS_PUSH"])
        return Subscriptions(push["service_account"])

    # ---- what is done ----------------------------------------------------------------------

    def changed(self, operation: str, **parameters: Any) -> int:
        """An operation in PortaBilling: the i_event of its last event."""
        done = self.stack.sandbox.do(operation, **parameters)
        return int(done["events"][-1]["i_event"])

    def without_events(self, operation: str, **parameters: Any) -> None:
        """A change in PortaBilling that no event tells of."""
        self.stack.post("/sandbox/settings", webhook={"enabled": False})
        try:
            self.stack.sandbox.do(operation, **parameters)
        finally:
            self.stack.post("/sandbox/settings", webhook={"enabled": True})

    def conduct(self, behaviour: str) -> None:
        body = {"behaviour": behaviour, "delay": 0.02}
        assert requests.post(f"{self.manager}/control", json=body, timeout=10).ok

    def account(self, number: int, **more: Any) -> int:
        """A subscriber with the seed's card of that number (1 to 12): its i_account."""
        state = self.stack.sandbox.state()
        imsi = f"00101{number:010}"
        card = next(each for each in state["free_sim_cards"] if each["imsi"] == imsi)
        done = self.stack.sandbox.do(
            "add_account",
            msisdn=f"44770090{number:04}",
            i_customer=state["customers"][0]["i_customer"],
            i_product=state["products"][0]["i_product"],
            i_sim_card=card["i_sim_card"],
            **more,
        )
        self.stack.all_finished(each["i_event"] for each in done["events"])
        i_account: int = done["i_account"]
        return i_account

    def change(self, statement: str) -> None:
        """Somebody writes into the subscribers' database behind NSPS's back."""
        with sqlite3.connect(self.stack.state / "subscribers.db", timeout=20) as database:
            database.execute(statement)

    def idle(self) -> None:
        """Wait until nothing is under way."""

        def quiet() -> bool:
            self._hurry_gently()
            return not self.stack.backlog()

        wait_for(quiet, 60, "everything to be acknowledged")

    def _hurry_gently(self) -> None:
        """Cut back-offs short, but not so fast that instances which look at their switch every two
        seconds use up attempts meanwhile."""
        if time.monotonic() >= self._hurried_at + GENTLE_SECONDS:
            self._hurried_at = time.monotonic()
            self.stack.hurry()

    def secrets_away(self, away: bool) -> None:
        url = self.stack.description["secret_manager"]["control"] + "/faults"
        assert requests.post(url, json={"unavailable_percent": 100 if away else 0}, timeout=10).ok


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Everything started; ended at the end."""
    secrets = folder / "secrets.json"
    secrets.write_text(json.dumps({"oms-token": TOKEN, "oms-callback": CALLBACK_TOKEN}))
    arguments = ("--token", TOKEN, "--callback-token", CALLBACK_TOKEN)
    with Recorder() as recorder, order_manager.running(*arguments) as manager:
        hss = Hss(recorder)
        with WholeStack(
            folder / "state", _configuration(folder, recorder.url, manager), secrets
        ) as stack:
            _hear_answers(stack, manager)
            desk = folder / "desk"
            desk.mkdir()
            os.environ["PUBSUB_EMULATOR_HOST"] = stack.description["pubsub"]["host"]
            yield Site(stack, hss, manager, desk)


def _configuration(folder: Path, hss: str, manager: str) -> Path:
    vendors = webhook(hss, "hss", events=SIMS, group="HSS", breaker={"failures": 5, "owners": 3})
    vendors["retries"] = {"push": {"minimum": 1, "maximum": 10, "attempts": 20}}
    vendors["settings"]["permanent_codes"] = [422]
    orders = {
        "name": "orders",
        "connector": "oms_tmf641",
        "events": SIMS,
        "group": "PCRF",
        "call_timeout_seconds": 5,
        "settings": {"url": manager, "allow_http": True},
        "secrets": {"credentials": "oms-token", "callback": "oms-callback"},
    }
    espf = {"method": "basic", "credentials": ["espf-webhook", "espf-webhook-next"]}
    return configuration(
        folder, [DATABASE | {"group": "CRM"}, vendors, orders], **{"nsps:espf": espf}
    )


def _hear_answers(stack: WholeStack, manager: str) -> None:
    """The order manager is told where its answers go."""
    answer = requests.post(
        f"{manager}/tmf-api/serviceOrdering/v4/hub",
        json={"callback": f"{stack.description['callbacks']['url']}/orders"},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=10,
    )
    assert answer.status_code == 201
