"""What each operation of the sandbox tells ESPF, in each vocabulary; and that it is told after it
is so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps_local.sandbox import Sandbox, SandboxConfig
from nsps_local.sandbox.billing import Billing
from nsps_local.sandbox.domain import NotFound, Refused
from nsps_local.sandbox.events import Change, Form, event_types, variables
from nsps_testing.waiting import wait_for

from tests.local_cloud.sandbox_kit import Api, Hook, receiver

S, L, DATA = 61, 62, 63
CARD, OTHER_CARD, THIRD_CARD = 3793, 3794, 3795

Operation = Callable[[Billing, int], Any]

# operation: what it is called in v1, v2 and sim
TOLD: list[tuple[str, Operation, list[str], list[str], list[str]]] = [
    (
        "block",
        lambda b, a: b.block_account(a),
        ["Account/Blocked"],
        ["Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "product",
        lambda b, a: b.change_product(a, L),
        ["Account/Product/Changed"],
        ["Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "suspend",
        lambda b, a: b.suspend_account(a),
        ["Account/Status/Suspended"],
        ["Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "swap",
        lambda b, a: b.swap_sim(a, OTHER_CARD),
        ["Account/SIMCardAssignment"],
        ["Subscriber/Updated"],
        ["SIM/Replaced"],
    ),
    (
        "release",
        lambda b, a: b.release_sim(a),
        ["Account/SIMCardAssignment"],
        ["Subscriber/Updated"],
        ["SIM/Replaced"],
    ),
    (
        "close",
        lambda b, a: b.close_account(a),
        ["Account/SIMCardAssignment", "Account/Status/Closed"],
        ["Subscriber/Updated", "Subscriber/Deleted"],
        ["SIM/Replaced", "SIM/Updated"],
    ),
    (
        "number",
        lambda b, a: b.change_account_id(a, "447700900099"),
        ["Account/Id/Changed"],
        ["Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "service password",
        lambda b, a: b.change_service_password(a, "a-password"),
        ["Account/ServicePassword/Changed"],
        ["Subscriber/Updated"],
        [],
    ),
    (
        "add-on",
        lambda b, a: b.add_addon(a, DATA),
        ["Account/ProductAddon/Inserted"],
        ["Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "quota of voice",
        lambda b, a: b.exceed_quota(a, "voice"),
        ["Account/Service/QuotaExceeded"],
        ["Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "quota of data",
        lambda b, a: b.exceed_quota(a, "netaccess"),
        ["Account/Service/Netaccess/QuotaExceeded"],
        ["Subscriber/Updated"],
        [],
    ),
    (
        "e-mail",
        lambda b, a: b.update_account(a, email="a@b.example"),
        ["Subscriber/ContactInfo/Changed"],
        ["Subscriber/Updated"],
        [],
    ),
    (
        "customer's e-mail",
        lambda b, _: b.update_customer(2501, email="a@b.example"),
        [],
        ["Customer/Updated"],
        [],
    ),
    (
        "customer's name",
        lambda b, _: b.update_customer(2501, name="Other"),
        ["Customer/Name/Changed"],
        ["Customer/Updated"],
        [],
    ),
    (
        "new customer",
        lambda b, _: b.add_customer("New"),
        ["Customer/New"],
        ["Customer/Created"],
        [],
    ),
    (
        "block customer",
        lambda b, _: b.block_customer(2501),
        ["Customer/Blocked", "Account/Blocked"],
        ["Customer/Updated", "Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "policy of the product",
        lambda b, _: b.set_access_policy_attribute(179, "lte.wtl", "cs_profile", "cs-new"),
        ["AccessPolicy/Changed", "Account/AccessPolicy/Changed"],
        ["Subscriber/Updated"],
        ["SIM/Updated"],
    ),
    (
        "new card",
        lambda b, _: b.add_sim_card("001010000000099", "8900101000000000099"),
        [],
        [],
        ["SIM/Created"],
    ),
    ("card removed", lambda b, _: b.remove_sim_card(OTHER_CARD), [], [], ["SIM/Deleted"]),
    (
        "card reserved",
        lambda b, _: b.set_sim_status(OTHER_CARD, "reserved"),
        [],
        [],
        ["SIM/Updated"],
    ),
    ("new number", lambda b, _: b.add_number("34910000000"), ["DID/New"], ["DID/Created"], []),
    (
        "invoice",
        lambda b, _: b.pay_invoice(b.issue_invoice(2501, 10)["i_invoice"], 10),
        ["Invoice/AmountPaid/Changed"],
        ["Invoice/Updated"],
        [],
    ),
]


def quiet(tmp_path: Path, **events: Any) -> Sandbox:
    """A sandbox whose events wait, not started."""
    return Sandbox(tmp_path, config={"events": events} if events else None)


@pytest.mark.parametrize(
    ("operation", "v1", "v2", "sim"), [t[1:] for t in TOLD], ids=[t[0] for t in TOLD]
)
def test_an_operation_in_each_vocabulary(
    tmp_path: Path, operation: Operation, v1: list[str], v2: list[str], sim: list[str]
) -> None:
    sandbox = quiet(tmp_path, vocabulary=["v1", "v2", "sim"])
    made = sandbox.billing.add_account("447700900001", 2501, S, CARD)
    sent = [
        event["event_type"] for event in operation(sandbox.billing, made["i_account"])["events"]
    ]
    sandbox.stop()
    by_vocabulary = {
        "sim": [t for t in sent if t.startswith("SIM/")],
        "v2": [
            t
            for t in sent
            if t.count("/") == 1 and t.split("/")[1] in ("Created", "Updated", "Deleted")
        ],
    }
    by_vocabulary["v2"] = [t for t in by_vocabulary["v2"] if not t.startswith("SIM/")]
    by_vocabulary["v1"] = [t for t in sent if t not in by_vocabulary["sim"] + by_vocabulary["v2"]]
    assert by_vocabulary == {"v1": v1, "v2": v2, "sim": sim}


def test_the_default_is_sim_events_and_customers(tmp_path: Path) -> None:
    sandbox = quiet(tmp_path)
    billing = sandbox.billing
    a = billing.add_account("447700900001", 2501, S, CARD)["i_account"]
    billing.block_customer(2501)
    billing.update_account(a, email="a@b.example")
    sent = [(e["event_type"], e["variables"]) for e in reversed(sandbox.queue.events())]
    sandbox.stop()
    assert [t for t, _ in sent] == ["SIM/Replaced", "Customer/Updated", "SIM/Updated"]
    assert set(sent[0][1]) == {"i_event", "i_env", "i_account", "event_time"}
    assert set(sent[1][1]) == {"i_event", "i_env", "i_customer", "event_time"}
    assert [v["i_event"] for _, v in sent] == [7601, 7602, 7603], "sequential"


def test_the_form_of_the_variables_can_be_chosen(tmp_path: Path) -> None:
    sandbox = quiet(tmp_path, ids_as_strings=True, i_env=None, event_time=False, sim_ids=True)
    a = sandbox.billing.add_account("447700900001", 2501, S, CARD)["i_account"]
    sandbox.billing.swap_sim(a, OTHER_CARD)
    swapped = sandbox.queue.events()[0]["variables"]
    sandbox.billing.set_sim_status(THIRD_CARD, "reserved")
    reserved = sandbox.queue.events()[0]["variables"]
    sandbox.stop()
    assert swapped == {
        "i_event": "7602",
        "i_account": str(a),
        "i_sim_card": str(OTHER_CARD),
        "prev_i_sim_card": str(CARD),
    }
    assert reserved["i_sim_card"] == str(THIRD_CARD)
    assert (reserved["curr_status"], reserved["prev_status"]) == ("reserved", "available")


def test_a_moved_card_is_told_for_both_accounts_after_it_is_visible(tmp_path: Path) -> None:
    """The receiver asks the API the moment each event arrives, and must find the new state."""
    seen: list[tuple[int, int | None]] = []

    def look(hook: Hook) -> int:
        i_account = hook.body["variables"]["i_account"]
        card = api.call("SIMCard/get_card_info", i_account=i_account).get("card_info")
        seen.append((i_account, card and card["i_sim_card"]))
        return 200

    with receiver(usual=look) as hooks, Sandbox(tmp_path) as sandbox:
        api = Api(sandbox.url)
        api.login()
        x = api.do(
            "add_account", msisdn="447700900001", i_customer=2501, i_product=S, i_sim_card=CARD
        )
        y = api.do(
            "add_account",
            msisdn="447700900002",
            i_customer=2502,
            i_product=S,
            i_sim_card=OTHER_CARD,
        )
        api.control("settings", {"webhook": {"url": hooks.url}})
        wait_for(lambda: len(seen) == 2)
        for _ in range(10):
            seen.clear()
            moved = api.do("move_sim", i_sim_card=CARD, i_account=y["i_account"])
            assert [e["event_type"] for e in moved["events"]] == ["SIM/Replaced"] * 2
            wait_for(lambda: len(seen) == 2)
            assert sorted(seen, key=str) == sorted(
                [(x["i_account"], None), (y["i_account"], CARD)], key=str
            )
            x, y = y, x
        free = [c["i_sim_card"] for c in api.control("state")["free_sim_cards"]]
        assert OTHER_CARD in free, "the card that was displaced is back in the inventory"
        card = api.call("SIMCard/get_card_info", i_sim_card=CARD)["card_info"]
        assert card["msisdn"] == x["id"].split("@")[0], "the card took the number of its account"


def test_a_customer_fans_out_into_all_its_open_accounts(tmp_path: Path) -> None:
    sandbox = quiet(tmp_path)
    accounts = [
        sandbox.billing.add_account(f"4477009000{n:02d}", 2501, S)["i_account"] for n in range(1, 6)
    ]
    sandbox.billing.close_account(accounts[0])
    sandbox.billing.add_account("447700900050", 2502, S)
    sent = sandbox.billing.suspend_customer(2501)["events"]
    again = sandbox.billing.suspend_customer(2501)["events"]
    whom = {sandbox.queue.event(e["i_event"])["variables"].get("i_account") for e in sent}  # type: ignore[index]
    sandbox.stop()
    assert whom == {None, *accounts[1:]}
    assert again == [], "what is already so is no change"


def test_a_handler_that_is_off_leaves_no_events(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, config={"webhook": {"enabled": False}})
    assert sandbox.billing.add_account("447700900001", 2501, S, CARD)["events"] == []
    sandbox.reconfigure({"webhook": {"enabled": True}})
    assert len(sandbox.billing.block_customer(2501)["events"]) == 2
    sandbox.stop()


@pytest.mark.parametrize(
    "refused",
    [
        lambda b, a: b.add_account("447700900001", 2501, S),
        lambda b, a: b.add_account("447700900009", 2501, DATA),
        lambda b, a: b.add_account("447700900009", 2501, S, CARD),
        lambda b, a: b.add_account("447700900009", 1, S),
        lambda b, a: b.add_addon(a, S),
        lambda b, a: b.remove_addon(a, DATA),
        lambda b, a: b.assign_sim(a, OTHER_CARD),
        lambda b, a: b.swap_sim(a, CARD),
        lambda b, a: b.swap_sim(a, 1),
        lambda b, a: b.move_sim(CARD, a),
        lambda b, a: b.move_sim(OTHER_CARD, a),
        lambda b, a: b.remove_sim_card(CARD),
        lambda b, a: b.set_sim_status(CARD, "disposed"),
        lambda b, a: b.update_account(a),
        lambda b, a: b.add_sim_card("001010000000001", "x"),
        lambda b, a: b.add_customer(" "),
        lambda b, a: b.block_account(1),
        lambda b, a: b.top_up_bundle(a, 48, 1),
        lambda b, a: b.release_number("1"),
        lambda b, a: b.pay_invoice(1, 1),
    ],
)
def test_what_portabilling_would_not_do_changes_and_tells_nothing(
    tmp_path: Path, refused: Operation
) -> None:
    sandbox = quiet(tmp_path)
    a = sandbox.billing.add_account("447700900001", 2501, S, CARD)["i_account"]
    tables = ("accounts", "sim_cards", "events", "addons", "customers", "numbers")
    before = [sandbox.store.rows(f"SELECT * FROM {table}") for table in tables]
    with pytest.raises(Refused, match=r"\w+ .*\.$"):
        refused(sandbox.billing, a)
    after = [sandbox.store.rows(f"SELECT * FROM {table}") for table in tables]
    sandbox.stop()
    assert before == after


def test_a_change_whose_event_cannot_be_written_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = quiet(tmp_path)
    a = sandbox.billing.add_account("447700900001", 2501, S, CARD)["i_account"]

    def full(_changes: list[Change]) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(sandbox.queue, "add", full)
    with pytest.raises(OSError, match="full"):
        sandbox.billing.block_account(a)
    blocked = sandbox.store.value("SELECT blocked FROM accounts WHERE i_account = ?", a)
    sandbox.stop()
    assert blocked == "N"


def test_a_closed_account_is_closed_for_good(tmp_path: Path) -> None:
    sandbox = quiet(tmp_path)
    a = sandbox.billing.add_account("447700900001", 2501, S, CARD)["i_account"]
    sandbox.billing.close_account(a)
    with pytest.raises(Refused, match="closed"):
        sandbox.billing.block_account(a)
    with pytest.raises(NotFound):
        sandbox.billing.block_account(a + 1)
    sandbox.billing.add_account("447700900002", 2501, S, CARD)
    sandbox.stop()


ids = st.dictionaries(
    st.sampled_from(["i_account", "i_customer", "i_sim_card", "number"]),
    st.integers(1, 10**9),
    min_size=1,
)


@given(
    kind=st.sampled_from(
        ["Account/Blocked", "Customer/New", "sim/created", "Account/SIMCardAssignment"]
    ),
    entity=ids,
    strings=st.booleans(),
    time=st.booleans(),
)
def test_variables_are_json_and_never_lose_whom_they_concern(
    kind: str, entity: dict[str, int], strings: bool, time: bool
) -> None:
    form = Form(["v1", "v2", "sim"], 3, time, strings, sim_ids=True)
    change = Change(kind, entity)
    for event_type in event_types(change, form.vocabulary):
        content = json.loads(json.dumps(variables(change, event_type, form, "2026-11-21 00:00:00")))
        kept = {
            k: v for k, v in entity.items() if event_type.startswith("SIM/") or k != "i_sim_card"
        }
        assert {k: int(content[k]) for k in kept} == kept
        assert all(isinstance(content[k], str) is strings for k in kept)
        assert ("event_time" in content) is time


@pytest.mark.parametrize("wrong", ["v3", "v2/Account", "sim/Card", "", "SIM"])
def test_an_unknown_vocabulary_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        SandboxConfig.model_validate({"events": {"vocabulary": [wrong]}})
