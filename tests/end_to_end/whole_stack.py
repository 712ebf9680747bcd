"""The whole stack as a user starts it (`nsps up`), and what the end-to-end tests do with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import grpc
import requests
import yaml
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)
from google.cloud.secretmanager_v1.types import SecretPayload
from nsps.delivery.timeline import EventHistory
from nsps.domain.outcome import Transient
from nsps_local.cli.running import Running
from nsps_local.cli.send import signed_headers
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.scenario import Sandbox
from nsps_local.stack.ports import reserve_base
from nsps_testing.waiting import wait_for

from tests.end_to_end import processes

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90


def configuration(folder: Path, handlers: list[dict[str, Any]], **more: Any) -> Path:
    """A stack's configuration with these handlers, on the sandbox."""
    values = {
        "gcp:project": "nsps-e2e",
        "gcp:region": "europe-west3",
        "nsps:deployment": "e2e",
        "nsps:static_egress": False,
        "nsps:portabilling": {"url": "sandbox", "credentials": "portabilling-api"},
        "nsps:espf": {"method": "basic", "credentials": ["espf-webhook"]},
        "nsps:digest_key": "digest-key",
        "nsps:handlers": handlers,
        **more,
    }
    file = folder / "Pulumi.e2e.yaml"
    file.write_text(yaml.safe_dump({"config": values}))
    return file


DATABASE: dict[str, Any] = {
    "name": "subscribers",
    "connector": "database",
    "events": ["SIM/*", "Subscriber/*", "Account/*", "Account/*/*"],
    "group": "Database",
    "settings": {"url": "sqlite:///${state}/subscribers.db", "create_table": True},
}


SIMS: dict[str, Any] = {
    "name": "sims",
    "connector": "database",
    "events": ["SIM/*", "Account/*", "Account/*/*"],
    "requires": ["account_info", "sim_info"],
    "group": "Sims",
    "call_timeout_seconds": 3,
    "settings": {
        "url": "sqlite:///${state}/sims.db",
        "create_table": True,
        "key": "imsi",
        "columns": {
            "imsi": "sim_info.imsi",
            "i_account": "account_info.i_account",
            "status": "status",
            "name": "name",
        },
    },
}
"""One row per SIM card: what moves between accounts."""


def webhook(url: str, name: str = "recorder", **more: Any) -> dict[str, Any]:
    """A handler that passes every event on to a connector of the published contract."""
    handler: dict[str, Any] = {
        "name": name,
        "connector": "webhook",
        "events": ["SIM/*", "Subscriber/*/*", "Account/*", "Account/*/*"],
        "requires": ["account_info", "sim_info", "prev_sim_info"],
        "group": "CRM",
        "call_timeout_seconds": 5,
        "settings": {"url": url, "allow_http": True},
        "secrets": {"token": f"{name}-token"},
    }
    return handler | more


def program(name: str) -> str | None:
    """Where an installed program is, also among the daemons."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


class WholeStack:
    """`nsps up` in a process of its own, with its own state and ports."""

    def __init__(
        self, state: Path, config: Path, secrets: Path | None = None, port_base: int = 0
    ) -> None:
        self.state = state
        self._command = [sys.executable, "-m", "nsps_local.cli", "up", "--state", str(state)]
        self._command += ["--config", str(config), "--port-base", str(port_base or reserve_base())]
        if secrets is not None:
            self._command += ["--secrets", str(secrets)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = START_SECONDS) -> WholeStack:
        output = (self.state.parent / f"{self.state.name}.out").open("ab")
        self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=output, stderr=output)
        file = self.state / "stack.json"

        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            return file.exists() and json.loads(file.read_text())["pid"] == self.process.pid

        wait_for(up, seconds, "the stack to be up")
        self.running = Running(self.state)
        self.description = self.running.description
        self.sandbox = Sandbox(self.description["sandbox"]["url"])
        return self

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kill(self) -> None:
        """End `nsps up` and everything below it at once, as a power cut would."""
        assert self.process is not None
        everything = processes.below(self.process.pid)
        for pid in (self.process.pid, *everything):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)
        wait_for(lambda: not any(map(processes.alive, everything)), 10, "everything to be dead")

    def output(self) -> str:
        return (self.state.parent / f"{self.state.name}.out").read_text(errors="replace")

    def logs(self) -> dict[str, str]:
        return {
            file.stem: file.read_text(errors="replace")
            for file in (self.state / "logs").glob("*.log")
        }

    def nsps(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """An ``nsps`` command on this stack."""
        return subprocess.run(
            [sys.executable, "-m", "nsps_local.cli", *arguments, "--state", str(self.state)],
            cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip

    # ---- its processes ---------------------------------------------------------------------

    def pid(self, name: str) -> int:
        """The process (a function's master) of a part as it runs now; 0 while there is none."""
        assert self.process is not None
        port = self._port(name)
        for process in processes.table().values():
            if process.parent == self.process.pid and process.alive:
                words = process.command
                if ("--port", port) in pairwise(words):
                    return process.pid
        return 0

    def _port(self, name: str) -> str:
        described = self.description["handlers"].get(name) or self.description[name]
        return str(described.get("host") or described["url"]).rpartition(":")[2]

    def kill_part(self, name: str) -> None:
        """SIGKILL to a part's whole group; returns when `nsps up` has started it again."""
        pid = self.pid(name)
        assert pid, f"{name} does not run"
        processes.signal_group(pid, signal.SIGKILL)
        wait_for(lambda: self.pid(name) not in (0, pid), 20, f"{name} to be started again")

    def kill_half(self, name: str, half: str) -> None:
        """SIGKILL to a function's web server alone: its "worker", or its "master"."""
        master = self.pid(name)
        workers = [p.pid for p in processes.table().values() if p.parent == master and p.alive]
        for pid in [master] if half == "master" else workers:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(map(processes.alive, workers)), 30, "the old worker to be gone")

    def answering(self, name: str) -> None:
        """Wait until a part answers (again)."""
        described = self.description["handlers"].get(name) or self.description[name]
        url = described.get("control") or described["url"]

        def healthy() -> bool:
            try:
                return requests.get(f"{url}/health", timeout=2).status_code == 200
            except requests.RequestException:
                return False

        wait_for(healthy, 60, f"{name} to answer")

    def stop_part(self, name: str) -> None:
        """SIGSTOP: the part hangs, as an instance without processor time does."""
        processes.signal_group(self.pid(name), signal.SIGSTOP)

    def continue_part(self, name: str) -> None:
        processes.signal_group(self.pid(name), signal.SIGCONT)

    def unread(self, name: str) -> int:
        """Bytes that wait in the sockets of a part that stands still."""
        return processes.unread(int(self._port(name)))

    # ---- time and faults -------------------------------------------------------------------

    def advance(self, service: str, seconds: float) -> None:
        """Move the clock of Pub/Sub (back-offs) or Firestore (leases)."""
        self.control(service, "/clock", advance=seconds)

    def pubsub_faults(self, name: str, **faults: Any) -> None:
        """Of a function's subscription (or of a topic); none: they are switched off."""
        self.control("pubsub", "/faults", target=self._target(name), faults=faults)

    def _target(self, name: str) -> str:
        pubsub, project = self.description["pubsub"], self.description["project"]
        for kind in ("subscriptions", "topics"):
            for found in pubsub[kind]:
                if found == name or found.endswith(f"-{name}"):
                    return f"projects/{project}/{kind}/{found}"
        raise AssertionError(f"no subscription or topic {name}: {pubsub}")

    def firestore_faults(self, **faults: Any) -> None:
        """Of all calls, or of those that name a collection group; none: they are switched off."""
        url = self.description["firestore"]["control"] + "/faults"
        assert requests.post(url, json=faults, timeout=30).ok

    def portabilling_fault(self, fault: str, **more: Any) -> None:
        self.post("/sandbox/faults", fault=fault, **more)

    def well(self) -> None:
        """Every fault is over."""
        requests.delete(f"{self.description['sandbox']['url']}/sandbox/faults", timeout=30)
        self.control("pubsub", "/faults", target="*", faults={})
        self.firestore_faults()

    def figures(self) -> list[dict[str, Any]]:
        """Pub/Sub's figures, one for each subscription."""
        return list(self.control("pubsub", "/metrics")["subscriptions"].values())

    def backlog(self) -> int:
        """How many messages are not acknowledged yet."""
        return sum(each["backlog"] for each in self.figures())

    def hurry(self) -> None:
        """Let what waits for a back-off come at once, if nothing else is under way."""
        figures = self.figures()
        if any(f["waiting"] for f in figures) and not any(f["in_flight"] for f in figures):
            self.advance("pubsub", 15)

    def tick(self) -> dict[str, Any]:
        """The scheduler's call of the retries function, with its own kind of token."""
        push = json.loads(processes.environment(self.pid("retries"))["NSPS_PUSH"])
        token = TokenIssuer(self.state / "pubsub").token(push["service_account"], push["audience"])
        url = self.description["retries"]["url"] + "/tick"
        answer = requests.post(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert answer.status_code == 200, answer.text
        ticked: dict[str, Any] = answer.json()
        return ticked

    # ---- what a test does -----------------------------------------------------------------

    def put_secret(self, name: str, value: str) -> None:
        """A new version, as `gcloud secrets versions add` makes it."""
        described = self.description
        with grpc.insecure_channel(described["secret_manager"]["host"]) as channel:
            transport = SecretManagerServiceGrpcTransport(channel=channel)
            client = secretmanager_v1.SecretManagerServiceClient(transport=transport)
            client.add_secret_version(
                parent=f"projects/{described['project']}/secrets/{name}",
                payload=SecretPayload(data=value.encode()),
            )

    def send(self, event_type: str, **variables: Any) -> requests.Response:
        """A webhook straight to the ingress."""
        body = json.dumps({"event_type": event_type, "variables": variables})
        ingress = self.description["ingress"]
        headers = signed_headers(ingress["auth"])
        return requests.post(ingress["url"], data=body, headers=headers, timeout=30)

    def finished(self, i_event: object, seconds: float = 60) -> EventHistory:
        """The history of an event once nothing more will happen and ESPF has been told."""

        history = wait_for(
            lambda: self._finished(i_event), seconds, f"event {i_event} to be finished"
        )
        assert isinstance(history, EventHistory)
        return history

    def all_finished(self, i_events: Iterable[object], seconds: float = 120) -> list[EventHistory]:
        """The histories of events once all are finished and told; back-offs are cut short."""
        ends = time.monotonic() + seconds
        histories = []
        for i_event in i_events:
            while not (history := self._finished(i_event)):
                assert time.monotonic() < ends, f"event {i_event}: {self.histories(i_event)}"
                self.hurry()
                time.sleep(0.1)
            histories.append(history)
        return histories

    def histories(self, i_event: object) -> list[EventHistory]:
        try:
            return self.running.timeline.find(str(i_event))
        except Transient:  # Firestore is being started again
            return []

    def _finished(self, i_event: object) -> EventHistory | None:
        histories = self.histories(i_event)
        if not histories or not histories[-1].final:
            return None
        reports = [each.espf for each in histories[-1].deliveries if each.espf is not None]
        reported = all(espf["sent"] or espf.get("refused") for espf in reports)
        return histories[-1] if reported else None

    def do(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """An operation in the sandbox; returns when its events are finished everywhere."""
        done = self.sandbox.do(operation, **parameters)
        for event in done["events"]:
            self.finished(event["i_event"])
        return done

    def get(self, path: str) -> Any:
        return requests.get(self.description["sandbox"]["url"] + path, timeout=30).json()

    def post(self, path: str, **body: Any) -> Any:
        answer = requests.post(self.description["sandbox"]["url"] + path, json=body, timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def control(self, service: str, path: str, **body: Any) -> Any:
        """A call of an embedded service's control port (faults, clock, metrics)."""
        url = self.description[service]["control"] + path
        answer = (
            requests.post(url, json=body, timeout=30) if body else requests.get(url, timeout=30)
        )
        assert answer.ok, answer.text
        return answer.json()

    def rows(self, file: str, query: str) -> list[dict[str, Any]]:
        """What an SQLite database below the state holds."""
        with sqlite3.connect(self.state / file, timeout=20) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query).fetchall()]

    def accounts(self) -> dict[int, dict[str, Any]]:
        """The sandbox's subscribers."""
        found = self.get("/sandbox/state?limit=1000")["accounts"]
        return {account["i_account"]: account for account in found}

    def add_account(self, i_sim_card: int | None = None, **more: Any) -> dict[str, Any]:
        """An account in the sandbox: {"i_account", "events", ...}."""
        state = self.sandbox.state()
        card = {} if i_sim_card is None else {"i_sim_card": i_sim_card}
        return self.sandbox.do(
            "add_account",
            msisdn=f"4470{time.time_ns() // 1000 % 10**10:010}",
            i_customer=state["customers"][0]["i_customer"],
            i_product=state["products"][0]["i_product"],
            **card,
            **more,
        )

    def new_account(self, i_sim_card: int | None = None, **more: Any) -> int:
        """An account in the sandbox, finished everywhere."""
        done = self.add_account(i_sim_card, **more)
        self.all_finished(event["i_event"] for event in done["events"])
        i_account: int = done["i_account"]
        return i_account

    def new_card(self) -> dict[str, Any]:
        """A SIM card in the inventory, with an IMSI of its own; its event waits for ESPF."""
        number = time.time_ns() // 1000 % 10**10
        imsi, iccid = f"00101{number:010}", f"894400000{number:010}"
        made = self.sandbox.do("add_sim_card", imsi=imsi, iccid=iccid)
        i_event = made["events"][0]["i_event"]
        return {"i_sim_card": made["i_sim_card"], "imsi": imsi, "i_event": i_event}

    def send_paused(self, paused: bool) -> None:
        """Whether ESPF holds its events back."""
        self.post("/sandbox/settings", webhook={"paused": paused})

    def variables(self, i_event: int) -> dict[str, Any]:
        """The variables of an event as ESPF sends (or would send) them."""
        found: dict[str, Any] = self.get(f"/sandbox/events/{i_event}")["variables"]
        return found

    def statuses(self, i_account: int) -> dict[str, str]:
        """What ESPF has been told last, by group."""
        reported = self.accounts()[i_account]["provisioning"]
        return {group: each["status"] for group, each in reported.items()}
