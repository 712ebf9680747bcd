"""Who is served, and under what number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from nsps.domain.snapshot import PbData
from nsps.domain.subscriber import (
    SERVED_IN,
    account_ids,
    as_msisdn,
    is_closed,
    is_served,
    msisdn,
    service_word,
)

IMSI, ICCID = "001010000000001", "8944501234567890123"
DOCUMENTED = {
    *("active", "customer_exported", "expired", "quarantine", "screening", "closed", "inactive"),
    *("suspended", "customer_suspended", "customer_limited", "customer_provisionally_terminated"),
    *("blocked", "customer_blocked", "not_yet_active", "credit_exceeded", "overdraft"),
    *("customer_has_no_available_funds", "customer_credit_exceed", "zero_balance"),
    *("customer_suspension_delayed", "customer_limiting_delayed", "frozen"),
}
STOPS = {
    *("blocked", "customer_blocked", "suspended", "customer_suspended", "closed", "inactive"),
    *("customer_provisionally_terminated", "not_yet_active", "expired"),
}
DECISION = Path(__file__).parents[2] / "docs" / "decisions" / "0015-served.md"


def data(sim: Any = None, **account: Any) -> PbData:
    plain = {"i_account": 277003, "bill_status": "open", "blocked": False, **account}
    return PbData.from_contract({"account_info": plain, "sim_info": sim})


class TestServed:
    @pytest.mark.parametrize(
        ("account", "served", "word"),
        [
            ({}, True, "active"),
            ({"status": "active"}, True, "active"),
            ({"status": " Active "}, True, "active"),
            ({"status": ""}, True, "active"),
            ({"bill_status": "active"}, True, "active"),
            ({"bill_status": "active", "status": "customer_blocked"}, False, "barred"),
            ({"blocked": True}, False, "barred"),
            ({"blocked": True, "status": "active"}, False, "barred"),
            ({"blocked": None}, True, "active"),
            ({"status": "customer_suspended"}, False, "barred"),
            ({"status": "CUSTOMER_SUSPENDED"}, False, "barred"),
            ({"status": "a_word_of_a_later_release"}, False, "barred"),
            ({"bill_status": "suspended", "status": "active"}, False, "suspended"),
            ({"bill_status": "inactive"}, False, "inactive"),
            ({"bill_status": "terminated", "blocked": True}, False, "terminated"),
            ({"bill_status": "Z"}, False, "Z"),
            ({"bill_status": None}, False, "unknown"),
            ({"status": "closed"}, False, "terminated"),
        ],
    )
    def test_all_that_is_said_must_allow_it(self, account: Any, served: bool, word: str) -> None:
        info = data(**account).account_info
        assert info is not None
        assert (is_served(info), service_word(info)) == (served, word)

    @pytest.mark.parametrize("status", sorted(DOCUMENTED))
    def test_each_documented_status(self, status: str) -> None:
        assert is_served(data(status=status).account_info) is (status not in STOPS)

    def test_the_list_is_whole_and_is_the_decision_s(self) -> None:
        assert set(SERVED_IN) == DOCUMENTED | {"ok"}
        rows = re.findall(r"^\| `(\w+)` \| (yes|no) \|", DECISION.read_text(), re.MULTILINE)
        assert {word: served == "yes" for word, served in rows} == {
            word: served for word, served in SERVED_IN.items() if word != "ok"
        }

    def test_without_an_account_there_is_no_service(self) -> None:
        assert not is_served(None)

    @pytest.mark.parametrize(
        ("account", "closed"),
        [
            ({}, False),
            ({"bill_status": "terminated"}, True),
            ({"status": "closed"}, True),
            ({"status": "customer_provisionally_terminated"}, False),
        ],
    )
    def test_who_is_gone_for_good(self, account: Any, closed: bool) -> None:
        info = data(**account).account_info
        assert info is not None
        assert is_closed(info) is closed


class TestNumber:
    @pytest.mark.parametrize(
        ("ident", "of_card", "number"),
        [
            ("447700900001", None, "447700900001"),
            ("447700900001@msisdn", "447700900009", "447700900001"),
            ("+447700900001@MSISDN ", None, "447700900001"),
            ("+447700900001", None, "447700900001"),
            (447700900001, None, "447700900001"),
            # no number: the card's
            ("alice", "447700900001", "447700900001"),
            ("alice@msisdn", "+447700900001@msisdn", "447700900001"),
            ("447700900001@voip.example.net", "447700900002", "447700900002"),
            ("447 700@msisdn", "447700900001", "447700900001"),
            ("1234567890123456", "447700900001", "447700900001"),
            ("\u0664\u0664\u0667", "447700900001", "447700900001"),
            ("++447700900001", "447700900001", "447700900001"),
            (None, "447700900001", "447700900001"),
            # the card itself
            (IMSI, "447700900001", "447700900001"),
            (f"{IMSI}@msisdn", "447700900001", "447700900001"),
            (f"+{IMSI}", "447700900001", "447700900001"),
            (ICCID, "447700900001", "447700900001"),
            ("001010000000777", "447700900001", "447700900001"),  # of a card that it had before
            (IMSI, IMSI, None),  # PortaBilling gives the card the account's id as its number
            ("alice", "bob", None),
            ("alice", None, None),
            (None, None, None),
            ("", "", None),
        ],
    )
    def test_one_reading(self, ident: Any, of_card: Any, number: str | None) -> None:
        sim = {"imsi": IMSI, "iccid": ICCID, "msisdn": of_card}
        assert msisdn(data(sim, id=ident)) == number

    def test_a_short_iccid_is_no_number(self) -> None:
        assert msisdn(data({"imsi": IMSI, "iccid": "123456789"}, id="123456789")) is None

    def test_without_a_card(self) -> None:
        assert msisdn(data(id="+447700900001")) == "447700900001"
        assert msisdn(data(id=IMSI)) == IMSI  # nothing says that it is one
        assert msisdn(PbData(account_info=None, sim_info=None)) is None

    def test_an_account_is_looked_for_by_each_id_that_reads_as_the_number(self) -> None:
        ids = account_ids("447700900001")
        assert {as_msisdn(each) for each in ids} == {"447700900001"}
        assert len(ids) == 4
