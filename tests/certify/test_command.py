"""The command: what it sends and to whom, what it prints and writes, and when it ends."""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from nsps_local.certify import command
from nsps_local.certify.address import Address, CannotCertify
from nsps_local.certify.case import Level, State, Target, level_of
from nsps_local.certify.cases import all_cases
from nsps_local.certify.run import Run
from nsps_local.certify.samples import Samples
from nsps_local.certify.send import Sender
from nsps_local.certify.system import System
from nsps_local.cli import main as nsps
from nsps_testing.certificates import issued
from nsps_testing.faults import Reply as Scripted
from nsps_testing.faults import ScriptedHttp
from nsps_testing.sockets import SocketServer

from tests.certify import partner as partners
from tests.certify.partner import TOKEN, Partner, Reply, Served, error


@pytest.fixture
def system() -> Iterator[ScriptedHttp]:
    with ScriptedHttp() as real:
        yield real


@pytest.fixture
def served(system: ScriptedHttp) -> Iterator[Served]:
    with Served(Partner(system.url)) as running:
        yield running


@pytest.fixture
def behind(system: ScriptedHttp) -> Iterator[System]:
    """The system, by way of the command."""
    made = System(("127.0.0.1", 0), system.address)
    yield made
    made.close()


class Marked(Partner):
    """Answers in markup, and with what XML cannot hold."""

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if path == "/health":
            return Reply(500, "<script>alert('\x00\ufffe')</script>")
        return super().handle(method, path, headers, body)


def test_a_good_connector_by_nsps_certify(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nsps(["certify", served.url, "--token", TOKEN, "--level", "exemplary"]) == 0
    printed = capsys.readouterr().out
    assert "Level: exemplary" in printed and "needs --system" in printed
    assert TOKEN not in printed


def test_the_level_decides_the_exit_status(
    system: ScriptedHttp, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forbids(Partner):
        def unauthorized(self) -> Reply:
            return error(403, "Forbidden", "AUTHENTICATION_ERROR")

    with Served(Forbids(system.url)) as running:
        arguments = [running.url, "--token", TOKEN, "--wrong", "--level"]
        assert command.main([*arguments, "robust"]) == 0
        assert command.main([*arguments, "exemplary"]) == 1
    printed = capsys.readouterr().out
    for word in ("expected: ", "sent: ", "why: ", "mend: ", "no Authorization header: 403"):
        assert word in printed


def test_the_token_may_come_from_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NSPS_CERTIFY_TOKEN", TOKEN)
    assert command.main([served.url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["level"] == "exemplary" and found["url"] == served.url
    [case] = [each for each in found["cases"] if each["name"] == "authentication"]
    assert case["exchanges"][0]["sent"]["body"] and case["exchanges"][0]["came"]["status"] == 401
    assert TOKEN not in json.dumps(found)


def test_reports_are_escaped_and_well_formed(system: ScriptedHttp, tmp_path: Path) -> None:
    junit, html = tmp_path / "junit.xml", tmp_path / "report.html"
    with Served(Marked(system.url)) as running:
        files = ["--junit", str(junit), "--html", str(html)]
        assert command.main([running.url, "--token", TOKEN, *files]) == 1
    suites = ElementTree.parse(junit).getroot()
    [failure] = suites.findall(".//testcase[@name='health']/failure")
    for words in ("<script>", "sent: 1 request", "mend: ", f"GET {running.origin}/health\n"):
        assert words in (failure.text or "")
    assert suites.findall(".//testcase[@name='graceful-stop']/skipped")
    assert [each.get("name") for each in suites] == ["contract", "robust", "exemplary"]
    page = html.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert (
        page.index("<h2>To mend") < page.index("GET /health answers 200") < page.index("<h2>Well")
    )
    assert TOKEN not in page and TOKEN not in junit.read_text()


def test_a_dry_run_shows_the_requests_and_sends_nothing(
    system: ScriptedHttp, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"{system.url}/process-event", "--token", TOKEN, "--dry-run"]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert system.requests == []
    assert f"POST {system.url}/process-event" in printed and "Authorization: Bearer ***" in printed
    assert "nothing was sent" in printed and TOKEN not in printed
    assert command.main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {each["case"] for each in shown} >= {"health", "malformed-body", "concurrent"}
    assert "system-away" not in {each["case"] for each in shown}


def test_the_events_of_the_handler_alone(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [served.url, "--token", TOKEN, "--dry-run", "--json", "--events"]
    assert command.main([*arguments, "SIM/*,Account/Bundle/Assigned"]) == 0
    shown = {each["case"] for each in json.loads(capsys.readouterr().out)}
    kinds = {each.removeprefix("event-") for each in shown if each.startswith("event-")}
    sims = {f"SIM/{word}" for word in ("Created", "Updated", "Replaced", "Deleted")}
    assert kinds == {*sims, "Account/Bundle/Assigned", "unknown"}
    assert command.main([*arguments, "Simm/*"]) == 2


def test_nothing_goes_to_another_address(
    system: ScriptedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where a redirect leads, and not by a proxy of the environment."""
    with ScriptedHttp() as elsewhere:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.url)
        system.always(Scripted(307, {}, {"Location": f"{elsewhere.url}/process-event"}))
        assert command.main([f"{system.url}/process-event", "--token", TOKEN]) == 1
        assert elsewhere.requests == [] and len(system.requests) > 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:9/x"], "--token"),
        (["ftp://127.0.0.1/x", "--token", "t"], "write http"),
        (["http://user:pw@127.0.0.1/x", "--token", "t"], "without user"),
        (["http://127.0.0.1:99999/x", "--token", "t"], "write http"),
        (["http://127.0.0.1:9/x", "--token", "t", "--health", "http://h/x"], "another host"),
        (["http://127.0.0.1:9/x", "--token", "t", "--system", "5432"], "LISTEN_HOST"),
        (["http://127.0.0.1:9/x", "--token", "t", "--system", "a=b"], "HOST:PORT"),
        (["http://127.0.0.1:9/x", "--token", "t", "--pid", "0"], "above 1"),
        (["http://127.0.0.1:9/x", "--token", "t", "--pid=-1"], "above 1"),
        (["http://127.0.0.1:9/x", "--token", "t", "--pid", "9"], "name --system too"),
        (["http://127.0.0.1:9/ä", "--token", "t"], "as %XX"),
        (["https://127.0.0.1:9/x", "--token", "t", "--ca", __file__], "no certificates"),
        (["http://127.0.0.1:9/x", "--token", "t", "--junit", "no/x.xml"], "a folder that is there"),
    ],
)
def test_what_cannot_be_tried_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nsps(["certify", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_where_nothing_listens_no_case_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["http://127.0.0.1:9/x", "--token", "t"]) == 2
    printed = capsys.readouterr()
    assert "is the connector running" in printed.err and not printed.out


def test_a_certificate_of_an_authority_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, ca = issued("authority"), tmp_path / "ca.pem"
    ca.write_text(authority.cert_pem)
    with ScriptedHttp(tls=issued("localhost", authority).server_side(tmp_path)) as connector:
        arguments = [f"{connector.url}/process-event", "--token", TOKEN]
        assert command.main(arguments) == 2
        assert "not trusted" in capsys.readouterr().err and not connector.requests
        assert command.main([*arguments, "--ca", str(ca)]) == 1
        assert "GET /health answers 200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "health", "unknown"),
    [
        ("https://h.example", "/health", "/certify-no-such-resource"),
        ("https://h.example/hss/process-event", "/hss/health", None),
        ("https://h.example/hss/", "/hss/health", "/hss/certify-no-such-resource"),
    ],
)
def test_health_is_beside_the_service(url: str, health: str, unknown: str | None) -> None:
    address = Address.of(url)
    assert address.paths[Target.HEALTH] == health
    assert unknown is None or address.paths[Target.UNKNOWN] == unknown


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/process-event"


def test_it_ends_in_time_whatever_the_connector_does() -> None:
    with silent() as url:
        began = time.monotonic()
        run = Run(Sender(Address.of(url), TOKEN), seconds=2.0)
        results = list(run.results(all_cases(Samples(datetime.now(UTC)))))
    assert time.monotonic() - began < 8
    assert results[0].state is State.FAILED and "no answer within" in results[0].complaints[0].text
    assert any("not tried" in each.complaints[0].text for each in results if each.complaints)
    assert level_of(results) is None


def test_an_answer_that_trickles_is_cut() -> None:
    """Each byte comes in time; all of them would take for ever."""

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"x: y\r\n")
            time.sleep(0.05)

    with SocketServer(trickle) as server:
        sender = Sender(Address.of(f"http://127.0.0.1:{server.port}"), TOKEN)
        [case] = [each for each in all_cases(Samples(datetime.now(UTC))) if each.name == "health"]
        exchange = sender.send(case.send[0], 0.3)
    assert exchange.answer is None and exchange.trouble.startswith("no answer within")
    assert exchange.seconds < 2


@contextmanager
def process(system_url: str, *how: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command_line = [sys.executable, partners.__file__, "0", system_url, *how]
    started = subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    try:
        yield started, started.stdout.readline().strip()
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


@pytest.mark.parametrize(("how", "state"), [("", State.PASSED), ("abrupt", State.FAILED)])
def test_a_stop_while_events_are_under_way(behind: System, how: str, state: State) -> None:
    host, port = behind.proxy.address
    with process(f"http://{host}:{port}", how) as (started, url):
        run = Run(Sender(Address.of(url), TOKEN), behind, started.pid)
        cases = all_cases(Samples(datetime.now(UTC)))
        results = list(run.results([cases[0], cases[-1]]))
        started.wait(10)
    assert [each.state for each in results] == [State.PASSED, state], results[-1].complaints


def test_a_process_that_is_not_there(behind: System, served: Served) -> None:
    run = Run(Sender(Address.of(served.url), TOKEN), behind, process=2**22 + 1)
    with pytest.raises(CannotCertify, match="--pid"):
        list(run.results(all_cases(Samples(datetime.now(UTC)))[-1:]))


def test_a_level_holds_those_before_it() -> None:
    assert list(Level) == ["contract", "robust", "exemplary"]


def test_the_page_names_options_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "certify.md").read_text(encoding="utf-8")
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    named = set(re.findall(r"--[a-z][a-z-]+", page))
    assert named == set(parser._option_string_actions) - {"-h", "--help"}
