"""One cloud for the tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.machine.cloud import Cloud

collect_ignore = [] if "NSPS_MACHINE_MUTANTS" in os.environ else ["test_found_by_hypothesis.py"]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running
