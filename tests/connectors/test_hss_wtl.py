"""The connector hss_wtl: the standard tests, and its own rules, against a double of the vendor's
sample."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from nsps.connector.base import State
from nsps.domain.outcome import Terminal, Transient
from nsps.transport.answers import AnswerRules
from nsps_testing.standard import (
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    enriched,
    make_call,
)
from pydantic import ValidationError

from functions.connectors.hss_wtl.connector import ANSWERS, BARRED, GRANTED, Settings, WtlHss

IMSI = "001010000000003"
TOKEN = "wtl-token-5a7c"
SETTINGS = {"cs_profile": "cs-default", "eps_profile": "eps-default", "allow_http": True}


class WtlDouble:
    """The sample's API: it keeps what it is given, and says in a 200 whether it did."""

    def __init__(self, *, token: str = TOKEN) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self._token = token

    def __call__(self, request: Seen) -> Reply:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return Reply(401, {"result": False, "error": "unauthorized"})
        if (request.method, request.path.rpartition("/")[2]) != ("POST", "prov"):
            return Reply(405, {"result": False, "error": "method"})
        subscriber = request.json()
        imsi, numbers = subscriber.pop("imsi"), subscriber["msisdn"]
        if any(
            numbers and each["msisdn"] == numbers for key, each in self.held.items() if key != imsi
        ):
            text = f"MSISDN {numbers[0]} is in use, requested for IMSI {imsi}"
            return Reply(200, {"result": False, "error": "MSISDN_IN_USE", "message": text})
        assert subscriber.pop("action") == "update"
        self.held[imsi] = subscriber
        return Reply(200, {"result": True})


def snapshot(
    imsi: Any = IMSI, policy: dict[str, str] | None = None, **account: Any
) -> dict[str, Any]:
    """An account with a SIM card and an access policy, as in pb_data of the NSPS contract."""
    usual = {"i_account": 1000889, "id": "420777000003@msisdn", "bill_status": "open"}
    attributes = [
        {"group_name": "lte.wtl", "name": name, "value": value}
        for name, value in (policy or {}).items()
    ]
    return {
        "account_info": {**usual, "blocked": False, **account},
        "sim_info": {"i_sim_card": 5, "imsi": imsi},
        "access_policy_info": {"i_access_policy": 3, "name": "LTE", "attributes": attributes},
    }


def subscriber(numbers: list[str], status: str, cs: str = "cs-default") -> dict[str, Any]:
    profiles = {"cs_profile": cs, "eps_profile": "eps-default"}
    return {"msisdn": numbers, "subscriber_status": status, **profiles}


class TestWtlHss(StateStandardTests, HttpStandardTests):
    connector_class = WtlHss
    pb = snapshot()
    changed_pb = snapshot(blocked=True, policy={"cs_profile": "cs-gold"})
    gone_pb = ({**pb, "account_info": None}, {**pb, "sim_info": None})
    secrets: ClassVar = {"token": TOKEN}
    rules = AnswerRules(ANSWERS)
    hidden_failures = (
        Reply(200, {"result": False, "error": "NO_SUCH_PROFILE"}),
        Reply(200, {"message": "accepted"}),
    )

    @pytest.fixture
    def double(self) -> WtlDouble:
        self._double = WtlDouble()
        return self._double

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": url, **SETTINGS}

    def assert_holds(self, connector: Any, key: str, state: State | None) -> None:
        """The API cannot be asked; the double can. A removed subscriber is a barred one."""
        gone = subscriber([], BARRED)
        assert self._double.held.get(key, gone) == (gone if state is None else dict(state))

    @pytest.mark.parametrize(
        ("pb", "wanted"),
        [
            (snapshot(), subscriber(["420777000003"], GRANTED)),
            (snapshot(blocked=True), subscriber(["420777000003"], BARRED)),
            (snapshot(status="customer_suspended"), subscriber(["420777000003"], BARRED)),
            (snapshot(bill_status="terminated"), subscriber([], BARRED)),
            (
                snapshot(policy={"cs_profile": "cs-gold"}),
                subscriber(["420777000003"], GRANTED, "cs-gold"),
            ),
        ],
    )
    def test_what_a_subscriber_is(self, connector: Any, pb: Any, wanted: Any) -> None:
        assert connector.desired(enriched(pb)) == {IMSI: wanted}

    @pytest.mark.parametrize(
        ("pb", "names"),
        [
            (snapshot("12345"), r"sim_info\.imsi"),
            (snapshot(policy={"eps_profile": "1,2"}), "eps_profile of the access policy"),
        ],
    )
    def test_what_can_never_be_provisioned(self, connector: Any, pb: Any, names: str) -> None:
        with pytest.raises(Terminal, match=names):
            connector.desired(enriched(pb))

    @pytest.mark.parametrize(("texts", "error"), [([], Terminal), (["msisdn_in_use"], Transient)])
    def test_a_refusal_in_a_200(
        self, scripted: ScriptedHttp, texts: list[str], error: type[Exception]
    ) -> None:
        scripted.otherwise = WtlDouble()
        made = self.make({**self.http_settings(scripted.url), "temporary_errors": texts})
        made.create("001010000000009", subscriber(["420777000003"], GRANTED), make_call())
        with pytest.raises(error, match="MSISDN_IN_USE"):
            made.create(IMSI, subscriber(["420777000003"], GRANTED), make_call())
        made.close()


@pytest.mark.parametrize(
    "settings",
    [{"cs_profile": "1gold"}, {"eps_profile": ""}, {"url": "http://hss.example.net"}],
)
def test_settings_that_are_refused(settings: dict[str, Any]) -> None:
    usual = {**SETTINGS, "allow_http": False, "url": "https://hss.example.net/wtl/hlr/v1"}
    assert Settings.model_validate(usual)
    with pytest.raises(ValidationError):
        Settings.model_validate({**usual, **settings})
