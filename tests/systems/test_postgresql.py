"""The database connector against a real PostgreSQL."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import psycopg
import pytest
from nsps.connector.testing import (
    ChaosProxy,
    LocalStateStandardTests,
    StateStandardTests,
    enriched,
    make_call,
    make_parts,
)
from nsps.outcome import NoAnswer, Terminal, Transient

from functions.connectors.database.main import Database
from tests.systems.daemons import postgresql

PASSWORD = "correct-horse-battery"
Address = tuple[str, int]


def snapshot(**account: Any) -> dict[str, Any]:
    return {
        "account_info": {
            "i_account": 1000889,
            "i_customer": 77,
            "id": "420777000003@msisdn",
            "firstname": "Zoë",
            "lastname": "O'Hara; DROP TABLE subscribers",
            "email": "zoe@example.net",
            "product_name": "Přípojka 5G",
            "bill_status": "open",
            "blocked": False,
            **account,
        },
        "sim_info": {"imsi": "001010000000003", "i_sim_card": 5},
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with postgresql() as address:
        with admin(address) as session:
            session.execute("CREATE DATABASE subscribers")
            session.execute(f"CREATE USER nsps PASSWORD '{PASSWORD}'")
        yield address


def admin(address: Address, database: str = "postgres") -> psycopg.Connection[Any]:
    host, port = address
    return psycopg.connect(host=host, port=port, user="postgres", dbname=database, autocommit=True)


@pytest.fixture
def sql(server: Address) -> Iterator[psycopg.Connection[Any]]:
    with admin(server, "subscribers") as session:
        yield session


class _OnPostgresql(LocalStateStandardTests):
    connector_class = Database
    secrets: ClassVar = {"password": PASSWORD}
    pb = snapshot()
    changed_pb = snapshot(blocked=True, email=None, product_name="")

    @pytest.fixture
    def system(self, server: Address, sql: psycopg.Connection[Any]) -> Iterator[ChaosProxy]:
        sql.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION nsps")
        self.prepare(sql)
        with ChaosProxy(server) as proxy:
            yield proxy

    def prepare(self, sql: psycopg.Connection[Any]) -> None:
        """What the operator has made before."""

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {
            "url": f"postgresql://nsps@{system.host}:{system.port}/subscribers",
            "create_table": True,
        }


class TestPostgresql(_OnPostgresql, StateStandardTests):
    pings_first = True
    deadline = 2.0  # libpq knows no shorter limit for a new connection

    def test_the_row_is_there(self, connector: Database, sql: psycopg.Connection[Any]) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        row = sql.execute(
            "SELECT i_account, name, imsi, msisdn, status, updated_at > now() - interval '1 min'"
            " FROM subscribers"
        ).fetchall()
        name = "Zoë O'Hara; DROP TABLE subscribers"
        assert row == [(1000889, name, "001010000000003", "420777000003", "active", True)]

    def test_a_row_that_is_locked_is_waited_for_until_the_deadline(
        self, connector: Database, server: Address
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        with admin(server, "subscribers") as other, other.transaction():
            other.execute("SELECT * FROM subscribers FOR UPDATE")
            began = time.monotonic()
            with pytest.raises(Transient, match="in time") as error:
                connector.change(key, state, state, make_call(1))
            assert time.monotonic() - began < 1.5
        assert not isinstance(error.value, NoAnswer)
        connector.change(key, state, state, make_call())

    @pytest.mark.parametrize("turn", [4, 6])
    def test_a_hang_anywhere_in_the_first_session_ends_with_the_deadline(
        self, connector: Database, system: ChaosProxy, turn: int
    ) -> None:
        connector.close()  # begin with no connection; what SQLAlchemy asks first is asked again
        fresh = self.make(self.settings(system))
        system.hang_at(turn)
        error = self.timely(lambda: fresh.check(make_call(self.deadline)))
        assert isinstance(error, Transient)
        system.pass_all()
        fresh.check(make_call())
        fresh.close()

    def test_a_backend_that_is_ended_in_between_is_not_noticed(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        connector.check(make_call())
        sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'subscribers' AND pid <> pg_backend_pid()"
        )
        self.act(connector, make_call())

    def test_a_table_that_two_instances_create_at_once(
        self, connector: Database, sql: psycopg.Connection[Any], system: ChaosProxy
    ) -> None:
        for _ in range(5):
            sql.execute("DROP TABLE IF EXISTS subscribers")
            instances = [self.make(self.settings(system)) for _ in range(4)]
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda instance: instance.check(make_call()), instances))
            for instance in instances:
                instance.close()

    def test_it_is_shared_by_threads(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        [state] = connector.desired(enriched(self.pb)).values()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: connector.create(str(n), state, make_call()), range(100)))
        assert sql.execute("SELECT count(*) FROM subscribers").fetchall() == [(100,)]

    def test_a_password_that_is_refused_may_be_corrected(self, system: ChaosProxy) -> None:
        settings = self.connector_class.settings_model.model_validate(self.settings(system))
        wrong = "not-the-right-one"
        connector = Database(settings, make_parts({"password": wrong}))
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and "password" in str(error)
        assert wrong not in "".join(traceback.format_exception(error))
        connector.close()

    def test_without_privileges_it_waits_for_them(
        self, system: ChaosProxy, sql: psycopg.Connection[Any]
    ) -> None:
        sql.execute("ALTER SCHEMA public OWNER TO postgres; GRANT USAGE ON SCHEMA public TO nsps")
        for table, told in (("other", "CREATE"), ("subscribers", "42501")):
            sql.execute(f"CREATE TABLE {table} (i_account int)")
            self.assert_waits(system, told)

    def assert_waits(self, system: ChaosProxy, told: str) -> None:
        connector = self.make(
            {
                **self.settings(system),
                "columns": {"i_account": "account_info.i_account"},
                "updated_at": "",
            }
        )
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and told in str(error)
        connector.close()


class TestRowPerSimInATableOfTheirs(_OnPostgresql):
    """The operator's own table: another schema, other types, constraints; rows are marked."""

    changed_pb = snapshot(blocked=True, email=None, i_customer=78)
    gone_pb = ({"account_info": snapshot()["account_info"]}, {"sim_info": snapshot()["sim_info"]})

    def prepare(self, sql: psycopg.Connection[Any]) -> None:
        sql.execute(
            "DROP SCHEMA IF EXISTS crm CASCADE; CREATE SCHEMA crm; CREATE TABLE crm.sims ("
            " id serial PRIMARY KEY, imsi numeric(15) UNIQUE, customer varchar(20),"
            " number varchar(15) UNIQUE, blocked text, state varchar(12) NOT NULL,"
            " mail text CHECK (mail <> 'x@example.net'), note text DEFAULT 'theirs')"
        )

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {
            "url": f"postgresql://postgres@{system.host}:{system.port}/subscribers",
            "table": "crm.sims",
            "key": "imsi",
            "columns": {
                "imsi": "sim_info.i_sim_card",
                "customer": "account_info.i_customer",
                "number": "msisdn",
                "blocked": "account_info.blocked",
                "state": "status",
                "mail": "account_info.email",
            },
            "updated_at": "",
            "on_release": "mark",
        }

    def test_the_row_is_kept_and_marked(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        connector.delete(key, make_call())
        rows = sql.execute("SELECT customer, blocked, state, note FROM crm.sims").fetchall()
        assert rows == [("77", "false", "removed", "theirs")]
        connector.create(key, state, make_call())
        self.assert_holds(connector, key, state)

    def test_a_number_that_another_row_has_is_waited_for(self, connector: Database) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        error = self.provoke(lambda: connector.create("6", state, make_call()))
        assert isinstance(error, Transient) and "unique constraint" in str(error)
        assert "420777000003" not in "".join(traceback.format_exception(error))

    @pytest.mark.parametrize(
        ("column", "value"), [("state", None), ("state", "x" * 13), ("mail", "x@example.net")]
    )
    def test_values_that_the_table_refuses_are_refused_for_good(
        self, connector: Database, column: str, value: Any
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        error = self.provoke(lambda: connector.create(key, {**state, column: value}, make_call()))
        assert isinstance(error, Terminal)

    def test_a_key_without_a_unique_index_can_be_corrected(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        sql.execute("ALTER TABLE crm.sims DROP CONSTRAINT sims_imsi_key")
        error = self.provoke(lambda: self.act(connector, make_call()))
        assert isinstance(error, Transient) and "42P10" in str(error)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("DROP TABLE crm.sims", "no table crm.sims: create it"),
            ("ALTER TABLE crm.sims DROP COLUMN mail", "no column mail"),
        ],
    )
    def test_a_table_that_is_not_as_the_settings_say(
        self, sql: psycopg.Connection[Any], system: ChaosProxy, change: str, told: str
    ) -> None:
        sql.execute(change)
        connector = self.make(self.settings(system))
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and told in str(error)
        connector.close()
