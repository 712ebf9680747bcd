"""The embedded Secret Manager, as the real client sees it."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.secretmanager_v1 import SecretManagerServiceClient, SecretVersion
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)
from nsps_local.grpc_server import PORT_BUSY
from nsps_local.secretmanager import SecretManagerServer
from nsps_local.secretmanager.crc32c import crc32c

from tests.local_cloud.firestore_kit import Process, get, post

MODULE = "nsps_local.secretmanager"
PARENT = "projects/demo"
CANARY = b"canary-5f1c-secret"


def client(target: str) -> SecretManagerServiceClient:
    channel = grpc.insecure_channel(target)
    return SecretManagerServiceClient(transport=SecretManagerServiceGrpcTransport(channel=channel))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SecretManagerServer]:
    with SecretManagerServer(tmp_path) as running:
        yield running


@pytest.fixture
def api(server: SecretManagerServer) -> SecretManagerServiceClient:
    return client(server.target)


def create(api: Any, name: str = "token", *payloads: bytes) -> str:
    secret = api.create_secret(
        parent=PARENT, secret_id=name, secret={"replication": {"automatic": {}}}
    )
    for payload in payloads:
        api.add_secret_version(parent=secret.name, payload={"data": payload})
    return str(secret.name)


def access(api: Any, name: str) -> bytes:
    return bytes(api.access_secret_version(name=name).payload.data)


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_crc32c_of_the_published_vectors(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_latest_and_numbered_versions(api: Any) -> None:
    name = create(api, "token", b"one", b"two")
    assert name == "projects/demo/secrets/token"
    answer = api.access_secret_version(name=f"{name}/versions/latest")
    assert (answer.name, answer.payload.data) == (f"{name}/versions/2", b"two")
    assert answer.payload.data_crc32c == crc32c(b"two")
    assert access(api, f"{name}/versions/1") == b"one"


def test_text_that_is_no_utf8(api: Any) -> None:
    call = api.transport.grpc_channel.unary_unary(
        "/google.cloud.secretmanager.v1.SecretManagerService/AccessSecretVersion"
    )
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\x0a\x02\xff\xfe")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_not_there(api: Any) -> None:
    name = create(api)
    for missing in (
        f"{name}/versions/latest",
        f"{name}/versions/1",
        f"{name}/versions/0",
        f"{name}/versions/no-alias",
        f"{PARENT}/secrets/other/versions/latest",
    ):
        with pytest.raises(exceptions.NotFound):
            access(api, missing)
    with pytest.raises(exceptions.NotFound):
        api.get_secret(name=f"{PARENT}/secrets/other")
    with pytest.raises(exceptions.NotFound):
        api.add_secret_version(parent=f"{PARENT}/secrets/other", payload={"data": b"x"})
    with pytest.raises(exceptions.InvalidArgument):
        access(api, f"{name}/version/1")


def test_disable_enable_destroy(api: Any) -> None:
    name = create(api, "token", b"one", b"two")
    latest = f"{name}/versions/2"
    assert api.disable_secret_version(name=latest).state == SecretVersion.State.DISABLED
    for version in (latest, f"{name}/versions/latest"):
        with pytest.raises(exceptions.FailedPrecondition, match="DISABLED"):
            access(api, version)
    assert api.enable_secret_version(name=latest).state == SecretVersion.State.ENABLED
    assert access(api, latest) == b"two"
    destroyed = api.destroy_secret_version(name=latest)
    assert destroyed.state == SecretVersion.State.DESTROYED
    assert destroyed.destroy_time is not None
    with pytest.raises(exceptions.FailedPrecondition, match="DESTROYED"):
        access(api, latest)
    with pytest.raises(exceptions.FailedPrecondition, match="DESTROYED"):
        api.enable_secret_version(name=latest)
    assert access(api, f"{name}/versions/1") == b"one"
    assert api.add_secret_version(parent=name, payload={"data": b"3"}).name.endswith("/3")


def test_create_get_list_delete(api: Any) -> None:
    name = create(api, "a")
    create(api, "b", b"1", b"2")
    with pytest.raises(exceptions.AlreadyExists):
        create(api, "a")
    assert [s.name.rsplit("/", 1)[1] for s in api.list_secrets(parent=PARENT)] == ["a", "b"]
    pages = api.list_secrets(request={"parent": PARENT, "page_size": 1})
    assert len(list(pages)) == 2
    assert list(api.list_secrets(parent="projects/other")) == []
    versions = api.list_secret_versions(parent=f"{PARENT}/secrets/b")
    assert [v.name.rsplit("/", 1)[1] for v in versions] == ["2", "1"]
    assert api.get_secret(name=name).create_time is not None
    api.delete_secret(name=name)
    with pytest.raises(exceptions.NotFound):
        api.get_secret(name=name)


def test_labels_aliases_and_etags(api: Any) -> None:
    name = create(api, "a", b"1", b"2")
    secret = api.get_secret(name=name)
    changed = {"name": name, "labels": {"k": "v"}, "version_aliases": {"old": 1}}
    mask = {"paths": ["labels", "version_aliases"]}
    api.update_secret(secret={**changed, "etag": secret.etag}, update_mask=mask)
    assert api.get_secret(name=name).labels == {"k": "v"}
    assert access(api, f"{name}/versions/old") == b"1"
    with pytest.raises(exceptions.FailedPrecondition, match="etag"):
        api.update_secret(secret={**changed, "etag": secret.etag}, update_mask=mask)
    with pytest.raises(exceptions.FailedPrecondition, match="etag"):
        api.delete_secret(request={"name": name, "etag": secret.etag})


@pytest.mark.parametrize(
    "payload",
    [{"data": b""}, {"data": b"x" * 65_537}, {"data": b"x", "data_crc32c": 1}],
    ids=["empty", "over 64 KiB", "checksum"],
)
def test_payloads_that_are_refused(api: Any, payload: Any) -> None:
    name = create(api)
    with pytest.raises(exceptions.InvalidArgument):
        api.add_secret_version(parent=name, payload=payload)
    assert list(api.list_secret_versions(parent=name)) == []


def test_secrets_that_are_refused(api: Any) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="replication"):
        api.create_secret(parent=PARENT, secret_id="a", secret={})
    for parent, name in ((PARENT, "no/slash"), (PARENT, ""), ("demo", "a")):
        with pytest.raises(exceptions.InvalidArgument):
            secret: Any = {"replication": {"automatic": {}}}
            api.create_secret(parent=parent, secret_id=name, secret=secret)


def test_faults_and_counters(server: Any, api: Any) -> None:
    name = create(api, "a", b"1")
    post(f"{server.control_url}/faults", {"unavailable_percent": 100})
    with pytest.raises(exceptions.ServiceUnavailable):
        api.access_secret_version(name=f"{name}/versions/1", retry=None)
    with pytest.raises(urllib.error.HTTPError):
        post(f"{server.control_url}/faults", {"unavailable": 1})
    post(f"{server.control_url}/faults", {})
    assert access(api, f"{name}/versions/1") == b"1"
    calls = get(f"{server.control_url}/metrics")["calls"]
    assert calls == {"CreateSecret": 1, "AddSecretVersion": 1, "AccessSecretVersion": 2}
    post(f"{server.control_url}/metrics/reset")
    assert get(f"{server.control_url}/metrics")["calls"] == {}


def test_secrets_survive_a_kill_in_a_file_of_the_owner(tmp_path: Path) -> None:
    server = Process(MODULE, tmp_path)
    name = create(client(server.target), "a", b"1", CANARY)
    client(server.target).destroy_secret_version(name=f"{name}/versions/1")
    server.kill()
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    server = Process(MODULE, tmp_path)
    api = client(server.target)
    assert access(api, f"{name}/versions/latest") == CANARY
    with pytest.raises(exceptions.FailedPrecondition, match="DESTROYED"):
        access(api, f"{name}/versions/1")
    assert server.terminate() == 0


def test_destroyed_payload_is_gone_from_the_disk(tmp_path: Path) -> None:
    import base64

    with SecretManagerServer(tmp_path) as server:
        api = client(server.target)
        name = create(api, "a", CANARY)
        kept = base64.b64encode(CANARY).decode()
        assert kept in (tmp_path / "secrets.json").read_text()
        api.destroy_secret_version(name=f"{name}/versions/1")
        assert not any(kept in path.read_text() for path in tmp_path.iterdir())


def test_payloads_are_in_no_output(tmp_path: Path) -> None:
    server = Process(MODULE, tmp_path)
    api = client(server.target)
    name = create(api, "a", CANARY)
    api.disable_secret_version(name=f"{name}/versions/1")
    with pytest.raises(exceptions.FailedPrecondition) as refusal:
        access(api, f"{name}/versions/1")
    assert CANARY.decode() not in repr(refusal.value)
    with pytest.raises(exceptions.InvalidArgument) as wrong:
        payload: Any = {"data": CANARY, "data_crc32c": 1}
        api.add_secret_version(parent=name, payload=payload)
    assert CANARY.decode() not in repr(wrong.value)
    server.process.terminate()
    out, err = server.process.communicate(timeout=10)
    assert CANARY.decode() not in out + err


@pytest.mark.parametrize("text", ["", "{", '{"format": 9, "secrets": {}}', '{"format": 1}'])
def test_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "secrets.json").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", MODULE, "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "is not a file of this server" in ended.stderr
    assert (tmp_path / "secrets.json").read_text() == text


def test_busy_port_and_busy_state(tmp_path: Path, server: Any) -> None:
    port = server.target.split(":")[1]
    for options, text in (
        (["--state", str(tmp_path / "other"), "--port", port], "it is in use"),
        (["--state", str(tmp_path)], "Another server uses the state directory"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", MODULE, *options],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == PORT_BUSY
        assert text in ended.stderr
