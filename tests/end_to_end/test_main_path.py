"""From a webhook to a provisioned subscriber: the database is what PortaBilling says, always."""

from __future__ import annotations

import itertools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.api_core import exceptions
from nsps_testing.waiting import wait_for

from tests.end_to_end.whole_stack import WholeStack
from tests.local_cloud.firestore_kit import client
from tests.local_cloud.pubsub_rig import Rig

_numbers = itertools.count(1)

pytestmark = pytest.mark.timeout(240)


def rows(stack: WholeStack) -> dict[int, dict[str, Any]]:
    with sqlite3.connect(stack.state / "subscribers.db", timeout=20) as database:
        database.row_factory = sqlite3.Row
        found = database.execute("select * from subscribers").fetchall()
    return {row["i_account"]: dict(row) for row in found}


def new_account(stack: WholeStack, **more: Any) -> tuple[int, dict[str, Any]]:
    """A mobile account with a SIM card of its own; the card."""
    card = stack.sandbox.state()["free_sim_cards"][0]
    products = stack.sandbox.state()["products"]
    done = stack.do(
        "add_account",
        msisdn=f"4470{next(_numbers):08}",
        i_customer=2501,
        i_product=products[0]["i_product"],
        i_sim_card=card["i_sim_card"],
        **more,
    )
    return done["i_account"], card


def test_a_subscriber_is_created_changed_barred_and_swapped(stack: WholeStack) -> None:
    i_account, card = new_account(stack, firstname="Grace")
    assert rows(stack)[i_account]["imsi"] == card["imsi"]
    stack.do("block_account", i_account=i_account)
    assert rows(stack)[i_account]["status"] == "barred"
    stack.do("unblock_account", i_account=i_account)
    assert rows(stack)[i_account]["status"] == "active"
    other = stack.sandbox.state()["free_sim_cards"][0]
    stack.do("swap_sim", i_account=i_account, i_sim_card=other["i_sim_card"])
    assert rows(stack)[i_account]["imsi"] == other["imsi"]
    subscribers = stack.get("/sandbox/state")["accounts"]
    mine = next(account for account in subscribers if account["i_account"] == i_account)
    assert mine["provisioning"]["Database"]["status"] == "OK"


def test_a_suspended_customer_s_subscriber_is_barred(stack: WholeStack) -> None:
    i_account, _ = new_account(stack)
    stack.do("suspend_customer", i_customer=2501)
    try:
        assert rows(stack)[i_account]["status"] == "barred"
    finally:
        stack.do("unsuspend_customer", i_customer=2501)
    assert rows(stack)[i_account]["status"] == "active"


def test_an_account_called_by_its_card_s_imsi_has_no_number(stack: WholeStack) -> None:
    i_account, card = new_account(stack)
    assert rows(stack)[i_account]["msisdn"]
    stack.do("change_account_id", i_account=i_account, msisdn=card["imsi"])
    row = rows(stack)[i_account]
    assert (row["imsi"], row["msisdn"]) == (card["imsi"], None)


def test_a_block_arrives_however_the_account_is_spelled_and_whatever_comes_with_it(
    stack: WholeStack,
) -> None:
    i_account, _ = new_account(stack)
    spelled: tuple[tuple[float | str, dict[str, Any]], ...] = (
        (float(i_account), {"prev_iccid": 89445012345678901234}),
        (f"0{i_account}", {"": 1, "__x__": [[1], [2]], "n" * 2000: 1}),
    )
    stack.post("/sandbox/settings", webhook={"paused": True})
    try:
        for number, (spelling, strange) in enumerate(spelled, 980_001):
            change = "block_account" if number % 2 else "unblock_account"
            event_type = stack.sandbox.do(change, i_account=i_account)["events"][0]["event_type"]
            answer = stack.send(event_type, i_account=spelling, i_event=number, **strange)
            assert answer.status_code == 200
            history = stack.finished(number)
            assert [each.outcome for each in history.deliveries] == ["delivered"], history
            assert rows(stack)[i_account]["status"] == ("barred" if number % 2 else "active")
    finally:
        stack.post("/sandbox/settings", webhook={"paused": False})


def test_an_account_that_is_no_id_is_rejected_visibly(stack: WholeStack) -> None:
    answer = stack.send("SIM/Updated", i_account="277001/2", i_customer=2501, i_event=980_011)
    assert answer.status_code == 200
    history = stack.finished(980_011)
    assert (history.state, history.deliveries[0].outcome) == ("rejected", "rejected")


def test_the_same_number_for_another_account_is_another_event(stack: WholeStack) -> None:
    accounts = [new_account(stack)[0] for _ in range(2)]
    stack.post("/sandbox/settings", webhook={"paused": True})
    try:
        for i_account in accounts:
            stack.sandbox.do("block_account", i_account=i_account)
            assert (
                stack.send("SIM/Updated", i_account=i_account, i_event=980_021).status_code == 200
            )
        wait_for(lambda: len(stack.running.timeline.find("980021")) == 2, 30, "two events")
        wait_for(
            lambda: {rows(stack)[each]["status"] for each in accounts} == {"barred"}, 30, "both"
        )
    finally:
        stack.post("/sandbox/settings", webhook={"paused": False})


def test_the_same_webhook_fifty_times_is_one_event_and_one_write(stack: WholeStack) -> None:
    i_account, _ = new_account(stack)
    stack.post("/sandbox/settings", webhook={"paused": True})
    done = stack.sandbox.do("block_account", i_account=i_account)
    event = done["events"][0]
    variables = next(
        each["variables"]
        for each in stack.get("/sandbox/events")["events"]
        if each["i_event"] == event["i_event"]
    )
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: stack.send(event["event_type"], **variables), range(50)))
    stack.post("/sandbox/settings", webhook={"paused": False})
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["event_id"] for answer in answers}) == 1
    history = stack.finished(event["i_event"])
    assert len(stack.running.timeline.find(str(event["i_event"]))) == 1
    written = [r for r in history.deliveries[0].results if r["result"] == "written"]
    assert len(written) == 1, history
    # what is left of the fifty changes nothing more
    wait_for(lambda: stack.backlog() == 0, 60, "every copy to be acknowledged")
    again = stack.finished(event["i_event"])
    assert again.deliveries[0].finished_at == history.deliveries[0].finished_at


def test_an_event_nobody_wants_is_recorded(stack: WholeStack) -> None:
    answer = stack.send("Invoice/Created", i_customer=2501, i_invoice=1, i_event=990001)
    assert answer.status_code == 200
    history = stack.finished(990001)
    assert (history.state, history.deliveries) == ("unhandled", ())


def test_an_account_that_portabilling_does_not_know_ends_visibly(stack: WholeStack) -> None:
    assert stack.send("SIM/Updated", i_account=9999991, i_event=990002).status_code == 200
    delivery = stack.finished(990002).deliveries[0]
    assert delivery.outcome == "unchanged"
    assert delivery.espf is not None and "not known there" in delivery.espf["refused"], (
        delivery.espf
    )


def test_no_database_exists_but_the_deployment_s_own(stack: WholeStack) -> None:
    """A function with a wrong NSPS_DATABASE fails here as it would in the cloud."""
    firestore, project = stack.description["firestore"], stack.description["project"]
    client(firestore["host"], project, firestore["database"]).document("events/none").get()
    for wrong in ((project, "(default)"), ("other", firestore["database"])):
        with pytest.raises(exceptions.NotFound, match=firestore["database"]):
            client(firestore["host"], *wrong).document("events/none").get()


def test_no_account_pushes_that_the_program_does_not_make(stack: WholeStack) -> None:
    project = stack.description["project"]
    rig = Rig(stack.description["pubsub"]["host"])
    push = {
        "push_endpoint": stack.description["enrichment"]["url"],
        "oidc_token": {"service_account_email": f"none@{project}.iam.gserviceaccount.com"},
    }
    with pytest.raises(exceptions.NotFound, match="none@"):
        rig.subscription(rig.topic(), push_config=push)
    rig.close()
