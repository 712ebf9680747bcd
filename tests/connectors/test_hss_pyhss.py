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
import requests
from nsps.connector.base import Call
from nsps.domain.event import RECONCILE
from nsps.domain.outcome import NoAnswer, Outcome, Terminal, Transient, Unclear
from nsps.domain.snapshot import Block
from nsps.transport.transcript import Transcript, writing
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    UnderTheKit,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.hss_pyhss.api import ANSWERS
from functions.connectors.hss_pyhss.connector import PyHss
from functions.connectors.hss_pyhss.settings import Settings

IMSI, OTHER_IMSI = "001010000000003", "001010000000004"
KI, OPC = "00112233445566778899aabbccddeeff", "FFEEDDCCBBAA99887766554433221100"
PROVISIONING_KEY = "provisioning-7f3a"
AUC = {IMSI: {"ki": KI, "opc": OPC}, OTHER_IMSI: {"ki": OPC, "opc": KI}}
SECRETS = {"provisioning_key": PROVISIONING_KEY, "auc": json.dumps(AUC)}
SETTINGS = {"default_apn": 1, "apn_list": "1", "ue_ambr_dl": 50000, "ue_ambr_ul": 10000}
IMS = {"ims": {"ifc_path": "default_ifc.xml"}}
QUOTA = {"service": "Internet Access", "plan": "Slow"}

UNIQUE = {"auc": ("imsi", "iccid"), "subscriber": ("imsi", "msisdn"), "ims_subscriber": ("msisdn",)}
NEEDED = {"auc": ("ki", "opc", "amf"), "subscriber": ("imsi", "auc_id", "default_apn", "apn_list")}
TYPES = {"enabled": bool, "ue_ambr_dl": int, "ue_ambr_ul": int, "default_apn": int, "auc_id": int}
LOOKUPS = {"ims_subscriber_imsi": "imsi"}
NULL = Reply(200, "null")
KINDS = ("auc", "subscriber", "ims_subscriber", "apn", "charging_rule", "tft")


class PyHssDouble:
    """PyHSS 2.0.0 as recorded, on SQLite: success cannot be read from the status.

    ``locked``: its hss.lock_provisioning. ``loaded``: the keys of every SIM are there.
    """

    def __init__(self, *, locked: bool = True, loaded: bool = False) -> None:
        self._locked, self._loaded = locked, loaded
        self.held: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.held["apn"] = {1: {"apn_id": 1, "apn": "internet", "charging_rule_list": None}}
        self.sessions: set[tuple[str, int]] = set()
        """IMSI and apn_id of each live Gx session."""
        self._next, self._lock = 0, threading.Lock()

    def __call__(self, request: Seen) -> Reply:
        key = {name.lower(): value for name, value in request.headers.items()}
        shown = key.get("provisioning-key") == PROVISIONING_KEY
        if self._locked and request.method != "GET" and not shown:
            return Reply(401, {"Result": "Unauthorized - Provisioning-Key Invalid"})
        kind, *rest = request.path.strip("/").split("/")
        if kind in ("pcrf", "geored"):
            with self._lock:
                return (self._pcrf if kind == "pcrf" else self._geored)(request.json())
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
        name = LOOKUPS.get(path[0], path[0])
        return next((each for each in self.held[kind].values() if each[name] == path[1]), None)

    def _geored(self, body: dict[str, Any]) -> Reply:
        """A session begins, by the first of the subscriber's APNs that has the name."""
        subscriber = self.of("subscriber", body["imsi"])
        assert subscriber
        ids = [subscriber["default_apn"], *map(int, subscriber["apn_list"].split(","))]
        [apn, *_] = [each for each in ids if self.held["apn"][each]["apn"] == body["serving_apn"]]
        self.sessions.add((body["imsi"], apn))
        return Reply(200, [])

    def _pcrf(self, body: dict[str, Any]) -> Reply:
        """A RAR that was only queued; any exception on the way is the same 500."""
        session = (body["imsi"], body["apn_id"])
        if (
            session not in self.sessions
            or body["charging_rule_id"] not in self.held["charging_rule"]
        ):
            return Reply(500, {"message": "Internal Server Error"})
        return Reply(200, {"Result": "Successfully sent Gx RAR", "destinationClients": "pgw01"})

    def _put(self, kind: str, body: dict[str, Any]) -> Reply:
        missing = [name for name in NEEDED.get(kind, ()) if body.get(name) is None]
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
        for name in UNIQUE.get(kind, ()):
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


def snapshot(imsi: Any = IMSI, product: str = "Gold", **account: Any) -> dict[str, Any]:
    """An account with a SIM card, as in pb_data of the NSPS contract."""
    usual = {"i_account": 1000889, "id": "420777000003@msisdn", "bill_status": "open"}
    return {
        "account_info": {**usual, "blocked": False, **account},
        "sim_info": {"i_sim_card": 5, "imsi": imsi},
        "product_info": {"name": product},
    }


def later(number: int) -> dict[str, Any]:
    """What makes an event the owner's event of that number."""
    return {"variables": {"i_event": number}, "t": f"2026-11-21T02:{number:02}:00.000000Z"}


class _PyHssTests(StateStandardTests):
    """Needs an APN in PyHSS, 1 or ``apn``. What is made besides is removed."""

    connector_class = PyHss
    requires = (Block.PRODUCT_INFO,)
    pb = snapshot()
    changed_pb = snapshot(product="Silver", id="420777000033@msisdn")
    gone_pb = ({"account_info": pb["account_info"]}, {"sim_info": pb["sim_info"]})
    secrets: ClassVar = SECRETS
    canaries = (KI.upper(), OPC.lower())
    apn = 1

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        apns = {"default_apn": self.apn, "apn_list": str(self.apn)}
        own = {"plans": {"Silver": {"ue_ambr_dl": 20000}}, **IMS}
        return {"url": f"http://{system.host}:{system.port}", **SETTINGS, **apns, **own}

    def act(self, connector: Any, call: Call) -> object:
        """Bring the first subscriber there, with what follows the write."""
        key, state = self.first(connector, self.pb)
        connector.create(key, state, call)
        return connector.after_write(key, state, None, call)

    @pytest.fixture
    def apns(self, system: ChaosProxy) -> Iterator[dict[str, dict[str, int]]]:
        """An APN for each product, all of one name, and the charging rule of each."""
        made: list[tuple[str, int]] = []

        def make(kind: str, body: dict[str, Any]) -> int:
            ident: int = self.send(system, "PUT", f"{kind}/", body)[f"{kind}_id"]
            made.append((kind, ident))
            return ident

        apns, rules = {}, {}
        for name, rate in (("Gold", 100_000_000), ("Silver", 20_000_000), ("Slow", 256_000)):
            rule = {"rule_name": "nsps", "qci": 9, "arp_priority": 4, "precedence": 100}
            rates = {"mbr_dl": rate, "mbr_ul": rate, "gbr_dl": 0, "gbr_ul": 0}
            rules[name] = make("charging_rule", {**rule, **rates, "tft_group_id": 1})
            apn = {"apn": "nsps-test", "apn_ambr_dl": 0, "apn_ambr_ul": 0}
            apns[name] = make("apn", {**apn, "charging_rule_list": str(rules[name])})
        yield {"apn": apns, "rule": rules}
        for kind, ident in reversed(made):
            self.send(system, "DELETE", f"{kind}/{ident}")

    def send(self, system: ChaosProxy, method: str, path: str, body: Any = None) -> Any:
        """What an operator, or another part of the network, does to PyHSS."""
        url = f"http://{system.host}:{system.port}/{path}"
        key = {"Provisioning-Key": self.secrets["provisioning_key"]}
        answer = requests.request(method, url, json=body, headers=key, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def planned(self, system: ChaosProxy, apns: dict[str, dict[str, int]]) -> Any:
        """A connector whose products are APNs, with one for whose quota is used up."""
        plans = {name: {"default_apn": i, "apn_list": str(i)} for name, i in apns["apn"].items()}
        return self.make({**self.settings(system), "plans": plans, "quota": QUOTA})

    def test_a_live_session_follows_product_and_quota(
        self, connector: Any, system: ChaosProxy, apns: dict[str, dict[str, int]]
    ) -> None:
        connector = self.planned(system, apns)
        kit = UnderTheKit(self, connector)
        read = (*self.required(), Block.FULL_VD_COUNTER_INFO)
        numbers = iter(range(1, 60))

        def pushed(product: str, left: float) -> list[tuple[int, int, int | None]]:
            """APN, rule and status of each push of an event with this product and quota."""
            counter = {"service_name": QUOTA["service"], "remaining": left}
            pb = {**snapshot(product=product), "full_vd_counter_info": [counter]}
            with writing(Transcript(send=True)) as transcript:
                kit.deliver(enriched(pb, read=read, **later(next(numbers))))
            puts = [each for each in transcript.exchanges if each.url.endswith("/pcrf/")]
            return [
                (each.body["apn_id"], each.body["charging_rule_id"], each.status) for each in puts
            ]

        apn, rule = apns["apn"], apns["rule"]
        # No session yet: PyHSS answers 500, and all is well.
        assert {status for _, _, status in pushed("Gold", 5)} == {500}
        session = {"imsi": IMSI, "serving_apn": "nsps-test", "pcrf_session_id": "nsps;1"}
        pgw = {"serving_pgw": "pgw01", "serving_pgw_realm": "r", "serving_pgw_peer": "pgw01;hss"}
        routing = {"subscriber_routing": "10.0.0.1", "serving_pgw_timestamp": None}
        self.send(system, "PATCH", "geored/", {**session, **pgw, **routing})
        assert pushed("Gold", 5) == []
        for product, left, plan in (
            ("Silver", 5, "Silver"),
            ("Silver", 0, "Slow"),
            ("Silver", 7, "Silver"),
            ("Gold", 7, "Gold"),
        ):
            expected = [
                (each, rule[plan], 200 if each == apn["Gold"] else 500)
                for each in sorted(apn.values())
            ]
            assert pushed(product, left) == expected, plan
            held = connector.read(IMSI, make_call())
            assert (held["default_apn"], held["apn_list"]) == (apn[plan], str(apn[plan]))
        self.remove(connector, IMSI)

    def test_a_rule_that_is_not_there_is_no_missing_session(
        self, connector: Any, system: ChaosProxy, apns: dict[str, dict[str, int]]
    ) -> None:
        gold = f"apn/{apns['apn']['Gold']}"
        connector = self.planned(system, apns)
        read = (*self.required(), Block.FULL_VD_COUNTER_INFO)
        [state] = connector.desired(enriched(snapshot(), read=read)).values()
        self.send(system, "PATCH", gold, {"charging_rule_list": "999999"})
        with pytest.raises(Transient, match="no charging rule 999999"):
            connector.after_write(IMSI, state, None, make_call())
        self.send(system, "PATCH", gold, {"charging_rule_list": "gold"})
        with pytest.raises(Transient, match="no list of ids"):
            connector.after_write(IMSI, state, None, make_call())

    def test_the_ims_subscriber_is_there_while_the_subscriber_is_served(
        self, connector: Any, system: ChaosProxy
    ) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        ims = self.send(system, "GET", f"ims_subscriber/ims_subscriber_imsi/{key}")
        assert (ims["msisdn"], ims["ifc_path"]) == ("420777000003", "default_ifc.xml")
        _, barred = self.first(connector, snapshot(blocked=True))
        self.bring(connector, key, barred)
        self.assert_holds(connector, key, barred)
        assert self.send(system, "GET", f"ims_subscriber/ims_subscriber_imsi/{key}") is None
        assert self.send(system, "GET", f"subscriber/imsi/{key}")["msisdn"] == "420777000003"
        self.bring(connector, key, state)
        # Removed, or changed, by hand.
        for by_hand in ("DELETE", "PATCH"):
            ims = self.send(system, "GET", f"ims_subscriber/ims_subscriber_imsi/{key}")
            other = {"ifc_path": "other.xml"}
            self.send(system, by_hand, f"ims_subscriber/{ims['ims_subscriber_id']}", other)
            assert connector.read(key, make_call()) != state
            self.bring(connector, key, state)
            self.assert_holds(connector, key, state)

    def test_a_sim_is_swapped_and_a_number_moves(self, connector: Any) -> None:
        """By the ledger, which knows the SIM that was there before; the number is given back."""
        kit = UnderTheKit(self, connector)
        assert kit.deliver(self.enriched(snapshot(), **later(1))) is Outcome.DELIVERED
        assert kit.deliver(self.enriched(snapshot(OTHER_IMSI), **later(2))) is Outcome.DELIVERED
        assert connector.read(IMSI, make_call()) is None
        held = connector.read(OTHER_IMSI, make_call())
        assert held["msisdn"] == held["ims"]["msisdn"] == "420777000003"
        # Another account with the first SIM gets the number, and waits until it is given back.
        second = snapshot(i_account=1000890)
        arriving = self.enriched(second, **later(3))
        assert kit.attempt(arriving).outcome is Outcome.RETRYING
        leaving = snapshot(OTHER_IMSI, id="420777000044@msisdn")
        assert kit.deliver(self.enriched(leaving, **later(4))) is Outcome.DELIVERED
        assert kit.deliver(arriving) is Outcome.DELIVERED
        assert connector.read(IMSI, make_call())["ims"]["msisdn"] == "420777000003"
        assert connector.read(OTHER_IMSI, make_call())["ims"]["msisdn"] == "420777000044"
        for imsi in (IMSI, OTHER_IMSI):
            self.remove(connector, imsi)


class TestPyHss(_PyHssTests, HttpStandardTests):
    rules = ANSWERS
    hidden_failures = (Reply(200, "null"), Reply(200, {"result": "Failed"}))

    @pytest.fixture
    def double(self) -> PyHssDouble:
        return PyHssDouble()

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

    def test_what_others_name_is_written_first_and_removed_last(
        self, connector: Any, double: PyHssDouble
    ) -> None:
        key, state = self.first(connector, self.pb)
        with writing(Transcript(send=True)) as transcript:
            connector.create(key, state, make_call())
            auc, subscriber = double.of("auc"), double.of("subscriber")
            assert auc and subscriber and subscriber["auc_id"] == auc["auc_id"]
            assert (auc["ki"], auc["opc"]) == (KI, OPC.lower())
            self.remove(connector, key)
        writes = [each for each in transcript.exchanges if each.method != "GET"]
        order = ["auc", "subscriber", "ims_subscriber"]
        assert [urlsplit(each.url).path.split("/")[1] for each in writes] == order + order[::-1]
        assert not any(map(double.of, order))

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (NULL, Unclear),
            (Reply(200, {"result": "Failed"}), Unclear),
            (Reply(500, "out of memory"), Unclear),
            (Reply(503), Transient),
        ],
    )
    def test_a_push_that_was_not_clearly_made(
        self, scripted: ScriptedHttp, reply: Reply, error: type[Transient]
    ) -> None:
        connector = self.make({**self.http_settings(scripted.url), "plans": {"Gold": {}}})
        _, state = self.first(connector, self.pb)
        self.make(self.http_settings(scripted.url)).after_write(IMSI, state, None, make_call())
        assert not scripted.requests  # nothing is pushed where no plan is set
        scripted.script(Reply(200, {"apn_id": 1, "apn": "x", "charging_rule_list": "1"}), reply)
        assert (
            type(self.provoke(lambda: connector.after_write(IMSI, state, None, make_call())))
            is error
        )

    def test_a_subscriber_whose_auc_is_gone_gets_it_back(
        self, connector: Any, double: PyHssDouble
    ) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        double.held["auc"].clear()  # PyHSS takes the removal of one that is in use
        assert connector.read(key, make_call()) != state
        self.bring(connector, key, state)
        self.assert_holds(connector, key, state)

    def test_a_database_that_was_lost_is_filled_again(
        self, connector: Any, double: PyHssDouble
    ) -> None:
        kit = UnderTheKit(self, connector)
        assert kit.deliver(self.enriched(self.pb, **later(1))) is Outcome.DELIVERED
        flowing, asked = (2, "SIM/Updated", self.changed_pb), (3, RECONCILE, self.changed_pb)
        for number, event_type, pb in (flowing, asked):
            for kind in ("auc", "subscriber", "ims_subscriber"):
                double.held[kind].clear()
            event = self.enriched(pb, event_type=event_type, **later(number))
            assert kit.deliver(event) is Outcome.DELIVERED
            self.assert_holds(connector, *self.first(connector, pb))

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
        [own] = connector.desired(enriched(snapshot(OTHER_IMSI, id="420777000099"))).values()
        connector.create(other, own, make_call())
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
        auc = {"auc_id": 1, "imsi": key, "ki": KI, "opc": OPC, "amf": "8000", "sqn": 0}
        made = Reply(200, {"subscriber_id": 1, "imsi": key})
        scripted.script(NULL, NULL, Reply(200, auc), made)
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
        scripted.script(NULL, NULL, leak)
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
    ("policy", "given"),
    [
        ("fast", {"default_apn": 2, "apn_list": "2,9", "ue_ambr_dl": 50000, "ue_ambr_ul": 70000}),
        ("other", {"default_apn": 1, "apn_list": "1", "ue_ambr_dl": 50000, "ue_ambr_ul": 10000}),
        (None, {"default_apn": 1, "apn_list": "1", "ue_ambr_dl": 50000, "ue_ambr_ul": 10000}),
    ],
)
def test_apns_and_speeds_by_access_policy(policy: str | None, given: dict[str, Any]) -> None:
    plans = {"fast": {"default_apn": 2, "apn_list": "2,9", "ue_ambr_ul": 70000}}
    own = {"url": "http://hss.example.net", "plan": "policy.eps_profile", "plans": plans}
    settings = Settings.model_validate({**SETTINGS, **own})
    attribute = {"group_name": "HSS", "name": "eps_profile", "value": policy}
    attributes = [] if policy is None else [attribute]
    pb = {**snapshot(), "access_policy_info": {"name": "LTE", "attributes": attributes}}
    connector = PyHss(settings, make_context())
    [state] = connector.desired(enriched(pb)).values()
    assert {name: state[name] for name in given} == given
    assert [block for _, block in connector.reads(settings)] == [Block.ACCESS_POLICY_INFO]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "hss"},
        {"default_apn": 0},
        {"apn_list": "internet"},
        {"apn": 1},
        {"plan": "no.such"},
        {"plans": {"Gold": {"apn": 1}}},
        {"quota": QUOTA},
        {"ims": {}},
    ],
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

    apn = int(os.environ.get("NSPS_IT_PYHSS_APN", "1"))
    secrets: ClassVar = {
        **SECRETS,
        "provisioning_key": os.environ.get("NSPS_IT_PYHSS_KEY", PROVISIONING_KEY),
    }

    @pytest.fixture
    def system(self) -> Iterator[ChaosProxy]:
        with ChaosProxy.before(os.environ["NSPS_IT_PYHSS_URL"]) as proxy:
            yield proxy
