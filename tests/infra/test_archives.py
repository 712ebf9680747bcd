"""Every archive, the hard way: unpacked into an empty folder, its requirements installed into an
empty virtual environment with nothing else, started from there by functions-framework, and asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from nsps_local.declared_settings import Setting
from nsps_local.manifest import FILE, load
from nsps_local.recording import Topology, record

from infra.bundle import BUILT
from tests.infra.conftest import ROOT

pytestmark = pytest.mark.timeout(400)  # the first to need a set of requirements installs it

CONNECTORS = sorted(file.parent.name for file in ROOT.glob(f"functions/connectors/*/{FILE}"))
PARTS = sorted(file.parent.name for file in ROOT.glob("functions/*/main.py"))
HANDLERS = {connector: f"a-{connector.replace('_', '-')}" for connector in CONNECTORS}

VALUES = {
    "host": "127.0.0.1",
    "url": "https://system.acme.example",
    "sender": "nsps@acme.example",
    "sms_kannel.sender": "Acme",
    "reports_url": "https://callbacks.acme.example/a-sms-kannel",
    "database_url": "postgresql://nsps@db.acme.example/kamailio",
    "rpc_url": "https://system.acme.example/RPC",
    "domain": "acme.example",
    "apn_list": "1",
    "iptv_ministra.tariffs": {"TV": "basic"},
    "iptv_tvheadend.tariffs": {"TV": {"channel_tags": "all"}},
    "authentication": {"type": "none"},
    "resources": [
        {
            "name": "sim",
            "key": "imsi",
            "fields": {"imsi": {"from": "sim_info.imsi"}},
            "read": {"path": "sims/{imsi}"},
            "create": {"method": "PUT", "path": "sims/{imsi}"},
            "delete": {"method": "DELETE", "path": "sims/{imsi}"},
        }
    ],
}
"""Required settings whose value must have a form of its own, in one connector or in any."""

# A function may carry library code that it never runs, and so not what that code needs.
NOT_NEEDED = (
    "google.cloud.pubsub_v1",
    "google.pubsub_v1",
)  # most handlers' functions publish nothing


def _handler(connector: str) -> dict[str, Any]:
    manifest = load(ROOT / "functions" / "connectors" / connector / FILE)
    return {
        "name": HANDLERS[connector],
        "connector": connector,
        "events": ["SIM/*"],
        "settings": {
            name: _value(connector, name, setting)
            for name, setting in manifest.settings.items()
            if setting.required
        },
        "secrets": {n: f"{connector}-{n}" for n, secret in manifest.secrets.items()},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Topology:
    """The repository's own program, with a handler of every connector."""
    folder = tmp_path_factory.mktemp("whole")
    values = {
        "gcp:project": "acme-provisioning",
        "gcp:region": "europe-west3",
        "nsps:deployment": "acme",
        "nsps:static_egress": False,
        "nsps:portabilling": {"url": "https://pb.acme.example", "credentials": "pb"},
        "nsps:espf": {"credentials": ["espf"]},
        "nsps:handlers": [_handler(connector) for connector in CONNECTORS],
    }
    config = folder / "Pulumi.whole.yaml"
    config.write_text(yaml.safe_dump({"config": values}), encoding="utf-8")
    return record(config, port_base=9000, state=folder / "state")


def _value(connector: str, name: str, setting: Setting) -> Any:
    samples = {"number": 1, "boolean": True, "list": ["one"], "map": {}}
    choice = setting.choices[0] if setting.choices else "one"
    usual = VALUES.get(name, samples.get(setting.types[0], choice))
    return VALUES.get(f"{connector}.{name}", usual)


def environment(wanted: str) -> Path:
    """The interpreter of a virtual environment that has these requirements and nothing else.

    It is kept for the next run under a name made from the requirements: `make clean` forgets it.
    """
    name = hashlib.sha256(f"{sys.version} {wanted}".encode()).hexdigest()[:16]
    kept = ROOT / ".nsps" / "environments" / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / "made"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
            (made / "requirements.txt").write_text(wanted, encoding="utf-8")
            install = [sys.executable, "-m", "pip", "--python", str(made / "bin" / "python")]
            install += ["install", "-q", "--no-compile", "-r", str(made / "requirements.txt")]
            subprocess.run(install, check=True, timeout=300, stdin=subprocess.DEVNULL)
            made.rename(kept)
    return kept / "bin" / "python"


@pytest.fixture(scope="module", params=[*PARTS, *HANDLERS.values()])
def unpacked(
    request: pytest.FixtureRequest,
    whole: Topology,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, Path]:
    """A function's part, its unpacked archive, and the interpreter of its environment."""
    part = request.param
    folder: Path = tmp_path_factory.mktemp(part)
    source = whole.function(part).source
    (archive,) = (
        resource.inputs["source"]
        for resource in whole.resources
        if resource.type == "gcp:storage/bucketObject:BucketObject"
        and resource.inputs["name"].rpartition("/")[0] == source
    )
    zipfile.ZipFile(ROOT / BUILT / archive).extractall(folder)
    wanted = (folder / "requirements.txt").read_text(encoding="utf-8")
    return part, folder, environment(wanted)


def test_every_function_of_the_repository_is_deployed(whole: Topology) -> None:
    assert {f.part for f in whole.functions} == {*PARTS, *HANDLERS.values()}


def test_the_function_starts_from_its_archive_and_answers(
    unpacked: tuple[str, Path, Path], whole: Topology
) -> None:
    part, folder, python = unpacked
    with Running(python, folder, dict(whole.function(part).env)) as url:
        answer = requests.get(f"{url}/health", timeout=10)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "Healthy"


def test_whatever_the_function_may_import_is_there(unpacked: tuple[str, Path, Path]) -> None:
    """Late imports too: they would be missed at the first event, not at the start."""
    part, folder, python = unpacked
    done = subprocess.run(
        [python, Path(__file__).parent / "reachable.py"],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    report = json.loads(done.stdout)
    assert len(report["modules"]) > 15
    assert {"nsps.runtime.log", "nsps.runtime.settings"} <= set(report["modules"])
    allowed = () if part in PARTS else NOT_NEEDED
    assert {m: by for m, by in report["missing"].items() if not m.startswith(allowed)} == {}


class Running:
    """functions-framework on a free port, as Google starts it: from the archive's own folder."""

    def __init__(self, python: Path, folder: Path, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._log = folder.parent / f"{folder.name}.log"
        self._command = [str(python), "-m", "functions_framework", "--target", "main"]
        self._command += ["--signature-type", "http", "--host", "127.0.0.1"]
        self._command += ["--port", str(self._port)]
        nowhere = dict.fromkeys(
            ("PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST", "SECRET_MANAGER_EMULATOR_HOST"),
            "127.0.0.1:1",  # health asks nobody
        )
        self._environment = {"PATH": os.environ["PATH"], **environment, **nowhere}
        self._folder = folder

    def __enter__(self) -> str:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        ends = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < ends:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return f"http://127.0.0.1:{self._port}"
            time.sleep(0.05)
        self.__exit__()
        raise AssertionError(f"it does not start: {self._log.read_text(errors='replace')[-3000:]}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
