"""``nsps doctor`` finds what is wrong with a running stack, and says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from nsps_local.pubsub.oidc import TokenIssuer

from tests.end_to_end.recorder import Recorder
from tests.end_to_end.whole_stack import DATABASE, ROOT, WholeStack, configuration, webhook

pytestmark = pytest.mark.timeout(240)


class Doctor:
    """A stack, and what the doctor says of it."""

    def __init__(self, stack: WholeStack, crm: Recorder, config: Path) -> None:
        self.stack, self.crm, self.config = stack, crm, config

    def finds(self, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
        command = [sys.executable, "-m", "nsps_local.cli", "doctor", "--json"]
        command += ["--state", str(self.stack.state), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, {each["what"]: each for each in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doctor]:
    folder = tmp_path_factory.mktemp("doctor")
    with Recorder() as crm:
        config = configuration(folder, [DATABASE, webhook(crm.url)])
        with WholeStack(folder / "state", config) as stack:
            yield Doctor(stack, crm, config)


def test_a_healthy_stack_is_found_well(doctor: Doctor) -> None:
    status, found = doctor.finds()
    assert {what: each for what, each in found.items() if each["state"] != "good"} == {}
    assert status == 0
    assert {"ingress", "enrichment", "callbacks", "retries", "console"} <= set(found)
    assert {"clock", "PortaBilling", "PortaBilling's clock", "filters", "environment"} <= set(found)
    assert {f"secret e2e-{n}" for n in ("espf-webhook", "portabilling-api", "digest-key")} <= set(
        found
    )
    assert found["e2e-espf-webhook: a webhook with it"]["said"] == "is let in"
    assert {"subscribers: its system", "recorder: its system"} <= set(found)
    assert {"subscribers: ESPF group", "recorder: ESPF group"} <= set(found)


def test_a_system_that_is_down_is_named_and_no_other(doctor: Doctor) -> None:
    doctor.crm.health = lambda: 500
    try:
        status, found = doctor.finds()
    finally:
        doctor.crm.health = lambda: 200
    assert status == 1
    assert {what for what, each in found.items() if each["state"] == "bad"} == {
        "recorder: its system"
    }
    assert "look after the system" in found["recorder: its system"]["do"]


def test_a_group_that_nobody_registered_is_named_and_can_be_registered(doctor: Doctor) -> None:
    before = doctor.config.read_text()
    doctor.config.write_text(before.replace("group: CRM", "group: Loyalty"))
    try:
        status, found = doctor.finds()
        assert status == 1
        assert "Loyalty is not registered" in found["recorder: ESPF group"]["said"]
        assert "--register-groups" in found["recorder: ESPF group"]["do"]
        assert doctor.finds("--register-groups")[0] == 0
        assert doctor.finds()[0] == 0
    finally:
        doctor.config.write_text(before)


def test_a_portabilling_that_refuses_us_is_told_with_its_own_words(doctor: Doctor) -> None:
    doctor.stack.portabilling_fault("login_refused")
    try:
        status, found = doctor.finds()
    finally:
        doctor.stack.well()
    assert status == 1
    assert found["PortaBilling"]["state"] == "bad"
    assert "nsps:portabilling" in found["PortaBilling"]["do"]


def test_a_secret_that_is_no_credential_is_named_but_not_shown(doctor: Doctor) -> None:
    secrets = json.loads((doctor.stack.state / "secrets.json").read_text())
    canary = "hunter2-canary"
    try:
        doctor.stack.put_secret("e2e-espf-webhook", json.dumps({"user": canary}))
        status, found = doctor.finds()
    finally:
        doctor.stack.put_secret("e2e-espf-webhook", secrets["e2e-espf-webhook"])
    assert status == 1
    assert found["secret e2e-espf-webhook"]["state"] == "bad"
    assert "gcloud secrets versions add e2e-espf-webhook" in found["secret e2e-espf-webhook"]["do"]
    assert canary not in json.dumps(found)


def test_a_secret_with_a_byte_order_mark_is_tried_and_works(doctor: Doctor) -> None:
    secrets = json.loads((doctor.stack.state / "secrets.json").read_text())
    try:
        doctor.stack.put_secret("e2e-espf-webhook", "\ufeff" + secrets["e2e-espf-webhook"] + "\r\n")
        status, found = doctor.finds()
    finally:
        doctor.stack.put_secret("e2e-espf-webhook", secrets["e2e-espf-webhook"])
    assert status == 0
    assert found["secret e2e-espf-webhook"]["state"] == "good"
    assert found["e2e-espf-webhook: a webhook with it"]["state"] == "good"


def test_a_deployed_system_is_looked_at_from_outside(doctor: Doctor, tmp_path: Path) -> None:
    described = doctor.stack.description
    outputs = {
        "webhook_url": described["ingress"]["url"],
        "callbacks_url": described["callbacks"]["url"],
        "console_url": described["console"]["url"],
    }
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps(outputs))
    status, found = doctor.finds("--outputs", str(file))
    assert status == 0, found
    assert found["ingress without credentials"]["said"] == "is refused (HTTP 401)"
    assert found["console without an identity"]["said"] == "is refused (HTTP 401)"

    outputs["webhook_url"] = doctor.crm.url  # takes whatever comes
    file.write_text(json.dumps(outputs))
    status, found = doctor.finds("--outputs", str(file))
    assert status == 1
    assert found["ingress without credentials"]["said"] == "is answered HTTP 200"


def test_limits_are_reckoned_from_the_program(doctor: Doctor, tmp_path: Path) -> None:
    values = doctor.config.read_text()
    values = values.replace("nsps:static_egress: false", "nsps:static_egress: true")
    values = values.replace("url: sandbox", "url: https://pb.example")
    large = tmp_path / "Pulumi.large.yaml"
    large.write_text(values + "  nsps:sizes: {enrichment: {max_instances: 900}}\n")
    _, found = doctor.finds("--config", str(large))
    assert found["addresses"]["state"] == "bad"
    assert "max_instances" in found["addresses"]["do"]


def test_a_deployed_system_is_asked_through_its_console(doctor: Doctor) -> None:
    console = doctor.stack.description["console"]
    issuer = TokenIssuer(doctor.stack.state / "pubsub")

    def asked_by(who: str) -> tuple[int, dict[str, dict[str, Any]]]:
        token = issuer.token(who, console["audience"])
        return doctor.finds("--console", console["url"], "--token", token)

    status, found = asked_by("operator@localhost")
    assert status == 0, found
    assert found["PortaBilling"]["said"] == "logged in, and the ESPF API answers"
    assert found["recorder: its system"]["state"] == "good"
    assert found["recorder"]["said"] == "is in service"

    doctor.crm.health = lambda: 503
    doctor.stack.portabilling_fault("status_api_down")
    try:
        status, found = asked_by("operator@localhost")
    finally:
        doctor.crm.health = lambda: 200
        doctor.stack.well()
    assert status == 1
    assert {what for what, each in found.items() if each["state"] == "bad"} == {
        "recorder: its system",
        "PortaBilling",
    }

    status, found = asked_by("viewer@localhost")
    assert status == 0
    assert found["PortaBilling and the systems"]["state"] == "unknown"


def test_an_ingress_that_cannot_read_its_credentials_is_found(
    doctor: Doctor, tmp_path: Path
) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"error": "the webhook could not be checked: send it again"}')

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = tmp_path / "outputs.json"
        file.write_text(json.dumps({"webhook_url": f"http://127.0.0.1:{server.server_port}"}))
        status, found = doctor.finds("--outputs", str(file))
        server.shutdown()
    assert status == 1
    assert found["ingress without credentials"]["said"] == "cannot read the secrets of nsps:espf"
