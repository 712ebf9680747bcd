"""``python -m nsps_local.scoreboard``: exit status 0 when everything holds, 1 when something does
not. Nothing else should run on the machine meanwhile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nsps_local.scoreboard.board import Outcome, machine, page, run
from nsps_local.scoreboard.pieces import PIECES, Piece
from nsps_local.stack.stack import ROOT


def main(arguments: Sequence[str] | None = None, pieces: Sequence[Piece] = PIECES) -> int:
    """Run the pieces one after the other; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nsps_local.scoreboard", description=__doc__)
    parser.add_argument("--long", action="store_true", help="a million events, hundreds of kills")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "scoreboard.md", help="(default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    about = machine(ROOT)
    outcomes: list[Outcome] = []
    for piece in pieces:
        sys.stdout.write(f"{piece.title}: {piece.alone(options.long)}\n")
        sys.stdout.flush()
        outcomes.append(run(piece, ROOT, options.long))
        holds = "holds" if outcomes[-1].good else "DOES NOT HOLD"
        sys.stdout.write(f"{outcomes[-1].printed}\n{holds}, {outcomes[-1].seconds:.0f} s\n\n")
    options.out.write_text(page(about, outcomes, options.long), encoding="utf-8")
    sys.stdout.write(f"written to {options.out}\n")
    return 0 if all(each.good for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
