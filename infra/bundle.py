"""A function's archive: its folder, the library under it, and what must be installed beside them.

``main.py`` of the archive hands over to the function's own, which keeps its place: imports are the
same in the archive, in the repository and in the tests. The same files always give the same bytes,
and the archive is named by them: an unchanged function is not deployed again.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUILT = Path(".nsps") / "archives"
LIBRARY = Path("shared") / "nsps"
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


def pack(root: Path, folder: str) -> Archive:
    """Pack the function in ``root/folder`` into the folder of built archives below the root.

    Raises BundleError if main.py or requirements.txt is missing.
    """
    content = archive_bytes(root, folder)
    digest = hashlib.sha256(content).hexdigest()[:16]
    file = root / BUILT / f"{folder.replace('/', '.')}-{digest}.zip"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return Archive(folder, digest, file)


def archive_bytes(root: Path, folder: str) -> bytes:
    """The archive itself. Raises BundleError."""
    for needed in ("main.py", "requirements.txt"):
        if not (root / folder / needed).is_file():
            raise BundleError(f"{folder}/{needed} is missing: a function needs it to be deployed")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(_members(root, folder)):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _members(root: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    module = ".".join([*Path(folder).parts, "main"])
    yield "main.py", f'"""Begins the function."""\n\nfrom {module} import main as main\n'.encode()
    yield "requirements.txt", (root / folder / "requirements.txt").read_bytes()
    for file in _files(root / folder):
        yield file.relative_to(root).as_posix(), file.read_bytes()
    for file in _files(root / LIBRARY):
        yield file.relative_to(root / LIBRARY.parent).as_posix(), file.read_bytes()


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not _LEFT_OUT.intersection(file.parts) and file.suffix != ".pyc":
            yield file
