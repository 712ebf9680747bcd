"""Before any test imports gRPC: tests start processes as `nsps` does, with its care for forks."""

import os
from collections.abc import Generator

import nsps_local  # noqa: F401 (it sets what gRPC looks at when it is imported)
import pytest
from hypothesis import settings
from nsps_local.daemons.process import NotInstalled

# How long an example takes depends on what else the machine does; benchmarks measure time.
settings.register_profile("nsps", deadline=None)
settings.load_profile("nsps")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """A test of a daemon that is not installed is skipped, with what to install."""
    try:
        yield
    except NotInstalled as error:
        pytest.skip(str(error))


pytest_runtest_call = pytest_runtest_setup  # where the test itself starts it


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Generator[None]:
    """What a module sets (PUBSUB_EMULATOR_HOST, for the client libraries) ends with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
