"""What ``pulumi up`` runs, and what the local stack records: one NSPS deployment."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "shared"), str(ROOT / "local")]

from infra.program import deploy  # noqa: E402

deploy(ROOT)
