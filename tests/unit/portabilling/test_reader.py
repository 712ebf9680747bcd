"""What is called for which blocks and owner, and what is made of the answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from nsps.domain.event import EspfEvent, Owner, SnapshotTime
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import Block, PbData
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.errors import BadAnswer
from nsps.portabilling.freshness import FreshReads
from nsps.portabilling.reader import Reader

from tests.unit.portabilling import fake_api
from tests.unit.portabilling.fake_api import FakeApi, Handler, fault, in_json

ACCOUNT = "Account/get_account_info"
SIM = "SIMCard/get_card_info"
POLICY = "AccessPolicy/get_access_policy_info"
PRODUCT = "Product/get_product_info"
COUNTERS = "Account/get_full_vd_counter_info"
CUSTOMER = "Customer/get_customer_info"
NUMBER = "DID/get_number_info"
INVOICE = "Invoice/get_invoice_info"

CARD = {"i_sim_card": 9, "i_account": 1, "imsi": "214070000000001", "iccid": "8934", "ki": "canary"}
OLD_CARD = {"i_sim_card": 8, "imsi": "214070000000008", "iccid": "8933", "status": "available"}
EVENT = EspfEvent("SIM/Updated", {"i_event": 1, "i_account": 1})
ACCOUNT_1 = Owner("account", "1")
ALL = frozenset(Block)


def by_key(cards: list[dict[str, Any]]) -> fake_api.Answer:
    """A SIM API: the card that has all members asked for, else a not-found fault."""

    def answer(handler: Handler) -> None:
        params = handler.fake.calls[-1][1]
        asked = params.items()
        found = next((card for card in cards if asked <= card.items()), None)
        answer = in_json({"card_info": found}) if found else fault("Server.SIMCard.card_not_found")
        answer(handler)

    return answer


@pytest.fixture
def billing(api: FakeApi) -> FakeApi:
    features = [
        {
            "name": "netaccess_policy",
            "effective_flag_value": "Y",
            "attributes": [{"name": "access_policy", "effective_values": ["30"]}],
        }
    ]
    account = {"i_account": 1, "i_product": 60, "i_customer": 7, "bill_status": "O"}
    api.answers = {
        ACCOUNT: in_json({"account_info": {**account, "service_features": features}}),
        SIM: by_key([CARD, OLD_CARD]),
        POLICY: in_json({"access_policy_info": {"i_access_policy": 30, "name": "LTE"}}),
        PRODUCT: in_json({"product_info": {"i_product": 60, "name": "Mobile"}}),
        COUNTERS: in_json({"full_vd_counter_info": [{"remaining": 5}]}),
        CUSTOMER: in_json({"customer_info": {"i_customer": 7, "name": "ACME"}}),
        NUMBER: in_json({"number_info": {"number": "34600000001", "i_account": 1}}),
        INVOICE: in_json({"invoice_info": {"i_invoice": 4, "i_customer": 7}}),
    }
    return api


@pytest.fixture
def reader(client: PortaBilling) -> Iterator[Reader]:
    reader = Reader(client)
    yield reader
    reader.close()


def present(pb: PbData) -> set[str]:
    return set(pb.to_contract())


def methods(api: FakeApi) -> list[str]:
    return sorted(name for name, _, _ in api.calls if not name.startswith("Session/"))


def test_everything_of_an_account(billing: FakeApi, reader: Reader) -> None:
    pb = reader.read(EVENT, ACCOUNT_1, ALL)
    assert present(pb) == {block.value for block in ALL - {Block.PREV_SIM_INFO}}
    assert pb.sim_info is not None
    assert pb.sim_info.imsi == "214070000000001"
    assert methods(billing) == sorted([ACCOUNT, SIM, POLICY, PRODUCT, COUNTERS, CUSTOMER])
    assert billing.called(POLICY) == [{"i_access_policy": 30}]
    assert billing.called(PRODUCT) == [{"i_product": 60}]
    assert billing.called(CUSTOMER) == [{"i_customer": 7}]
    assert billing.called(SIM) == [{"i_account": 1}]
    assert billing.called(COUNTERS) == [{"i_account": 1}]


@pytest.mark.parametrize(
    ("blocks", "called"),
    [
        ([], []),
        (["account_info"], [ACCOUNT]),
        (["sim_info"], [SIM]),
        (["prev_sim_info"], []),
        (["full_vd_counter_info"], [COUNTERS]),
        (["product_info"], [ACCOUNT, PRODUCT]),
        (["access_policy_info"], [POLICY, ACCOUNT]),
        (["customer_info"], [ACCOUNT, CUSTOMER]),
        (["account_info", "sim_info"], [ACCOUNT, SIM]),
    ],
)
def test_only_what_the_blocks_need_is_called(
    billing: FakeApi, reader: Reader, blocks: list[str], called: list[str]
) -> None:
    pb = reader.read(EVENT, ACCOUNT_1, [Block(block) for block in blocks])
    assert methods(billing) == sorted(called)
    assert present(pb) == set(blocks) - {"prev_sim_info"}


@pytest.mark.parametrize(
    "gone",
    [
        fault("Server.Account.account_not_found"),
        in_json({"account_info": None}),
        in_json({"account_info": {}}),
    ],
)
def test_an_account_that_is_gone_is_not_an_error(
    billing: FakeApi, reader: Reader, gone: fake_api.Answer
) -> None:
    billing.answers |= {ACCOUNT: gone, SIM: by_key([]), COUNTERS: gone}
    billing.answers[COUNTERS] = fault("Server.Account.account_not_found")
    assert reader.read(EVENT, ACCOUNT_1, ALL) == PbData().read_as(ALL)
    assert methods(billing) == sorted([ACCOUNT, SIM, COUNTERS])


@pytest.mark.parametrize(
    "answer",
    [
        in_json({"something_else": {"i_account": 1}}),
        in_json({"account_info": [1]}),
        in_json({"account_info": "x"}),
        in_json({"account_info": {"id": "no number"}}),
        in_json({"account_info": {"i_account": 2}}),
        fault("Server.Account.method_not_found"),
        fault("Method.not_found"),
        in_json({}),
        fake_api.raw(b"null"),
        fake_api.raw(b"Not Found", 404),
    ],
)
def test_an_answer_of_another_shape_is_never_taken_for_gone(
    billing: FakeApi, reader: Reader, answer: fake_api.Answer
) -> None:
    billing.answers[ACCOUNT] = answer
    with pytest.raises(Transient, match="Account/get_account_info"):
        reader.read(EVENT, ACCOUNT_1, ALL)


@pytest.mark.parametrize(
    "answer",
    [
        in_json({"account_info": {"i_account": 1}}),
        in_json({"card_info": [CARD]}),
        in_json({"card_info": {"i_account": 1}}),
        in_json({"card_info": {"i_sim_card": 9, "i_account": 1, "imsi": " ", "iccid": None}}),
        fault("Method.not_found"),
        fault("Server.SIMCard.not_found"),
        fault("Server.Customer.customer_not_found"),
        fault("Client.unknown_method"),
        in_json({}),
        fake_api.raw(b"null"),
        fake_api.raw(b"Not Found", 404),
    ],
)
def test_a_wrong_path_for_sim_cards_never_reads_as_no_card(
    billing: FakeApi, reader: Reader, answer: fake_api.Answer
) -> None:
    billing.answers[SIM] = answer
    with pytest.raises(Transient, match="SIMCard/get_card_info"):
        reader.read(EVENT, ACCOUNT_1, [Block.SIM_INFO])


@pytest.mark.parametrize(
    "none",
    [
        fault("Server.SIMCard.card_not_found"),
        fault("Server.Account.account_not_found"),
        in_json({"card_info": None}),
        in_json({"card_info": {}}),
    ],
)
def test_an_account_without_a_card_is_not_an_error(
    billing: FakeApi, reader: Reader, none: fake_api.Answer
) -> None:
    billing.answers[SIM] = none
    assert reader.read(EVENT, ACCOUNT_1, [Block.SIM_INFO]) == PbData(sim_info=None)


def test_another_customer_is_never_taken(billing: FakeApi, reader: Reader) -> None:
    for other in ({"i_customer": 8}, {"name": "ACME"}):
        billing.answers[CUSTOMER] = in_json({"customer_info": other})
        with pytest.raises(BadAnswer, match="another customer"):
            reader.read(EVENT, Owner("customer", "7"), [Block.CUSTOMER_INFO])


def test_a_card_of_another_account_is_never_taken(billing: FakeApi, reader: Reader) -> None:
    billing.answers[SIM] = in_json({"card_info": {**CARD, "i_account": 2}})
    with pytest.raises(BadAnswer, match="sim_card_info"):
        reader.read(EVENT, ACCOUNT_1, [Block.SIM_INFO])


def test_damaged_answers_are_read_and_named(billing: FakeApi, reader: Reader) -> None:
    assert reader.read(EVENT, ACCOUNT_1, ALL).damaged == frozenset()
    account = b'{"account_info": {"i_account": 1, "blocked": "Y", "lastname": "M\xfcller"}}'
    billing.answers[ACCOUNT] = fake_api.raw(account)
    card = b'{"card_info": {"i_account": 1, "imsi": "001010000000001", "note": "two\nlines"}}'
    billing.answers[SIM] = fake_api.raw(card)
    pb = reader.read(EVENT, ACCOUNT_1, [Block.ACCOUNT_INFO, Block.SIM_INFO])
    assert pb.damaged == {"account_info", "sim_card_info"}
    assert "damaged" not in pb.to_contract()
    assert pb.account_info is not None
    assert (pb.account_info.blocked, pb.account_info.lastname) == (True, "M\ufffdller")
    event = EspfEvent("SIM/Replaced", {"prev_i_sim_card": 8})
    assert reader.with_event_part(pb, event, ACCOUNT_1, ALL).damaged == pb.damaged


@pytest.mark.parametrize(
    ("method", "body"),
    [
        (SIM, b'{"card_info": {"i_account": 1, "imsi": "00101\xff000000001"}}'),
        (SIM, b'{"card_info": {"i_account": 1, "iccid": "89\xff", "imsi": "001010000000001"}}'),
        (ACCOUNT, b'{"account_info": {"i_account": 1, "id": "44\xff7700900001@msisdn"}}'),
        (ACCOUNT, b'{"account_info": {"i_account": 1, "bill_status": "\xff"}}'),
    ],
)
def test_a_damaged_number_or_state_is_never_acted_on(
    billing: FakeApi, reader: Reader, method: str, body: bytes
) -> None:
    billing.answers[method] = fake_api.raw(body)
    with pytest.raises(BadAnswer, match="cannot be read: correct it in PortaBilling"):
        reader.read(EVENT, ACCOUNT_1, [Block.ACCOUNT_INFO, Block.SIM_INFO])


def test_an_account_without_product_and_policy(billing: FakeApi, reader: Reader) -> None:
    billing.answers[ACCOUNT] = in_json({"account_info": {"i_account": 1}})
    billing.answers[SIM] = by_key([])
    pb = reader.read(EVENT, ACCOUNT_1, ALL)
    assert present(pb) == {"account_info", "full_vd_counter_info"}


def test_the_previous_sim_is_read_by_what_the_event_names(billing: FakeApi, reader: Reader) -> None:
    for variables in (
        {"prev_i_sim_card": "8"},
        {"prev_imsi": "214070000000008"},
        {"prev_iccid": "8933"},
    ):
        event = EspfEvent("SIM/Replaced", {"i_account": 1, **variables})
        pb = reader.read(event, ACCOUNT_1, [Block.PREV_SIM_INFO])
        assert pb.prev_sim_info is not None
        assert (pb.prev_sim_info.i_sim_card, pb.prev_sim_info.status) == (8, "available")


def test_a_previous_sim_that_is_gone_is_what_the_event_says(
    billing: FakeApi, reader: Reader
) -> None:
    event = EspfEvent("SIM/Replaced", {"prev_i_sim_card": 77, "prev_imsi": "214070000000077"})
    pb = reader.read(event, ACCOUNT_1, [Block.PREV_SIM_INFO])
    assert PbData(prev_sim_info=pb.prev_sim_info).to_contract()["prev_sim_info"] == {
        "i_sim_card": 77,
        "imsi": "214070000000077",
    }


@pytest.mark.parametrize("blocks", [[Block.PREV_SIM_INFO], [Block.PREV_SIM_INFO, Block.SIM_INFO]])
@pytest.mark.parametrize(
    ("has", "named", "left_out"),
    [
        (None, {"prev_i_sim_card": 8}, False),
        (2, {"prev_i_sim_card": 8}, True),  # another account's by now
        (2, {"prev_imsi": "214070000000008"}, True),
        (2, {"prev_i_sim_card": 77, "prev_iccid": "8933"}, True),
        (1, {"prev_i_sim_card": 9}, True),  # the same account's again
    ],
)
def test_a_previous_sim_that_is_somebodys_by_now_is_not_named(
    billing: FakeApi,
    reader: Reader,
    blocks: list[Block],
    has: int | None,
    named: dict[str, Any],
    left_out: bool,
) -> None:
    """A partner that removes the previous SIM would cut off whoever has it."""
    old = {**OLD_CARD, "i_account": has} if has else OLD_CARD
    billing.answers[SIM] = by_key([CARD, old])
    event = EspfEvent("SIM/Replaced", {"i_account": 1, **named})
    assert (reader.read(event, ACCOUNT_1, blocks).prev_sim_info is None) == left_out


def test_the_imsi_that_an_account_has_again_is_not_its_previous_one(
    billing: FakeApi, reader: Reader
) -> None:
    """PortaBilling has no card by that key; only the event speaks of it."""

    def by_account_alone(handler: Handler) -> None:
        asked = handler.fake.calls[-1][1]
        answer = by_key([CARD]) if "i_account" in asked else fault("Server.SIMCard.unknown_key")
        answer(handler)

    billing.answers[SIM] = by_account_alone
    event = EspfEvent("SIM/Replaced", {"i_account": 1, "prev_imsi": CARD["imsi"]})
    pb = reader.read(event, ACCOUNT_1, [Block.PREV_SIM_INFO, Block.SIM_INFO])
    assert pb.prev_sim_info is None


def test_a_card_that_still_names_the_account_is_previous_once_another_took_its_place(
    billing: FakeApi, reader: Reader
) -> None:
    new = {**CARD, "i_sim_card": 10, "imsi": "214070000000010", "iccid": "8935"}
    billing.answers[SIM] = by_key([new, {**OLD_CARD, "i_account": 1}])
    event = EspfEvent("SIM/Replaced", {"i_account": 1, "prev_i_sim_card": 8})
    pb = reader.read(event, ACCOUNT_1, [Block.PREV_SIM_INFO, Block.SIM_INFO])
    assert pb.prev_sim_info is not None and pb.prev_sim_info.i_sim_card == 8


def test_an_accounts_sim_is_never_taken_from_an_event(billing: FakeApi, reader: Reader) -> None:
    event = EspfEvent("SIM/Replaced", {"i_account": 1, "i_sim_card": 8})
    pb = reader.read(event, ACCOUNT_1, [Block.SIM_INFO])
    assert pb.sim_info is not None
    assert pb.sim_info.i_sim_card == 9


def test_a_sim_that_only_the_event_names(billing: FakeApi, reader: Reader) -> None:
    event = EspfEvent("Customer/Updated", {"i_customer": 7, "i_sim_card": 8})
    pb = reader.read(event, Owner("customer", "7"), ALL)
    assert present(pb) == {"customer_info", "sim_info"}
    assert reader.read_owner(Owner("customer", "7"), ALL).sim_info is None


@pytest.mark.parametrize(
    ("owner", "blocks"),
    [
        (Owner("sim", "9"), {"sim_info", "account_info", "product_info"}),
        (Owner("did", "34600000001"), {"sim_info", "account_info", "product_info"}),
        (Owner("invoice", "4"), {"customer_info"}),
        (Owner("customer", "7"), {"customer_info"}),
        (Owner("event", "abc"), set()),
    ],
)
def test_other_owners(billing: FakeApi, reader: Reader, owner: Owner, blocks: set[str]) -> None:
    wanted = [Block.SIM_INFO, Block.ACCOUNT_INFO, Block.PRODUCT_INFO]
    wanted += [Block.CUSTOMER_INFO] if "customer_info" in blocks else []
    pb = reader.read(EspfEvent("Any/Thing", {}), owner, wanted)
    assert present(pb) == blocks
    assert pb.read == set(wanted)


def test_a_sim_in_the_inventory_and_one_that_is_gone(billing: FakeApi, reader: Reader) -> None:
    assert present(reader.read_owner(Owner("sim", "8"), ALL)) == {"sim_info"}
    gone = reader.read_owner(Owner("sim", "77"), ALL)
    assert gone == PbData().read_as(set(ALL) - {Block.PREV_SIM_INFO})


def test_the_account_behind_a_sim_or_number(billing: FakeApi, reader: Reader) -> None:
    assert reader.account_behind(Owner("sim", "9")) == ACCOUNT_1
    assert reader.account_behind(Owner("sim", "8")) == Owner("sim", "8")
    assert reader.account_behind(Owner("did", "34600000001")) == ACCOUNT_1
    assert reader.account_behind(Owner("customer", "7")) == Owner("customer", "7")


def test_independent_reads_go_out_side_by_side(billing: FakeApi, reader: Reader) -> None:
    together = threading.Barrier(3, timeout=5)
    billing.answers[SIM] = in_json({"card_info": CARD})

    def after_all(then: fake_api.Answer) -> fake_api.Answer:
        def answer(handler: Handler) -> None:
            together.wait()
            then(handler)

        return answer

    for method in (ACCOUNT, SIM, COUNTERS):
        billing.answers[method] = after_all(billing.answers[method])
    pb = reader.read(
        EVENT, ACCOUNT_1, [Block.ACCOUNT_INFO, Block.SIM_INFO, Block.FULL_VD_COUNTER_INFO]
    )
    assert present(pb) == {"account_info", "sim_info", "full_vd_counter_info"}


def test_more_reads_at_once_than_threads(billing: FakeApi, client: PortaBilling) -> None:
    reader = Reader(client, threads=1)
    billing.answers[SIM] = in_json({"card_info": CARD})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: reader.read(EVENT, ACCOUNT_1, ALL), range(16)))
    assert len(found) == 16
    assert len(set(found)) == 1
    reader.close()


@pytest.mark.parametrize("method", [ACCOUNT, SIM, POLICY, PRODUCT, COUNTERS, CUSTOMER])
def test_any_read_that_fails_fails_the_snapshot(
    billing: FakeApi, reader: Reader, method: str
) -> None:
    billing.answers[method] = fake_api.html(502)
    with pytest.raises(BadAnswer, match=method):
        reader.read(EVENT, ACCOUNT_1, ALL)


@pytest.mark.parametrize("method", [ACCOUNT, SIM, POLICY, PRODUCT, COUNTERS, CUSTOMER])
def test_a_token_that_dies_at_any_call_is_not_noticed(
    billing: FakeApi, reader: Reader, method: str
) -> None:
    def dies(handler: Handler) -> None:
        billing.kill_tokens()
        fault(fake_api.CHECK_FAILED)(handler)

    billing.next[method] = [dies]
    assert present(reader.read(EVENT, ACCOUNT_1, ALL)) == {
        block.value for block in ALL - {Block.PREV_SIM_INFO}
    }
    assert len(billing.called("Session/login")) == 2


def test_events_share_the_owners_part_and_keep_their_own(billing: FakeApi, reader: Reader) -> None:
    reads: FreshReads[PbData] = FreshReads()
    swap = EspfEvent("SIM/Replaced", {"i_account": 1, "prev_i_sim_card": 8})
    blocks = [Block.SIM_INFO, Block.PREV_SIM_INFO]
    times = [SnapshotTime(f"2026-11-21T00:00:0{n}.000000Z/e") for n in (2, 1)]
    first = reader.read_fresh(reads, swap, ACCOUNT_1, blocks, times[0])
    second = reader.read_fresh(reads, EVENT, ACCOUNT_1, blocks, times[1])
    assert first.t == second.t == times[0]
    assert first.value.prev_sim_info is not None
    assert second.value.prev_sim_info is None
    assert billing.called(SIM).count({"i_account": 1}) == 1
