"""The proxy: a cookie says who was chosen, the console is shown that person's token."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import flask
import requests
from nsps.console.pages import render
from werkzeug.serving import WSGIRequestHandler, make_server

ROLES = {
    "viewer": "reads everything; subscribers' numbers and names are masked",
    "operator": "also pauses, resumes, sends again, compares and repairs",
    "admin": "also erases an account",
}
PALETTE = render.PALETTE.read_text(encoding="utf-8")
COOKIE = "nsps_person"
CALL_SECONDS = 120
MOST_BYTES = 200_000
_PROTECTION = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "img-src data:; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_ONWARD = ("Content-Type", "If-None-Match", "Referer", "Sec-Fetch-Site")
_NOT_BACK = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
)


class SignIn:
    """Serves on ``host:port`` until stopped. ``console``: its url; ``token``: of an e-mail."""

    def __init__(self, host: str, port: int, console: str, token: Callable[[str], str]) -> None:
        self._console, self._token = console, token
        self.url = f"http://{host}:{port}"
        self._key = secrets.token_bytes(32)
        """Of this run: another run's cookies are worth nothing."""
        self._hosts = {f"{host}:{port}", f"localhost:{port}"}
        app = flask.Flask(__name__, static_folder=None, template_folder=str(Path(__file__).parent))
        app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
        app.before_request(self._own_name_only)
        app.add_url_rule("/sign-in", view_func=self._sign_in, methods=["GET", "POST"])
        app.add_url_rule("/", "root", self._forward, methods=["GET", "POST"])
        app.add_url_rule("/<path:_>", "page", self._forward, methods=["GET", "POST"])
        self._server = make_server(host, port, app, threaded=True, request_handler=_Quiet)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="sign-in", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def _own_name_only(self) -> flask.Response | None:
        """Another site may point its own name to this address: it is not served by that."""
        if flask.request.host in self._hosts:
            return None
        return flask.Response("open this address by its number\n", 421, _PROTECTION)

    def _sign_in(self) -> flask.Response:
        request = flask.request
        if request.method == "GET":
            to = local_path(request.args.get("to", "/"))
            page = flask.render_template("page.html", roles=ROLES, to=to, palette=PALETTE)
            return flask.Response(page, 200, _PROTECTION)
        role = request.form.get("role", "")
        elsewhere = request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"
        if role not in ROLES or elsewhere:
            return flask.Response("choose one of the roles\n", 400, _PROTECTION)
        answer = _moved(local_path(request.form.get("to", "/")))
        # Secure as well: browsers take loopback for as good as https.
        value = f"{role}.{self._signature(role)}"
        answer.set_cookie(COOKIE, value, secure=True, httponly=True, samesite="Lax")
        return answer

    def _forward(self, _: str = "") -> flask.Response:
        request = flask.request
        role = self._role(request.cookies.get(COOKIE, ""))
        if role is None:
            return _moved(f"/sign-in?to={quote(request.full_path.rstrip('?'), safe='')}")
        given = {name: request.headers[name] for name in _ONWARD if name in request.headers}
        authorization = {"Authorization": f"Bearer {self._token(f'{role}@localhost')}"}
        try:
            answer = requests.request(
                request.method,
                f"{self._console}{request.full_path.rstrip('?')}",
                data=request.get_data(cache=False),
                headers={**given, **authorization},
                timeout=CALL_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException:
            return flask.Response("the console does not answer; see its log\n", 502, _PROTECTION)
        back = {n: value for n, value in answer.headers.items() if n.lower() not in _NOT_BACK}
        return flask.Response(answer.content, answer.status_code, back)

    def _role(self, cookie: str) -> str | None:
        """Who was chosen; None for nobody."""
        role, _, signature = cookie.partition(".")
        holds = hmac.compare_digest(signature.encode(), self._signature(role).encode())
        return role if holds and role in ROLES else None

    def _signature(self, role: str) -> str:
        return hmac.new(self._key, role.encode(), hashlib.sha256).hexdigest()


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:
        pass


def _moved(to: str) -> flask.Response:
    return flask.Response("", 303, {**_PROTECTION, "Location": to})


def local_path(path: str) -> str:
    """Where to go after signing in: a path of this address, whatever the form says."""
    parts = urlsplit(path.replace("\\", "/"))
    onward = "/" + quote(parts.path.lstrip("/"), safe="/%:~.-_")
    return onward + (f"?{quote(parts.query, safe='=&%:/+,~.-_')}" if parts.query else "")
