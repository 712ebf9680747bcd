"""The choice of a role before the console, on this machine and nowhere else."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import requests
from nsps_local.sign_in import SignIn
from nsps_local.sign_in.proxy import local_path
from nsps_local.stack.ports import reserve_base

from infra.bundle import archive_bytes
from tests.infra.conftest import ROOT


@pytest.fixture
def console() -> Iterator[tuple[str, list[Any]]]:
    """A console that tells what it was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
            self.send_response(303)
            self.send_header("Location", "/elsewhere")
            self.send_header("X-Test", "kept")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 (the server's own way of naming)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def sign_in(console: tuple[str, list[Any]]) -> Iterator[SignIn]:
    running = SignIn("127.0.0.1", reserve_base() + 8, console[0], lambda email: f"token-of-{email}")
    running.start()
    yield running
    running.stop()


def choose(sign_in: SignIn, role: str, to: str = "/", **headers: str) -> requests.Response:
    form = {"role": role, "to": to}
    url = f"{sign_in.url}/sign-in"
    return requests.post(url, data=form, headers=headers, timeout=10, allow_redirects=False)


def cookie(answer: requests.Response) -> dict[str, str]:
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


def test_nobody_is_asked_who_it_is_and_comes_back(
    sign_in: SignIn, console: tuple[str, list[Any]]
) -> None:
    url = f"{sign_in.url}/events?outcome=rejected"
    answer = requests.get(url, timeout=10, allow_redirects=False)
    assert answer.status_code == 303
    page = requests.get(f"{sign_in.url}{answer.headers['Location']}", timeout=10)
    assert 'value="/events?outcome=rejected"' in page.text
    assert all(f'value="{role}"' in page.text for role in ("viewer", "operator", "admin"))
    assert console[1] == []
    chosen = choose(sign_in, "viewer", "/events?outcome=rejected")
    assert chosen.headers["Location"] == "/events?outcome=rejected"
    kept = chosen.headers["Set-Cookie"]
    assert "HttpOnly" in kept and "SameSite=Lax" in kept and "Secure" in kept


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_the_console_is_shown_the_token_of_who_was_chosen(
    sign_in: SignIn, console: tuple[str, list[Any]], role: str
) -> None:
    headers = cookie(choose(sign_in, role))
    forged = {**headers, "Authorization": "Bearer mine", "X-Goog-Iap-Jwt-Assertion": "mine"}
    answer = requests.post(
        f"{sign_in.url}/x?y=1", data="a=b", headers=forged, timeout=10, allow_redirects=False
    )
    assert (answer.status_code, answer.headers["X-Test"]) == (303, "kept")
    ((method, path, given, body),) = console[1]
    assert (method, path, body) == ("POST", "/x?y=1", b"a=b")
    assert given["Authorization"] == f"Bearer token-of-{role}@localhost"
    assert not {"Cookie", "X-Goog-Iap-Jwt-Assertion"} & set(given)


@pytest.mark.parametrize("value", ["", "admin", "admin.", "admin.0000", "root.x", "é.é"])
def test_a_made_up_cookie_is_nobody(
    sign_in: SignIn, console: tuple[str, list[Any]], value: str
) -> None:
    headers = {"Cookie": f"nsps_person={value}".encode()}
    answer = requests.get(sign_in.url, headers=headers, timeout=10, allow_redirects=False)
    assert answer.headers["Location"].startswith("/sign-in")
    signed = cookie(choose(sign_in, "viewer"))["Cookie"].replace("viewer", "admin")
    answer = requests.get(
        sign_in.url, headers={"Cookie": signed}, timeout=10, allow_redirects=False
    )
    assert answer.headers["Location"].startswith("/sign-in")
    assert console[1] == []


def test_another_site_signs_nobody_in(sign_in: SignIn) -> None:
    assert choose(sign_in, "admin", **{"Sec-Fetch-Site": "cross-site"}).status_code == 400
    assert choose(sign_in, "root").status_code == 400
    answer = requests.get(sign_in.url, headers={"Host": "evil.example"}, timeout=10)
    assert answer.status_code == 421


@pytest.mark.parametrize(
    ("to", "leads"),
    [
        ("//evil.example/x", "/x"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/alert%281%29"),
        ("/events?a=b&c=d", "/events?a=b&c=d"),
        ("/x\r\nSet-Cookie: a", "/xSet-Cookie:%20a"),
    ],
)
def test_it_leads_nowhere_else(to: str, leads: str) -> None:
    assert local_path(to) == leads


def test_the_sign_in_page_cannot_exist_in_a_deployment() -> None:
    """It is in no archive, and nothing that is deployed knows of it: the console only ever believes
    a token that Google signed."""
    for main in sorted(ROOT.glob("functions/**/main.py")):
        folder = main.parent.relative_to(ROOT).as_posix()
        archive = zipfile.ZipFile(io.BytesIO(archive_bytes(ROOT, folder)))
        names = [name for name in archive.namelist() if name.endswith((".py", ".html", ".js"))]
        assert len(names) > 30
        for name in names:
            text = archive.read(name).decode()
            assert not re.search(r"(import|from) nsps_local|sign-in|nsps_person", text), name


def test_the_console_has_no_way_in_by_itself() -> None:
    """Its routes: each asks who it is first, and no page takes a role."""
    from nsps.console.pages.routes import ROUTES

    assert not [route.path for route in ROUTES if "sign" in route.path or "login" in route.path]
