"""The database connector on SQLite, and its rules; PostgreSQL is in tests/systems."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.domain.snapshot import Block
from nsps_testing.standard import (
    LocalStateStandardTests,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.database.connector import Database
from functions.connectors.database.settings import Settings


def snapshot(**account: Any) -> dict[str, Any]:
    return {
        "account_info": {
            "i_account": 1000889,
            "i_customer": 77,
            "id": "420777000003@msisdn",
            "firstname": "Zoë",
            "lastname": "O'Hara",
            "email": "zoe@example.net",
            "product_name": "Mobile S",
            "bill_status": "open",
            "blocked": False,
            **account,
        },
        "sim_info": {"imsi": "001010000000003", "i_sim_card": 5},
    }


class _OnSqlite(LocalStateStandardTests):
    connector_class = Database
    secrets: ClassVar = {"password": "not-for-a-file"}
    pb = snapshot()
    changed_pb = snapshot(bill_status="suspended", email=None)

    @pytest.fixture
    def system(self, tmp_path: Path) -> Path:
        return tmp_path / "subscribers.db"

    def settings(self, system: Path) -> dict[str, Any]:
        return {"url": f"sqlite:///{system}", "create_table": True}


class TestSqlite(_OnSqlite):
    gone_pb = ({"sim_info": snapshot()["sim_info"]},)

    def test_the_row(self, connector: Database, system: Path) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        with sqlite3.connect(system) as file:
            [row] = file.execute("SELECT * FROM subscribers").fetchall()
            [mode] = file.execute("PRAGMA journal_mode").fetchone()
        assert row[:9] == (
            *(1000889, 77, "420777000003@msisdn", "Zoë O'Hara", "zoe@example.net"),
            *("001010000000003", "420777000003", "Mobile S", "active"),
        )
        assert row[9] is not None and mode == "wal"

    def test_a_number_that_no_integer_column_takes(self, connector: Database) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        with pytest.raises(Terminal, match="too large"):
            connector.create(key, {**state, "i_customer": 2**70}, make_call())

    def test_all_keys_page_by_page(self, connector: Database) -> None:
        [(_, state)] = connector.desired(enriched(self.pb)).items()
        for number in (7, 30, 200):
            connector.create(str(number), state, make_call())
        assert connector.keys("", 2, make_call()) == ["7", "30"]
        assert connector.keys("30", 2, make_call()) == ["200"]
        assert connector.keys("200", 2, make_call()) == []

    def test_a_write_lock_is_waited_for_until_the_deadline(
        self, connector: Database, system: Path
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        other = sqlite3.connect(system, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        error = self.provoke(lambda: connector.create(key, state, make_call(0.5)))
        assert time.monotonic() - began < 4
        assert isinstance(error, Transient) and not isinstance(error, NoAnswer)
        other.execute("ROLLBACK")
        other.close()
        connector.create(key, state, make_call())

    def test_a_file_that_cannot_be_opened(self, tmp_path: Path) -> None:
        connector = self.make(self.settings(tmp_path / "no" / "such" / "folder.db"))
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and not isinstance(error, NoAnswer)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.txt"
        file.write_text("not a database " * 100)
        connector = self.make(self.settings(file))
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient)

    def test_without_the_table_it_waits_for_it(self, system: Path) -> None:
        connector = self.make({"url": f"sqlite:///{system}"})
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and "create it, or set create_table" in str(error)
        patient = self.make(self.settings(system))
        patient.check(make_call())
        connector.check(make_call())
        connector.close()
        patient.close()

    @pytest.mark.parametrize("wrong", ["BIGINT", "NUMERIC", "STRING", "REAL"])
    def test_a_number_for_an_imsi_is_refused_before_it_loses_its_zeros(
        self, system: Path, wrong: str
    ) -> None:
        with sqlite3.connect(system) as file:
            file.execute(f"CREATE TABLE lines (imsi {wrong} PRIMARY KEY)")
        connector = self.make(
            {
                "url": f"sqlite:///{system}",
                "table": "lines",
                "key": "imsi",
                "columns": {"imsi": "sim_info.imsi"},
                "updated_at": "",
            }
        )
        for step in (
            lambda: connector.check(make_call()),
            lambda: connector.create("001010000000003", {}, make_call()),
        ):
            error = self.provoke(step)
            assert isinstance(error, Transient) and "column imsi (" in str(error)
        connector.close()

    def test_what_does_not_come_back_as_it_was_written_is_refused(
        self, connector: Database, system: Path
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.check(make_call())
        with sqlite3.connect(system) as file:
            file.execute(
                "CREATE TRIGGER other AFTER INSERT ON subscribers BEGIN"
                " UPDATE subscribers SET imsi = ltrim(imsi, '0'); END"
            )
        error = self.provoke(lambda: connector.create(key, state, make_call()))
        assert isinstance(error, Terminal) and "does not keep column imsi as" in str(error)
        assert connector.read(key, make_call()) is None

    def test_a_key_that_the_table_holds_for_the_same_as_another(self, system: Path) -> None:
        with sqlite3.connect(system) as file:
            file.execute("CREATE TABLE ids (id TEXT COLLATE NOCASE PRIMARY KEY)")
        connector = self.make(
            {
                "url": f"sqlite:///{system}",
                "table": "ids",
                "key": "id",
                "columns": {"id": "account_info.id"},
                "updated_at": "",
            }
        )
        connector.create("office@voip", {}, make_call())
        error = self.provoke(lambda: connector.create("Office@voip", {}, make_call()))
        assert isinstance(error, Terminal) and "column id as" in str(error)
        connector.close()

    def test_it_is_shared_by_threads(self, connector: Database, system: Path) -> None:
        [state] = connector.desired(enriched(self.pb)).values()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: connector.create(str(n), state, make_call(20)), range(60)))
        with sqlite3.connect(system) as file:
            assert file.execute("SELECT count(*) FROM subscribers").fetchone() == (60,)


@given(text=st.text(alphabet=st.characters(exclude_categories=()), max_size=30))
def test_a_text_is_wanted_or_refused_but_never_fails_in_the_driver(text: str) -> None:
    connector = Database(Settings(), make_context())
    event = enriched(snapshot(lastname=text, firstname=""))
    if "\0" in text:
        with pytest.raises(Terminal, match="column name"):
            connector.desired(event)
        return
    [state] = connector.desired(event).values()
    assert state["name"] == (text.encode("utf-8", "replace").decode().strip() or None)
    bound = sqlite3.connect(":memory:").execute("SELECT ?", (state["name"],)).fetchone()
    assert bound == (state["name"],)


class TestRowPerSimThatIsMarked(_OnSqlite):
    requires = (Block.ACCESS_POLICY_INFO,)
    gone_pb = ({"account_info": snapshot()["account_info"]}, {"sim_info": snapshot()["sim_info"]})

    def settings(self, system: Path) -> dict[str, Any]:
        return {
            **super().settings(system),
            "key": "imsi",
            "columns": {
                "imsi": "sim_info.imsi",
                "owner": "account_info.i_account",
                "barred": "account_info.blocked",
                "state": "status",
                "data": "feature.netaccess_policy",
                "profile": "policy.eps_profile",
                "addons": "addons",
            },
            "on_release": "mark",
            "updated_at": "",
        }

    def test_features_policies_and_addons(self, connector: Database) -> None:
        pb = snapshot(
            service_features=[{"name": "netaccess_policy", "effective_flag_value": "Y"}],
            assigned_addons=[{"name": "Roaming"}, {"name": "Data"}, {"name": "Data"}],
        )
        pb["access_policy_info"] = {"attributes": [{"name": "eps_profile", "value": "gold,silver"}]}
        [(key, state)] = connector.desired(enriched(pb)).items()
        assert key == "001010000000003"
        assert state == {
            "owner": 1000889,
            "barred": False,
            "state": "active",
            "data": "Y",
            "profile": "gold,silver",
            "addons": "Data,Roaming",
        }
        connector.create(key, state, make_call())
        assert connector.read(key, make_call()) == state

    def test_a_sim_without_an_imsi_is_refused(self, connector: Database) -> None:
        pb = {**self.pb, "sim_info": {"i_sim_card": 5}}
        with pytest.raises(Terminal, match=r"sim_info\.imsi is missing"):
            connector.desired(enriched(pb))

    def test_a_marked_row_stays_and_comes_back(self, connector: Database, system: Path) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        connector.delete(key, connector.read(key, make_call()), make_call())
        with sqlite3.connect(system) as file:
            rows = file.execute("SELECT imsi, owner, state FROM subscribers").fetchall()
        assert rows == [("001010000000003", 1000889, "removed")]
        connector.create(key, state, make_call())
        assert connector.read(key, make_call()) == state


@pytest.mark.parametrize(
    ("account", "status"),
    [
        ({}, "active"),
        ({"blocked": True}, "barred"),
        ({"bill_status": "suspended"}, "suspended"),
        ({"bill_status": "terminated", "blocked": True}, "terminated"),
        ({"bill_status": None}, "unknown"),
        ({"status": "customer_suspended"}, "barred"),
    ],
)
def test_status(account: dict[str, Any], status: str) -> None:
    connector = Database(Settings(), make_context())
    [state] = connector.desired(enriched(snapshot(**account))).values()
    assert state["status"] == status


@pytest.mark.parametrize(
    ("ident", "msisdn"),
    [
        ("420777000003@msisdn", "420777000003"),
        ("420777000003", "420777000003"),
        ("office@voip.example.net", "420999"),
        (None, "420999"),
        ("+420777000003", "420777000003"),
        ("001010000000003", "420999"),  # the card's IMSI
    ],
)
def test_msisdn(ident: str | None, msisdn: str) -> None:
    connector = Database(Settings(), make_context())
    pb = snapshot(id=ident)
    pb["sim_info"]["msisdn"] = "420999"
    [state] = connector.desired(enriched(pb)).values()
    assert state["msisdn"] == msisdn


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "postgresql://nsps:hunter22@db/x"}, "secret password"),
        ({"url": "postgresql://nsps@db/x?password=hunter22"}, "secret password"),
        ({"url": "oracle://db/x"}, "write sqlite:///FILE or postgresql://"),
        ({"url": "nonsense"}, "not a database URL"),
        ({"url": "postgresql://nsps@a:1,b:2/x"}, "host=HOST1:5432&host=HOST2"),
        ({"url": "postgresql://nsps@/x?host=a:1&host=b:y"}, "hosts or ports cannot be read"),
        ({"url": "postgresql://nsps@a/x?sslmod=require"}, 'option "sslmod": correct'),
        ({"url": "postgresql://nsps@a/x?target_session_attrs=rw"}, "read-write, primary, any"),
        ({"url": "postgresql://nsps@/x?host=a&host=b"}, "with several hosts"),
        ({"url": "mariadb://nsps@/x?host=a&host=b"}, "name a proxy"),
        ({"url": "mysql://nsps@a,b/x"}, "name a proxy"),
        ({"url": "sqlite://"}, "names no file"),
        ({"table": "subscribers; DROP TABLE x"}, "TABLE or SCHEMA.TABLE"),
        ({"table": "a.b.c"}, "TABLE or SCHEMA.TABLE"),
        ({"table": 'x"y'}, "TABLE or SCHEMA.TABLE"),
        ({"columns": {"i_account": "account_info.i_account", "a b": "name"}}, "small letters"),
        ({"columns": {"i_account": "account_info.nonsense"}}, "names no value"),
        ({"columns": {"i_account": "account_info.service_features"}}, "is a list: name one"),
        ({"columns": {"i_account": "prev_sim_info.imsi"}}, "is no state"),
        ({"columns": {"i_account": "feature."}}, "names no value"),
        ({"key": "imei"}, "not among the columns"),
        ({"updated_at": "status"}, "leave it out of columns"),
        ({"updated_at": "x; --"}, "small letters"),
        (
            {"columns": {"i_account": "account_info.i_account"}, "on_release": "mark"},
            "let a column hold status",
        ),
        ({"tabel": "x"}, "Extra inputs"),
    ],
)
def test_settings_that_are_wrong_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings.model_validate(settings)
    assert message in str(refusal.value)


def test_each_column_names_the_blocks_that_it_needs() -> None:
    columns = {"id": "account_info.id", "plan": "product_info.name", "number": "msisdn"}
    settings = Settings(url="sqlite:////tmp/x.db", key="id", columns=columns)
    assert list(Database.reads(settings)) == [
        ("columns.id (account_info.id)", Block.ACCOUNT_INFO),
        ("columns.plan (product_info.name)", Block.PRODUCT_INFO),
        ("columns.number (msisdn)", Block.ACCOUNT_INFO),
        ("columns.number (msisdn)", Block.SIM_INFO),
    ]
