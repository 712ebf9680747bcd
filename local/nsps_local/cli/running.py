"""The running local stack, as other commands find it: <state>/stack.json."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsps_local.cli.errors import CommandError

if TYPE_CHECKING:  # the commands that only ask the console import none of it
    from nsps.cloud.store import Store
    from nsps.delivery.timeline import Timeline
    from nsps.runtime.settings import HandlerSummary

DEFAULT_STATE = Path(".nsps")


def add_state(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(os.environ.get("NSPS_STATE") or DEFAULT_STATE),
        metavar="DIR",
        help="where this machine's stack keeps its state (or NSPS_STATE; default: .nsps)",
    )


class Running:
    """A stack that is up. Raises CommandError if there is none."""

    def __init__(self, state: Path) -> None:
        file = state / "stack.json"
        try:
            self.description: dict[str, Any] = json.loads(file.read_text())
        except OSError:
            raise CommandError(
                f"no stack is running with the state in {state}: start one with `nsps up`, or name "
                "its --state"
            ) from None
        except ValueError:
            raise CommandError(f"{file} is not readable JSON: is a stack starting?") from None

    @cached_property
    def store(self) -> Store:
        from nsps.cloud.store import open_store

        firestore = self.description["firestore"]
        os.environ["FIRESTORE_EMULATOR_HOST"] = firestore["host"]
        return open_store(self.description["project"], firestore["database"])

    @cached_property
    def timeline(self) -> Timeline:
        from nsps.delivery.timeline import Timeline

        return Timeline(self.store, summaries(self.description["handlers"]))


def summaries(described: Mapping[str, Mapping[str, Any]]) -> dict[str, HandlerSummary]:
    """The handlers of a stack.json, as the functions know each other's."""
    from nsps.runtime.settings import HandlerSummary

    known = HandlerSummary.model_fields
    return {
        name: HandlerSummary.model_validate_json(
            json.dumps({key: value for key, value in each.items() if key in known})
        )
        for name, each in described.items()
    }
