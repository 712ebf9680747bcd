"""One handler: the connector's function, its subscription and its account, shared with no other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from infra.components.firestore import Database
from infra.components.function import Function, FunctionArgs, InstanceSize, Surroundings
from infra.components.subscription import Subscription, SubscriptionArgs
from infra.components.topics import Topic
from infra.encoding import handler_json, json_text
from infra.stack_config import Handler

_SHORTEST, _LONGEST = 120, 600
CALLERS = ("retries", "console")
"""Who asks a handler's function beside Pub/Sub: for its health, for differences."""


def timeout_seconds(handler: Handler) -> int:
    """Time for one push: two calls of the system, and the wait for another attempt's lease."""
    return max(_SHORTEST, min(_LONGEST, math.ceil(2 * handler.call_timeout_seconds) + 60))


def default_size(handler: Handler) -> InstanceSize:
    """Instances for the pace that the system can bear: as many calls at once as it takes a second.

    That is exact for a system that answers within a second.
    """
    usual = InstanceSize()
    if handler.max_rate is None:
        return usual
    at_once = max(1, math.floor(handler.max_rate))
    concurrency = min(usual.concurrency, at_once)
    return InstanceSize(
        concurrency=concurrency, max_instances=min(usual.max_instances, at_once // concurrency)
    )


def connector_folder(handler: Handler) -> str:
    """Where the handler's connector is in the repository."""
    return f"functions/connectors/{handler.connector}"


def attribute_filter(handler: str) -> str:
    """Which enriched messages are the handler's: those that carry its name as an attribute."""
    name = handler if re.fullmatch(r"[a-z0-9]+", handler) else f'"{handler}"'
    return f"attributes:{name}"


@dataclass(frozen=True, slots=True)
class HandlerArgs:
    """What a handler takes from its deployment. ``environment``, ``secrets``: beside its own."""

    size: InstanceSize
    environment: Mapping[str, pulumi.Input[str]]
    secrets: tuple[str, ...]
    database: Database
    enriched: Topic
    dead_letters: Topic


class HandlerFunction(pulumi.ComponentResource):
    """Everything one handler has of its own."""

    def __init__(self, around: Surroundings, handler: Handler, args: HandlerArgs) -> None:
        platform = around.platform
        super().__init__("nsps:index:Handler", platform.name(f"{handler.name}-handler"))
        token = (handler.contract_token,) if handler.contract_token else ()
        self.function = Function(
            around,
            FunctionArgs(
                part=handler.name,
                folder=connector_folder(handler),
                purpose=f"Brings changes to {handler.name} (connector {handler.connector})",
                environment={
                    **args.environment,
                    "NSPS_HANDLER": json_text(handler_json(handler, args.size.max_instances)),
                },
                secrets=(*args.secrets, *handler.secrets.values(), *token),
                size=args.size,
                timeout_seconds=timeout_seconds(handler),
                callers=CALLERS,
                # Its callers count as internal where they come through the deployment's network;
                # another NSPS never does.
                internal=around.egress is not None and handler.contract_token is None,
            ),
        )
        args.database.grant(handler.name, self.function.member)
        if handler.subscriber_secrets:
            beginning = handler.subscriber_secrets.partition("{")[0]
            around.secrets.grant_beginning(beginning, handler.name, self.function.member)
        self.subscription = Subscription(
            platform,
            around.pushes,
            SubscriptionArgs(
                name=handler.name,
                topic=args.enriched,
                function=self.function,
                dead_letters=args.dead_letters,
                filter=attribute_filter(handler.name),
                schedule=handler.retries.schedule.push,
            ),
        )
        self.register_outputs({})
