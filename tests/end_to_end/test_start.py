"""Starting and ending: whatever keeps `nsps up` from starting is one clear sentence and exit status
2; however it ends, it leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nsps_local.stack.ports import reserve_base
from nsps_testing.waiting import wait_for

from tests.end_to_end import processes
from tests.end_to_end.whole_stack import DATABASE, ROOT, WholeStack, configuration, webhook

pytestmark = pytest.mark.timeout(180)

ELSEWHERE = {"url": "https://portabilling.example.com", "credentials": "portabilling-api"}


def up(folder: Path, config: Path, *more: str, base: int | None = None) -> tuple[int, str]:
    """`nsps up` that is not to come up: its exit status and what it said on standard error."""
    command = [sys.executable, "-m", "nsps_local.cli", "up", "--state", str(folder / "state")]
    command += ["--config", str(config), "--port-base", str(base or reserve_base()), *more]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


def left_behind(folder: Path) -> list[processes.Process]:
    """Processes that know of a folder."""
    mine = str(folder)
    table = processes.table().values()
    return [p for p in table if p.alive and any(mine in word for word in p.command)]


def assert_refused(folder: Path, status: int, said: str, *words: str) -> None:
    """One clear sentence with these words, and nothing runs."""
    assert status == 2, said
    assert said.startswith("nsps: ")
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1, said
    for word in words:
        assert word in said
    assert left_behind(folder) == []


def edited(folder: Path, **values: Any) -> Path:
    """A configuration with values of the stack replaced (None: left out)."""
    file = configuration(folder, [DATABASE])
    document = yaml.safe_load(file.read_text())
    for name, value in values.items():
        document["config"].pop(f"nsps:{name}", None)
        if value is not None:
            document["config"][f"nsps:{name}"] = value
    file.write_text(yaml.safe_dump(document))
    return file


def handlers(**changed: Any) -> list[dict[str, Any]]:
    return [{**DATABASE, **changed}]


BROKEN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a connector that there is not": (
        {"handlers": handlers(connector="databse")},
        ("nsps:handlers[0]", "databse"),
    ),
    "a key that there is not": ({"handlers": handlers(evnts=["SIM/*"])}, ("evnts",)),
    "two handlers of one name": ({"handlers": handlers() * 2}, ("subscribers",)),
    "a setting that is none": (
        {"handlers": handlers(settings={"url": "sqlite:////x/y.db", "tabel": "t"})},
        ("tabel",),
    ),
    "a secret that is missing": (
        {"handlers": [webhook("http://127.0.0.1:9/") | {"secrets": {}}]},
        ("token",),
    ),
    "no PortaBilling": ({"portabilling": None}, ("nsps:portabilling",)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_configuration(tmp_path: Path, what: str) -> None:
    values, words = BROKEN[what]
    file = edited(tmp_path, **values)
    assert_refused(tmp_path, *up(tmp_path, file), file.name, *words)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    absent = tmp_path / "Pulumi.absent.yaml"
    assert_refused(tmp_path, *up(tmp_path, absent), str(absent), "no such file")


@pytest.mark.parametrize("text", ["config: [", "", "config: 7\n"])
def test_a_configuration_that_is_no_stack(tmp_path: Path, text: str) -> None:
    file = tmp_path / "Pulumi.e2e.yaml"
    file.write_text(text)
    assert_refused(tmp_path, *up(tmp_path, file), file.name)


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        (None, ("--secrets", "no-such.json")),
        ("{", ("--secrets", "JSON")),
        ("[]", ("--secrets", "JSON object")),
    ],
)
def test_secrets_that_cannot_be_used(
    tmp_path: Path, secrets: str | None, words: tuple[str, ...]
) -> None:
    file = tmp_path / "no-such.json"
    if secrets is not None:
        file.write_text(secrets)
    config = configuration(tmp_path, [DATABASE])
    assert_refused(tmp_path, *up(tmp_path, config, "--secrets", str(file)), *words)


def test_a_portabilling_of_ones_own_without_its_user(tmp_path: Path) -> None:
    file = edited(tmp_path, portabilling=ELSEWHERE)
    assert_refused(tmp_path, *up(tmp_path, file), "--secrets", "portabilling-api", "login")


@pytest.mark.parametrize("base", [80, 65530])
def test_a_port_base_without_room(tmp_path: Path, base: int) -> None:
    config = configuration(tmp_path, [DATABASE])
    status, said = up(tmp_path, config, base=base)
    assert_refused(tmp_path, status, said, "--port-base", str(base))


@pytest.mark.parametrize("offset", [0, 11], ids=["sandbox", "a function"])
def test_a_busy_port(tmp_path: Path, offset: int) -> None:
    base = reserve_base()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", base + offset))
        taken.listen()
        config = configuration(tmp_path, [DATABASE])
        status, said = up(tmp_path, config, base=base)
    assert_refused(tmp_path, status, said, f"port {base + offset}", "--port-base")


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    config = configuration(tmp_path, [DATABASE])
    assert_refused(tmp_path, *up(tmp_path, config), str(tmp_path / "state"))


# ---- ending ----------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[WholeStack]:
    made = WholeStack(tmp_path / "state", configuration(tmp_path, [DATABASE]))
    try:
        yield made.start()
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()


def ended(stack: WholeStack, everything: set[int], seconds: float = 60) -> None:
    assert len(everything) > 9, "there was to be something to end"
    wait_for(lambda: not any(map(processes.alive, everything)), seconds, "everything to end")
    assert left_behind(stack.state) == []


def test_ctrl_c_and_before_it_a_second_start(stack: WholeStack, tmp_path: Path) -> None:
    assert stack.process is not None
    config = configuration(tmp_path, [DATABASE])
    status, said = up(tmp_path, config)
    assert (status, len(said.strip().splitlines())) == (2, 1), said
    assert str(stack.process.pid) in said
    assert "--state" in said
    assert json.loads((stack.state / "stack.json").read_text())["pid"] == stack.process.pid
    stack.new_account(stack.new_card()["i_sim_card"])  # the first is none the worse for it
    everything = processes.below(stack.process.pid)
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(30) == 0
    ended(stack, everything, 0)
    assert "nothing is left running" in stack.output()
    assert not (stack.state / "stack.json").exists()


def test_sigterm_although_a_function_hangs(stack: WholeStack) -> None:
    assert stack.process is not None
    everything = processes.below(stack.process.pid)
    stack.stop_part("subscribers")
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(30) == 0
    ended(stack, everything, 0)


def test_sigkill_leaves_nothing_behind_either(stack: WholeStack) -> None:
    assert stack.process is not None
    everything = processes.below(stack.process.pid)
    stack.process.kill()
    stack.process.wait(10)
    ended(stack, everything)


@pytest.mark.parametrize("reached", ["lock", "pubsub", "logs/ingress.log"])
def test_ctrl_c_in_a_terminal_while_it_starts(tmp_path: Path, reached: str) -> None:
    """A terminal sends it to the whole foreground group."""
    command = [sys.executable, "-m", "nsps_local.cli", "up", "--state", str(tmp_path / "state")]
    command += ["--config", str(configuration(tmp_path, [DATABASE]))]
    command += ["--port-base", str(reserve_base())]
    with (tmp_path / "out").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
    wait_for((tmp_path / "state" / reached).exists, 60, f"{reached} to be there")
    os.killpg(process.pid, signal.SIGINT)
    status = process.wait(60)
    said = (tmp_path / "out").read_text()
    assert status in (0, 130), said
    assert "Traceback" not in said
    assert left_behind(tmp_path) == []
