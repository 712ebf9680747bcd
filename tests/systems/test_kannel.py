"""SMS through a real Kannel, over the whole stack: a webhook in, a text on a phone, the network's
report back through Kannel and the callbacks function, and what ESPF hears.

Kannel stands before a network that speaks SMPP. What lies between Kannel and the callbacks function
(``Reports``) can hold a report back, so that reports are late, come twice, and in any order.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from nsps.domain.outcome import NoAnswer, Outcome, Transient
from nsps_local.daemons.kannel import Kannel
from nsps_local.daemons.sms_network import SmsNetwork, Submitted
from nsps_testing.standard import ChaosProxy, enriched, make_call, make_context
from nsps_testing.waiting import wait_for

from functions.connectors.sms_kannel.connector import SmsConnector
from functions.connectors.sms_kannel.settings import Settings
from tests.end_to_end.whole_stack import WholeStack, configuration

pytestmark = pytest.mark.timeout(120)

PASSWORD, KEY = "kannel-password-4711", "a-key-for-reports-that-are-due-4711"
INVALID_NUMBER = 0x0B
_i_events = itertools.count(7_000_001)


class Reports:
    """The way of the reports from Kannel to the callbacks function."""

    def __init__(self) -> None:
        self.to = ""
        self.hold = self.away = False
        self.held: list[str] = []
        self.answers: list[int] = []
        way = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(way.take(self.path))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str) -> int:
        if self.away:  # the callbacks function answers so while Firestore is away
            self.answers.append(503)
            return 503
        if self.hold:
            self.held.append(path)
            return 200
        return self.deliver(path)

    def deliver(self, path: str) -> int:
        self.answers.append(requests.get(self.to + path, timeout=30).status_code)
        return self.answers[-1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Place:
    """The stack, Kannel, the network behind it, and accounts that get texts."""

    stack: WholeStack
    kannel: Kannel
    network: SmsNetwork
    reports: Reports
    way: ChaosProxy
    """Between the connector and Kannel."""
    box: ExitStack = field(default_factory=ExitStack)
    """Kannel, as long as it runs."""

    def account(self) -> tuple[int, str]:
        """A new account, and the number of its phone."""
        done = self.stack.add_account()
        number = self.stack.accounts()[done["i_account"]]["id"].partition("@")[0]
        return done["i_account"], number

    def block(self, i_account: int, on: bool = True) -> int:
        """Block or unblock the account; the event that says so."""
        self.stack.sandbox.do(f"{'' if on else 'un'}block_account", i_account=i_account)
        i_event = next(_i_events)
        event_type = "Account/Blocked" if on else "Account/Unblocked"
        answer = self.stack.send(event_type, i_env=1, i_event=i_event, i_account=i_account)
        assert answer.status_code == 200
        return i_event

    def sent(
        self, number: str, count: int = 1, meanwhile: Callable[[], object] = bool
    ) -> Submitted:
        """The newest text for a phone, once there are so many."""

        def there() -> bool:
            meanwhile()
            return len(self.network.parts(number)) >= count

        wait_for(there, 30, f"{count} texts")
        return self.network.parts(number)[-1]

    def wait(self, i_event: int, outcome: Outcome, i_account: int, *posted: str) -> str:
        """Wait for the outcome, and for what ESPF has heard by then; the reasons given."""

        def delivery() -> Any:
            histories = self.stack.histories(i_event)
            found = histories[0].deliveries if histories else []
            return found[0] if found and found[0].outcome == outcome else None

        found = wait_for(delivery, 30, f"{i_event} to be {outcome}")
        wait_for(
            lambda: self.posted(i_account) == list(posted),
            30,
            f"{posted}, {self.posted(i_account)}",
        )
        return "; ".join(found.errors)

    def posted(self, i_account: int) -> list[str]:
        found = self.stack.get(f"/sandbox/statuses?i_account={i_account}")["statuses"]
        return [each["status"] for each in found]

    def start(self) -> None:
        self.network.bound.clear()
        self.box.enter_context(self.kannel.running())
        assert self.network.bound.wait(20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("kannel")
    with ExitStack() as stay:
        network = stay.enter_context(SmsNetwork())
        kannel, reports = Kannel(folder, network.port, PASSWORD), Reports()
        way = stay.enter_context(ChaosProxy(("127.0.0.1", kannel.port)))
        secrets = folder / "secrets.json"
        secrets.write_text(json.dumps({"kannel": PASSWORD, "reports": KEY}))
        handler = {
            "name": "sms",
            "connector": "sms_kannel",
            "events": ["Account/Blocked", "Account/Unblocked"],
            "group": "SMS",
            "answer_within_hours": 24,
            "settings": settings(kannel, reports)
            | {"url": kannel.url.replace(str(kannel.port), str(way.port))},
            "secrets": {"password": "kannel", "callback": "reports"},
        }
        stack = WholeStack(folder / "state", configuration(folder, [handler]), secrets)
        place = Place(stack, kannel, network, reports, way)
        try:
            place.start()
            stack.start()
            reports.to = stack.description["callbacks"]["url"]
            yield place
        finally:
            stack.stop()
            place.box.close()
            reports.close()


def settings(kannel: Kannel, reports: Reports, **more: Any) -> dict[str, Any]:
    given = {"url": kannel.url, "user": "nsps", "sender": "Example", "allow_http": True}
    return given | {"reports_url": f"{reports.url}/sms"} | more


def connector(place: Place, password: str = PASSWORD, **more: Any) -> SmsConnector:
    model = Settings.model_validate(settings(place.kannel, place.reports, **more))
    return SmsConnector(model, make_context({"password": password, "callback": KEY}))


def send(made: SmsConnector, number: str, text: str) -> None:
    pb = {"account_info": {"i_account": 1, "id": number}, "sim_info": None}
    event = enriched(pb, event_type="Account/Blocked", variables={"text": text})
    message = made.message(event)
    assert message is not None
    assert made.send(message, make_call()).answer == "202 0: Accepted for delivery"


# ---- what a phone shows -----------------------------------------------------------------------

GSM_7 = (
    "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ\n¤¡ÄÖÑÜ§¿äöñüà^{}\\[~]|€ "
    + string.ascii_letters + string.digits + "!\"#%&'()*+,-./:;<=>?"
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GSM_7, 1),
        ("a" + "€" * 152, 2),
        ("€" * 200, 3),
        ("x" * 459, 3),
        ("Příliš žluťoučký kůň", 1),
        ("😀" * 67, 2),
        ("ж" * 201, 3),
        ("100 % %p %d %A", 1),
    ],
)
def test_a_phone_shows_the_text_as_it_was_written(place: Place, text: str, parts: int) -> None:
    number = f"4477{next(_i_events):010}"
    made = connector(place, templates={"Account/*": "{{ variables.text }}"})
    message = made.message(
        enriched({"account_info": {"id": number}}, event_type="Account/Blocked",
                 variables={"text": text})
    )  # fmt: skip
    assert message is not None and message.content.text.parts == parts
    send(made, number, text)
    place.sent(number, parts)
    got = place.network.parts(number)
    assert got[0].sender == (5, "Example") and got[0].to == (1, number)
    joined = b"".join(each.data for each in got)
    assert Submitted("", (0, ""), (0, ""), b"", got[0].coding, joined, "").text == text
    assert [each.header[-2:] for each in got if parts > 1] == [
        bytes([parts, n + 1]) for n in range(parts) if parts > 1
    ]


def test_kannel_is_asked_how_it_is_and_refuses_another_password(place: Place) -> None:
    connector(place).check(make_call())
    with pytest.raises(Transient, match="Authorization failed"):
        connector(place, "wrong-password").check(make_call())
    assert not place.network.parts("")


# ---- the whole way ----------------------------------------------------------------------------


def test_a_phone_shows_the_text_and_the_report_is_ok(place: Place) -> None:
    i_account, number = place.account()
    i_event = place.block(i_account)
    text = place.sent(number)
    assert text.text.startswith("Your account has been blocked.")
    place.wait(i_event, Outcome.ACCEPTED, i_account, "IN_PROGRESS")
    place.network.report(text, "DELIVRD")
    place.wait(i_event, Outcome.DELIVERED, i_account, "IN_PROGRESS", "OK")
    assert len(place.network.parts(number)) == 1


@pytest.mark.parametrize("stat", ["UNDELIV", "EXPIRED"])
def test_what_the_network_cannot_deliver_has_failed(place: Place, stat: str) -> None:
    i_account, number = place.account()
    i_event = place.block(i_account)
    text = place.sent(number)
    place.wait(i_event, Outcome.ACCEPTED, i_account, "IN_PROGRESS")
    place.network.report(text, stat, 69)
    why = place.wait(i_event, Outcome.REJECTED, i_account, "IN_PROGRESS", "FAILED")
    assert f"the network says {stat}, error 069" in why and "Your account" not in why


def test_what_the_network_refuses_has_failed(place: Place) -> None:
    i_account, _ = place.account()
    place.network.refuses = INVALID_NUMBER
    i_event = place.block(i_account)
    wait_for(lambda: place.posted(i_account)[-1:] == ["FAILED"], 30, "ESPF to hear FAILED")
    place.network.refuses = None
    why = place.wait(i_event, Outcome.REJECTED, i_account, *place.posted(i_account))
    assert "Invalid Destination Address" in why


def test_reports_that_come_at_once_are_not_lost(place: Place) -> None:
    """Kannel may report before the ledger has noted that it took the message."""
    accounts = [place.account()[0] for _ in range(8)]
    place.network.at_once = "DELIVRD"
    i_events = [place.block(i_account) for i_account in accounts]
    histories = place.stack.all_finished(i_events)
    place.network.at_once = None
    assert {each.deliveries[0].outcome for each in histories} == {Outcome.DELIVERED}
    assert {place.posted(i_account)[-1] for i_account in accounts} == {"OK"}


def test_a_report_after_the_deadline_corrects_and_no_other_does(place: Place) -> None:
    """Late, twice, in the wrong order, and from somebody who does not know the address."""
    i_account, number = place.account()
    i_event = place.block(i_account)
    text = place.sent(number)
    place.wait(i_event, Outcome.ACCEPTED, i_account, "IN_PROGRESS")
    place.reports.hold = True
    place.network.report(text, "DELIVRD")
    (done,) = wait_for(lambda: place.reports.held, 10, "the report")
    place.reports.hold = False
    place.stack.advance("firestore", 24.1 * 3600)
    place.stack.tick()
    why = place.wait(i_event, Outcome.REJECTED, i_account, "IN_PROGRESS", "FAILED")
    assert "did not answer within 24 hours" in why

    proof = parse_qs(urlsplit(done).query)["proof"][0]
    assert place.reports.deliver(done.replace(proof, "0" * len(proof))) == 401
    assert place.posted(i_account) == ["IN_PROGRESS", "FAILED"]
    assert place.reports.deliver(done) == 200
    place.wait(i_event, Outcome.DELIVERED, i_account, "IN_PROGRESS", "FAILED", "OK")
    for again in (done, done.replace("type=1", "type=2"), done.replace("type=1", "type=8")):
        assert place.reports.deliver(again) == 200
    place.wait(i_event, Outcome.DELIVERED, i_account, "IN_PROGRESS", "FAILED", "OK")


@pytest.mark.parametrize("stats", [("UNDELIV", "DELIVRD"), ("DELIVRD", "UNDELIV")])
def test_of_a_text_that_was_sent_twice_the_delivered_one_counts(
    place: Place, stats: tuple[str, str]
) -> None:
    """Kannel's answer was lost; both reports name the one message, in either order."""
    i_account, number = place.account()
    place.way.lose_answer(1)
    i_event = place.block(i_account)
    place.sent(number)
    wait_for(lambda: place.posted(i_account) == ["RETRY"], 30, "the first try to fail")
    place.way.pass_all()
    place.stack.advance("firestore", 30)
    place.sent(number, 2, place.stack.hurry)
    place.wait(i_event, Outcome.ACCEPTED, i_account, "RETRY", "IN_PROGRESS")
    for part, stat in zip(place.network.parts(number), stats, strict=True):
        place.reports.answers.clear()
        place.network.report(part, stat)
        wait_for(lambda: place.reports.answers, 30, "the report")
    place.wait(i_event, Outcome.DELIVERED, i_account, *place.posted(i_account))
    assert place.posted(i_account)[-1] == "OK"


def test_a_report_waits_in_kannel_while_the_callbacks_function_is_away(place: Place) -> None:
    i_account, number = place.account()
    i_event = place.block(i_account)
    text = place.sent(number)
    place.wait(i_event, Outcome.ACCEPTED, i_account, "IN_PROGRESS")
    place.reports.answers.clear()
    place.reports.away = True
    place.network.report(text, "DELIVRD")
    wait_for(lambda: len(place.reports.answers) > 1, 30, "a second try to fail")
    place.reports.away = False
    place.wait(i_event, Outcome.DELIVERED, i_account, "IN_PROGRESS", "OK")


def test_no_older_text_comes_after_a_newer_one(place: Place) -> None:
    """A block waits for Kannel to come back, and meanwhile the account is unblocked."""
    i_account, number = place.account()
    place.way.refuse()
    blocked = place.block(i_account)
    place.wait(blocked, Outcome.RETRYING, i_account, "RETRY")
    place.network.at_once = "DELIVRD"
    place.way.pass_all()
    unblocked = place.block(i_account, on=False)
    place.stack.finished(unblocked)
    place.stack.all_finished([blocked])
    place.network.at_once = None
    texts = [part.text.split(".")[0] for part in place.network.parts(number)]
    first = "Your account has been blocked"  # where its second try was the faster one
    assert texts[-1] == "Your account is active again" and texts[:-1] in ([], [first])
    assert place.posted(i_account)[-1] == "OK"


def test_what_a_restarted_kannel_has_forgotten_ends_as_failed(place: Place) -> None:
    """Its dlr-storage is the default here, which does not outlive it."""
    (one, first), (other, second) = place.account(), place.account()
    forgotten = place.block(one)
    text = place.sent(first)
    place.wait(forgotten, Outcome.ACCEPTED, one, "IN_PROGRESS")
    place.box.close()
    with pytest.raises(Transient) as error:
        connector(place).check(make_call())
    assert not isinstance(error.value, NoAnswer)
    place.start()
    place.network.report(text, "DELIVRD")
    known = place.block(other)
    place.network.report(place.sent(second), "DELIVRD")  # by the same link, so after the first
    place.wait(known, Outcome.DELIVERED, other, "IN_PROGRESS", "OK")
    assert place.posted(one) == ["IN_PROGRESS"]
    place.stack.advance("firestore", 24.1 * 3600)
    place.stack.tick()
    place.wait(forgotten, Outcome.REJECTED, one, "IN_PROGRESS", "FAILED")


def test_no_log_holds_the_password_the_key_or_a_text(place: Place) -> None:
    for name, log in place.stack.logs().items():
        for private in (PASSWORD, KEY, "has been blocked"):
            assert private not in log, name
