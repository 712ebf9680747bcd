"""What the database connector is tested with on each real server."""

from __future__ import annotations

import traceback
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from nsps.domain.outcome import Terminal, Transient
from nsps_testing.standard import (
    ChaosProxy,
    LocalStateStandardTests,
    enriched,
    make_call,
    make_context,
    rotated_parts,
)

from functions.connectors.database.connector import Database

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
            "product_name": "Přípojka 5G 🛜",
            "bill_status": "open",
            "blocked": False,
            **account,
        },
        "sim_info": {"imsi": "001010000000003", "i_sim_card": 5},
    }


def table_of_theirs(url: str, table: str, key: str) -> dict[str, Any]:
    """Settings for the operator's own table: a row per SIM, and rows are marked."""
    return {
        "url": url,
        "table": table,
        "key": key,
        "columns": {
            key: "sim_info.i_sim_card",
            "customer": "account_info.i_customer",
            "number": "msisdn",
            "blocked": "account_info.blocked",
            "state": "status",
            "mail": "account_info.email",
        },
        "updated_at": "",
        "on_release": "mark",
    }


class DatabaseTests(LocalStateStandardTests):
    """The connector as it is set up on every server. ``scheme``: of the server's URL."""

    scheme: ClassVar[str]
    connector_class = Database
    secrets: ClassVar = {"password": PASSWORD}
    pb = snapshot()
    changed_pb = snapshot(blocked=True, email=None, product_name="")

    @abstractmethod
    def rows(self, sql: Any, query: str) -> Sequence[Any]:
        """What a query of the server's administrator finds; ``sql``: the fixture."""

    def prepare(self, sql: Any) -> None:
        """What the operator has made before."""

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {
            "url": f"{self.scheme}://nsps@{system.host}:{system.port}/subscribers",
            "create_table": True,
        }


class ServerTests(DatabaseTests):
    """A table that the connector has made."""

    def test_it_is_shared_by_threads(self, connector: Database, sql: Any) -> None:
        [state] = connector.desired(enriched(self.pb)).values()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: connector.create(str(n), state, make_call()), range(100)))
        assert self.rows(sql, "SELECT count(*) FROM subscribers") == [(100,)]

    def hangs_at(self, connector: Database, system: ChaosProxy, turn: int) -> None:
        """A hang at that request of a first session ends with the deadline."""
        connector.close()  # begin with no connection; what SQLAlchemy asks first is asked again
        fresh = self.make(self.settings(system))
        system.hang_at(turn)
        error = self.timely(lambda: fresh.check(make_call(self.deadline)))
        assert isinstance(error, Transient)
        system.pass_all()
        fresh.check(make_call())
        fresh.close()


class TheirTableTests(DatabaseTests):
    """The operator's own table: other types, constraints; a row per SIM, and rows are marked."""

    table: ClassVar[str]
    changed_pb = snapshot(blocked=True, email=None, i_customer=78)
    gone_pb = ({"account_info": snapshot()["account_info"]}, {"sim_info": snapshot()["sim_info"]})

    def test_the_row_is_kept_and_marked(self, connector: Database, sql: Any) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        connector.delete(key, connector.read(key, make_call()), make_call())
        rows = self.rows(sql, f"SELECT customer, blocked, state, note FROM {self.table}")
        assert rows == [("77", "false", "removed", "theirs")]
        connector.create(key, state, make_call())
        self.assert_holds(connector, key, state)

    def test_a_number_that_another_row_has_is_waited_for_and_that_row_is_left(
        self, connector: Database, sql: Any
    ) -> None:
        """MySQL's own upsert would give the other subscriber's row to this one."""
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        changed = {**state, "customer": 99}
        error = self.provoke(lambda: connector.create("6", changed, make_call()))
        assert isinstance(error, Transient) and "unique constraint" in str(error)
        assert "420777000003" not in "".join(traceback.format_exception(error))
        assert self.rows(sql, f"SELECT customer FROM {self.table}") == [("77",)]

    @pytest.mark.parametrize(
        ("column", "value"), [("state", None), ("state", "x" * 13), ("mail", "x@example.net")]
    )
    def test_values_that_the_table_refuses_are_refused_for_good(
        self, connector: Database, sql: Any, column: str, value: Any
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        error = self.provoke(lambda: connector.create(key, {**state, column: value}, make_call()))
        assert isinstance(error, Terminal)
        assert self.rows(sql, f"SELECT count(*) FROM {self.table}") == [(0,)]


class PasswordTests(DatabaseTests):
    """For a user who has to show a password."""

    def test_a_password_that_is_refused_may_be_corrected(self, system: ChaosProxy) -> None:
        settings = self.connector_class.settings_model.model_validate(self.settings(system))
        wrong = "not-the-right-one"
        connector = Database(settings, make_context({"password": wrong}))
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and "password" in str(error)
        assert wrong not in "".join(traceback.format_exception(error))
        connector.close()

    def test_a_password_that_was_changed_is_read_again_at_once(self, system: ChaosProxy) -> None:
        settings = self.connector_class.settings_model.model_validate(self.settings(system))
        connector = Database(settings, rotated_parts("password", "of-yesterday", PASSWORD))
        connector.check(make_call())
        connector.close()
