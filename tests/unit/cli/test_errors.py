"""An error's text is as harmless to a terminal as everything else."""

from __future__ import annotations

import pytest
from nsps_local import cli
from nsps_local.cli.errors import CommandError


def test_an_error_cannot_act_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: object) -> int:
        raise CommandError("no event \x1b[2J in the history")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main([]) == cli.EXIT_REFUSED
    assert capsys.readouterr().err == "nsps: no event \\x1b[2J in the history\n"
