"""Runs the Pulumi program without Pulumi's engine: registers everything, makes nothing.

Each resource is answered with what Google would tell of it, as far as the program asks: ids,
e-mail addresses, and for a function the address at which the local stack will serve it.
"""

from __future__ import annotations

import json
import logging
import runpy
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.mocks import MockCallArgs, MockResourceArgs, Mocks, set_mocks
from pulumi.runtime.stack import run_pulumi_func
from pulumi.runtime.sync_await import _sync_await

from nsps_local.recording.topology import Resource

_FUNCTION = "gcp:cloudfunctionsv2/function:Function"
_COMPONENT = "nsps:"
_TOLD: Mapping[str, Mapping[str, Any]] = {
    "gcp:compute/backendService:BackendService": {"generatedId": 4711},
    "gcp:compute/globalAddress:GlobalAddress": {"address": "192.0.2.2"},
}


class _Recorder(Mocks):
    """Keeps what is registered. Registrations come from several threads."""

    def __init__(self) -> None:
        self.resources: list[Resource] = []
        self._lock = threading.Lock()

    def call(self, args: MockCallArgs) -> dict[str, Any]:  # type: ignore[override]
        raise NotImplementedError(
            f"the program asks the provider for {args.token}: the recording cannot answer it"
        )

    def new_resource(self, args: MockResourceArgs) -> tuple[str, dict[str, Any]]:
        if args.typ.startswith(_COMPONENT):
            return "", {}
        identity, computed = _computed(args)
        with self._lock:
            self.resources.append(Resource(args.typ, args.name, _plain(args.inputs), computed))
        return identity, {**args.inputs, **computed}


def _computed(args: MockResourceArgs) -> tuple[str, dict[str, Any]]:
    """The id of a resource, and what Google adds to its inputs."""
    inputs = args.inputs
    name = inputs.get("name", args.name)
    project = inputs.get("project", "")
    match args.typ:
        case "gcp:cloudfunctionsv2/function:Function":
            address = _placeholder(name)
            return name, {
                "url": address,
                "serviceConfig": {**inputs["serviceConfig"], "uri": address},
            }
        case "gcp:pubsub/topic:Topic":
            return f"projects/{project}/topics/{name}", {}
        case "gcp:pubsub/subscription:Subscription":
            return f"projects/{project}/subscriptions/{name}", {}
        case "gcp:serviceaccount/account:Account":
            email = f"{inputs['accountId']}@{project}.iam.gserviceaccount.com"
            path = f"projects/{project}/serviceAccounts/{email}"
            return path, {"email": email, "member": f"serviceAccount:{email}", "name": path}
        case "gcp:projects/serviceIdentity:ServiceIdentity":
            service = str(inputs["service"]).partition(".")[0]
            email = f"service-0@gcp-sa-{service}.iam.gserviceaccount.com"
            return email, {"email": email}
        case "gcp:compute/address:Address":
            return name, {"address": "192.0.2.1", "selfLink": f"addresses/{name}"}
        case _:
            return name, dict(_TOLD.get(args.typ, {}))


def _placeholder(function: str) -> str:
    return f"http://{function}.function.invalid"


def _plain(value: Any) -> Any:
    """The value as JSON has it; an asset as the name of its file."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, pulumi.FileAsset):
        return Path(str(value.path)).name
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run_program(program: Path, stack: str, config: Mapping[str, str], base: int) -> list[Resource]:
    """Run ``program/__main__.py`` and return what it registered, in a lasting order.

    Functions are given ports from ``base`` on: the deployment's own first, by name, then the
    handlers' by name. Once in a process: it changes the process's Pulumi settings.
    Raises what the program raises.
    """
    pulumi.runtime.set_all_config(dict(config))
    recorder = _Recorder()
    set_mocks(recorder, project="nsps", stack=stack, preview=False, logger=logging.getLogger())
    main = str(program / "__main__.py")

    def run() -> None:
        runpy.run_path(main, run_name="__main__")

    _sync_await(run_pulumi_func(run))
    return _with_ports(recorder.resources, base)


def _with_ports(resources: Sequence[Resource], base: int) -> list[Resource]:
    functions = sorted(
        (resource for resource in resources if resource.type == _FUNCTION),
        key=lambda function: (_is_connector(function), function.name),
    )
    text = json.dumps([[r.type, r.name, r.inputs, r.outputs] for r in resources])
    for port, function in enumerate(functions, base):
        text = text.replace(_placeholder(function.inputs["name"]), f"http://127.0.0.1:{port}")
    placed = [Resource(*entry) for entry in json.loads(text)]
    return sorted(placed, key=lambda resource: (resource.type, resource.name))


def _is_connector(function: Resource) -> bool:
    source = function.inputs["buildConfig"]["source"]["storageSource"]["object"]
    return str(source).startswith("functions/connectors/")
