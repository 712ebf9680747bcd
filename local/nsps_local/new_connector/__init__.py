"""``nsps new-connector NAME``: a connector to begin with, and its tests, which pass as they are."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

_TEMPLATE = Path(__file__).parent / "template"
_NAME = re.compile(r"[a-z][a-z0-9_]{1,40}")


def create(name: str, root: Path) -> list[Path]:
    """Write functions/connectors/NAME/ and tests/connectors/test_NAME.py below ``root``.

    Returns the files written. Raises ValueError for a name that cannot be one, FileExistsError if
    one of the files is there already; then nothing is written.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} cannot be a connector's name: write 2 to 41 small letters, digits and _, "
            "a letter first, for example hss_acme"
        )
    folder = root / "functions" / "connectors" / name
    files = {
        folder / "connector.py": "connector.py.tmpl",
        folder / "main.py": "main.py.tmpl",
        folder / "connector.yaml": "connector.yaml.tmpl",
        folder / "README.md": "README.md.tmpl",
        folder / "requirements.txt": "requirements.txt.tmpl",
        root / "tests" / "connectors" / f"test_{name}.py": "test.py.tmpl",
    }
    taken = [file for file in (folder, *files) if file.exists()]
    if taken:
        raise FileExistsError(f"{taken[0]} is there already: choose another name, or remove it")
    words = [word for word in name.split("_") if word]
    filled = {
        "@name@": name,
        "@Class@": "".join(word.capitalize() for word in words),
        "@title@": " ".join(word.capitalize() for word in words),
    }
    for file, template in files.items():
        text = (_TEMPLATE / template).read_text(encoding="utf-8")
        for mark, value in filled.items():
            text = text.replace(mark, value)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(files)
