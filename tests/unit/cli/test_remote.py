"""What a command says when there is nobody to ask."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from nsps_local.cli.errors import CommandError
from nsps_local.cli.remote import Remote

NOTHING = "http://127.0.0.1:9"


def test_a_stack_that_has_stopped_is_said_to_be_down(tmp_path: Path) -> None:
    (tmp_path / "pubsub").mkdir()
    description = {"console": {"url": NOTHING, "audience": "console"}}
    (tmp_path / "stack.json").write_text(json.dumps(description))
    options = argparse.Namespace(console=None, token="t", state=tmp_path)
    with pytest.raises(CommandError, match=r"is not running any more .* start it with `nsps up`"):
        Remote(options).get("events")


def test_a_deployed_console_that_does_not_answer_is_named(tmp_path: Path) -> None:
    options = argparse.Namespace(console=NOTHING, token="t", state=tmp_path)
    with pytest.raises(CommandError, match=f"{NOTHING} does not answer: check the address"):
        Remote(options).get("events")
