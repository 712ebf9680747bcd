"""The way of an event as resources: functions, topics, subscriptions, and who may do what."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import config as pulumi_config

from infra.components.accounts import PushIdentity
from infra.components.alerts import AlertPolicies
from infra.components.apis import Apis
from infra.components.console import Proxy, QueueFigures, members
from infra.components.dashboard import Dashboard
from infra.components.encryption import Encryption
from infra.components.firestore import Database, read_layout
from infra.components.function import Function, FunctionArgs, InstanceSize, Surroundings
from infra.components.handler import (
    HandlerArgs,
    HandlerFunction,
    connector_folder,
    default_size,
)
from infra.components.log_metrics import LogMetrics
from infra.components.network import Egress
from infra.components.platform import Platform
from infra.components.request_lines import RequestLines
from infra.components.scheduler import Tick
from infra.components.secrets import Secrets
from infra.components.sources import Sources
from infra.components.subscription import Subscription, SubscriptionArgs
from infra.components.topics import Topic
from infra.encoding import (
    callback_json,
    console_json,
    espf_json,
    json_text,
    portabilling_json,
    summaries_json,
)
from infra.stack_config import ConfigError, Handler, StackConfig, load_stack
from infra.stack_keys import FUNCTIONS, Size

_ALWAYS_ONE = InstanceSize(min_instances=1, max_instances=50)
"""No cold start between ESPF and its 200, nor before the data is read."""


def deploy(root: Path) -> None:
    """Make one deployment from the stack's configuration. Ends the program if that is wrong."""
    file = f"Pulumi.{pulumi.get_stack()}.yaml"
    try:
        config = load_stack(_values(), file, root / "functions" / "connectors")
    except ConfigError as error:
        sys.exit(f"{error}\n")
    for note in config.notes:
        pulumi.log.warn(note)
    Deployment(config, root)


def _values() -> dict[str, Any]:
    """The stack's configuration as Pulumi hands it over: structured values are JSON."""
    values: dict[str, Any] = {
        **pulumi_config.get_config_env(),
        **pulumi_config.CONFIG.get(),
    }
    return {key: _decoded(value) for key, value in values.items()}


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, dict | list | bool) else value


class Deployment:
    """One NSPS: built in the order in which an event passes through it."""

    def __init__(self, config: StackConfig, root: Path) -> None:
        self._config = config
        platform = _platform(config)
        self._database = Database(platform, read_layout(root / "infra" / "firestore.yaml"))
        self._around = Surroundings(
            platform=platform,
            sources=Sources(platform, root),
            secrets=Secrets(platform, config.existing),
            pushes=PushIdentity(platform),
            database_id=self._database.database_id,
            digest_key=config.digest_key,
            egress=Egress(platform) if config.static_egress else None,
        )
        self._portabilling = {
            "NSPS_PORTABILLING": json_text(portabilling_json(config.portabilling))
        }
        self._handlers = {"NSPS_HANDLERS": json_text(summaries_json(config.handlers))}
        self._waiting = [h for h in config.handlers if h.answers_later]
        self._late = {"NSPS_HANDLERS_FULL": json_text(list(map(callback_json, self._waiting)))}
        self._events = Topic(platform, "espf-events")
        self._enriched = Topic(platform, "enriched-events")
        self._dead_letters = Topic(platform, "dead-letters")
        self._dead_letters.grant_publisher("pubsub", self._around.pushes.pubsub_agent)

        self._jobs = Topic(platform, "jobs")

        ingress = self._ingress()
        self._enrichment()
        made = {handler.name: self._handler(handler) for handler in config.handlers}
        self._functions = {"NSPS_FUNCTIONS": _locations(made)}
        callbacks = self._callbacks()
        retries = self._retries()
        console = self._console()
        for handler in made.values():
            handler.function.allow(retries)
            handler.function.allow(console)
            handler.subscription.grant_endpoint("retries", retries.member)
            handler.subscription.grant_endpoint("console", console.member)
        self._around.pushes.grant_use("retries", retries.member)
        self._around.pushes.grant_use("console", console.member)
        self._watched(platform)

        pulumi.export("webhook_url", ingress.url)
        pulumi.export("callbacks_url", callbacks.url)
        pulumi.export("console_url", console.url)
        if self._around.egress:
            pulumi.export("egress_address", self._around.egress.address)

    def _ingress(self) -> Function:
        """Authenticates, validates, publishes. It holds no state and calls nobody but Pub/Sub."""
        espf = self._config.espf
        ingress = self._function(
            FunctionArgs(
                part="ingress",
                folder="functions/ingress",
                purpose="Takes ESPF's webhooks",
                environment={
                    "NSPS_EVENTS_TOPIC": self._events.id,
                    "NSPS_ESPF_AUTH": json_text(espf_json(espf)),
                },
                secrets=espf.credentials,
                size=replace(_ALWAYS_ONE, concurrency=32),
                timeout_seconds=60,
                public=True,
                pushed=False,
                calls_out=False,
            )
        )
        self._events.grant_publisher("ingress", ingress.member)
        return ingress

    def _enrichment(self) -> None:
        """Reads what an event means, and sends it on to those who want it."""
        enrichment = self._function(
            FunctionArgs(
                part="enrichment",
                folder="functions/enrichment",
                purpose="Reads from PortaBilling what an event means",
                environment={
                    **self._portabilling,
                    **self._handlers,
                    "NSPS_ENRICHED_TOPIC": self._enriched.id,
                },
                secrets=(self._config.portabilling.credentials,),
                # Events that wait for a read of their account share it: many may wait at once.
                size=replace(_ALWAYS_ONE, concurrency=80),
                internal=True,
            )
        )
        self._database.grant("enrichment", enrichment.member)
        self._enriched.grant_publisher("enrichment", enrichment.member)
        self._subscribe("enrichment", self._events, enrichment, self._dead_letters)

    def _handler(self, handler: Handler) -> HandlerFunction:
        """Brings one external system to what PortaBilling has; shares nothing with another."""
        topic = {"NSPS_EVENTS_TOPIC": self._events.id} if handler.reads_again else {}
        made = HandlerFunction(
            self._around,
            handler,
            HandlerArgs(
                size=self._size(handler.name, default_size(handler)),
                environment={**self._portabilling, **topic},
                secrets=(self._config.portabilling.credentials,),
                database=self._database,
                enriched=self._enriched,
                dead_letters=self._dead_letters,
            ),
        )
        if handler.reads_again:
            self._events.grant_publisher(handler.name, made.function.member)
        return made

    def _callbacks(self) -> Function:
        """Receives what asynchronous systems answer; each proves itself by its connector's rule."""
        waiting, credentials = self._waiting, self._config.portabilling.credentials
        callbacks = self._function(
            FunctionArgs(
                part="callbacks",
                folder="functions/callbacks",
                also=tuple(connector_folder(handler) for handler in waiting),
                purpose="Receives the late answers of asynchronous systems",
                environment={
                    **self._portabilling,
                    **self._late,
                    "NSPS_EVENTS_TOPIC": self._events.id,
                },
                secrets=(credentials, *(s for h in waiting for s in h.secrets.values())),
                size=InstanceSize(),
                timeout_seconds=60,
                public=True,
                pushed=False,
            )
        )
        self._database.grant("callbacks", callbacks.member)
        self._events.grant_publisher("callbacks", callbacks.member)
        return callbacks

    def _retries(self) -> Function:
        """Parks what used up its attempts, and sends it again when its time has come."""
        retries = self._function(
            FunctionArgs(
                part="retries",
                folder="functions/retries",
                also=tuple(connector_folder(handler) for handler in self._waiting),
                purpose="Parks dead letters and sends again what is due",
                environment={
                    **self._portabilling,
                    **self._handlers,
                    **self._functions,
                    **self._late,
                    "NSPS_EVENTS_TOPIC": self._events.id,
                },
                secrets=(
                    self._config.portabilling.credentials,
                    *(s for h in self._waiting for s in h.secrets.values()),
                ),
                size=InstanceSize(max_instances=5),
                internal=True,
            )
        )
        self._database.grant("retries", retries.member)
        self._events.grant_publisher("retries", retries.member)
        self._subscribe("dead-letters", self._dead_letters, retries, None)
        Tick(self._around.platform, self._around.pushes, retries)
        return retries

    def _console(self) -> Function:
        """What operators ask and do. People come with a Google identity, which it verifies."""
        platform, people = self._around.platform, members(self._config.console)
        proxy = None
        if self._config.console.domain:
            service = platform.name("console")
            proxy = Proxy(platform, service, self._config.console.domain, people)
            pulumi.export("console_address", proxy.address)
        console = self._function(
            FunctionArgs(
                part="console",
                folder="functions/console",
                purpose="Answers operators, and works off replays and reconciles",
                environment={
                    **self._portabilling,
                    **self._handlers,
                    **self._functions,
                    "NSPS_CONSOLE": pulumi.Output.from_input(
                        proxy.audience if proxy else None
                    ).apply(self._console_settings),
                    "NSPS_EVENTS_TOPIC": self._events.id,
                    "NSPS_JOBS_TOPIC": self._jobs.id,
                },
                secrets=(self._config.portabilling.credentials,),
                size=InstanceSize(max_instances=5),
            )
        )
        for member in people:
            console.admit(member, member)
        if proxy:
            console.admit("iap", proxy.member)
        self._database.grant("console", console.member)
        self._events.grant_publisher("console", console.member)
        self._jobs.grant_publisher("console", console.member)
        QueueFigures(platform, "console", console.member)
        Subscription(
            self._around.platform,
            self._around.pushes,
            SubscriptionArgs("jobs", self._jobs, console, None, path="/work"),
        )
        return console

    def _console_settings(self, iap_audience: str | None) -> str:
        url = self._around.platform.audience("console")
        return json_text(console_json(self._config.console, url, iap_audience))

    def _watched(self, platform: Platform) -> None:
        """Numbers, a page to look at, and who is told."""
        handlers = [handler.name for handler in self._config.handlers]
        parts = [*FUNCTIONS, *handlers]
        subscriptions = ["enrichment", "dead-letters", "jobs", *handlers]
        RequestLines(platform, [part for part in parts if part != "console"])
        metrics = LogMetrics(platform, parts)
        Dashboard(platform, metrics, parts, subscriptions)
        AlertPolicies(platform, metrics, self._config.alerts, subscriptions)

    def _function(self, args: FunctionArgs) -> Function:
        return Function(self._around, replace(args, size=self._size(args.part, args.size)))

    def _subscribe(
        self, name: str, topic: Topic, function: Function, dead_letters: Topic | None
    ) -> None:
        Subscription(
            self._around.platform,
            self._around.pushes,
            SubscriptionArgs(name, topic, function, dead_letters),
        )

    def _size(self, part: str, usual: InstanceSize) -> InstanceSize:
        wanted = self._config.sizes.get(part, Size()).model_dump(exclude_none=True)
        size = replace(usual, **wanted)
        return replace(size, max_instances=max(size.max_instances, size.min_instances))


def _platform(config: StackConfig) -> Platform:
    """The deployment's place, with the APIs it uses and the customer's key, where there is one."""
    name = f"{config.deployment}-apis"
    also = [
        *(["compute"] if config.static_egress or config.console.domain else []),
        *(["cloudkms"] if config.kms_key else []),
        *(["iap"] if config.console.domain else []),
    ]
    enabled = Apis(name, project=config.project, also=also).enabled
    there: list[pulumi.Resource] = [*enabled]
    if config.kms_key:
        key = Encryption(config.deployment, config.project, config.kms_key, enabled)
        there += key.granted
    return Platform(config.project, config.region, config.deployment, there, config.kms_key)


def _locations(made: dict[str, HandlerFunction]) -> pulumi.Output[str]:
    """NSPS_FUNCTIONS: where each handler's function is, and what feeds it."""
    each = {
        name: {
            "url": handler.function.uri,
            "audience": handler.function.audience,
            "subscription": handler.subscription.id,
        }
        for name, handler in made.items()
    }
    return pulumi.Output.all(
        **{name: pulumi.Output.all(**one) for name, one in each.items()}
    ).apply(json_text)
