"""The gRPC methods of google.cloud.secretmanager.v1.SecretManagerService.

Sources: the API reference and error texts of Secret Manager (versions are numbered from 1, `latest`
is the one added last whatever its state, a payload has at most 64 KiB and a CRC32C).
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from google.cloud.secretmanager_v1.types import service as types
from google.protobuf.empty_pb2 import Empty

from nsps_local.control import Route, known_names, number
from nsps_local.grpc_server import Refused, unary
from nsps_local.secretmanager.crc32c import crc32c
from nsps_local.secretmanager.store import Entry, Secret, SecretVersion, Store, Version

SERVICE = "google.cloud.secretmanager.v1.SecretManagerService"
MAX_PAYLOAD = 64 * 1024
PAGE = 25_000
ENABLED, DISABLED, DESTROYED = 1, 2, 3  # SecretVersion.State
_STATES = {ENABLED: "ENABLED", DISABLED: "DISABLED", DESTROYED: "DESTROYED"}
_PARENT = re.compile(r"projects/[^/]+")
_SECRET_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
_VERSION = re.compile(r"(projects/[^/]+/secrets/[^/]+)/versions/([^/]+)")
_FAULTS = frozenset(("unavailable_percent", "delay_seconds", "seed"))


def invalid(text: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, text)


def missing(text: str) -> Refused:
    return Refused(grpc.StatusCode.NOT_FOUND, text)


def not_now(text: str) -> Refused:
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, text)


class SecretManagerService:
    """The secrets of all projects, kept in one state directory."""

    def __init__(self, state: Path) -> None:
        self._store = Store(state)
        self._calls: Counter[str] = Counter()
        self._set_faults({})

    async def start(self) -> None:
        """Nothing runs in the background."""

    async def stop(self) -> None:
        self._store.close()

    def handlers(self) -> list[Any]:
        """The generic handler of the service."""
        methods: dict[str, tuple[Any, Any]] = {
            "ListSecrets": (types.ListSecretsRequest, self._list_secrets),
            "CreateSecret": (types.CreateSecretRequest, self._create_secret),
            "AddSecretVersion": (types.AddSecretVersionRequest, self._add_version),
            "GetSecret": (types.GetSecretRequest, self._get_secret),
            "UpdateSecret": (types.UpdateSecretRequest, self._update_secret),
            "DeleteSecret": (types.DeleteSecretRequest, self._delete_secret),
            "ListSecretVersions": (types.ListSecretVersionsRequest, self._list_versions),
            "GetSecretVersion": (types.GetSecretVersionRequest, self._get_version),
            "AccessSecretVersion": (types.AccessSecretVersionRequest, self._access),
            "DisableSecretVersion": (types.DisableSecretVersionRequest, self._disable),
            "EnableSecretVersion": (types.EnableSecretVersionRequest, self._enable),
            "DestroySecretVersion": (types.DestroySecretVersionRequest, self._destroy),
        }
        handlers = {
            name: unary(request.pb(), self._guarded(name, method))
            for name, (request, method) in methods.items()
        }
        return [grpc.method_handlers_generic_handler(SERVICE, handlers)]

    def routes(self) -> Mapping[tuple[str, str], Route]:
        """The control port."""
        return {
            ("GET", "/health"): lambda _: {"status": "ok"},
            ("GET", "/metrics"): lambda _: {"calls": dict(self._calls)},
            ("POST", "/metrics/reset"): self._reset_metrics,
            ("POST", "/faults"): self._set_faults,
        }

    def _reset_metrics(self, _: dict[str, Any]) -> dict[str, Any]:
        self._calls.clear()
        return {}

    def _set_faults(self, body: dict[str, Any]) -> dict[str, Any]:
        """Route: what is not named is switched off."""
        known_names(body, _FAULTS)
        self._unavailable = number(body, "unavailable_percent", 0, 100) / 100
        self._delay = number(body, "delay_seconds", 0, 3600)
        self._dice = random.Random(body.get("seed"))  # noqa: S311 - faults, not secrets
        return {"faults": body}

    def _guarded(self, name: str, method: Any) -> Any:
        async def call(request: Any, _: Any) -> Any:
            self._calls[name] += 1
            if self._delay:
                await asyncio.sleep(self._delay)
            if self._unavailable and self._dice.random() < self._unavailable:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")
            return method(request)

        return call

    # Secrets

    def _entry(self, name: str) -> Entry:
        entry = self._store.secrets.get(name)
        if entry is None:
            raise missing(f"Secret [{name}] not found.")
        return entry

    def _create_secret(self, request: Any) -> Any:
        if not _PARENT.fullmatch(request.parent):
            raise invalid(f'The parent "{request.parent}" is not of the form projects/P.')
        if not _SECRET_ID.fullmatch(request.secret_id):
            raise invalid("A secret id has 1 to 255 letters, digits, hyphens and underscores.")
        if request.secret.WhichOneof("expiration") is None and not request.secret.HasField(
            "replication"
        ):
            raise invalid("The secret's replication must be set (automatic or user managed).")
        name = f"{request.parent}/secrets/{request.secret_id}"
        if name in self._store.secrets:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Secret [{name}] already exists.")
        meta = Secret()
        meta.CopyFrom(request.secret)
        meta.name = name
        meta.create_time.GetCurrentTime()
        meta.etag = _etag()
        self._store.secrets[name] = Entry(meta)
        self._store.save()
        return meta

    def _get_secret(self, request: Any) -> Any:
        return self._entry(request.name).meta

    def _update_secret(self, request: Any) -> Any:
        entry = self._entry(request.secret.name)
        _check_etag(entry.meta, request.secret.etag)
        changeable = {"labels", "annotations", "version_aliases"}
        paths = set(request.update_mask.paths)
        if not paths or paths - changeable:
            raise invalid(f"update_mask must name some of: {', '.join(sorted(changeable))}.")
        for path in paths:
            entry.meta.ClearField(path)
            getattr(entry.meta, path).update(getattr(request.secret, path))
        entry.meta.etag = _etag()
        self._store.save()
        return entry.meta

    def _delete_secret(self, request: Any) -> Any:
        _check_etag(self._entry(request.name).meta, request.etag)
        del self._store.secrets[request.name]
        self._store.save()
        return Empty()

    def _list_secrets(self, request: Any) -> Any:
        prefix = f"{request.parent}/secrets/"
        found = [
            entry.meta
            for name, entry in sorted(self._store.secrets.items())
            if name.startswith(prefix)
        ]
        page, token = _page(found, request)
        return types.ListSecretsResponse.pb()(
            secrets=page, next_page_token=token, total_size=len(found)
        )

    # Versions

    def _version(self, name: str) -> Version:
        match = _VERSION.fullmatch(name)
        if match is None:
            raise invalid(f'"{name}" is not of the form projects/P/secrets/S/versions/V.')
        entry = self._entry(match[1])
        wanted = match[2]
        if wanted == "latest":
            if not entry.versions:
                raise missing(f"Secret [{match[1]}] not found or has no versions.")
            return entry.versions[-1]
        plain = int(wanted) if wanted.isascii() and wanted.isdigit() else 0
        at = int(entry.meta.version_aliases.get(wanted, plain))
        if not 1 <= at <= len(entry.versions):
            raise missing(f"Secret Version [{name}] not found.")
        return entry.versions[at - 1]

    def _add_version(self, request: Any) -> Any:
        entry = self._entry(request.parent)
        data = request.payload.data
        if not data:
            raise invalid("The payload is empty.")
        if len(data) > MAX_PAYLOAD:
            raise invalid(f"The payload has {len(data)} bytes, more than {MAX_PAYLOAD}.")
        given = request.payload
        if given.HasField("data_crc32c") and given.data_crc32c != crc32c(data):
            raise invalid("The payload's data_crc32c does not match its data.")
        meta = SecretVersion(
            name=f"{request.parent}/versions/{len(entry.versions) + 1}",
            state=ENABLED,
            etag=_etag(),
            client_specified_payload_checksum=given.HasField("data_crc32c"),
        )
        meta.create_time.GetCurrentTime()
        entry.versions.append(Version(meta, data))
        self._store.save()
        return meta

    def _get_version(self, request: Any) -> Any:
        return self._version(request.name).meta

    def _access(self, request: Any) -> Any:
        version = self._version(request.name)
        if version.payload is None or version.meta.state != ENABLED:
            state = _STATES[version.meta.state]
            raise not_now(f"Secret Version [{version.meta.name}] is in {state} state.")
        return types.AccessSecretVersionResponse.pb()(
            name=version.meta.name,
            payload={"data": version.payload, "data_crc32c": crc32c(version.payload)},
        )

    def _list_versions(self, request: Any) -> Any:
        entry = self._entry(request.parent)
        found = [version.meta for version in reversed(entry.versions)]
        page, token = _page(found, request)
        return types.ListSecretVersionsResponse.pb()(
            versions=page, next_page_token=token, total_size=len(found)
        )

    def _disable(self, request: Any) -> Any:
        return self._change(request, DISABLED)

    def _enable(self, request: Any) -> Any:
        return self._change(request, ENABLED)

    def _destroy(self, request: Any) -> Any:
        return self._change(request, DESTROYED)

    def _change(self, request: Any, state: int) -> Any:
        version = self._version(request.name)
        _check_etag(version.meta, request.etag)
        if version.meta.state == DESTROYED:
            raise not_now(f"Secret Version [{version.meta.name}] is in DESTROYED state.")
        version.meta.state = state
        version.meta.etag = _etag()
        if state == DESTROYED:
            version.payload = None
            version.meta.destroy_time.GetCurrentTime()
        self._store.save()
        return version.meta


def _etag() -> str:
    return f'"{secrets.token_hex(7)}"'


def _check_etag(meta: Any, given: str) -> None:
    if given and given != meta.etag:
        raise not_now(f"The etag of [{meta.name}] is not the one given: it was changed meanwhile.")


def _page(found: list[Any], request: Any) -> tuple[list[Any], str]:
    """The page asked for, and the token of the next ("": it is the last)."""
    if request.filter:
        raise invalid("Filters are not part of this Secret Manager server.")
    token = request.page_token
    if token and not (token.isascii() and token.isdigit()):
        raise invalid("The page token is not one of ours.")
    start = int(token or 0)
    end = start + (min(request.page_size, PAGE) or PAGE)
    return found[start:end], str(end) if end < len(found) else ""
