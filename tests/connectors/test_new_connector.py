"""``nsps new-connector``: what it writes passes its tests, and its tests notice what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nsps_local.new_connector import create

NAME = "hss_acme"
REPOSITORY = Path(__file__).parents[2]


def run_tests(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--import-mode=importlib"]
    command += ["-p", "no:cacheprovider", "-o", f"pythonpath=. {REPOSITORY}", *options, "tests"]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=100, check=False
    )


def test_what_it_writes_passes_its_tests_and_the_linter(tmp_path: Path) -> None:
    files = create(NAME, tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in files) == [
        "functions/connectors/hss_acme/README.md",
        "functions/connectors/hss_acme/connector.py",
        "functions/connectors/hss_acme/connector.yaml",
        "functions/connectors/hss_acme/main.py",
        "functions/connectors/hss_acme/requirements.txt",
        "tests/connectors/test_hss_acme.py",
    ]
    assert not [file for file in files if re.search(r"@(name|Class|title)@", file.read_text())]
    done = run_tests(tmp_path)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 90 and "skipped" not in done.stdout
    for subcommand in (["check"], ["format", "--check"]):
        configured = ["--config", str(REPOSITORY / "pyproject.toml"), "--no-cache", "."]
        lint = subprocess.run(
            [sys.executable, "-m", "ruff", *subcommand, *configured],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "noticed_by"),
    [
        ("delete(_path(key), call)", 'change("x", call, {}, method="DELETE")', "deleted_twice"),
        ("Meaning.REFUSED", "Meaning.DONE", "success_that_is_none"),
        ("account is None or", "", "everything_is_gone"),
        ("is_served(account)", "not account.blocked", "who_is_active"),
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_a_mistake_is_noticed(tmp_path: Path, right: str, wrong: str, noticed_by: str) -> None:
    code = create(NAME, tmp_path)[0]
    text = code.read_text(encoding="utf-8")
    assert right in text
    text = text.replace(right, wrong)
    code.write_text(text, encoding="utf-8")
    done = run_tests(tmp_path, "-k", noticed_by)
    assert done.returncode == 1, done.stdout


@pytest.mark.parametrize("name", ["", "x", "Hss", "1hss", "hss-acme", "../hss", "a" * 42, "class"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a connector's name"):
        create(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    test = tmp_path / "tests" / "connectors" / "test_hss_acme.py"
    test.parent.mkdir(parents=True)
    test.write_text("mine")
    with pytest.raises(FileExistsError, match=r"test_hss_acme\.py"):
        create(NAME, tmp_path)
    assert test.read_text() == "mine" and not (tmp_path / "functions").exists()
