"""The secrets of a deployment, as Secret Manager shows them to the person who asks.

No value is read: whether there is one, and whether the functions that need it may read it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from google.api_core.exceptions import GoogleAPICallError, NotFound, PermissionDenied
from google.auth.exceptions import GoogleAuthError
from nsps.runtime.secrets import secret_manager_client

from nsps_local.doctor.finding import Finding, bad, good, unknown
from nsps_local.recording.topology import Topology

CALL_SECONDS = 20
ACCESSOR = "roles/secretmanager.secretAccessor"
_REFERENCE = re.compile(r"sm://([A-Za-z0-9_-]+)(?:/versions/(\w+))?")


class SecretVersions:
    """Every version that a function is told of. ``topology``: of the deployment's program."""

    def __init__(self, topology: Topology, client: Any = None) -> None:
        self._topology, self._client = topology, client

    def findings(self) -> Iterator[Finding]:
        try:
            client = self._client or secret_manager_client(
                os.environ.get("SECRET_MANAGER_EMULATOR_HOST")
            )
        except GoogleAuthError:
            yield unknown("secrets", "nobody is logged in", "gcloud auth application-default login")
            return
        for (name, version), readers in sorted(self._wanted().items()):
            yield self._version(client, name, version, readers)

    def _wanted(self) -> dict[tuple[str, str], set[str]]:
        """(secret, version) -> the accounts of the functions that are told of it."""
        wanted: dict[tuple[str, str], set[str]] = {}
        for function in self._topology.functions:
            environment = json.dumps(dict(function.env))
            for name, version in _REFERENCE.findall(environment):
                readers = wanted.setdefault((name, version or "latest"), set())
                readers.add(f"serviceAccount:{function.service_account}")
        return wanted

    def _version(self, client: Any, name: str, version: str, readers: set[str]) -> Finding:
        what = f"secret {name}" + (f", version {version}" if version != "latest" else "")
        path = f"projects/{self._topology.project}/secrets/{name}"
        try:
            found = client.get_secret_version(
                name=f"{path}/versions/{version}", timeout=CALL_SECONDS
            )
            policy = client.get_iam_policy(request={"resource": path}, timeout=CALL_SECONDS)
        except NotFound:
            return bad(what, "has no value", f"gcloud secrets versions add {name} --data-file=-")
        except PermissionDenied:
            return unknown(what, "you may not see it", "ask with roles/secretmanager.viewer")
        except (GoogleAPICallError, GoogleAuthError) as error:
            return unknown(what, f"Secret Manager does not tell: {type(error).__name__}")
        if found.state.name != "ENABLED":
            do = f"gcloud secrets versions enable {version} --secret={name}, or add one"
            return bad(what, f"is {found.state.name.lower()}", do)
        allowed = {member for b in policy.bindings if b.role == ACCESSOR for member in b.members}
        if readers - allowed:
            missing = ", ".join(sorted(who.partition(":")[2] for who in readers - allowed))
            return bad(what, f"cannot be read by {missing}", "pulumi up gives the rights again")
        return good(what, f"has a value, and {len(readers)} functions may read it")
