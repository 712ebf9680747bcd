"""Ids of service accounts: Google takes 6 to 30 characters, and two names must never share one."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from infra.components.accounts import account_id

_deployments = st.from_regex(r"[a-z][a-z0-9]{2,15}", fullmatch=True)
_context = st.from_regex(r"[a-z][a-z0-9-]{0,29}[a-z0-9]", fullmatch=True)


@given(_deployments, _context)
def test_an_id_is_one_that_google_takes(deployment: str, part: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", account_id(f"{deployment}-{part}"))


def test_long_names_that_begin_alike_get_different_ids() -> None:
    one, other = (
        account_id(f"a-deployment-name-{part}") for part in ("provisioning-1", "provisioning-2")
    )
    assert len(one) <= 30
    assert one != other
    assert one.startswith("a-deployment-name-")


def test_a_short_name_is_its_own_id() -> None:
    assert account_id("acme-hss") == "acme-hss"
