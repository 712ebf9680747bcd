"""What a handler keeps confidential is shown to the role interception alone, and that is noted."""

from __future__ import annotations

from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.console.identity import Person, Role

from tests.unit.console.site_kit import Pages

SECRET = {"confidential": [{"liid": "LI-2026-1"}]}


@pytest.fixture
def pages(store: Store) -> Pages:
    made = Pages(store)
    made.handlers.answers["hss"] = SECRET
    return made


def look(pages: Pages, person: Person) -> Any:
    return pages.api.answer(person, "GET", "/api/handlers/hss/confidential", {})


@pytest.mark.parametrize("role", Role)
def test_no_other_role_includes_it(pages: Pages, store: Store, role: Role) -> None:
    refused = look(pages, Person("boss@acme.example", role))
    assert refused.code == 403 and "interception" in str(refused.body)
    assert store.find(store.client.collection("audit").limit(9)) == []


def test_each_look_is_in_the_audit_trail(pages: Pages, store: Store) -> None:
    shown = look(pages, Person("judge@acme.example", Role.viewer, interception=True))
    assert (shown.code, shown.body) == (200, SECRET)
    (entry,) = store.find(store.client.collection("audit").limit(9))
    assert (entry["who"], entry["role"], entry["action"], entry["target"]) == (
        "judge@acme.example", "interception", "look at confidential", "hss",
    )  # fmt: skip
    assert "LI-2026-1" not in str(entry)
