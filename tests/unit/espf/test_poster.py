"""ESPF that is down is left alone as a whole; a status that fails keeps no other from its turn."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from google.api_core.exceptions import ServiceUnavailable
from nsps.cloud.store import Store, StoreUnavailable
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.espf import outbox
from nsps.espf.poster import LONGEST_QUIET_SECONDS, QUIET_SECONDS, Poster

from tests.unit.connector.systems import new_store


class Espf:
    """ESPF with statuses of ``accounts`` due, and the instance that posts them."""

    def __init__(self, store: Store, accounts: int) -> None:
        self.store, self.calls, self.now = store, 0, 0.0
        self.failing: dict[int, Exception] = {}
        self.down: Exception | None = None
        self.poster = Poster(store, lambda: self, lambda: self.now)
        for i_account in range(100, 100 + accounts):
            status = outbox.Status(status="OK", phase=2, revision=1)
            about = {"i_account": i_account, "group": "HSS"}
            store.status(i_account, "HSS").set(status.write() | about)

    def post(self, i_account: int, group: str, status: str, message: str) -> None:
        self.calls += 1
        error = self.down or self.failing.get(i_account)
        if error is not None:
            raise error

    @property
    def due(self) -> int:
        return len(list(self.store.statuses_due().stream()))


@pytest.mark.parametrize("error", [Transient("HTTP 503"), NoAnswer("nothing")])
def test_an_espf_that_is_down_is_left_alone(target: str, error: Exception) -> None:
    espf = Espf(new_store(target), 30)
    espf.down = error
    espf.poster.send_due()
    espf.poster.send_due()
    assert espf.calls == 3
    espf.now += QUIET_SECONDS
    espf.poster.send_due()
    assert espf.calls == 4, "one asks how it is"
    espf.now += QUIET_SECONDS
    espf.poster.send_due()
    assert espf.calls == 4, "twice the time"
    espf.now += QUIET_SECONDS
    espf.down = None
    espf.poster.send_due()
    assert espf.due == (0 if type(error) is Transient else 4)  # those have their lease


def test_statuses_that_fail_do_not_keep_the_others_from_their_turn(target: str) -> None:
    espf = Espf(new_store(target), 12)
    espf.failing = dict.fromkeys(range(100, 104), Transient("HTTP 500"))
    for _ in range(200):
        espf.now += LONGEST_QUIET_SECONDS
        espf.poster.send_due()
        if espf.due == 4:
            return
    pytest.fail("some never had their turn")


def test_a_refusal_of_one_status_is_no_outage(target: str) -> None:
    espf = Espf(new_store(target), 12)
    espf.down = Terminal("not known")
    espf.poster.send_due()
    assert espf.calls == 12


def test_a_firestore_that_is_away_is_said_to_be(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    espf = Espf(new_store(target), 1)
    away = Mock()
    away.limit.return_value.stream.side_effect = ServiceUnavailable("away")  # type: ignore[no-untyped-call]
    monkeypatch.setattr(Store, "statuses_due", lambda _: away)
    with pytest.raises(StoreUnavailable):
        espf.poster.send_due()
