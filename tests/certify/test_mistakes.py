"""The mistakes that partners make, each in a connector that is well otherwise; each is caught."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from nsps_local.certify.address import Address
from nsps_local.certify.case import Level, Result, State, level_of
from nsps_local.certify.cases import DOCUMENTED, all_cases
from nsps_local.certify.run import Run
from nsps_local.certify.samples import Samples
from nsps_local.certify.send import Sender
from nsps_local.certify.system import System
from nsps_testing.faults import ScriptedHttp

from tests.certify.partner import TOKEN, Partner, Refused, Reply, Served, error


@pytest.fixture
def system() -> Iterator[System]:
    with ScriptedHttp() as real:
        made = System(("127.0.0.1", 0), real.address)
        yield made
        made.close()


def results_of(
    partner: Partner, system: System, patience: float = 5.0, names: Container[str] | None = None
) -> list[Result]:
    """``names``: of the cases to try; all of them."""
    with Served(partner) as served:
        run = Run(Sender(Address.of(served.url), TOKEN), system)
        cases = [
            replace(each, patience=patience)
            for each in all_cases(Samples(datetime.now(UTC)))
            if names is None or each.name in names
        ]
        return list(run.results(cases))


def failed(results: list[Result]) -> set[str]:
    return {each.case.name for each in results if each.state is State.FAILED}


def at(system: System) -> str:
    host, port = system.proxy.address
    return f"http://{host}:{port}"


class NoTokenCheck(Partner):
    def authorized(self, given: str) -> bool:
        return True


class TokenByPrefix(Partner):
    def authorized(self, given: str) -> bool:
        return given.startswith(f"Bearer {TOKEN}")


class TokenComparedAsText(Partner):
    def authorized(self, given: str) -> bool:
        import hmac

        return hmac.compare_digest(given, f"Bearer {TOKEN}")


class Forbids(Partner):
    def unauthorized(self) -> Reply:
        return error(403, "Not authenticated", "AUTHENTICATION_ERROR")


class DoneBeforeTheToken(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        done = super().handle(method, path, {"Authorization": f"Bearer {TOKEN}"}, body)
        if done.status == 202 and not self.authorized(headers.get("Authorization", "")):
            return self.unauthorized()
        return done


class BodyBeforeTheToken(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if method == "POST" and path == "/process-event":
            try:
                self.read(body)
            except Refused as refused:
                return self.refused(refused)
        return super().handle(method, path, headers, body)


class FailsOnABadBody(Partner):
    def read(self, body: bytes) -> Any:
        event = json.loads(body)
        assert event["event_id"] and event["data"]["event_type"].upper()
        return event


class ErrorsInHtml(Partner):
    def refused(self, refused: Refused) -> Reply:
        return Reply(422, "<h1>Unprocessable</h1>")


class KnowsEveryField(Partner):
    def account(self, event: Any) -> dict[str, Any]:
        account = super().account(event)
        if "of_tomorrow" in account:
            raise Refused("extra fields not permitted")
        return account


class NeedsEveryBlock(Partner):
    def process(self, event: Any) -> Reply:
        assert event["pb_data"]["sim_info"]["imsi"]
        return super().process(event)


class SmallBodiesOnly(Partner):
    def read(self, body: bytes) -> Any:
        if len(body) > 100_000:
            raise Refused("too large")
        return super().read(body)


class RepetitionIsAnError(Partner):
    def __init__(self, system_url: str) -> None:
        super().__init__(system_url)
        self.events: set[str] = set()

    def process(self, event: Any) -> Reply:
        if event["event_id"] in self.events:
            return error(409, "Event exists", "VALIDATION_ERROR")
        done = super().process(event)
        self.events.add(event["event_id"])
        return done


class KnownBeforeItIsDone(RepetitionIsAnError):
    def process(self, event: Any) -> Reply:
        if event["event_id"] in self.events:
            return Reply(202)
        self.events.add(event["event_id"])
        return Partner.process(self, event)


class OlderOverwrites(Partner):
    def in_order(self, account: str, at: str, state: dict[str, Any]) -> None:
        self.write(account, state)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Refused("updated_at is no moment") from None


class RefusesTheOlder(Partner):
    """Older by minutes: of a burst (``concurrent``) it depends on the threads which comes first."""

    def in_order(self, account: str, at: str, state: dict[str, Any]) -> None:
        newest = self.newest.get(account)
        if newest and _moment(newest) - _moment(at) > timedelta(minutes=1):
            raise Refused("stale")
        super().in_order(account, at, state)


class OneAtATime(Partner):
    def __init__(self, system_url: str) -> None:
        super().__init__(system_url)
        self.busy = threading.Lock()

    def in_order(self, account: str, at: str, state: dict[str, Any]) -> None:
        if not self.busy.acquire(blocking=False):
            self.taken()
        try:
            time.sleep(0.02)
            super().in_order(account, at, state)
        finally:
            self.busy.release()

    def taken(self) -> None:
        raise AssertionError("the cursor is in use")


class SaysNotUntilWhen(OneAtATime):
    """Limits its rate."""

    def taken(self) -> None:
        raise requests.exceptions.RetryError

    def not_done(self, trouble: requests.RequestException) -> Reply:
        if isinstance(trouble, requests.exceptions.RetryError):
            return error(429, "Too many requests", "RATE_LIMIT_ERROR")
        return super().not_done(trouble)


class TimeOutIsTheEventsFault(Partner):
    """As the published sample has it."""

    def not_done(self, trouble: requests.RequestException) -> Reply:
        return error(422, "Timeout", "SERVICE_ERROR")


class SaysItIsDone(Partner):
    def not_done(self, trouble: requests.RequestException) -> Reply:
        return Reply(202, {"message": "Event accepted for processing"})


class WaitsForEver(Partner):
    patience = 60


class RepeatsTheImsi(Partner):
    def process(self, event: Any) -> Reply:
        try:
            return super().process(event)
        except Refused as refused:
            imsi = ((event.get("pb_data") or {}).get("sim_info") or {}).get("imsi")
            raise Refused(f"{refused} (IMSI {imsi})") from None


class RepeatsWhatTheSystemSaid(Partner):
    def write(self, account: str, state: dict[str, Any]) -> None:
        try:
            super().write(account, state)
        except requests.RequestException as trouble:
            raise requests.RequestException(f"PUT {state}: {trouble}") from None

    def not_done(self, trouble: requests.RequestException) -> Reply:
        return error(503, str(trouble), "CONNECTION_ERROR")


class RepeatsTheToken(Partner):
    def refused(self, refused: Refused) -> Reply:
        return error(422, f"{refused}; Authorization: Bearer {TOKEN}", "VALIDATION_ERROR")


class AnyPathWillDo(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        known = path if path == "/health" else "/process-event"
        return super().handle(method, known, headers, body)


class AnyMethodWillDo(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        known = method if path == "/health" else "POST"
        return super().handle(known, path, headers, body)


class NoHealth(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        return super().handle(method, path.replace("health", "healthz"), headers, body)


class ErrorsInAWrapper(Partner):
    """FastAPI's HTTPException."""

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        reply = super().handle(method, path, headers, body)
        return replace(reply, body={"detail": reply.body}) if reply.status >= 400 else reply


class AClientPerRequest(Partner):
    def write(self, account: str, state: dict[str, Any]) -> None:
        url = f"{self.system_url}/{account}"
        requests.put(url, json=state, timeout=self.patience).raise_for_status()


class AConnectionPerEvent(Partner):
    protocol = "HTTP/1.0"


class RefusesUnknownTypes(Partner):
    def process(self, event: Any) -> Reply:
        done = super().process(event)
        if "ignored" in done.body["message"]:
            raise Refused("unsupported event type")
        return done


class OneAfterTheOther(Partner):
    """A server with one worker: whoever asks meanwhile waits."""

    patience = 2.0

    def __init__(self, system_url: str) -> None:
        super().__init__(system_url)
        self.worker = threading.Lock()

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        with self.worker:
            return super().handle(method, path, headers, body)


class KnowsFewTypes(Partner):
    def process(self, event: Any) -> Reply:
        if f"event-{event['data']['event_type']}" in OF_OTHER_TYPES:
            raise Refused("unsupported event type")
        return super().process(event)


class TimesHaveAZone(Partner):
    def process(self, event: Any) -> Reply:
        given = (event["data"].get("variables") or {}).get("event_time")
        assert given is None or datetime.fromisoformat(given) < datetime.now(UTC)
        return super().process(event)


class NumbersOnly(Partner):
    def process(self, event: Any) -> Reply:
        if isinstance((event["data"].get("variables") or {}).get("i_event"), str):
            raise Refused("i_event is no number")
        return super().process(event)


class OneFormOnly(Partner):
    def account(self, event: Any) -> dict[str, Any]:
        account = super().account(event)
        if account.get("bill_status") == "active":
            raise Refused("bill_status: open, suspended, inactive or terminated")
        return account


class NamesOfLettersOnly(Partner):
    def account(self, event: Any) -> dict[str, Any]:
        account = super().account(event)
        str(account.get("firstname")).encode("ascii")
        return account


class NeedsTraceHeaders(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if method == "POST" and "x-request-id" not in headers:
            return Reply(500)
        return super().handle(method, path, headers, body)


class OneContentType(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if headers.get("Content-Type", "application/json") != "application/json":
            return error(415, "Unsupported media type", "VALIDATION_ERROR")
        return super().handle(method, path, headers, body)


class SlowAtFirst(Partner):
    """Connects for its first event."""

    slow = True

    def write(self, account: str, state: dict[str, Any]) -> None:
        if self.slow:
            self.slow = False
            time.sleep(1.1)
        super().write(account, state)


class NoHeaders(Partner):
    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        return replace(super().handle(method, path, headers, body), headers={})


OF_OTHER_TYPES = {
    f"event-{each}"
    for each in DOCUMENTED
    if each.startswith(("SIM/", "Account/", "Subscriber/")) and each != "SIM/Updated"
}
ALL_TOKENS = {
    "authentication",
    "authentication-first",
    "authentication-not-ascii",
    "authentication-401",
    "authentication-nothing-done",
}
MISTAKES: dict[type[Partner], set[str]] = {
    NoTokenCheck: ALL_TOKENS,
    TokenByPrefix: {"authentication", "authentication-401", "authentication-nothing-done"},
    TokenComparedAsText: {"authentication-not-ascii"},
    Forbids: {"authentication-401"},
    DoneBeforeTheToken: {"authentication-first", "authentication-nothing-done"},
    BodyBeforeTheToken: {"authentication-first"},
    FailsOnABadBody: {
        "malformed-body",
        "bytes-that-break-parsers",
        "error-form",
        "secrets-in-the-event",
    },
    ErrorsInHtml: {
        "malformed-body",
        "missing-blocks",
        "error-form",
        "null-members",
        "secrets-in-the-event",
        "without-variables",
        "wrong-types",
    },
    KnowsEveryField: {"unknown-fields"},
    NeedsEveryBlock: {
        "events-without-account",
        "missing-blocks",
        "wrong-types",
        "events-without-account-ignored",
        "null-members",
        "without-variables",
    },
    SmallBodiesOnly: {"large"},
    RepetitionIsAnError: {"repeated"},
    KnownBeforeItIsDone: {"system-back", "system-answers-again"},
    OlderOverwrites: {"older-not-written"},
    RefusesTheOlder: {"out-of-order"},
    OneAtATime: {"concurrent"},
    TimeOutIsTheEventsFault: {"system-trouble-is-temporary", "system-slow"},
    SaysItIsDone: {"system-away", "system-hangs", "system-trouble-is-temporary"},
    RepeatsTheImsi: {"nothing-repeated"},
    RepeatsWhatTheSystemSaid: {"nothing-repeated"},
    RepeatsTheToken: {"nothing-repeated"},
    AnyPathWillDo: {"unknown-path"},
    AnyMethodWillDo: {"wrong-method"},
    NoHealth: {"health", "still-alive", "system-slow"},
    ErrorsInAWrapper: {"error-form"},
    AClientPerRequest: {"system-connections"},
    AConnectionPerEvent: {"keep-alive"},
    RefusesUnknownTypes: {"event-unknown", "events-without-account-ignored"},
    OneAfterTheOther: {"system-slow"},
    KnowsFewTypes: OF_OTHER_TYPES,
    TimesHaveAZone: {"event-SIM/Updated", "event-SIM/Replaced"},
    NumbersOnly: {"ids-as-text"},
    OneFormOnly: {"published-variants"},
    NamesOfLettersOnly: {"strange-values", "bytes-that-break-parsers"},
    NeedsTraceHeaders: {"without-trace-headers"},
    OneContentType: {"content-type"},
    SaysNotUntilWhen: {"retry-after"},
    NoHeaders: {"allow", "authentication-401"},
}
"""The cases that fail; all others pass."""
IN_TURN = {"in-turn", "in-a-second"}
HANGING = {"system-hangs", "system-trouble-is-temporary", "system-hang-in-time"}


def test_a_careful_partner_is_exemplary(system: System) -> None:
    results = results_of(Partner(at(system)), system)
    wrong = {each.case.name: each.complaints for each in results if each.state is State.FAILED}
    assert not wrong
    assert level_of(results) is Level.EXEMPLARY
    skipped = {each.case.name for each in results if each.state is State.SKIPPED}
    assert skipped == {"graceful-stop", "retry-after"}, "nothing else is left out"


@pytest.mark.parametrize("mistaken", MISTAKES, ids=lambda each: each.__name__)
def test_a_mistake_is_caught(mistaken: type[Partner], system: System) -> None:
    results = results_of(mistaken(at(system)), system)
    assert failed(results) == MISTAKES[mistaken]
    for each in results:
        assert TOKEN not in " ".join(complaint.text for complaint in each.complaints)


def test_a_connector_that_waits_for_ever_is_not_waited_for(system: System) -> None:
    assert failed(results_of(WaitsForEver(at(system)), system, 1.0, HANGING)) == HANGING


@pytest.mark.parametrize(("patience", "wrong"), [(0.5, IN_TURN), (5.0, {"in-a-second"})])
def test_a_connector_that_is_slow_itself(patience: float, wrong: set[str], system: System) -> None:
    assert failed(results_of(SlowAtFirst(at(system)), system, patience, IN_TURN)) == wrong


def test_each_case_catches_a_mistake() -> None:
    caught = set().union(*MISTAKES.values(), IN_TURN, HANGING)
    names = {each.name for each in all_cases(Samples(datetime.now(UTC)))}
    assert names - caught == {"graceful-stop"}, "which test_command.py tries"
