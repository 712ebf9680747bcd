"""The whole stack as a user starts it (`nsps up`), and what the end-to-end tests do with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import yaml
from nsps.timeline import Story
from nsps_local.cli.running import Running
from nsps_local.cli.send import signed_headers
from nsps_local.scenario import Sandbox

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90
FUNCTIONS = 20  # ports that a stack may need


def wait_for(what: Callable[[], Any], seconds: float = 30, why: str = "") -> Any:
    """The first true value of ``what``; AssertionError when the time is over."""
    ends = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < ends, f"not within {seconds} s: {why or what}"
        time.sleep(0.05)


def free_base() -> int:
    """A port base with room for a stack."""
    for base in range(20000 + os.getpid() % 400 * 50, 60000, 50):
        if all(_free(port) for port in range(base, base + 10 + FUNCTIONS)):
            return base
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


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


DATABASE = {
    "name": "subscribers",
    "connector": "database",
    "events": ["SIM/*", "Subscriber/*", "Account/*", "Account/*/*"],
    "group": "Database",
    "settings": {"url": "sqlite:///${state}/subscribers.db", "create_table": True},
}


class WholeStack:
    """`nsps up` in a process of its own, with its own state and ports."""

    def __init__(self, state: Path, config: Path, secrets: Path | None = None) -> None:
        self.state = state
        self._command = [sys.executable, "-m", "nsps_local.cli", "up", "--state", str(state)]
        self._command += ["--config", str(config), "--port-base", str(free_base())]
        if secrets is not None:
            self._command += ["--secrets", str(secrets)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> WholeStack:
        output = (self.state.parent / f"{self.state.name}.out").open("ab")
        self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=output, stderr=output)
        file = self.state / "stack.json"

        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            return file.exists() and json.loads(file.read_text())["pid"] == self.process.pid

        wait_for(up, START_SECONDS, "the stack to be up")
        self.running = Running(self.state)
        self.description = self.running.description
        self.sandbox = Sandbox(self.description["sandbox"]["url"])
        return self

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def output(self) -> str:
        return (self.state.parent / f"{self.state.name}.out").read_text(errors="replace")

    def logs(self) -> dict[str, str]:
        return {
            file.stem: file.read_text(errors="replace")
            for file in (self.state / "logs").glob("*.log")
        }

    # ---- what a test does -----------------------------------------------------------------

    def send(self, event_type: str, **variables: Any) -> requests.Response:
        """A webhook straight to the ingress."""
        body = json.dumps({"event_type": event_type, "variables": variables})
        ingress = self.description["ingress"]
        headers = signed_headers(ingress["auth"])
        return requests.post(ingress["url"], data=body, headers=headers, timeout=30)

    def finished(self, i_event: object, seconds: float = 60) -> Story:
        """The story of an event once nothing more will happen and ESPF has been told."""

        def told() -> Story | None:
            stories = self.running.timeline.find(str(i_event))
            if not stories or not stories[-1].final:
                return None
            every = (each.espf is None or each.espf["told"] for each in stories[-1].deliveries)
            return stories[-1] if all(every) else None

        story = wait_for(told, seconds, f"event {i_event} to be finished")
        assert isinstance(story, Story)
        return story

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
        answer = requests.post(url, json=body, timeout=30) if body else requests.get(url, timeout=30)
        assert answer.ok, answer.text
        return answer.json()
