"""Secrets: read by reference over a real gRPC connection, cached, refreshed, never shown."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud.secretmanager_v1 import AccessSecretVersionRequest, AccessSecretVersionResponse
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretMissing, Secrets, SecretUnavailable, SecretValue


class Manager:
    """A Secret Manager that counts its reads and can be away or slow."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.reads = 0
        self.away = False
        self.delay = 0.0

    def read(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.reads += 1
        time.sleep(self.delay)
        if self.away:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not now")
        if request.name not in self.values:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.name}")
        return AccessSecretVersionResponse(
            name=request.name, payload={"data": self.values[request.name]}
        )


@pytest.fixture
def manager() -> Iterator[tuple[Manager, str]]:
    held = Manager()
    method = grpc.unary_unary_rpc_method_handler(
        held.read,
        request_deserializer=AccessSecretVersionRequest.deserialize,
        response_serializer=AccessSecretVersionResponse.serialize,
    )
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "google.cloud.secretmanager.v1.SecretManagerService",
                {"AccessSecretVersion": method},
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield held, f"127.0.0.1:{port}"
    server.stop(None).wait()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


LATEST = "projects/demo/secrets/hook/versions/latest"
Known = tuple[Manager, Secrets, Clock]


@pytest.fixture
def known(manager: tuple[Manager, str]) -> Known:
    """The secret hook was read at the clock's time, and is "one"."""
    held, host = manager
    held.values, clock = {LATEST: b"one"}, Clock()
    secrets = Secrets("demo", {"SECRET_MANAGER_EMULATOR_HOST": host}, clock=clock)
    secrets.get("sm://hook")
    return held, secrets, clock


def test_secret_manager_is_read_and_cached(manager: tuple[Manager, str]) -> None:
    held, host = manager
    held.values = {LATEST: b"one\n", LATEST.replace("latest", "7"): b"seven"}
    clock, seen = Clock(), list[SecretValue]()
    secrets = Secrets(
        "demo", {"SECRET_MANAGER_EMULATOR_HOST": host}, clock=clock, on_read=seen.append
    )
    assert secrets.get("sm://hook").reveal() == "one"
    held.values[LATEST] = b"two"
    clock.now += 299
    assert secrets.get("sm://hook").reveal() == "one"
    clock.now += 2
    assert secrets.get("sm://hook").reveal() == "two"
    assert secrets.get("sm://hook/versions/7").reveal() == "seven"
    assert held.reads == 3
    assert [value.reveal() for value in seen] == ["one", "two", "seven"]


@pytest.mark.parametrize("text", ["\ufeffvalue", "value\r\n", "\ufeffvalue\n"])
def test_what_an_editor_adds_is_no_part_of_a_secret(text: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(text.encode())
    assert Secrets("demo", {}).get(f"file:{file}").reveal() == "value"
    assert Secrets("demo", {"S": text}).get("env:S").reveal() == "value"


def test_the_cached_value_serves_an_hour_while_secret_manager_is_away(known: Known) -> None:
    held, secrets, clock = known
    held.away = True
    clock.now += 3599
    assert secrets.get("sm://hook").reveal() == "one"
    reads = held.reads
    clock.now += 0.5
    assert secrets.get("sm://hook").reveal() == "one"
    assert held.reads == reads, "an absent Secret Manager is not asked for every webhook"
    clock.now += 20
    with pytest.raises(SecretUnavailable, match="sm://hook"):
        secrets.get("sm://hook")
    held.away = False
    clock.now += 20
    assert secrets.get("sm://hook").reveal() == "one"


def test_refresh_reads_again_at_most_every_two_seconds(known: Known) -> None:
    held, secrets, clock = known
    held.values[LATEST] = b"two"
    clock.now += 1
    assert secrets.refresh("sm://hook").reveal() == "two"
    held.values[LATEST] = b"three"
    clock.now += 1.9
    assert secrets.refresh("sm://hook").reveal() == "two"
    clock.now += 0.2
    assert secrets.refresh("sm://hook").reveal() == "three"


def test_what_is_refused_is_not_known_to_be_wrong_while_it_cannot_be_read(known: Known) -> None:
    """Or a webhook with a password of a minute ago would be answered 401, and ESPF delete it."""
    held, secrets, clock = known
    held.away = True
    clock.now += 1
    for _ in range(2):
        with pytest.raises(SecretUnavailable):
            secrets.refresh("sm://hook")
    assert secrets.get("sm://hook").reveal() == "one"
    held.away = False
    clock.now += 3
    assert secrets.refresh("sm://hook").reveal() == "one"


def test_threads_share_one_read(manager: tuple[Manager, str]) -> None:
    held, host = manager
    held.values, held.delay = {LATEST: b"one"}, 0.2
    secrets = Secrets("demo", {"SECRET_MANAGER_EMULATOR_HOST": host})
    with futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: secrets.get("sm://hook").reveal(), range(8)))
    assert found == ["one"] * 8
    assert held.reads == 1


def test_who_has_a_value_does_not_wait_for_a_slow_read(known: Known) -> None:
    held, secrets, clock = known
    held.delay = 3.0
    clock.now += 301
    reader = threading.Thread(target=secrets.get, args=("sm://hook",))
    reader.start()
    ends = time.monotonic() + 5
    while held.reads < 2 and time.monotonic() < ends:
        time.sleep(0.005)
    started = time.monotonic()
    assert secrets.get("sm://hook").reveal() == "one"
    assert time.monotonic() - started < 2
    reader.join()


def test_a_missing_secret_and_an_absent_server_are_transient(manager: tuple[Manager, str]) -> None:
    _, host = manager
    with pytest.raises(SecretMissing, match="sm://hook: Secret Manager has no such secret"):
        Secrets("demo", {"SECRET_MANAGER_EMULATOR_HOST": host}).get("sm://hook")
    started = time.monotonic()
    with pytest.raises(SecretUnavailable) as raised:
        Secrets("demo", {"SECRET_MANAGER_EMULATOR_HOST": "127.0.0.1:1"}).get("sm://hook")
    assert isinstance(raised.value, Transient)
    assert time.monotonic() - started < 7


def test_files_and_variables(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("from file\n")
    secrets = Secrets("demo", {"HOOK": "from env"}, clock=Clock())
    assert secrets.get("env:HOOK").reveal() == "from env"
    assert secrets.get(f"file:{path}").reveal() == "from file"
    for ref in ("env:NONE", f"file:{tmp_path}/none"):
        with pytest.raises(SecretMissing, match=ref):
            secrets.get(ref)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for ref in (f"file:{tmp_path}", f"file:{tmp_path}/binary", "hunter2"):
        with pytest.raises(SecretUnavailable):
            secrets.get(ref)


def test_a_secret_never_shows_itself() -> None:
    value = SecretValue('{"password": "hunter2"}', "sm://hook")
    shown = [repr(value), str(value), f"{value}", f"{value:>40}", f"{[value]}", "%s" % value]  # noqa: UP031
    assert not any("hunter2" in text for text in shown)
    assert copy.deepcopy(value) is value
    with pytest.raises(TypeError):
        pickle.dumps(value)
    with pytest.raises(TypeError):
        json.dumps(value)
    assert value.json() == {"password": "hunter2"}
    assert value == SecretValue('{"password": "hunter2"}')
    assert value != SecretValue("{}")


@pytest.mark.parametrize("text", ["hunter2", '["hunter2"]', "[" * 100_000])
def test_a_secret_that_is_not_an_object_is_named_without_its_value(text: str) -> None:
    with pytest.raises(SecretUnavailable, match="sm://hook is not a JSON object") as raised:
        SecretValue(text, "sm://hook").json()
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None
