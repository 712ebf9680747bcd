"""The Firestore process: what survives a kill, its clock over restarts, its command line."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from nsps_local.firestore import FirestoreServer
from nsps_local.firestore.clock import MICRO, Clock
from nsps_local.firestore.store import Store
from nsps_local.grpc_server import PORT_BUSY
from nsps_testing.waiting import wait_for

from tests.local_cloud.firestore_kit import Process, client, embedded, get

MODULE = "nsps_local.firestore"


def test_answered_commits_survive_a_kill(tmp_path: Path) -> None:
    server = Process(MODULE, tmp_path)
    db = client(server.target, "kept")
    answered: dict[str, Any] = {}

    def write() -> None:
        n = 0
        while True:
            try:
                batch = db.batch()
                batch.create(db.document(f"a/{n}"), {"n": n, "text": "x" * 500})
                batch.create(db.document(f"b/{n}"), {"n": n})
                batch.commit(retry=None, timeout=5)
            except exceptions.GoogleAPICallError:
                return
            answered[f"{n}"] = batch.commit_time
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(answered) > 100)
    server.kill()
    writer.join(20)
    assert not writer.is_alive()

    server = Process(MODULE, tmp_path)
    try:
        db = client(server.target, "kept")
        found = {s.id: s for s in db.collection("a").stream()}
        twins = {s.id for s in db.collection("b").stream()}
        assert set(found) == twins, "a commit is whole or not there"
        assert {name: found[name].update_time for name in answered} == answered
        assert len(found) - len(answered) <= 1
        later = db.document("a/later").set({}).update_time
        assert later > max(answered.values())
    finally:
        assert server.terminate() == 0


def test_killed_client_in_a_transaction_blocks_nobody(tmp_path: Path) -> None:
    with embedded(tmp_path) as server:
        program = (
            "import os; from google.cloud import firestore;"
            "db = firestore.Client(project='p'); t = db.transaction(); t._begin();"
            "db.document('a/b').get(transaction=t); print('in', flush=True); input()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"FIRESTORE_EMULATOR_HOST": server.target, "PATH": ""},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        process.kill()
        process.communicate(timeout=10)
        db = client(server.target, "p")
        transaction = db.transaction()
        transaction._begin()
        assert not db.document("a/b").get(transaction=transaction).exists
        transaction.set(db.document("a/b"), {})
        transaction._commit()


def test_terminate_is_clean_and_the_ready_line_tells_the_ports(tmp_path: Path) -> None:
    server = Process(MODULE, tmp_path)
    assert get(f"{server.control_url}/health") == {"status": "ok"}
    client(server.target).document("a/b").set({})
    assert server.terminate() == 0


def test_busy_port_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--port", "--control-port"):
            ended = subprocess.run(
                [sys.executable, "-m", MODULE, "--state", str(tmp_path), option, str(port)],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert ended.returncode == PORT_BUSY
            assert ended.stderr.splitlines()[-1] == (
                f"firestore: Cannot listen on 127.0.0.1:{port}: it is in use; "
                "stop what uses it or choose another port."
            )
            assert ended.stdout == ""


def test_two_servers_cannot_share_a_port(tmp_path: Path) -> None:
    with embedded(tmp_path / "one") as server:
        second = FirestoreServer(tmp_path / "two", port=int(server.target.split(":")[1]))
        with pytest.raises(OSError, match="in use"):
            second.start()


def test_two_servers_cannot_share_a_state(tmp_path: Path) -> None:
    with embedded(tmp_path), pytest.raises(ValueError, match="one server at a time"):
        FirestoreServer(tmp_path).start()


def test_stopped_server_starts_again_where_it_was(tmp_path: Path) -> None:
    server = FirestoreServer(tmp_path)
    with server:
        first = client(server.target, "p").document("a/b").set({"x": 1}).update_time
    with server:
        db = client(server.target, "p")
        assert db.document("a/b").get().to_dict() == {"x": 1}
        assert db.document("a/b").set({"x": 2}).update_time > first


def test_listener_goes_on_after_a_restart(tmp_path: Path) -> None:
    server = FirestoreServer(tmp_path)
    changes: list[list[str]] = []
    with server:
        port = int(server.target.split(":")[1])
        db = client(server.target, "p")
        db.document("a/gone").set({})
        watch: Any = db.collection("a").on_snapshot(
            lambda documents, _, __: changes.append([s.id for s in documents])
        )
        wait_for(lambda: changes and changes[-1] == ["gone"])
    with FirestoreServer(tmp_path, port=port):
        try:
            batch = db.batch()
            batch.delete(db.document("a/gone"))
            batch.set(db.document("a/new"), {})
            batch.commit()
            wait_for(lambda: changes[-1] == ["new"])
        finally:
            watch.unsubscribe()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--ttl", "nodot"], "not of the form collectionGroup.field"),
        (["--indexes", "/no/such/file"], "Cannot read the indexes"),
        (["--database", "nsps"], "not of the form projects/P/databases/D"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str], text: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", MODULE, "--state", str(tmp_path), *options],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


def test_databases_that_are_not_named_do_not_exist(tmp_path: Path) -> None:
    server = Process(MODULE, tmp_path, "--database", "projects/mine/databases/nsps")
    try:
        document = client(server.target, "mine", "nsps").document("things/a")
        document.set({"x": 1})
        assert document.get().to_dict() == {"x": 1}
        for project, database in (("mine", "(default)"), ("mine", "other"), ("yours", "nsps")):
            db = client(server.target, project, database)
            for ask in CALLS:
                with pytest.raises(exceptions.NotFound, match="projects/mine/databases/nsps"):
                    ask(db)
    finally:
        assert server.terminate() == 0


CALLS: list[Callable[[Any], Any]] = [
    lambda db: db.document("things/a").get(),
    lambda db: db.document("things/a").set({}),
    lambda db: db.document("things/a").delete(),
    lambda db: list(db.get_all([db.document("things/a")])),
    lambda db: list(db.collection("things").stream()),
    lambda db: db.collection("things").count().get(),
    lambda db: list(db.collection("things").list_documents()),
    lambda db: list(db.collections()),
    lambda db: db.batch().commit(),
    lambda db: db.transaction()._begin(),
]


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    with embedded(tmp_path) as server:
        client(server.target).document("a/b").set({})
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


# The clock, with time in our hand


class Hands:
    def __init__(self, wall: float) -> None:
        self.wall = wall
        self.ticks = 50.0

    def clock(self, last: int = 0, advanced: float = 0.0) -> Clock:
        return Clock(last, advanced, lambda: self.wall, lambda: self.ticks)


def test_commit_times_never_repeat_though_time_stands_still() -> None:
    clock = Hands(1000.0).clock()
    times = [clock.next() for _ in range(1000)]
    assert times == list(range(times[0], times[0] + 1000))


def test_reads_come_after_commits_and_before_the_next() -> None:
    clock = Hands(1000.0).clock()
    first = clock.next()
    read = clock.now()
    assert first <= read < clock.next()


def test_clock_goes_on_when_the_machine_steps_back() -> None:
    hands = Hands(1000.0)
    clock = hands.clock()
    first = clock.next()
    hands.wall = 10.0
    hands.ticks += 1
    assert clock.next() == first + MICRO
    restarted = hands.clock(last=clock.next())
    assert restarted.next() > first + MICRO
    hands.ticks += 5
    assert restarted.next() >= first + 6 * MICRO


def test_advance_moves_ahead_and_is_kept() -> None:
    hands = Hands(1000.0)
    clock = hands.clock()
    before = clock.next()
    clock.advance(3600)
    assert clock.next() == before + 3600 * MICRO
    assert hands.clock(clock.now(), clock.advanced).now() >= before + 3600 * MICRO


def test_time_of_a_deletion_is_remembered_over_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.transaction(store.clock.next() + 10**12) as future:
        pass
    store.close()
    again = Store(tmp_path)
    assert again.clock.next() > future
    again.close()


def test_time_of_a_commit_that_changed_nothing_is_remembered(tmp_path: Path) -> None:
    with embedded(tmp_path) as server:
        ref = client(server.target, "p").document("a/b")
        ref.delete()
        first = ref.get().read_time
    store = Store(tmp_path)
    assert store._meta("last", 0) > (first.timestamp() - 5) * MICRO
    store.close()


def test_state_of_another_format_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store._set_meta("format", 99)
    store.close()
    with pytest.raises(ValueError, match="format 99"):
        Store(tmp_path)
