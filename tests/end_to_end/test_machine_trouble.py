"""Trouble of the machine under the local stack: parts that stand still, a full disk, a clock that
jumps. What was answered 200 is delivered afterwards; what cannot be kept is not answered 200."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import requests
from nsps.domain.outcome import Outcome
from nsps_testing.waiting import wait_for

from tests.end_to_end.whole_stack import DATABASE, WholeStack, configuration

pytestmark = pytest.mark.timeout(300)

STILL_SECONDS = 11.0
"""Longer than the deadlines of a publish and of Firestore's calls (10 s), and than a lease's wait:
standing still for 30 s meets no further deadline."""
PARTS = (
    "pubsub",
    "firestore",
    "secret_manager",
    "sandbox",
    "ingress",
    "enrichment",
    "subscribers",
    "retries",
)
_numbers = count(700_001)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeStack]:
    folder = tmp_path_factory.mktemp("machine")
    with WholeStack(folder / "state", configuration(folder, [DATABASE])) as made:
        yield made


@pytest.fixture(scope="module")
def i_account(stack: WholeStack) -> int:
    return stack.new_account(stack.new_card()["i_sim_card"])


def accepted(stack: WholeStack, i_account: int) -> tuple[int, int]:
    """A webhook's number, and what it was answered; 0: nothing."""
    number = next(_numbers)
    try:
        return number, stack.send("SIM/Updated", i_account=i_account, i_event=number).status_code
    except requests.RequestException:
        return number, 0


def assert_kept(stack: WholeStack, answers: list[tuple[int, int]]) -> None:
    """Everything that was answered 200 is finished; what was not is taken now."""
    assert {status for _, status in answers} <= {0, 200, 503}, answers
    kept = [number for number, status in answers if status == 200]
    for history in stack.all_finished(kept):
        assert {each.outcome for each in history.deliveries} <= {
            Outcome.DELIVERED,
            Outcome.UNCHANGED,
            Outcome.SUPERSEDED,
        }


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_stands_still(stack: WholeStack, i_account: int, part: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        stack.stop_part(part)
        try:
            asked = [pool.submit(accepted, stack, i_account) for _ in range(3)]
            time.sleep(STILL_SECONDS)
        finally:
            stack.continue_part(part)
        answers = [each.result() for each in asked]
    assert_kept(stack, answers)
    after = accepted(stack, i_account)
    assert after[1] == 200
    assert_kept(stack, [after])


@contextmanager
def full_disk(stack: WholeStack, part: str) -> Iterator[None]:
    """The part's files cannot grow, as on a disk that is full."""
    pid = stack.pid(part)
    folder = stack.state / part
    largest = max(file.stat().st_size for file in folder.rglob("*-wal"))
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_pubsub_on_a_full_disk_accepts_nothing_and_goes_on_when_there_is_room(
    stack: WholeStack, i_account: int
) -> None:
    with full_disk(stack, "pubsub"):
        answers = [accepted(stack, i_account) for _ in range(2)]
    assert {status for _, status in answers} == {503}
    assert "cannot write to its disk" in stack.logs()["pubsub"]
    after = accepted(stack, i_account)
    assert after[1] == 200
    assert_kept(stack, [after])


def test_firestore_on_a_full_disk_keeps_events_waiting_until_there_is_room(
    stack: WholeStack, i_account: int
) -> None:
    with full_disk(stack, "firestore"):
        answers = [accepted(stack, i_account) for _ in range(2)]
        wait_for(lambda: "cannot write to its disk" in stack.logs()["firestore"], 30, "its refusal")
    assert {status for _, status in answers} == {200}, "Pub/Sub has them"
    assert_kept(stack, answers)


def test_clocks_that_jump_by_an_hour_while_events_wait(stack: WholeStack, i_account: int) -> None:
    """Back-offs and leases run out at once; nothing is lost, nothing is written twice."""
    stack.portabilling_fault("fail", percent=100)
    first = accepted(stack, i_account)

    def waits() -> bool:
        found = stack.histories(first[0])
        return bool(found) and found[0].retry is not None

    wait_for(waits, 30, "an event that waits")
    for service in ("pubsub", "firestore"):
        stack.advance(service, 3600)
    stack.well()
    second = accepted(stack, i_account)
    assert (first[1], second[1]) == (200, 200)
    assert_kept(stack, [first, second])
    rows: list[dict[str, Any]] = stack.rows("subscribers.db", "select * from subscribers")
    assert [row["i_account"] for row in rows].count(i_account) == 1
