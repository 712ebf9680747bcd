"""The running local stack, as other commands find it: <state>/stack.json."""

from __future__ import annotations

import argparse
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from nsps.store import Store, open_store
from nsps.timeline import Timeline

from nsps_local.cli.errors import CommandError

DEFAULT_STATE = Path(".nsps")


def add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        type=Path,
        default=DEFAULT_STATE,
        metavar="DIR",
        help="where the stack keeps its state (default: %(default)s)",
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
        firestore = self.description["firestore"]
        os.environ["FIRESTORE_EMULATOR_HOST"] = firestore["host"]
        return open_store(self.description["project"], firestore["database"])

    @cached_property
    def timeline(self) -> Timeline:
        handlers = self.description["handlers"].values()
        return Timeline(self.store, {each["name"]: each["group"] for each in handlers})
