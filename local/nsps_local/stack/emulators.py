"""The cloud's services on one machine: ours, or Google's emulators where they are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from nsps_local.recording.topology import IndexField, Topology
from nsps_local.stack.cloud import identities
from nsps_local.stack.errors import CannotStart
from nsps_local.stack.ports import HOST, Ports
from nsps_local.stack.processes import Child

EMBEDDED, GOOGLE = "embedded", "google"

_PACKAGES = {
    "pubsub": ("google-cloud-cli-pubsub-emulator", r"cloud-pubsub-emulator-.*-all\.jar$"),
    "firestore": ("google-cloud-cli-firestore-emulator", r"cloud-firestore-emulator\.jar$"),
}
_FIRESTORE_MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"


class Emulators:
    """Where Pub/Sub, Firestore and Secret Manager are, and the processes that serve them.

    Google's emulators are used from PUBSUB_EMULATOR_HOST and FIRESTORE_EMULATOR_HOST where both
    are set, else from their packages. Secret Manager is always ours: there is no other.
    """

    def __init__(self, kind: str, ports: Ports, state: Path) -> None:
        self._google, self._ports, self._state = kind == GOOGLE, ports, state
        self._given = self._google and {"PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST"} <= set(
            os.environ
        )
        self.pubsub = self._host("PUBSUB_EMULATOR_HOST", ports.pubsub)
        self.firestore = self._host("FIRESTORE_EMULATOR_HOST", ports.firestore)
        self.secret_manager = f"{HOST}:{ports.secret_manager}"
        self.secret_manager_control = f"http://{HOST}:{ports.secret_manager_control}"
        self.longest_retention = (7 if self._google else 31) * 86400
        self.pubsub_control = None if self._google else f"http://{HOST}:{ports.pubsub_control}"
        self.firestore_control = (
            None if self._google else f"http://{HOST}:{ports.firestore_control}"
        )

    def _host(self, variable: str, port: int) -> str:
        return os.environ[variable] if self._given else f"{HOST}:{port}"

    def own_ports(self) -> list[int]:
        ports = self._ports
        if self._given:
            return [
                ports.sandbox,
                ports.secret_manager,
                ports.secret_manager_control,
                ports.metadata,
            ]
        return list(ports.cloud())

    def environment(self) -> dict[str, str]:
        """What the client libraries look at."""
        return {
            "PUBSUB_EMULATOR_HOST": self.pubsub,
            "FIRESTORE_EMULATOR_HOST": self.firestore,
            "SECRET_MANAGER_EMULATOR_HOST": self.secret_manager,
        }

    def push_settings(self) -> dict[str, Any]:
        """How a function knows our pushes. Google's emulator signs none: they go unchecked."""
        if self._google:
            return {"unsigned": True}
        return {"certs_url": f"{self.pubsub_control}/certs"}

    def children(self, topology: Topology) -> Iterator[Child]:
        """The processes to start, each ready before the next."""
        if not self._google:
            yield self._embedded(
                "pubsub",
                self._ports.pubsub,
                self._ports.pubsub_control,
                *self._push_options(topology),
            )
            yield self._embedded(
                "firestore",
                self._ports.firestore,
                self._ports.firestore_control,
                *self._database_options(topology),
            )
        elif not self._given:
            yield self._java("pubsub", self._ports.pubsub, "-jar")
            yield self._java("firestore", self._ports.firestore, "-cp", _FIRESTORE_MAIN, "start")
        yield self._embedded(
            "secretmanager", self._ports.secret_manager, self._ports.secret_manager_control
        )

    def _embedded(self, name: str, port: int, control: int, *more: str) -> Child:
        folder = self._state / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"nsps_local.{name}", "--host", HOST, "--port", str(port)]
        command += ["--control-port", str(control), "--state", str(folder), *more]
        health = f"http://{HOST}:{control}/health"
        return self._child(name, command, health)

    def _push_options(self, topology: Topology) -> list[str]:
        """The accounts and grants of the program: a push without them fails as in production."""
        file = self._state / "identities.json"
        file.write_text(identities(topology).model_dump_json())
        return ["--identities", str(file)]

    def _database_options(self, topology: Topology) -> list[str]:
        """The database, its declared indexes and expiring fields: production refuses others."""
        database = topology.database
        indexes = [
            {
                "collectionGroup": index.collection,
                "queryScope": "COLLECTION_GROUP" if index.group else "COLLECTION",
                "fields": [_index_field(field) for field in index.fields],
            }
            for index in database.indexes
        ]
        unindexed = [
            {"collectionGroup": each.collection, "fieldPath": each.field, "indexes": []}
            for each in database.unindexed
        ]
        file = self._state / "firestore.indexes.json"
        file.write_text(json.dumps({"indexes": indexes, "fieldOverrides": unindexed}))
        expiring = [f"{each.collection}.{each.field}" for each in database.expiring]
        name = f"projects/{topology.project}/databases/{database.name}"
        return ["--database", name, "--indexes", str(file), "--ttl", *expiring]

    def _java(self, name: str, port: int, how: str, *more: str) -> Child:
        java = shutil.which("java")
        if java is None:
            raise CannotStart("--emulators google: there is no java; install default-jre-headless")
        jar = _jar(name)
        language = ["-Duser.language=en"] if how == "-cp" else []
        command = [java, "-Xmx512m", *language, how, jar, *more, f"--host={HOST}", f"--port={port}"]
        return self._child(name, command, f"http://{HOST}:{port}/")

    def _child(self, name: str, command: list[str], url: str) -> Child:
        log = self._state / "logs" / f"{name}.log"
        return Child(name, command, dict(os.environ), lambda: _answers(url), log)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code < 500
    except requests.RequestException:
        return False


def _jar(name: str) -> str:
    """The emulator's jar out of its Debian-style package. Raises CannotStart."""
    package, pattern = _PACKAGES[name]
    dpkg = shutil.which("dpkg")
    listing = ""
    if dpkg is not None:
        listing = subprocess.run(  # noqa: S603
            [dpkg, "-L", package], capture_output=True, text=True, check=False, timeout=20
        ).stdout
    for line in listing.splitlines():
        if re.search(pattern, line):
            return line
    raise CannotStart(
        f"--emulators google: the package {package} is not installed, and PUBSUB_EMULATOR_HOST "
        "and FIRESTORE_EMULATOR_HOST are not both set; without the option ours are used"
    )


def _index_field(field: IndexField) -> dict[str, str]:
    """A field of an index as firestore.indexes.json has it."""
    if field.contains:
        return {"fieldPath": field.field, "arrayConfig": "CONTAINS"}
    return {"fieldPath": field.field, "order": "DESCENDING" if field.descending else "ASCENDING"}
