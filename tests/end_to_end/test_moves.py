"""A SIM card moves between two accounts: it ends where PortaBilling has it, in every interleaving
of the two events, in the database keyed by IMSI and (where installed) in a real OsmoHLR.

Which event is first is forced at each of three places: the webhook, enrichment (the read), and the
delivery to each external system. The later one is held back by Pub/Sub until the other is done.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from nsps_testing.waiting import wait_for

from tests.end_to_end.whole_stack import DATABASE, SIMS, WholeStack, configuration, program

pytestmark = pytest.mark.timeout(240)

READING_HELD, DELIVERY_HELD = 600.0, 6000.0
READS = ["Account/get_account_info", "SIMCard/get_card_info"]
_events = itertools.count(800001)


def hss(host: str) -> dict[str, object]:
    return {
        "name": "hss",
        "connector": "hss_osmocom",
        "events": ["SIM/*", "Account/*", "Account/*/*"],
        "group": "HSS",
        "call_timeout_seconds": 5,
        "settings": {"host": host},
        "when_installed": "osmo-hlr",
    }


@dataclass(frozen=True)
class Moves:
    """A stack with two accounts; one of them has the card."""

    stack: WholeStack
    accounts: tuple[int, int]
    card: int
    imsi: str
    handlers: tuple[str, ...]

    @property
    def holder(self) -> int:
        """Who has the card in PortaBilling."""
        for i_account, account in self.stack.accounts().items():
            if account["sim"] and account["sim"]["i_sim_card"] == self.card:
                return i_account
        raise AssertionError("nobody has the card")

    @property
    def other(self) -> int:
        one, two = self.accounts
        return two if self.holder == one else one

    def move(self) -> tuple[int, int]:
        """Move the card to the account that has it not; who loses it, who gets it."""
        loses, gets = self.holder, self.other
        self.stack.sandbox.do("move_sim", i_sim_card=self.card, i_account=gets)
        return loses, gets

    def send(self, i_account: int) -> int:
        """ESPF's webhook about an account: it names no SIM card, as SIM/Replaced does not."""
        i_event = next(_events)
        answer = self.stack.send("SIM/Replaced", i_env=1, i_event=i_event, i_account=i_account)
        assert answer.status_code == 200
        return i_event

    def send_held(self, i_account: int) -> int:
        """A webhook whose reading is held back, until ``let_go(READING_HELD)``."""
        self.stack.pubsub_faults("enrichment", delay={"seconds": READING_HELD, "times": 1})
        return self.send(i_account)

    def hold_next(self, *handlers: str) -> None:
        """Hold back the next delivery to each handler, until ``let_go(DELIVERY_HELD)``."""
        for handler in handlers:
            self.stack.pubsub_faults(handler, delay={"seconds": DELIVERY_HELD, "times": 1})

    def let_go(self, seconds: float) -> None:
        self.stack.advance("pubsub", seconds)

    def enriched(self, i_event: int) -> None:
        def done() -> bool:
            histories = self.stack.histories(i_event)
            return bool(histories) and histories[0].state == "enriched"

        wait_for(done, 60, f"event {i_event} to be enriched")

    def assert_right(self, i_events: Sequence[int]) -> None:
        """Everything is finished, and every system has the card where PortaBilling has it."""
        stack, holder, other = self.stack, self.holder, self.other
        histories = stack.all_finished(i_events)
        rows = stack.rows("sims.db", "select * from subscribers")
        assert {(r["imsi"], r["i_account"]) for r in rows} == {(self.imsi, holder)}, histories
        imsis = {r["i_account"]: r["imsi"] for r in stack.rows(*SUBSCRIBERS)}
        assert imsis[holder] == self.imsi, histories
        assert imsis[other] is None, histories
        if "hss" in self.handlers:
            found = stack.rows("hss/hlr.db", "select imsi, msisdn, nam_cs from subscriber")
            msisdn = stack.accounts()[holder]["id"].partition("@")[0]
            assert found == [{"imsi": self.imsi, "msisdn": msisdn, "nam_cs": 1}], histories
        for i_account in self.accounts:
            assert set(stack.statuses(i_account).values()) == {"OK"}, histories


SUBSCRIBERS = ("subscribers.db", "select * from subscribers")


@pytest.fixture(scope="module")
def moves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moves]:
    folder = tmp_path_factory.mktemp("moves")
    config = configuration(
        folder, [DATABASE, SIMS, hss(f"127.70.{os.getpid() % 250}.{os.getpid() // 250 % 250 + 1}")]
    )
    with WholeStack(folder / "state", config) as stack:
        card = stack.new_card()
        one = stack.new_account(card["i_sim_card"])
        two = stack.new_account()
        stack.send_paused(True)  # the webhooks are the test's
        handlers = tuple(stack.description["handlers"])
        assert ("hss" in handlers) == (program("osmo-hlr") is not None)
        made = Moves(stack, (one, two), card["i_sim_card"], card["imsi"], handlers)
        made.assert_right([made.send(one), made.send(two)])
        yield made


@pytest.mark.parametrize("delivery_turned", [False, True], ids=["in-order", "delivery-turned"])
@pytest.mark.parametrize("reading_turned", [False, True], ids=["in-order", "reading-turned"])
@pytest.mark.parametrize("first", ["loser", "winner"])
def test_both_events_in_every_order(
    moves: Moves, first: str, reading_turned: bool, delivery_turned: bool
) -> None:
    loses, gets = moves.move()
    early, late = (loses, gets) if first == "loser" else (gets, loses)
    held = {} if not reading_turned else {early: moves.send_held(early)}
    if delivery_turned:
        moves.hold_next(*moves.handlers)
    read_first, read_last = (late, early) if reading_turned else (early, late)
    one = moves.send(read_first)
    if delivery_turned:
        moves.enriched(one)
    else:
        moves.stack.finished(one)
    two = held.get(read_last) or moves.send(read_last)
    if reading_turned:
        assert not moves.stack.histories(two), "its reading was to be held back"
        moves.let_go(READING_HELD)
    moves.stack.finished(two)
    if delivery_turned:
        assert not moves.stack.histories(one)[0].final, "its deliveries were to be held back"
        moves.let_go(DELIVERY_HELD)
    moves.assert_right([one, two])


@pytest.mark.parametrize("held", list(itertools.product([False, True], repeat=4)), ids=str)
def test_move_and_move_back_with_any_delivery_late(moves: Moves, held: Sequence[bool]) -> None:
    i_events = []
    late = iter(held)
    for _ in range(2):
        for i_account in moves.move():
            is_late = next(late)
            if is_late:
                moves.hold_next(*moves.handlers)
            i_event = moves.send(i_account)
            i_events.append(i_event)
            moves.enriched(i_event) if is_late else moves.stack.finished(i_event)
    moves.let_go(DELIVERY_HELD)
    moves.assert_right(i_events)


def test_all_at_once_again_and_again(moves: Moves) -> None:
    i_events = []
    for _ in range(6):
        i_events += [moves.send(i_account) for i_account in moves.move()]
    moves.assert_right(i_events)


def test_an_older_state_of_the_former_holder_comes_last(moves: Moves) -> None:
    moves.hold_next(*moves.handlers)
    old = moves.send(moves.holder)  # read while it still had the card
    moves.enriched(old)
    i_events = [moves.send(i_account) for i_account in moves.move()]
    for i_event in i_events:
        moves.stack.finished(i_event)
    moves.let_go(DELIVERY_HELD)
    moves.assert_right([old, *i_events])


@pytest.mark.parametrize("mover", [0, 1], ids=["former holder", "new holder"])
def test_a_read_that_answers_with_what_was_before_the_move(moves: Moves, mover: int) -> None:
    """The read begins before the move, and its answer comes long after it."""
    stack = moves.stack
    asks = (moves.holder, moves.other)[mover]
    before = stack.get("/sandbox/calls")["counts"]["Account/get_account_info"]
    stack.portabilling_fault("slow", milliseconds=2500, when="after", times=2, methods=READS)
    old = moves.send(asks)
    wait_for(
        lambda: stack.get("/sandbox/calls")["counts"]["Account/get_account_info"] > before,
        20,
        "the read to begin",
    )
    i_events = [moves.send(i_account) for i_account in moves.move()]
    moves.assert_right([old, *i_events])


@pytest.mark.parametrize("stopped", ["enrichment", "sims"])
def test_a_function_that_hangs_meanwhile(moves: Moves, stopped: str) -> None:
    loses, gets = moves.move()
    moves.stack.stop_part(stopped)
    i_events = [moves.send(loses), moves.send(gets)]
    i_events += [moves.send(i_account) for i_account in moves.move()]
    assert not any(history.final for each in i_events for history in moves.stack.histories(each))
    moves.stack.continue_part(stopped)
    moves.assert_right(i_events)


def test_a_card_that_is_given_out_while_its_event_is_read_belongs_to_the_account(
    moves: Moves,
) -> None:
    """An event of the inventory names the card alone: nobody has it when that is asked, an account
    has it when the card is read. Its row must be the account's, or no later swap removes it."""
    stack, holder = moves.stack, moves.holder
    card = stack.new_card()
    asked = len(stack.get("/sandbox/calls?method=SIMCard/get_card_info")["calls"])
    stack.portabilling_fault("slow", milliseconds=1500, when="after", times=1, methods=READS)
    variables = {"i_env": 1, "i_event": next(_events), "i_sim_card": card["i_sim_card"]}
    assert stack.send("SIM/Created", **variables).status_code == 200
    wait_for(
        lambda: len(stack.get("/sandbox/calls?method=SIMCard/get_card_info")["calls"]) > asked,
        20,
        "the card to be asked for",
    )
    stack.sandbox.do("swap_sim", i_account=holder, i_sim_card=card["i_sim_card"])
    history = stack.finished(variables["i_event"])
    assert history.owner == f"account:{holder}"
    assert stack.rows("sims.db", "select imsi from subscribers") == [{"imsi": card["imsi"]}]
    stack.sandbox.do("swap_sim", i_account=holder, i_sim_card=moves.card)
    moves.assert_right([moves.send(holder)])


def test_a_swap_removes_the_old_card_that_no_event_names(moves: Moves) -> None:
    stack, holder = moves.stack, moves.holder
    other_card = stack.new_card()
    stack.sandbox.do("swap_sim", i_account=holder, i_sim_card=other_card["i_sim_card"])
    i_event = moves.send(holder)
    stack.finished(i_event)
    rows = stack.rows("sims.db", "select imsi from subscribers")
    assert rows == [{"imsi": other_card["imsi"]}]
    if "hss" in moves.handlers:
        assert stack.rows("hss/hlr.db", "select imsi from subscriber") == rows
    stack.sandbox.do("swap_sim", i_account=holder, i_sim_card=moves.card)
    moves.assert_right([moves.send(holder)])
