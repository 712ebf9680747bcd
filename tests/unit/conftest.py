"""One embedded Firestore for all of these tests; each test has documents of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nsps.cloud.store import Store
from nsps_local.firestore import FirestoreServer

from tests.unit.connector.systems import new_store


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with FirestoreServer(tmp_path_factory.mktemp("firestore")) as server:
        yield server.target


@pytest.fixture
def store(target: str) -> Store:
    return new_store(target)
