"""What the documents say of the console's pages is so."""

from __future__ import annotations

import re

import pytest
from nsps.console.pages.routes import ROUTES
from nsps.console.paths import name_in

from tests.infra.conftest import ROOT

RUNBOOK = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
SYMPTOMS = [
    part for part in re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:] if "In the console" in part
]


def test_every_symptom_says_where_to_look_in_the_console() -> None:
    titles = re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE)
    assert len(SYMPTOMS) == len(titles) - 1  # one is about the commands


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda part: part.partition("\n")[0])
def test_the_pages_that_are_named_are_there(symptom: str) -> None:
    said = symptom.partition("In the console:")[2].partition("\n\n")[0]
    paths = re.findall(r"`(/[^`?]*)(?:\?[^`]*)?`", said)
    assert paths
    pages = [route.path for route in ROUTES if route.method == "GET"]
    for path in paths:
        assert any(name_in(path, page) is not None for page in pages), path
