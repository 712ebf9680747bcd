"""docs/configuration.md says what the code takes: every key, every connector, nothing else."""

from __future__ import annotations

import re

from infra.configuration_page import PAGE, comments, page
from infra.stack_config import KEYS, MODELS
from tests.infra.conftest import ROOT


def test_the_page_is_up_to_date() -> None:
    """If not: .venv/bin/python -m infra.configuration_page."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_key_is_explained() -> None:
    text = page()
    for key, model in MODELS.items():
        assert f"\n### {key}\n" in text
        for name in model.model_fields:
            assert f"| `{name}` |" in text, f"{key}.{name}"
    assert all(f"| `{key}` |" in text for key in KEYS)
    explained = text[text.index("## Keys") :]
    for row in re.findall(r"^\| `.*\|$", explained, re.MULTILINE):
        assert not row.endswith("|  |"), row


def test_every_connector_is_there() -> None:
    text = page()
    for folder in (ROOT / "functions" / "connectors").iterdir():
        if (folder / "connector.yaml").is_file():
            assert f"\n### {folder.name}: " in text


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
