"""PortaBilling's breaker: when it opens, who asks how it is, and how the events come back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from nsps.cloud.store import Store, StoreUnavailable
from nsps.delivery.gate import Gate
from nsps.delivery.switch import State, Switches
from nsps.domain.event import Owner
from nsps.domain.outcome import NoAnswer, Transient, Unreachable
from nsps.flows import reading as flow
from nsps.flows.reading import NotAsked, PortaBillingApi, Reading
from nsps.portabilling.errors import (
    BadAnswer,
    Fault,
    LoginRefused,
    NotFound,
    OtherAnswer,
    SessionDied,
    is_outage,
)
from nsps.portabilling.freshness import WaitedTooLong
from nsps.runtime.settings import PORTABILLING
from nsps.transport.http import AnswerTooLarge

from tests.unit.connector.systems import new_store

OUTAGES = [
    BadAnswer("HTTP 502 with HTML"),
    NoAnswer("no answer within 20 s"),
    Transient("nothing was sent"),
    Unreachable("no route"),
    LoginRefused("refused", "Server.Session.auth_failed"),
    SessionDied("dead", "401"),
    Fault("fault", "Server.internal_error"),
]
OF_ONE_OBJECT = [
    Fault("fault", "Server.Account.locked"),
    Fault("fault", "Method.not_found"),
    NotFound("gone", "Server.Account.account_not_found"),
    OtherAnswer("another card"),
    AnswerTooLarge("too large"),
    WaitedTooLong("waited"),
    StoreUnavailable("Firestore"),
]


class Api:
    """A PortaBilling that fails while ``error`` is set; an instance that reads it."""

    def __init__(self, store: Store) -> None:
        self.switches, self.calls, self.now = Switches(store), 0, 0.0
        self.error: Exception | None = None
        self.store = store
        self.instance = self.made()

    def made(self) -> Reading:
        gate = Gate(PortaBillingApi(), self.switches, clock=self.clock, sleep=self.sleep)
        return Reading(gate, self.switches, self.clock)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def call(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "read"

    def read(self, account: int) -> str:
        return self.instance.read(Owner("account", str(account)), self.call)

    def fails(self, accounts: int, times: int = 1) -> None:
        for _ in range(times):
            for account in range(accounts):
                with pytest.raises(Transient):
                    self.read(account)

    def state(self) -> State:
        return self.switches.read(PORTABILLING).breaker.state

    def probe_is_due(self) -> None:
        self.now += flow.CLAIM_SECONDS
        past = datetime.now(UTC) - timedelta(seconds=1)
        self.store.handler(PORTABILLING).set({"breaker": {"next_probe": past}}, merge=True)


@pytest.fixture
def api(target: str) -> Api:
    return Api(new_store(target))


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
def test_while_it_is_down_nothing_is_called(api: Api, error: Exception) -> None:
    assert is_outage(error)
    api.error = error
    api.fails(accounts=5, times=20)
    assert api.calls == 20
    assert api.state() is State.OPEN
    with pytest.raises(NotAsked, match="PortaBilling is not asked now"):
        api.read(1)


@pytest.mark.parametrize("error", OF_ONE_OBJECT, ids=lambda error: type(error).__name__)
def test_an_error_of_one_object_is_no_outage(api: Api, error: Exception) -> None:
    assert not is_outage(error)
    api.error = error
    api.fails(accounts=5, times=20)
    assert api.calls == 100
    assert api.state() is State.CLOSED


def test_one_account_that_always_fails_is_no_outage(api: Api) -> None:
    api.error = OUTAGES[0]
    api.fails(accounts=1, times=60)
    assert api.state() is State.CLOSED


def test_one_event_asks_how_it_is_and_the_rest_comes_back_slowly(api: Api) -> None:
    api.error = OUTAGES[0]
    api.fails(accounts=5, times=4)
    api.probe_is_due()
    api.fails(accounts=5)
    assert api.calls == 21, "one of them asked, for nothing"
    assert api.state() is State.OPEN
    other = api.made()
    api.probe_is_due()
    api.error = None
    assert [api.read(1), api.calls] == ["read", 22]
    assert api.state() is State.HALF_OPEN
    with pytest.raises(Transient, match="comes back"):  # the other instance has no share yet
        for account in range(20):
            other.read(Owner("account", str(account)), api.call)
    assert api.calls < 30


def test_an_answer_about_one_object_says_that_it_is_back(api: Api) -> None:
    api.error = OUTAGES[0]
    api.fails(accounts=5, times=4)
    api.probe_is_due()
    api.error = OF_ONE_OBJECT[0]
    with pytest.raises(Fault):
        api.read(1)
    assert api.state() is State.HALF_OPEN
