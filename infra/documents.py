"""``python -m infra.documents``: writes the documents that are made of code and manifests.

docs/configuration.md, docs/connectors/ and the README's table of systems. ``--check`` writes
nothing, names what is not up to date, and fails if anything is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

from infra import configuration_page, connector_pages

ROOT = Path(__file__).resolve().parent.parent
CONNECTORS = ROOT / "docs" / "connectors"
_BEGIN, _END = "<!-- table of systems: made by python -m infra.documents -->\n", "<!-- end -->\n"


def documents() -> dict[Path, str]:
    """File -> the text it should have."""
    found = connector_pages.manifests(ROOT)
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    table = connector_pages.short_table(found)
    return {
        readme: f"{before}{_BEGIN}{table}{_END}{rest.partition(_END)[2]}",
        ROOT / "docs" / "configuration.md": configuration_page.page(ROOT),
        **{CONNECTORS / name: text for name, text in connector_pages.pages(found).items()},
    }


def stale() -> list[Path]:
    """The files that are not as they should be, or should not be there."""
    made = documents()
    there = {*made, *CONNECTORS.glob("*")}
    return sorted(
        file for file in there if not file.is_file() or file.read_text("utf-8") != made.get(file)
    )


def main() -> str | None:
    """What is wrong, for ``--check``."""
    wrong = stale()
    if "--check" in sys.argv[1:]:
        return "\n".join(
            f"{file.relative_to(ROOT)}: not up to date: run .venv/bin/python -m infra.documents"
            for file in wrong
        )
    made = documents()
    for file in wrong:
        if file in made:
            file.parent.mkdir(exist_ok=True)
            file.write_text(made[file], encoding="utf-8")
        else:
            file.unlink()
    return None


if __name__ == "__main__":
    sys.exit(main() or 0)
