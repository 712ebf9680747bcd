"""The scoreboard: each of its pieces is there, and what they print is what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from nsps_local.scoreboard.__main__ import main
from nsps_local.scoreboard.pieces import PIECES, Piece

ROOT = Path(__file__).parents[2]

GOOD = Piece(
    "Good",
    "it counts",
    (
        "-c",
        "import os; print('...', '[ 50%]'); print('.F.kills:', os.environ['N']); print('`' * 3)",
    ),
    {"N": "20"},
    {"N": "200"},
)
BAD = Piece("Bad", "it fails", ("-c", "import sys; print('1 lost'); sys.exit(1)"))


@pytest.mark.parametrize("piece", PIECES, ids=lambda each: each.title)
def test_each_piece_is_there(piece: Piece) -> None:
    files = [ROOT / word for word in piece.command if word.startswith("tests/")]
    for file in files:
        assert file.is_file(), file
        folder = " ".join(each.read_text() for each in file.parent.glob("*.py"))
        assert all(name in folder for name in {**piece.environ, **piece.long}), piece
    assert piece.environ.keys() == piece.long.keys()


def test_what_they_print_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scoreboard.md"
    assert main(["--out", str(out)], [GOOD]) == 0
    page = out.read_text()
    assert "\nkills: 20\n" in page and "... [ 50%]" not in page
    assert "| Good | yes |" in page and "| all together | | 0 |" in page
    assert "N=20 .venv/bin/python -c" in page
    for name in ("date", "commit", "processor", "system", "load average before"):
        assert f"| {name} | " in page
    assert page.count("\n```") == 4, "what is printed ends no block"
    assert "\nkills: 20" in capsys.readouterr().out


def test_one_that_fails_is_written_too(tmp_path: Path) -> None:
    out = tmp_path / "scoreboard.md"
    assert main(["--out", str(out), "--long"], [BAD, GOOD]) == 1
    page = out.read_text()
    assert "| Bad | NO |" in page and "1 lost" in page and "kills: 200\n" in page
