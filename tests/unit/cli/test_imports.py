"""What a command must not import: a person waits for it each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["flask", "google.api_core", "google.cloud.firestore", "grpc", "nsps.cloud", "pydantic"]
CODE = """
import sys
from nsps_local.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(status, *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "status", "more"),
    [
        ("--help", 0, ["cryptography", "requests", "rich"]),
        ("nothing", 2, ["cryptography", "requests", "rich"]),
        ("events --help", 0, []),
        ("events", 2, []),
        ("explain 7603", 2, []),
        ("pause hss --reason r", 2, []),
        ("jobs", 2, []),
        ("audit", 2, []),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(
    tmp_path: Path, arguments: str, status: int, more: list[str]
) -> None:
    """The console of this machine's stack does not answer; all else is as it is used."""
    console = {"url": "http://127.0.0.1:1", "audience": "console"}
    (tmp_path / "pubsub").mkdir()
    (tmp_path / "stack.json").write_text(json.dumps({"console": console}))
    run = subprocess.run(
        [sys.executable, "-c", CODE, *arguments.split()],
        env={"NSPS_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found, *imported = run.stderr.splitlines()[-1].split()
    assert int(found) == status
    unwanted = [*HEAVY, *more]
    assert [name for name in unwanted if name in imported] == []


def test_each_command_is_found_by_its_name() -> None:
    """A command that the table names and its module does not add would end in a traceback."""
    from nsps_local.cli import COMMANDS, main

    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
