"""The ESPF status API: who was provisioned where, as PortaBilling shows it to its users.

POST /espf/v1/account/i/<i_account>/status and /espf/v1/account/<account id>/status, GET
/espf/v1/groups, POST /espf/v1/group/create. Unlike the main API it answers with real HTTP codes.
Every status ever told is kept, in order. Source: PortaOne docs "Sending provisioning status" and
"Manage service groups".
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, request

from nsps_local.sandbox.api import bearer_token, json_answer, with_faults
from nsps_local.sandbox.calls import Calls
from nsps_local.sandbox.domain import NotFound
from nsps_local.sandbox.faults import Faults
from nsps_local.sandbox.sessions import ApiFault, Sessions
from nsps_local.sandbox.store import Row, Store
from nsps_local.sandbox.times import Clock

PREDEFINED = (
    "VoIP",
    "HSS",
    "PCRF",
    "IPTV",
    "WiMAX",
    "Netaccess",
    "NumberPortability",
    "LawfulInterception",
)
FIRST_CUSTOM = 1001
STATUSES = ("OK", "IN_PROGRESS", "RETRY", "FAILED")
MESSAGE_LENGTH = 4000
NAME_LENGTH = 64


class StatusError(Exception):
    """A request the status API refuses, with its HTTP code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StatusBook:
    """Groups, and every status of every account."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        with store.transaction():
            for number, name in enumerate(PREDEFINED, start=1):
                store.run("INSERT OR IGNORE INTO status_groups VALUES (?, ?, 0)", number, name)

    def groups(self) -> list[Row]:
        rows = self._store.rows("SELECT * FROM status_groups ORDER BY i_group")
        return [
            {**row, "i_group": str(row["i_group"]), "is_custom": bool(row["is_custom"])}
            for row in rows
        ]

    def create_group(self, name: object) -> Row:
        if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH:
            raise StatusError(400, f"name must be a string of 1 to {NAME_LENGTH} characters")
        with self._store.transaction():
            if self._store.row("SELECT 1 FROM status_groups WHERE name = ?", name):
                raise StatusError(400, f"the group {name} already exists")
            last = self._store.value("SELECT max(i_group) FROM status_groups")
            i_group = max(FIRST_CUSTOM, last + 1)
            self._store.run("INSERT INTO status_groups VALUES (?, ?, 1)", i_group, name)
        return {"i_group": str(i_group), "name": name}

    def remove_group(self, name: str) -> None:
        """As if nobody had registered it; raises NotFound."""
        with self._store.transaction():
            if not self._store.row("SELECT 1 FROM status_groups WHERE name = ?", name):
                raise NotFound(f"There is no group {name}.")
            self._store.run("DELETE FROM status_groups WHERE name = ?", name)

    def tell(self, account: Row | None, body: dict[str, Any]) -> None:
        """Take one status; raises StatusError 400 for what is not exactly as documented, 404 for no
        account.
        """
        status, group, message = body.get("status"), body.get("group"), body.get("message")
        if status not in STATUSES:
            raise StatusError(400, f"status must be one of {', '.join(STATUSES)}")
        if message is not None and (not isinstance(message, str) or len(message) > MESSAGE_LENGTH):
            raise StatusError(
                400, f"message must be a string of at most {MESSAGE_LENGTH} characters"
            )
        if not self._store.row("SELECT 1 FROM status_groups WHERE name = ?", str(group)):
            raise StatusError(400, "group must be the name of a registered group")
        if account is None:
            raise StatusError(404, "account not found")
        self._store.run(
            "INSERT INTO statuses (i_account, group_name, status, message, at)"
            " VALUES (?, ?, ?, ?, ?)",
            *(account["i_account"], group, status, message, self._clock()),
        )

    def account(self, i_account: int | None = None, id_: str | None = None) -> Row | None:
        return self._store.row(
            "SELECT i_account FROM accounts WHERE i_account = ? OR id = ?", i_account, id_
        )

    def history(self, i_account: int | None, group: str | None, limit: int = 1000) -> list[Row]:
        """Every status told, oldest first: [{"seq", "i_account", "group", "status", "message",
        "at"}].
        """
        return self._store.rows(
            'SELECT * FROM (SELECT seq, i_account, group_name AS "group", status, message, at'
            " FROM statuses WHERE (? IS NULL OR i_account = ?) AND (? IS NULL OR group_name = ?)"
            " ORDER BY seq DESC LIMIT ?) ORDER BY seq",
            *(i_account, i_account, group, group, limit),
        )

    def current(self, i_account: int) -> dict[str, Row]:
        """The last status of an account in each group."""
        rows = self._store.rows(
            "SELECT group_name, status, message, at, count(*) AS told, max(seq) FROM statuses"
            " WHERE i_account = ? GROUP BY group_name",
            i_account,
        )
        return {
            row["group_name"]: {key: row[key] for key in ("status", "message", "at", "told")}
            for row in rows
        }


class StatusApi:
    def __init__(self, book: StatusBook, sessions: Sessions, faults: Faults, calls: Calls) -> None:
        self._book = book
        self._sessions = sessions
        self._faults = faults
        self._calls = calls

    def blueprint(self) -> Blueprint:
        blueprint = Blueprint("espf", __name__, url_prefix="/espf/v1")
        blueprint.add_url_rule(
            "/account/i/<int:i_account>/status", view_func=self.by_number, methods=["POST"]
        )
        blueprint.add_url_rule("/account/<id_>/status", view_func=self.by_id, methods=["POST"])
        blueprint.add_url_rule("/groups", view_func=self.groups)
        blueprint.add_url_rule("/group/create", view_func=self.create_group, methods=["POST"])
        return blueprint

    def by_number(self, i_account: int) -> Response:
        return self._call(
            "status", {"i_account": i_account}, lambda: self._tell(i_account=i_account)
        )

    def by_id(self, id_: str) -> Response:
        return self._call("status", {"id": id_}, lambda: self._tell(id_=id_))

    def groups(self) -> Response:
        return self._call("groups", {}, lambda: json_answer({"group_list": self._book.groups()}))

    def create_group(self) -> Response:
        return self._call(
            "group/create", {}, lambda: json_answer(self._book.create_group(_body().get("name")))
        )

    def _tell(self, i_account: int | None = None, id_: str | None = None) -> Response:
        self._book.tell(self._book.account(i_account, id_), _body())
        return Response(b"", status=200, mimetype="application/json")

    def _call(self, method: str, key: dict[str, Any], answer: Any) -> Response:
        def checked() -> Response:
            if not self._authenticated():
                return Response(b"", status=401, headers={"WWW-Authenticate": "Basic"})
            try:
                response: Response = answer()
                return response
            except StatusError as error:
                return json_answer({"message": str(error)}, status=error.code)

        return with_faults(self._faults, self._calls, f"espf/{method}", key, checked)

    def _authenticated(self) -> bool:
        basic = request.authorization
        if basic is not None and basic.type == "basic":
            return self._sessions.knows(basic.username or "", basic.password)
        try:
            self._sessions.check(bearer_token() or "")
        except ApiFault:
            return False
        return True


def _body() -> dict[str, Any]:
    """The JSON body, whatever the Content-Type says: PortaOne's own sample calls it a form."""
    try:
        body = json.loads(request.get_data(cache=True, parse_form_data=False))
    except ValueError:
        raise StatusError(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise StatusError(400, "the body is not an object")
    return body
