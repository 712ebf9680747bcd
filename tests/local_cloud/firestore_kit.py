"""What the Firestore tests share: servers to run against, clients of the real library."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
from google.cloud import firestore
from nsps.cloud.store import Store, open_store
from nsps_local.firestore import FirestoreServer

GOOGLE_PACKAGE = "google-cloud-cli-firestore-emulator"
_projects = itertools.count(1)


def client(target: str, project: str = "", database: str = "(default)") -> firestore.Client:
    """The real client; in a project of its own, hence without documents, where none is named."""
    with mock.patch.dict(os.environ, {"FIRESTORE_EMULATOR_HOST": target}):
        return firestore.Client(project=project or _new_project(), database=database)


def new_store(target: str, clock: Callable[[], float] = time.monotonic) -> Store:
    """What the product reads and writes Firestore with, in a project of its own."""
    with mock.patch.dict(os.environ, {"FIRESTORE_EMULATOR_HOST": target}):
        return replace(open_store(_new_project(), "(default)"), clock=clock)


def _new_project() -> str:
    return f"test-{os.getpid()}-{next(_projects)}"


def ids(query: Any) -> list[str]:
    return [snapshot.id for snapshot in query.stream()]


def post(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body or {}).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.load(answer))


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return dict(json.load(answer))


@contextlib.contextmanager
def embedded(state: Path, **options: Any) -> Iterator[FirestoreServer]:
    with FirestoreServer(state, **options) as server:
        yield server


class Process:
    """`python -m nsps_local.firestore` on a state directory."""

    def __init__(self, module: str, state: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--state", str(state), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        assert " ready on " in self.ready, self.process.communicate(timeout=10)
        words = self.ready.replace(",", "").split()
        self.target, self.control_url = words[3], words[5]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    def terminate(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=10)
        return self.process.returncode


def google_jar() -> str | None:
    """Where the vendor's emulator is installed, if it is."""
    with contextlib.suppress(OSError):
        listing = subprocess.run(
            ["dpkg", "-L", GOOGLE_PACKAGE], capture_output=True, text=True, check=False, timeout=10
        )
        for line in listing.stdout.splitlines():
            if line.endswith("emulator.jar"):
                return line
    return None


@contextlib.contextmanager
def google(log: Path) -> Iterator[str | None]:
    """The target of Google's emulator: named in the environment, or started; None: not here."""
    named = os.environ.get("FIRESTORE_EMULATOR_HOST_GOOGLE")
    jar = google_jar()
    if named or jar is None:
        yield named
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
    arguments = ["start", "--host=127.0.0.1", f"--port={port}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            ["java", "-Xmx400m", "-Duser.language=en", "-cp", jar, main, *arguments],
            stdout=output,
            stderr=output,
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(30)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)
