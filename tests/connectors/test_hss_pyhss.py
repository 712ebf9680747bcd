"""The connector hss_pyhss: the standard tests, and its own rules.

Against a double with PyHSS 2.0.0's recorded answers, unpleasant ones included; and against a real
PyHSS where NSPS_IT_PYHSS_URL names one.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unclear
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.hss_pyhss.connector import PyHss, Settings

IMSI, OTHER_IMSI = "001010000000003", "001010000000004"
KI, OPC = "00112233445566778899aabbccddeeff", "FFEEDDCCBBAA99887766554433221100"
PROVISIONING_KEY = "provisioning-7f3a"
AUC = {IMSI: {"ki": KI, "opc": OPC}, OTHER_IMSI: {"ki": OPC, "opc": KI}}
SECRETS = {"provisioning_key": PROVISIONING_KEY, "auc": json.dumps(AUC)}
SETTINGS = {"default_apn": 1, "apn_list": "1", "ue_ambr_dl": 50000, "ue_ambr_ul": 10000}

UNIQUE = {"auc": ("imsi", "iccid"), "subscriber": ("imsi", "msisdn")}
NEEDED = {"auc": ("ki", "opc", "amf"), "subscriber": ("imsi", "auc_id", "default_apn", "apn_list")}
TYPES = {"enabled": bool, "ue_ambr_dl": int, "ue_ambr_ul": int, "default_apn": int, "auc_id": int}


class PyHssDouble:
    """PyHSS 2.0.0 as recorded, on SQLite: success cannot be read from the status.

    ``locked``: its hss.lock_provisioning. ``loaded``: the keys of every SIM are there.
    """

    def __init__(self, *, locked: bool = True, loaded: bool = False) -> None:
        self._locked, self._loaded = locked, loaded
        self.held: dict[str, dict[int, dict[str, Any]]] = {"auc": {}, "subscriber": {}}
        self.held["apn"] = {1: {"apn_id": 1, "apn": "internet"}}
        self._next, self._lock = 0, threading.Lock()

    def __call__(self, request: Seen) -> Reply:
        key = {name.lower(): value for name, value in request.headers.items()}
        shown = key.get("provisioning-key") == PROVISIONING_KEY
        if self._locked and request.method != "GET" and not shown:
            return Reply(401, {"Result": "Unauthorized - Provisioning-Key Invalid"})
        kind, *rest = request.path.strip("/").split("/")
        if kind not in self.held:
            return Reply(404, {"Result": "Not Found"})
        with self._lock:
            if request.method == "PUT":
                return self._put(kind, request.json())
            found = self._find(kind, rest)
            if kind == "auc" and self._loaded:
                found = {"auc_id": 1, "imsi": rest[-1], "ki": KI, "opc": OPC}
            if found is None:
                return Reply(200, "null")
            if request.method == "DELETE":
                del self.held[kind][found[f"{kind}_id"]]
                return Reply(200, {"Result": "OK"})
            return self._patch(kind, found, request.json()) if request.body else Reply(200, found)

    def of(self, kind: str, imsi: str = IMSI) -> dict[str, Any] | None:
        return self._find(kind, ["imsi", imsi])

    def _find(self, kind: str, path: list[str]) -> dict[str, Any] | None:
        if len(path) == 1:
            return self.held[kind].get(int(path[0]))
        return next((each for each in self.held[kind].values() if each[path[0]] == path[1]), None)

    def _put(self, kind: str, body: dict[str, Any]) -> Reply:
        missing = [name for name in NEEDED[kind] if body.get(name) is None]
        if missing:
            return _integrity(f"NOT NULL constraint failed: {kind}.{missing[0]}", body)
        if _wrong(body):
            return Reply(200, "null")
        taken = self._taken(kind, body)
        if taken:
            return taken
        self._next += 1
        self.held[kind][self._next] = {f"{kind}_id": self._next, **body}
        return Reply(200, self.held[kind][self._next])

    def _patch(self, kind: str, found: dict[str, Any], body: dict[str, Any]) -> Reply:
        if _wrong(body):
            return Reply(200, "null")
        taken = self._taken(kind, body, besides=found)
        if taken:
            return taken
        found.update({name: value for name, value in body.items() if name in found})
        return Reply(200, found)

    def _taken(self, kind: str, body: dict[str, Any], besides: Any = None) -> Reply | None:
        for name in UNIQUE[kind]:
            for each in self.held[kind].values():
                if each is not besides and body.get(name) and each.get(name) == body[name]:
                    return _integrity(f"UNIQUE constraint failed: {kind}.{name}", body)
        return None


def _wrong(body: dict[str, Any]) -> bool:
    return any(name in TYPES and type(value) is not TYPES[name] for name, value in body.items())


def _integrity(what: str, body: dict[str, Any]) -> Reply:
    """As PyHSS says it: with the values of the statement, keys included."""
    reason = f"A database integrity error occurred: (sqlite3.IntegrityError) {what} {body}"
    return Reply(400, {"result": "Failed", "reason": reason})


def snapshot(imsi: Any = IMSI, **account: Any) -> dict[str, Any]:
    """An account with a SIM card, as in pb_data of the NSPS contract."""
    usual = {"i_account": 1000889, "id": "420777000003@msisdn", "bill_status": "open"}
    return {
        "account_info": {**usual, "blocked": False, **account},
        "sim_info": {"i_sim_card": 5, "imsi": imsi},
    }


class _PyHssTests(StateStandardTests):
    connector_class = PyHss
    pb = snapshot()
    changed_pb = snapshot(blocked=True, id="420777000033@msisdn")
    gone_pb = ({"account_info": pb["account_info"]}, {"sim_info": pb["sim_info"]})
    secrets: ClassVar = SECRETS
    canaries = (KI.upper(), OPC.lower())

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {"url": f"http://{system.host}:{system.port}", **SETTINGS}


class TestPyHss(_PyHssTests, HttpStandardTests):
    hidden_failures = (Reply(200, "null"), Reply(200, {"result": "Failed"}))

    @pytest.fixture
    def double(self) -> PyHssDouble:
        return PyHssDouble()

    @pytest.fixture
    def system(self, double: PyHssDouble) -> Iterator[ChaosProxy]:
        with ScriptedHttp(double) as served, ChaosProxy(served.address) as proxy:
            yield proxy

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": url, **SETTINGS}

    @pytest.mark.parametrize(
        ("account", "number", "enabled"),
        [
            ({}, "420777000003", True),
            ({"blocked": True}, "420777000003", False),
            ({"status": "customer_suspended"}, "420777000003", False),
            ({"bill_status": "suspended"}, None, False),
        ],
    )
    def test_who_is_enabled(
        self, connector: Any, account: dict[str, Any], number: str | None, enabled: bool
    ) -> None:
        [state] = connector.desired(enriched(snapshot(**account))).values()
        assert (state["msisdn"], state["enabled"]) == (number, enabled)

    @pytest.mark.parametrize("imsi", [None, "12345", "0" * 16, "00101000000000x", "../x"])
    def test_an_imsi_that_is_none(self, connector: Any, imsi: Any) -> None:
        with pytest.raises(Terminal, match=r"sim_info\.imsi"):
            connector.desired(enriched(snapshot(imsi)))

    def test_the_subscriber_names_its_auc(self, connector: Any, double: PyHssDouble) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        auc, subscriber = double.of("auc"), double.of("subscriber")
        assert auc and subscriber
        assert (auc["ki"], auc["opc"]) == (KI, OPC.lower())
        assert subscriber["auc_id"] == auc["auc_id"]
        self.remove(connector, key)
        assert double.of("auc") is None and double.of("subscriber") is None

    def test_a_subscriber_whose_auc_is_gone_gets_it_back(
        self, connector: Any, double: PyHssDouble
    ) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        double.held["auc"].clear()  # PyHSS takes the removal of one that is in use
        assert connector.read(key, make_call()) != state
        self.bring(connector, key, state)
        self.assert_holds(connector, key, state)

    def test_half_a_subscriber_is_removed_too(self, connector: Any, double: PyHssDouble) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        double.held["subscriber"].clear()
        self.remove(connector, key)
        assert double.of("auc") is None

    def test_keys_are_corrected_and_the_sqn_goes_on(
        self, connector: Any, double: PyHssDouble
    ) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        auc = double.of("auc")
        assert auc
        auc.update(ki="0" * 32, sqn=640)
        self.bring(connector, key, state)
        assert (auc["ki"], auc["sqn"]) == (KI, 640)

    def test_a_number_that_another_sim_has(self, connector: Any, double: PyHssDouble) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        [(other, same)] = connector.desired(enriched(snapshot(OTHER_IMSI))).items()
        with pytest.raises(Transient, match="still has the MSISDN") as busy:
            connector.create(other, same, make_call())
        assert not isinstance(busy.value, NoAnswer)
        connector.create(other, {**same, "msisdn": "420777000099"}, make_call())
        with pytest.raises(Transient, match="still has the MSISDN"):
            connector.change(other, same, same, make_call())
        self.remove(connector, key)
        self.bring(connector, other, same)
        self.assert_holds(connector, other, same)

    def test_null_to_a_change_of_what_is_there_is_a_refusal(
        self, connector: Any, double: PyHssDouble
    ) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        with pytest.raises(Terminal, match="does not say why"):
            connector.change(key, {**state, "enabled": "maybe"}, state, make_call())
        self.assert_holds(connector, key, state)

    def test_an_answer_with_other_values_is_a_refusal(
        self, towards: Any, scripted: ScriptedHttp
    ) -> None:
        key, state = self.first(towards, self.pb)
        auc = {"auc_id": 1, "ki": KI, "opc": OPC}
        scripted.script(Reply(200, auc), Reply(200, {"subscriber_id": 1, "imsi": key}))
        with pytest.raises(Terminal, match="msisdn"):
            towards.create(key, state, make_call())

    def test_null_to_a_creation_is_unclear(self, towards: Any, scripted: ScriptedHttp) -> None:
        key, state = self.first(towards, self.pb)
        scripted.always(Reply(200, "null"))
        with pytest.raises(Unclear, match="not there, or refused"):
            towards.create(key, state, make_call())

    def test_keys_in_an_error_are_not_repeated(self, towards: Any, scripted: ScriptedHttp) -> None:
        key, state = self.first(towards, self.pb)
        leak = _integrity("NOT NULL constraint failed: auc.amf", {"ki": KI, "opc": OPC.lower()})
        scripted.script(Reply(200, "null"), leak)
        error = self.provoke(lambda: towards.create(key, state, make_call()))
        assert isinstance(error, Terminal) and "NOT NULL" in str(error)

    def test_a_wrong_provisioning_key_can_be_corrected(self, system: ChaosProxy) -> None:
        wrong = make_context({**SECRETS, "provisioning_key": "old-key"})
        connector = PyHss(Settings.model_validate(self.settings(system)), wrong)
        key, state = self.first(connector, self.pb)
        with pytest.raises(Transient, match="401"):
            connector.create(key, state, make_call())

    def test_an_apn_that_is_not_there(self, system: ChaosProxy) -> None:
        connector = self.make({**self.settings(system), "default_apn": 7})
        with pytest.raises(Transient, match="default_apn"):
            connector.check(make_call())

    @pytest.mark.parametrize(
        "entry", [7, {}, {"ki": KI}, {"ki": KI, "opc": None}, {"ki": KI[1:], "opc": OPC}]
    )
    def test_a_wrong_entry_of_the_secret_can_be_corrected(self, entry: Any) -> None:
        context = make_context({"auc": json.dumps({IMSI: entry})})
        connector = PyHss(Settings.model_validate(self.http_settings("http://x")), context)
        with pytest.raises(Transient, match="secret auc"):
            connector.desired(enriched(self.pb))


class TestWithoutKeys:
    """The deployment supplies no keys: the AUCs in PyHSS are left alone."""

    @pytest.fixture
    def double(self) -> PyHssDouble:
        return PyHssDouble()

    @pytest.fixture
    def connector(self, double: PyHssDouble) -> Iterator[PyHss]:
        with ScriptedHttp(double) as served:
            settings = Settings.model_validate({"url": served.url, **SETTINGS})
            yield PyHss(settings, make_context({"provisioning_key": PROVISIONING_KEY}))

    def test_the_auc_is_used_and_never_touched(self, connector: Any, double: PyHssDouble) -> None:
        double.held["auc"][7] = auc = {"auc_id": 7, "imsi": IMSI, "ki": KI, "opc": OPC}
        [state] = connector.desired(enriched(snapshot())).values()
        connector.create(IMSI, state, make_call())
        held = connector.read(IMSI, make_call())
        assert held == {**state, "subscriber_id": 1}
        connector.change(IMSI, {**state, "enabled": False}, state, make_call())
        subscriber = double.of("subscriber")
        assert subscriber and (subscriber["auc_id"], subscriber["enabled"]) == (7, False)
        connector.delete(IMSI, connector.read(IMSI, make_call()), make_call())
        assert double.of("subscriber") is None
        assert double.held["auc"] == {7: auc} and auc["ki"] == KI

    def test_without_an_auc_it_is_tried_later(self, connector: Any, double: PyHssDouble) -> None:
        [state] = connector.desired(enriched(snapshot())).values()
        with pytest.raises(Transient, match="no AUC"):
            connector.create(IMSI, state, make_call())
        assert double.of("subscriber") is None


@pytest.mark.parametrize(
    "wrong", [{"url": "hss"}, {"default_apn": 0}, {"apn_list": "internet"}, {"apn": 1}]
)
def test_settings_that_are_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"url": "http://hss.example.net", **SETTINGS, **wrong})


@pytest.mark.skipif(
    not os.environ.get("NSPS_IT_PYHSS_URL"),
    reason="no PyHSS to try: NSPS_IT_PYHSS_URL is not set",
)
class TestRealPyHss(_PyHssTests):
    """A PyHSS that runs already; what is written is removed."""

    secrets: ClassVar = {
        **SECRETS,
        "provisioning_key": os.environ.get("NSPS_IT_PYHSS_KEY", PROVISIONING_KEY),
    }

    @pytest.fixture
    def system(self) -> Iterator[ChaosProxy]:
        url = urlsplit(os.environ["NSPS_IT_PYHSS_URL"])
        assert url.scheme == "http" and url.hostname, "write http://HOST:PORT"
        with ChaosProxy((url.hostname, url.port or 80)) as proxy:
            yield proxy

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        apn = os.environ.get("NSPS_IT_PYHSS_APN", "1")
        return {**super().settings(system), "default_apn": int(apn), "apn_list": apn}
