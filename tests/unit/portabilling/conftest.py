from __future__ import annotations

from collections.abc import Iterator

import pytest
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.login import ApiCredentials

from tests.unit.portabilling.fake_api import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        yield fake


@pytest.fixture
def client(api: FakeApi) -> PortaBilling:
    return PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"), timeout_seconds=5)
