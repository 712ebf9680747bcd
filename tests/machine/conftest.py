"""One cloud for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.cloud import Cloud


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running
