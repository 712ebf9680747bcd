"""A function's archive: whole, the same for the same files, and able to start by itself."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra.bundle import BundleError, archive_bytes, folder_of, pack
from tests.infra.conftest import FIXTURES, ROOT

HSS = "functions/connectors/hss_osmocom"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / "functions", tmp_path / "functions")
    library = tmp_path / "shared" / "nsps"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("", encoding="utf-8")
    (library / "event.py").write_text("NAME = 'event'\n", encoding="utf-8")
    return tmp_path


def names(content: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(content)).namelist())


def test_an_archive_holds_the_function_the_library_and_how_to_begin(root: Path) -> None:
    (root / HSS / "__pycache__").mkdir()
    (root / HSS / "__pycache__" / "main.pyc").write_bytes(b"x")
    assert names(archive_bytes(root, HSS)) == {
        "main.py",
        "requirements.txt",
        f"{HSS}/main.py",
        f"{HSS}/connector.py",
        f"{HSS}/connector.yaml",
        f"{HSS}/requirements.txt",
        "nsps/__init__.py",
        "nsps/event.py",
    }


def test_the_same_files_give_the_same_bytes_wherever_and_whenever(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(root, other, dirs_exist_ok=True)
    for file in other.rglob("*"):
        os.utime(file, (1, 1))
        file.chmod(0o755)
    assert archive_bytes(root, HSS) == archive_bytes(other, HSS)
    entries = zipfile.ZipFile(io.BytesIO(archive_bytes(root, HSS))).infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert pack(root, HSS).digest == pack(other, HSS).digest


@pytest.mark.parametrize(
    "changed",
    [f"{HSS}/main.py", f"{HSS}/connector.yaml", f"{HSS}/new.py", "shared/nsps/event.py"],
)
def test_any_change_of_what_is_in_it_gives_another_name(root: Path, changed: str) -> None:
    before = pack(root, HSS)
    (root / changed).write_text("# changed\n", encoding="utf-8")
    after = pack(root, HSS)
    assert after.object_name != before.object_name
    assert folder_of(after.object_name) == folder_of(before.object_name) == HSS
    assert after.file.read_bytes() == archive_bytes(root, HSS)


def test_a_change_elsewhere_does_not(root: Path) -> None:
    before = pack(root, HSS)
    (root / "functions" / "ingress" / "main.py").write_text("# changed\n", encoding="utf-8")
    assert pack(root, HSS) == before


def test_callbacks_carries_the_connectors_it_speaks_with_and_their_requirements(
    root: Path,
) -> None:
    oms = "functions/connectors/oms_tmf641"
    (root / oms / "requirements.txt").write_text("lxml==6.0.2  # answers\n", encoding="utf-8")
    content = archive_bytes(root, "functions/callbacks", [oms])
    assert f"{oms}/main.py" in names(content)
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.read("requirements.txt").decode() == (
        "functions-framework==3.10.2\nlxml==6.0.2\n"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("requests", "'requests' is not pinned: write requests==VERSION"),
        ("requests>=2", "is not pinned"),
        ("functions-framework==3.0.0", "write one version"),
    ],
)
def test_requirements_that_are_not_pinned_or_do_not_agree_are_refused(
    root: Path, line: str, expected: str
) -> None:
    (root / HSS / "requirements.txt").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(BundleError, match=expected):
        archive_bytes(root, "functions/callbacks", [HSS])


def test_a_function_without_main_is_refused(root: Path) -> None:
    (root / HSS / "main.py").unlink()
    with pytest.raises(BundleError, match=f"{HSS}/main.py is missing"):
        archive_bytes(root, HSS)


@pytest.mark.parametrize("style", ["import codes", "from functions.ingress import codes"])
def test_a_function_begins_from_its_unpacked_archive_alone(
    root: Path, tmp_path_factory: pytest.TempPathFactory, style: str
) -> None:
    folder = root / "functions" / "ingress"
    (folder / "codes.py").write_text("ANSWER = 'ok'\n", encoding="utf-8")
    (folder / "main.py").write_text(
        f"{style}\nimport nsps.event\n\ndef main(request):\n"
        "    return codes.ANSWER + nsps.event.__file__\n",
        encoding="utf-8",
    )
    unpacked = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(pack(root, "functions/ingress").file).extractall(unpacked)
    code = (
        "import functions_framework; "
        "print(functions_framework.create_app('main', 'main.py').test_client().get('/').text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=unpacked,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(unpacked)},
    )
    assert done.stdout.strip() == f"ok{unpacked}/nsps/event.py"


def test_the_versions_of_the_functions_are_those_of_the_repository() -> None:
    """One version of each package in the whole repository, so what is tested is deployed."""
    tested = set((ROOT / "requirements.txt").read_text(encoding="utf-8").split())
    for file in sorted(ROOT.glob("functions/**/requirements.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            wanted = line.partition("#")[0].strip()
            package = wanted.partition("==")[0]
            known = {entry for entry in tested if entry.partition("==")[0] == package}
            assert not wanted or wanted in tested or not known, f"{file}: {wanted}, not {known}"
