"""The documents made of code and manifests: they say what the code takes, all of it and no more."""

from __future__ import annotations

import re

import pytest
from nsps_local.described import connectors_in
from nsps_local.manifest import Manifest

from infra import documents
from infra.configuration_page import comments, page
from infra.connector_pages import manifests, pages, short_table
from infra.stack_config import KEYS, MODELS
from tests.infra.conftest import ROOT

CONNECTORS = ROOT / "functions" / "connectors"


@pytest.fixture(scope="module")
def found() -> list[Manifest]:
    return manifests(ROOT)


def test_they_are_up_to_date() -> None:
    """If not: .venv/bin/python -m infra.documents."""
    assert documents.stale() == []


def test_every_key_is_explained() -> None:
    text = page(ROOT)
    for key, model in MODELS.items():
        assert f"\n### {key}\n" in text
        for name in model.model_fields:
            assert f"| `{name}` |" in text, f"{key}.{name}"
    assert all(f"| `{key}` |" in text for key in KEYS)
    explained = text[text.index("## Keys") :]
    for row in re.findall(r"^\| `.*\|$", explained, re.MULTILINE):
        assert not row.endswith("|  |"), row


def test_every_connector_has_a_page_that_explains_all_and_says_what_it_was_tested_against(
    found: list[Manifest],
) -> None:
    made = pages(found)
    assert made.keys() == {"README.md", *(f"{name}.md" for name in connectors_in(CONNECTORS))}
    for each in found:
        assert each.tested, (
            f"{each.connector}/connector.yaml: tested: say what its tests ran against"
        )
        text = made[f"{each.connector}.md"]
        assert not re.findall(r"^\| `.*\|  \|$", text, re.MULTILINE)
        for name in [*each.settings, *each.secrets]:
            assert f"\n| `{name}` | " in text


def test_links_lead_somewhere(found: list[Manifest]) -> None:
    for name, text in pages(found).items():
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert (ROOT / "docs" / "connectors" / link).exists(), f"{name}: {link}"
    for link in re.findall(r"\]\(([^)#]+)", short_table(found)):
        assert (ROOT / link).exists(), link


def test_comments_belong_to_the_key_below_them() -> None:
    text = """config:
  # A thing,
  # in two lines.
  nsps:one: 1

  # A map.
  nsps:two:
    # Within.
    name: x
    bare: y
  # A list.
  nsps:three:
    # First of an entry.
    - name: a
      # Deeper.
      more: b
"""
    assert comments(text) == {
        "nsps:one": "A thing, in two lines.",
        "nsps:two": "A map.",
        "nsps:two.name": "Within.",
        "nsps:two.bare": "",
        "nsps:three": "A list.",
        "nsps:three.name": "First of an entry.",
        "nsps:three.more": "Deeper.",
    }
