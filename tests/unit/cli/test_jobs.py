"""Long work says what it waits for, also where there is no terminal to draw on."""

from __future__ import annotations

from typing import Any

import pytest
from nsps_local.cli import jobs


class Answers:
    """A console whose job waits for PortaBilling, twice with the same words, and then ends."""

    def __init__(self) -> None:
        usual = {"done": 0, "total": 1, "found": {}, "eta": None, "state": "running"}
        waits = usual | {"error": "PortaBilling does not answer"}
        self._left = [
            usual | {"error": None},
            waits,
            waits,
            usual | {"error": None, "state": "done"},
        ]

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._left.pop(0)


def test_a_job_that_waits_says_why_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0)
    jobs._watch(Answers(), "j1")  # type: ignore[arg-type]
    assert capsys.readouterr().err == "job j1 waits: PortaBilling does not answer\n"
