"""A function's archive: its folder, the library under it, and what must be installed beside them.

``main.py`` of the archive hands over to the function's own, which keeps its place in the tree:
imports are the same in the archive, in the repository and in the tests. The same files always give
the same bytes, and the archive is named by them: an unchanged function is not deployed again.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

BUILT = Path(".nsps") / "archives"
LIBRARY = Path("shared") / "nsps"
REQUIREMENTS = "requirements.txt"
_BEGINNING = '''"""Where the function begins: everything keeps its place in the repository."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "{folder}"))

from {module}.main import main as main
'''
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"})


class BundleError(ValueError):
    """A function that cannot be packed; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A packed function. ``folder``: below the repository's root; ``file``: the archive."""

    folder: str
    digest: str
    file: Path

    @property
    def object_name(self) -> str:
        """Its name in the bucket: the function's folder and the hash of the content."""
        return f"{self.folder}/{self.digest}.zip"


def folder_of(object_name: str) -> str:
    """The function's folder, from the archive's name in the bucket."""
    return object_name.rpartition("/")[0]


def pack(root: Path, folder: str, also: Iterable[str] = ()) -> Archive:
    """Pack the function in ``root/folder`` into the folder of built archives below the root.

    ``also``: folders that it needs beside its own, with their requirements.
    Raises BundleError if a file is missing or two folders want different versions.
    """
    content = archive_bytes(root, folder, also)
    digest = hashlib.sha256(content).hexdigest()[:16]
    file = root / BUILT / f"{folder.replace('/', '.')}-{digest}.zip"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return Archive(folder, digest, file)


def archive_bytes(root: Path, folder: str, also: Iterable[str] = ()) -> bytes:
    """The archive itself. Raises BundleError."""
    folders = [folder, *sorted(set(also) - {folder})]
    for needed in (f"{each}/{name}" for each in folders for name in ("main.py", REQUIREMENTS)):
        if not (root / needed).is_file():
            raise BundleError(f"{needed} is missing: a function cannot be deployed without it")
    members = {
        "main.py": _BEGINNING.format(folder=folder, module=folder.replace("/", ".")).encode(),
        REQUIREMENTS: _requirements(root, folders).encode(),
        **dict(_members(root, folders)),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _requirements(root: Path, folders: Iterable[str]) -> str:
    """The pinned requirements of all the folders, one line each."""
    pinned: dict[str, tuple[str, str]] = {}
    for folder in folders:
        shown = f"{folder}/{REQUIREMENTS}"
        for line in (root / shown).read_text(encoding="utf-8").splitlines():
            wanted = line.partition("#")[0].strip()
            if not wanted:
                continue
            name, equals, version = wanted.partition("==")
            if not equals or not version:
                raise BundleError(f"{shown}: {wanted!r} is not pinned: write {name}==VERSION")
            known, by = pinned.setdefault(name.strip().lower(), (wanted, shown))
            if known != wanted:
                raise BundleError(f"{shown} wants {wanted}, {by} wants {known}: write one version")
    return "".join(f"{wanted}\n" for wanted, _ in sorted(pinned.values()))


def _members(root: Path, folders: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for file in _files(root / folder):
            yield file.relative_to(root).as_posix(), file.read_bytes()
    for file in _files(root / LIBRARY):
        yield file.relative_to(root / LIBRARY.parent).as_posix(), file.read_bytes()


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not _LEFT_OUT.intersection(file.parts) and file.suffix != ".pyc":
            yield file
