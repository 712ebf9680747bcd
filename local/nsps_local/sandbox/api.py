"""The PortaBilling API over HTTP: POST /rest/<Service>/<method>, JSON or form-encoded, every fault
an HTTP 500.

Source: PortaOne docs "Retrieving data from PortaBilling"; answers of real installations.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from nsps_local.sandbox.answers import Answers, Params
from nsps_local.sandbox.calls import Calls
from nsps_local.sandbox.faults import Fault, Faults
from nsps_local.sandbox.sessions import AUTH_FAILED, INVALID, NO_ENVELOPE, WORDS, ApiFault, Sessions

HTML_PAGE = (
    "<!DOCTYPE html><html><head><title>PortaSwitch</title></head>"
    "<body><h1>Please log in</h1><form><input name='login'></form></body></html>"
)
BAD_GATEWAY_PAGE = (
    "<html><head><title>502 Bad Gateway</title></head><body>"
    "<center><h1>502 Bad Gateway</h1></center><hr><center>nginx</center></body></html>"
)


class RestApi:
    def __init__(self, answers: Answers, sessions: Sessions, faults: Faults, calls: Calls) -> None:
        self._answers = answers
        self._sessions = sessions
        self._faults = faults
        self._calls = calls

    def blueprint(self) -> Blueprint:
        blueprint = Blueprint("rest", __name__)
        for path in ("/rest/<service>/<method>", "/rest/<service>/<method>/"):
            blueprint.add_url_rule(path, view_func=self.call, methods=["POST"])
        return blueprint

    def call(self, service: str, method: str) -> Response:
        """One API call, whatever becomes of it."""
        path = f"{service}/{method}"
        params: Params = {}
        auth_info: Params = {}
        wrong: ApiFault | None = None
        try:
            params, auth_info = read_request()
        except ApiFault as fault:
            wrong = fault

        def answer() -> Response:
            if wrong:
                return fault_answer(wrong)
            try:
                return json_answer(self._answer(path, params, auth_info))
            except ApiFault as fault:
                return fault_answer(fault)

        return with_faults(self._faults, self._calls, path, params, answer)

    def _answer(self, path: str, params: Params, auth_info: Params) -> dict[str, Any]:
        if path.startswith("Session/"):
            return self._session(path, params)
        self._authenticate(auth_info)
        if path in self._answers.writes:
            if self._faults.is_on("standalone_mode"):
                raise ApiFault(
                    "standalone_mode", "The site is read-only: it runs in stand-alone mode"
                )
            return self._answers.writes[path](params)
        if path not in self._answers.methods:
            raise ApiFault("Client.unknown_method", f"There is no method {path}")
        return self._answers.methods[path](params)

    def _session(self, path: str, params: Params) -> dict[str, Any]:
        if path == "Session/login":
            return self._sessions.login(params)
        if path == "Session/refresh_access_token":
            return self._sessions.refresh(params.get("refresh_token"))
        if path == "Session/ping":
            return self._sessions.ping(params.get("access_token"))
        if path == "Session/logout":
            return self._sessions.logout(params)
        raise ApiFault("Client.unknown_method", f"There is no method {path}")

    def _authenticate(self, auth_info: Params) -> None:
        bearer = bearer_token()
        if bearer is not None:
            self._sessions.check(bearer)
        elif "access_token" in auth_info:
            self._sessions.check(str(auth_info["access_token"]))
        elif "session_id" in auth_info:
            self._sessions.check_session_id(auth_info["session_id"])
        elif "login" in auth_info:
            given = (str(auth_info["login"]), auth_info.get("password"), auth_info.get("token"))
            if not self._sessions.knows(*given):
                raise ApiFault(AUTH_FAILED, WORDS)
        else:
            raise ApiFault(NO_ENVELOPE, "Authentication information is missing")


def bearer_token() -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def read_request() -> tuple[Params, Params]:
    """(params, auth_info) of a JSON body or of form fields that hold JSON."""
    if request.mimetype in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        fields = {name: request.form.get(name) or "{}" for name in ("params", "auth_info")}
        body = {name: _json(text) for name, text in fields.items()}
    else:
        body = _json(request.get_data(as_text=True) or "{}")
    if not isinstance(body, dict):
        raise ApiFault(INVALID, "The body is not an object")
    params, auth_info = body.get("params", {}), body.get("auth_info", {})
    if not isinstance(params, dict) or not isinstance(auth_info, dict):
        raise ApiFault(INVALID, "params and auth_info must be objects; empty ones are {}, not []")
    return params, auth_info


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ApiFault(INVALID, "The request is not JSON") from None


def json_answer(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, mimetype="application/json")


def fault_answer(fault: ApiFault) -> Response:
    return json_answer({"faultcode": fault.faultcode, "faultstring": fault.faultstring}, status=500)


def with_faults(
    faults: Faults, calls: Calls, method: str, params: Params, answer: Callable[[], Response]
) -> Response:
    """Answer a call, or let the faults that are on answer it; record it either way."""
    started = time.time()
    call = calls.add(method, params, started)
    met = faults.meeting(method)
    for fault in met:
        _delay(faults, fault, "before")
    response = next((r for r in map(_instead, met) if r is not None), None) or answer()
    for fault in met:
        _delay(faults, fault, "after")
        if fault.fault == "latin1":
            text = json.dumps(response.get_json(), ensure_ascii=False)
            response.set_data(text.encode("latin-1", "replace"))
    call["status"] = response.status_code
    call["seconds"] = round(time.time() - started, 6)
    return response


def _delay(faults: Faults, fault: Fault, when: str) -> None:
    if fault.fault == "hang" and when == "before":
        faults.wait(fault.seconds or 0)
    if fault.fault == "slow" and fault.when == when:
        faults.wait((fault.milliseconds or 0) / 1000)


def _instead(fault: Fault) -> Response | None:
    """What a fault answers in place of the API; None when it only delays."""
    if fault.fault == "html":
        return Response(HTML_PAGE, mimetype="text/html")
    if fault.fault == "non_json":
        return Response('{"account_info": {"i_account": 2770', mimetype="application/json")
    if fault.fault == "empty":
        return Response(b"", mimetype="application/json")
    if fault.fault == "bad_gateway":
        return Response(BAD_GATEWAY_PAGE, status=502, mimetype="text/html")
    if fault.fault == "status_api_down":
        return Response(b"", status=fault.status)
    if fault.fault == "close":
        _reset_connection()
        return Response(b"", status=500)
    if fault.fault in {"fail", "login_refused"}:
        usual = AUTH_FAILED if fault.fault == "login_refused" else "Server.internal_error"
        code = fault.faultcode or usual
        return fault_answer(
            ApiFault(code, fault.faultstring or WORDS_OF.get(code, "Internal error"))
        )
    return None


WORDS_OF = {
    AUTH_FAILED: WORDS,
    "Server.Session.alert_You_must_change_password": "You must change your password",
}


def _reset_connection() -> None:
    """Break the connection off without an answer, as a dying process does."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
