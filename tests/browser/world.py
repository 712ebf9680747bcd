"""A stack with something to see on every page, and people who look at it in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from nsps.delivery.history import kept_event
from nsps_testing.waiting import wait_for
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.end_to_end.recorder import Received, Recorder
from tests.end_to_end.whole_stack import (
    DATABASE,
    SIMS,
    WholeStack,
    configuration,
    webhook,
)

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).with_name("node_modules") / "axe-core" / "axe.min.js"
needed = pytest.mark.skipif(
    CHROMIUM is None or not AXE.exists(),
    reason="needs apt-get install chromium, and npm ci --prefix tests/browser",
)
NASTY = "<img src=x onerror=alert(1)>\x1b[31m\u202eevil\u202c " + "n" * 2000


@dataclass
class World:
    """The stack, its systems, and its subscribers by what is particular about them."""

    stack: WholeStack
    crm: Recorder
    refused: set[int] = field(default_factory=set)
    """Accounts that the CRM does not take."""
    accounts: dict[str, int] = field(default_factory=dict)
    events: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    _runs: Iterator[int] = field(default_factory=lambda: count(7))

    @property
    def url(self) -> str:
        pages: str = self.stack.description["console"]["pages"]
        return pages

    def newest(self, i_account: int) -> str:
        """The account's newest event."""
        found = self.stack.running.timeline.where("i_account", i_account)
        return found[-1].event_id

    def row(self, i_account: int) -> dict[str, Any]:
        query = f"select * from subscribers where i_account = {i_account}"
        (found,) = self.stack.rows("subscribers.db", query)
        return found

    def spoil(self, i_account: int) -> None:
        """Somebody changes the subscriber in the system behind our back."""
        with sqlite3.connect(self.stack.state / "subscribers.db", timeout=20) as database:
            statement = "update subscribers set status = 'odd' where i_account = ?"
            database.execute(statement, (i_account,))

    def fill(self) -> None:
        """Subscribers, a refusal, something parked, a job: whatever the pages can show."""
        stack = self.stack
        for name, what in (("ada", "Ada"), ("ben", "Ben"), ("nasty", NASTY), ("odd", "Odd")):
            card = stack.new_card()
            made = stack.add_account(card["i_sim_card"], firstname=what, lastname="Example")
            stack.all_finished(event["i_event"] for event in made["events"])
            self.accounts[name] = made["i_account"]
            self.events[name] = self.newest(made["i_account"])
            self.numbers[name] = str(self.row(made["i_account"])["msisdn"])
        self.spoil(self.accounts["odd"])
        self.refuse("ben")
        self.park("ada")

    def refuse(self, name: str) -> str:
        """The CRM refuses a change of this account for good: the event."""
        i_account = self.accounts[name]
        self.refused.add(i_account)
        blocked = self.stack.accounts()[i_account]["blocked"] == "Y"
        operation = "unblock_account" if blocked else "block_account"
        done = self.stack.sandbox.do(operation, i_account=i_account)
        self.stack.all_finished(event["i_event"] for event in done["events"])
        return self.newest(i_account)

    def park(self, name: str) -> None:
        """As if the CRM had failed an event of this account for sixteen hours."""
        store, now = self.stack.running.store, datetime.now(UTC)
        ident, run = self.events[name], next(self._runs)
        event = kept_event(store.read(store.event(ident)) or {})
        assert event is not None
        body = event.body()
        store.parked(f"crm.{ident}.{run}").set(
            {
                "stage": "crm",
                "handler": "crm",
                "event_id": ident,
                "delivery": f"{ident}.{run}",
                "run": run,
                "only": "crm",
                "body": json.dumps(body),
                "parked_at": now,
                "tries": 2,
                "next_try": now + timedelta(hours=4),
                "reason": "the CRM answered 503",
                "received_at": now.isoformat(),
                "trace_id": "",
                "request_id": "",
                "expire_at": now + timedelta(days=9),
            }
        )


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Up and filled."""
    with Recorder() as crm:
        system = webhook(crm.url, "crm")
        system["settings"] |= {"permanent_codes": [422]}
        handlers = [DATABASE, SIMS, system]
        running = WholeStack(folder / "state", configuration(folder, handlers))
        made = World(running, crm)

        def answer(received: Received) -> int:
            return 422 if received.i_account in made.refused else 200

        crm.answer = answer
        try:
            running.start()
            made.fill()
            yield made
        finally:
            running.stop()


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield chromium
        finally:
            chromium.close()


class Reader:
    """A person at a browser window, signed in. ``wrong``: what the browser complained of."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        role: str = "operator",
        width: int = 1024,
        scheme: Any = "light",
        height: int = 800,
    ) -> None:
        size = ViewportSize(width=width, height=height)
        self._context = browser.new_context(viewport=size, color_scheme=scheme)
        self._context.set_default_timeout(20_000)
        self.url, self.wrong = url, list[str]()
        self.page: Page = self._context.new_page()
        self.page.on("console", lambda said: self.wrong.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.page.goto(f"{url}/sign-in")
        self.page.get_by_role("button", name=role).click()

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def text(self) -> str:
        return self.page.inner_text("body")

    def close(self) -> None:
        self._context.close()


def until(page: Page, selector: str, text: str, seconds: float = 30) -> None:
    """Wait until a part of the page says something."""
    wait_for(lambda: text in page.inner_text(selector), seconds, f"{text!r} in {selector}")
