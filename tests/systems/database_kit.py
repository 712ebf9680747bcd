"""What the database connector is tested with on each real server."""

from __future__ import annotations

import traceback
from typing import Any, ClassVar

from nsps.domain.outcome import Transient
from nsps_testing.standard import (
    ChaosProxy,
    LocalStateStandardTests,
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

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {
            "url": f"{self.scheme}://nsps@{system.host}:{system.port}/subscribers",
            "create_table": True,
        }


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
