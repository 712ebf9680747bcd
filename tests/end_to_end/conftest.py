"""Stacks for the end-to-end tests; those that are only read from are shared by a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.whole_stack import DATABASE, WholeStack, configuration


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeStack]:
    """A stack with the database handler alone."""
    folder = tmp_path_factory.mktemp("stack")
    with WholeStack(folder / "state", configuration(folder, [DATABASE])) as running:
        yield running
