"""The OsmoHLR connector against a real OsmoHLR."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from nsps.connector.base import Call
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.runtime.secrets import SecretValue
from nsps_local.daemons.osmo_hlr import osmo_hlr
from nsps_testing.standard import (
    ChaosProxy,
    StateStandardTests,
    enriched,
    make_call,
    make_context,
)

from functions.connectors.hss_osmocom.connector import OsmoHlr

IMSI, OTHER_IMSI = "001010000000003", "001010000000004"
KI, OPC = "00112233445566778899aabbccddeeff", "FFEEDDCCBBAA99887766554433221100"
KI_2G = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
AUC = {
    IMSI: {"ki": KI, "opc": OPC, "algorithm": "milenage"},
    OTHER_IMSI: {"ki": KI_2G, "opc": None, "algorithm": "comp128v3"},
}


def snapshot(imsi: str = IMSI, **account: Any) -> dict[str, Any]:
    return {
        "account_info": {
            "i_account": 1000889,
            "id": "420777000003@msisdn",
            "bill_status": "open",
            "blocked": False,
            **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": imsi, "msisdn": "420777000003"},
    }


@pytest.fixture(scope="module")
def hlr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with osmo_hlr(tmp_path_factory.mktemp("hlr")) as address:
        yield address


class _OnOsmoHlr(StateStandardTests):
    connector_class = OsmoHlr

    @pytest.fixture
    def system(self, hlr: tuple[str, int]) -> Iterator[ChaosProxy]:
        with ChaosProxy(hlr) as proxy:
            yield proxy

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {"host": system.host, "port": system.port}

    def tidy(self, connector: Any) -> None:
        for imsi in (IMSI, OTHER_IMSI):
            connector.delete(imsi, connector.read(imsi, make_call()), make_call())


class TestOsmoHlr(_OnOsmoHlr):
    pb = snapshot()
    changed_pb = snapshot(blocked=True, id="420777000033@msisdn")
    gone_pb = ({"account_info": snapshot()["account_info"]}, {"sim_info": snapshot()["sim_info"]})
    secrets: ClassVar = {"auc": json.dumps(AUC)}

    def test_keys_are_read_back(self, connector: OsmoHlr) -> None:
        state = connector.desired(enriched(self.pb))[IMSI]
        assert state["aud3g"] == SecretValue(f"milenage,{KI},OPC,{OPC.lower()}")
        assert state["aud2g"] is None
        connector.create(IMSI, state, make_call())
        assert connector.read(IMSI, make_call()) == state

    def test_a_sim_that_becomes_a_2g_sim_loses_its_3g_keys(self, connector: OsmoHlr) -> None:
        three = connector.desired(enriched(self.pb))[IMSI]
        two = {**three, "aud2g": SecretValue(f"comp128v1,{KI_2G}"), "aud3g": None}
        connector.create(IMSI, three, make_call())
        connector.change(IMSI, two, three, make_call())
        assert connector.read(IMSI, make_call()) == two

    def test_deleted_keys_do_not_come_back(self, connector: OsmoHlr) -> None:
        state = connector.desired(enriched(self.pb))[IMSI]
        connector.create(IMSI, state, make_call())
        connector.delete(IMSI, connector.read(IMSI, make_call()), make_call())
        connector.create(IMSI, {**state, "aud3g": None}, make_call())
        held = connector.read(IMSI, make_call())
        assert held is not None and held["aud3g"] is None


class TestWithoutKeys(_OnOsmoHlr):
    """The deployment supplies no keys: those in the HLR are left alone."""

    pb = snapshot()
    changed_pb = snapshot(bill_status="suspended")

    def test_keys_are_neither_told_nor_touched(
        self, connector: OsmoHlr, system: ChaosProxy
    ) -> None:
        keyed = OsmoHlr(connector.settings, make_context({"auc": json.dumps(AUC)}))
        with_keys = keyed.desired(enriched(self.pb))[IMSI]
        keyed.create(IMSI, with_keys, make_call())
        without = connector.desired(enriched(self.changed_pb))[IMSI]
        held = connector.read(IMSI, make_call())
        assert held is not None and set(held) == {"msisdn", "cs", "ps"}
        connector.change(IMSI, without, held, make_call())
        after = keyed.read(IMSI, make_call())
        assert after is not None and after["aud3g"] == with_keys["aud3g"]
        keyed.close()

    def test_a_swap_of_the_sim(self, connector: OsmoHlr) -> None:
        [(old, state)] = connector.desired(enriched(snapshot(IMSI))).items()
        [(new, same)] = connector.desired(enriched(snapshot(OTHER_IMSI))).items()
        connector.create(old, state, make_call())
        with pytest.raises(Transient, match="another subscriber") as busy:
            connector.create(new, same, make_call())
        assert not isinstance(busy.value, NoAnswer)
        self.assert_holds(connector, new, None)  # nothing was begun
        connector.delete(old, connector.read(old, make_call()), make_call())
        connector.create(new, same, make_call())
        self.assert_holds(connector, new, same)

    def test_a_change_to_a_number_that_another_sim_has(self, connector: OsmoHlr) -> None:
        [(one, state)] = connector.desired(enriched(snapshot(IMSI))).items()
        other = {**state, "msisdn": "420777000099"}
        connector.create(one, state, make_call())
        connector.create(OTHER_IMSI, other, make_call())
        with pytest.raises(Transient, match="another subscriber"):
            connector.change(OTHER_IMSI, {**state, "cs": False}, other, make_call())
        self.assert_holds(connector, OTHER_IMSI, other)

    def test_half_a_subscriber_is_completed(self, connector: OsmoHlr) -> None:
        [(key, state)] = connector.desired(enriched(self.changed_pb)).items()
        bare = {**state, "msisdn": None, "cs": True, "ps": True}  # what subscriber.create leaves
        connector.create(key, bare, make_call())
        connector.create(key, state, make_call())
        self.assert_holds(connector, key, state)

    def test_a_value_that_the_hlr_refuses_is_refused_for_good(self, connector: OsmoHlr) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        with pytest.raises(Terminal) as refusal:
            connector.create(key, {**state, "msisdn": "12345678901234567890"}, make_call())
        assert "12345678901234567890" not in str(refusal.value)

    def test_it_is_shared_by_threads(self, connector: OsmoHlr) -> None:
        from concurrent.futures import ThreadPoolExecutor

        def run(number: int) -> Any:
            key = f"00102{number:010d}"
            call: Call = make_call(20)
            state = {"msisdn": f"42088{number:05d}", "cs": True, "ps": number % 2 == 0}
            connector.create(key, state, call)
            held = connector.read(key, call)
            connector.delete(key, connector.read(key, call), call)
            return held, state

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(run, range(64)))
        assert all(held == state for held, state in results)
