"""One embedded Firestore, with the declared indexes, for all of the console's tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from nsps.cloud.store import Store
from nsps_local.firestore import FirestoreServer

from tests.unit.connector.systems import new_store

LAYOUT = Path(__file__).resolve().parents[3] / "infra" / "firestore.yaml"


def declared(folder: Path) -> Path:
    """infra/firestore.yaml as the embedded Firestore reads it."""
    indexes = [
        {
            "collectionGroup": index["collection"],
            "queryScope": "COLLECTION_GROUP" if index.get("scope") == "group" else "COLLECTION",
            "fields": [
                {"fieldPath": each["field"], "arrayConfig": "CONTAINS"}
                if each.get("order") == "contains"
                else {"fieldPath": each["field"], "order": each.get("order", "ascending").upper()}
                for each in index["fields"]
            ],
        }
        for index in yaml.safe_load(LAYOUT.read_text())["indexes"]
    ]
    file = folder / "indexes.json"
    file.write_text(json.dumps({"indexes": indexes}))
    return file


@pytest.fixture(scope="session")
def console_firestore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("console-firestore")
    with FirestoreServer(folder, indexes=declared(folder)) as server:
        yield server.target


@pytest.fixture
def store(console_firestore: str) -> Store:
    return new_store(console_firestore)
