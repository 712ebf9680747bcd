"""A partner's connector that ignores a type of event loses no change by it, whichever comes first.

The vendor's sample answers what it does not support with "202 Event ignored". Which of two events
is first is forced: the first one's delivery is held back by Pub/Sub until the other is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nsps_testing.waiting import wait_for

from tests.end_to_end.recorder import Received, Recorder
from tests.end_to_end.whole_stack import WholeStack, configuration, webhook

pytestmark = pytest.mark.timeout(180)

HELD = 600.0
HEEDED, IGNORED = "SIM/Updated", "Account/Blocked"


class Partner:
    """It bars whom an event of the type that it heeds shows as blocked."""

    def __init__(self) -> None:
        self.barred: dict[int, bool] = {}

    def answer(self, received: Received) -> int:
        if received.body["data"]["event_type"] == HEEDED and received.i_account is not None:
            self.barred[received.i_account] = received.account["blocked"]
        return 202


@pytest.fixture
def partner() -> Partner:
    return Partner()


@pytest.fixture
def recorder(partner: Partner) -> Iterator[Recorder]:
    with Recorder(answer=partner.answer) as recorder:
        yield recorder


@pytest.fixture
def stack(tmp_path: Path, recorder: Recorder) -> Iterator[WholeStack]:
    with WholeStack(tmp_path / "state", configuration(tmp_path, [webhook(recorder.url)])) as stack:
        yield stack


def was_read(stack: WholeStack, i_event: int) -> bool:
    return any(history.state == "enriched" for history in stack.histories(i_event))


def test_a_block_reaches_a_partner_that_ignores_the_newer_event(
    stack: WholeStack, recorder: Recorder, partner: Partner
) -> None:
    i_account = stack.new_account(stack.new_card()["i_sim_card"])
    stack.send_paused(True)  # the webhooks are the test's
    stack.pubsub_faults("recorder", delay={"seconds": HELD, "times": 1})
    assert stack.send(HEEDED, i_event=900001, i_account=i_account).status_code == 200
    wait_for(lambda: was_read(stack, 900001), 60, "the first event to be read")
    stack.sandbox.do("block_account", i_account=i_account)
    assert stack.send(IGNORED, i_event=900002, i_account=i_account).status_code == 200
    stack.finished(900002)
    stack.advance("pubsub", HELD)
    (history,) = stack.all_finished([900001])
    (delivered,) = history.deliveries
    assert (delivered.outcome, delivered.read_again) == ("delivered", 1)
    assert partner.barred[i_account] is True
    mine = [each for each in recorder.of(i_account) if each.event_id == history.event_id]
    assert len(mine) == 1, "nothing older was sent"
