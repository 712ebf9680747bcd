"""Brings the whole system up on loopback, describes it, and takes it down.

What runs is the recorded Pulumi program: its functions with their environment and secrets, its
topics, subscriptions, jobs and database. Added here is only where the local services are.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import requests
from pydantic import TypeAdapter

from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.recording.topology import Function, Topology
from nsps_local.sign_in import SignIn
from nsps_local.stack import cloud, daemons, secret_values
from nsps_local.stack.emulators import Emulators
from nsps_local.stack.errors import CannotStart
from nsps_local.stack.metadata import CERTS, MetadataServer
from nsps_local.stack.monitoring import time_series
from nsps_local.stack.ports import HOST, Ports, check_base, check_free
from nsps_local.stack.processes import Child, Processes
from nsps_local.stack.scheduler import Scheduler

ROOT = Path(__file__).resolve().parents[3]
SANDBOX = "sandbox"
ROLES = ("viewer", "operator", "admin")


@dataclass(frozen=True, slots=True)
class Options:
    """What ``nsps up`` was asked for."""

    config: Path
    state: Path
    port_base: int
    emulators: str = "embedded"
    secrets: Path | None = None


class Stack:
    """One running stack. ``say``: told of each step; ``notice``: of what happens by itself;
    ``go_on``: asked while it starts, raises what is to cut the start off."""

    def __init__(
        self,
        options: Options,
        say: Callable[[str], None],
        notice: Callable[[str], None],
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        check_base(options.port_base)
        self._options, self._say, self._notice, self._go_on = options, say, notice, go_on
        self._ports = Ports(options.port_base)
        self._state = options.state.resolve()
        self._processes = Processes(notice)
        self._emulators = Emulators(options.emulators, self._ports, self._state)
        self._scheduler: Scheduler | None = None
        self._metadata: MetadataServer | None = None
        self._sign_in: SignIn | None = None
        self._lock: IO[str] | None = None
        self.topology: Topology
        self.values: dict[str, str] = {}

    # ---- up and down -------------------------------------------------------------------------

    def up(self) -> dict[str, Any]:
        """Start everything; returns the description that is also in <state>/stack.json.

        Raises CannotStart; whatever was started is then ended again.
        """
        self._take_lock()
        try:
            return self._up()
        except BaseException:
            self.down()
            raise

    def _up(self) -> dict[str, Any]:
        given = secret_values.read_given(self._options.secrets)
        self._say("reading the configuration and recording the Pulumi program")
        self.topology = self._record()
        functions = [function.port for function in self.topology.functions]
        check_free([*self._emulators.own_ports(), *functions])
        self.values = self._secret_values(given)
        self._say("starting Pub/Sub, Firestore and Secret Manager")
        for child in self._emulators.children(self.topology):
            self._start(child)
        self._say("making topics, subscriptions and secrets")
        emulators = self._emulators
        cloud.make_pubsub(self.topology, emulators.pubsub, emulators.longest_retention)
        cloud.put_secrets(self.topology.project, self._emulators.secret_manager, self.values)
        if self._with_sandbox:
            self._say("starting the PortaBilling sandbox")
            self._start(self._sandbox())
            self._register_groups()
        for daemon in daemons.wanted(self.topology, self._state):
            self._say(f"starting {daemon.name}")
            self._start(self._child(daemon.name, daemon.command, os.environ, daemon.answers))
        self._start_metadata()
        self._say(f"starting {len(self.topology.functions)} functions")
        self._start_functions()
        self._processes.watch()
        self._start_scheduler()
        self._start_sign_in()
        description = self.describe()
        secret_values.write_private(
            self._state / "stack.json", json.dumps(description, indent=1) + "\n"
        )
        return description

    def down(self) -> None:
        """End every process that was started; returns when none is left."""
        if self._scheduler is not None:
            self._scheduler.stop()
        self._processes.stop()
        if self._metadata is not None:
            self._metadata.stop()
        if self._sign_in is not None:
            self._sign_in.stop()
        (self._state / "stack.json").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def _take_lock(self) -> None:
        try:
            self._state.mkdir(parents=True, exist_ok=True)
            self._lock = (self._state / "lock").open("a+")
        except OSError as error:
            raise CannotStart(
                f"--state {self._state}: cannot be made or written to: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            pid = self._lock.read().strip() or "unknown"
            raise CannotStart(
                f"NSPS runs already with the state in {self._state} (process {pid}): stop it with "
                "Ctrl-C there, or give this one another --state and --port-base"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    # ---- parts -------------------------------------------------------------------------------

    def _record(self) -> Topology:
        """The topology of the stack's configuration, recorded in a process of its own."""
        options = self._options
        if not options.config.is_file():
            raise CannotStart(f"--config {options.config}: there is no such file")
        command = [sys.executable, "-m", "nsps_local.recording", "--config", str(options.config)]
        command += ["--port-base", str(self._ports.functions), "--state", str(self._state)]
        command += ["--portabilling-url", self._sandbox_url]
        done = subprocess.run(  # noqa: S603
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode != 0:
            raise CannotStart(done.stderr.strip() or "the Pulumi program could not be recorded")
        return TypeAdapter(Topology).validate_json(done.stdout)

    def _secret_values(self, given: Mapping[str, str]) -> dict[str, str]:
        names, own = set(self.topology.secrets), f"{self.topology.deployment}-"
        # As the configuration names them, or as Secret Manager does.
        given = {n if n in names else f"{own}{n}": value for n, value in given.items()}
        surplus = sorted(name.removeprefix(own) for name in set(given) - names)
        if surplus:
            self._notice(
                f"--secrets: no part of the stack uses {', '.join(surplus)}; it uses: "
                f"{', '.join(sorted(names))}"
            )
            given = {name: given[name] for name in set(given) & names}
        auth = json.loads(self._function("ingress").env["NSPS_ESPF_AUTH"])
        made_up = {
            ref.removeprefix("sm://").partition("/")[0]: secret_values.webhook_credential(
                auth["method"]
            )
            for ref in auth["credentials"]
        }
        api = self._api_secret()
        if self._with_sandbox:
            made_up[api] = secret_values.api_credential()
        elif api not in given:
            raise CannotStart(
                f"PortaBilling is not the sandbox: give its API user with --secrets FILE, "
                f'{{"{api}": {{"login": ..., "password": ...}}}}'
            )
        return secret_values.values_for(names, given, self._state / "secrets.json", made_up)

    def _api_secret(self) -> str:
        settings = json.loads(self._function("enrichment").env["NSPS_PORTABILLING"])
        return str(settings["credentials"]).removeprefix("sm://").partition("/")[0]

    @property
    def _portabilling_url(self) -> str:
        settings = json.loads(self._function("enrichment").env["NSPS_PORTABILLING"])
        return str(settings["url"])

    @property
    def _sandbox_url(self) -> str:
        return f"http://{HOST}:{self._ports.sandbox}"

    @property
    def _with_sandbox(self) -> bool:
        return self._portabilling_url == self._sandbox_url

    def _sandbox(self) -> Child:
        config = self._state / "sandbox.json"
        secret_values.write_private(config, json.dumps(self._sandbox_config()))
        command = [sys.executable, "-m", "nsps_local.sandbox", "--host", HOST]
        command += ["--port", str(self._ports.sandbox), "--state", str(self._state / "sandbox")]
        command += ["--config", str(config)]
        health = f"{self._sandbox_url}/health"
        return self._child(SANDBOX, command, os.environ, lambda: answers(health))

    def _sandbox_config(self) -> dict[str, Any]:
        ingress = self._function("ingress")
        auth = json.loads(ingress.env["NSPS_ESPF_AUTH"])
        credential = json.loads(self._webhook_credential(auth))
        webhook: dict[str, Any] = {
            "url": ingress.url,
            "auth_header": auth["header"],
            "auth_method": auth["method"].capitalize(),
            "retry_delay": 2,
        }
        names = _SANDBOX_AUTH[auth["method"]]
        webhook |= {theirs: credential[ours] for ours, theirs in names.items()}
        user = json.loads(self.values[self._api_secret()])
        return {"admin": user, "webhook": webhook}

    def _webhook_credential(self, auth: Mapping[str, Any]) -> str:
        return self.values[auth["credentials"][0].removeprefix("sm://").partition("/")[0]]

    def _register_groups(self) -> None:
        """Custom ESPF groups must be registered in PortaBilling before a status is sent."""
        from nsps.espf.status_api import EspfStatusApi
        from nsps.portabilling.client import PortaBilling
        from nsps.portabilling.login import ApiCredentials

        user = ApiCredentials.parse(json.loads(self.values[self._api_secret()]))
        api = EspfStatusApi(PortaBilling(self._sandbox_url, lambda: user))
        for handler in json.loads(self._function("retries").env["NSPS_HANDLERS"]):
            if handler["group"]:
                api.ensure_group(handler["group"])

    def _start_functions(self) -> None:
        children = [self._function_child(function) for function in self.topology.functions]
        for child in children:
            self._processes.start(child)
        for child in children:
            child.wait_ready(self._go_on)

    def _function_child(self, function: Function) -> Child:
        command = [
            *(sys.executable, "-m", "functions_framework"),
            *("--source", str(ROOT / function.source / "main.py")),
            *("--target", function.entry_point, "--signature-type", "http"),
            *("--host", HOST, "--port", str(function.port)),
        ]
        environment = {**os.environ, **self._emulators.environment(), **function.env}
        if "NSPS_PUSH" in function.env:
            push = json.loads(function.env["NSPS_PUSH"]) | self._emulators.push_settings()
            environment["NSPS_PUSH"] = json.dumps(push)
        if "NSPS_CONSOLE" in function.env:
            environment["NSPS_CONSOLE"] = json.dumps(self._console_settings(function))
        environment.pop("GRPC_ENABLE_FORK_SUPPORT", None)  # ours alone; see nsps_local
        environment["GCE_METADATA_HOST"] = (
            f"{HOST}:{self._ports.metadata}/{function.service_account}"
        )
        environment["CLOUD_RUN_TIMEOUT_SECONDS"] = str(function.timeout_seconds)
        health = f"{function.url}/health"
        return self._child(function.part, command, environment, lambda: answers(health))

    def _console_settings(self, function: Function) -> dict[str, Any]:
        """As deployed, but with people of this machine, whose tokens are signed here."""
        settings: dict[str, Any] = json.loads(function.env["NSPS_CONSOLE"])
        certs = f"http://{HOST}:{self._ports.metadata}{CERTS}"
        roles = {role: [f"{role}@localhost"] for role in ROLES}
        monitoring = f"http://{HOST}:{self._ports.metadata}"
        return settings | {"certs_url": certs, "roles": roles, "monitoring_url": monitoring}

    def _start_metadata(self) -> None:
        (self._state / "pubsub").mkdir(parents=True, exist_ok=True)
        issuer = TokenIssuer(self._state / "pubsub")
        self._metadata = MetadataServer(
            HOST,
            self._ports.metadata,
            issuer.token,
            issuer.certs,
            partial(time_series, self._emulators.pubsub_control),
        )
        self._metadata.start()

    def _start_scheduler(self) -> None:
        folder = self._state / "pubsub"
        folder.mkdir(exist_ok=True)
        issuer = TokenIssuer(folder)
        self._scheduler = Scheduler(
            self.topology.jobs, issuer.token, cloud.identities(self.topology)
        )
        self._scheduler.start()

    def _start_sign_in(self) -> None:
        """What the Identity-Aware Proxy is in a deployment."""
        console, issuer = self._console(), TokenIssuer(self._state / "pubsub")
        lock = threading.Lock()

        def token(email: str) -> str:
            with lock:
                return issuer.token(email, console["audience"])

        self._sign_in = SignIn(HOST, self._ports.console, console["url"], token)
        self._sign_in.start()

    def _child(
        self,
        name: str,
        command: list[str] | tuple[str, ...],
        environment: Mapping[str, str],
        ready: Callable[[], bool],
    ) -> Child:
        return Child(name, command, environment, ready, self._state / "logs" / f"{name}.log")

    def _start(self, child: Child) -> None:
        self._processes.start(child)
        child.wait_ready(self._go_on)

    def _function(self, part: str) -> Function:
        return self.topology.function(part)

    # ---- what it is ----------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """URL and credentials of every part, as in stack.json."""
        auth = json.loads(self._function("ingress").env["NSPS_ESPF_AUTH"])
        handlers = {}
        for function in self.topology.functions:
            handler = json.loads(function.env.get("NSPS_HANDLER", "null"))
            if handler is not None:
                secrets = {
                    name: self.values[ref.removeprefix("sm://").partition("/")[0]]
                    for name, ref in handler["secrets"].items()
                }
                handlers[function.part] = {**handler, "url": function.url, "secrets": secrets}
        described = {
            "project": self.topology.project,
            "deployment": self.topology.deployment,
            "config": str(self._options.config.resolve()),
            "state": str(self._state),
            "logs": str(self._state / "logs"),
            "pid": os.getpid(),
            "ingress": {
                "url": self._function("ingress").url,
                "auth": auth | {"credentials": json.loads(self._webhook_credential(auth))},
            },
            "enrichment": {"url": self._function("enrichment").url},
            "callbacks": {"url": self._function("callbacks").url},
            "retries": {"url": self._function("retries").url},
            "console": self._console(),
            "handlers": handlers,
            "portabilling": {
                "url": self._portabilling_url,
                "sandbox": self._with_sandbox,
                "credentials": json.loads(self.values[self._api_secret()]),
            },
            "pubsub": {
                "host": self._emulators.pubsub,
                "control": self._emulators.pubsub_control,
                "topics": list(self.topology.topics),
                "subscriptions": [each.name for each in self.topology.subscriptions],
            },
            "firestore": {
                "host": self._emulators.firestore,
                "control": self._emulators.firestore_control,
                "database": self.topology.database.name,
            },
            "secret_manager": {
                "host": self._emulators.secret_manager,
                "control": self._emulators.secret_manager_control,
            },
            "notes": list(self.topology.notes),
        }
        if self._with_sandbox:
            described["sandbox"] = {"url": self._sandbox_url}
        return described | {
            "processes": [
                {"name": child.name, "pid": child.pid} for child in self._processes.children()
            ]
        }

    def _console(self) -> dict[str, Any]:
        function = self._function("console")
        audience = json.loads(function.env["NSPS_CONSOLE"])["audiences"][0]
        pages = f"http://{HOST}:{self._ports.console}"
        return {"url": function.url, "audience": audience, "pages": pages}

    def restarts(self) -> dict[str, int]:
        """How often each process was started again."""
        return {child.name: child.restarts for child in self._processes.children()}


_SANDBOX_AUTH = {
    "basic": {"user": "basic_user", "password": "basic_key"},
    "custom": {"type": "custom_type", "credentials": "custom_credentials"},
    "signature": {"key_id": "signature_key_id", "key": "signature_key"},
}


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False
