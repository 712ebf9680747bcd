"""What may be written under the structured keys: portabilling, espf, handlers, console,
sizes, alerts.

Each key's ``description`` is what to write there; it ends the messages about a wrong one.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from nsps.domain.snapshot import Block
from nsps.runtime.settings import (
    LONGEST_CALL_SECONDS,
    PORTABILLING,
    BreakerRule,
    CallSeconds,
    EventPattern,
    Kind,
    ReadCall,
    RetrySettings,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

FUNCTIONS = ("ingress", "enrichment", "callbacks", "retries", "console")
RESERVED = frozenset(
    {
        *FUNCTIONS,
        PORTABILLING,
        "jobs",
        "dead-letters",
        "espf-events",
        "enriched-events",
        "invoker",
        "builder",
    }
)
ATTRIBUTES = frozenset({"owner", "run", "handler", "data", "topic", "retry", "timeout"})
SANDBOX = "sandbox"
STATE = "${state}"

EXISTING = "existing:"
"""Before the name of a secret that somebody else made: the program only lets it be read."""

_SECRET_NAME = re.compile(rf"({EXISTING})?[A-Za-z0-9_-]{{1,238}}(/versions/([1-9][0-9]*|latest))?")


def _secret_name(name: str) -> str:
    if not _SECRET_NAME.fullmatch(name):
        raise ValueError(
            "not the name of a secret in Secret Manager: write letters, digits, '_' and '-' "
            "(the secret's value never stands in this file)"
        )
    return name


def _portabilling_url(url: str) -> str:
    if url == SANDBOX or re.fullmatch(r"http://(127\.0\.0\.1|localhost)(:\d+)?", url):
        return url
    if not re.fullmatch(r"https://[^\s/@?#]+", url.rstrip("/")):
        raise ValueError(
            "not the address of a PortaBilling web server: write https://HOST[:PORT] "
            "without a path, user or password"
        )
    return url.rstrip("/")


def _not_reserved(name: str) -> str:
    if name in RESERVED or name in ATTRIBUTES or name.startswith("goog"):
        raise ValueError(f"{name} is a name of NSPS or Google: write another, like my-{name}")
    return name


SecretName = Annotated[str, AfterValidator(_secret_name)]
Who = Annotated[str, Field(pattern=r"^([^\s@:]+@[^\s@:]+|domain:[^\s@:]+)$")]
_HANDLER_NAME = (
    "2 to 31 small letters, digits and '-', from a letter to a letter or digit, like hss"
)


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PortaBilling(_Keys):
    """``nsps:portabilling``. ``credentials`` holds {"login", "password"} or {"login", "token"}."""

    url: Annotated[str, AfterValidator(_portabilling_url)] = Field(description="https://HOST")
    credentials: SecretName = Field(description="the name of a secret")
    timeout_seconds: float = Field(default=20.0, gt=0, le=300, description="seconds, 1 to 300")
    services: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z_]+/[a-z0-9_]+$")]] = Field(
        default={}, description="{block: Service/method}"
    )
    absence: dict[
        ReadCall, tuple[Annotated[str, Field(pattern=r"^(empty|[A-Za-z][A-Za-z0-9_.]*)$")], ...]
    ] = Field(default={}, description="{block: [fault code, or empty]}")
    espf_status_content_type: Literal["application/json", "application/x-www-form-urlencoded"] = (
        Field(
            default="application/json",
            description="application/json or application/x-www-form-urlencoded",
        )
    )


class Espf(_Keys):
    """``nsps:espf``: how ESPF's EventSender proves itself to ingress.

    Two ``credentials`` are valid at once while one is being replaced. ``failure_status`` 401 makes
    ESPF drop the event for ever, 503 makes it send the event again.
    """

    method: Literal["basic", "custom", "signature"] = Field(
        default="basic", description="basic, custom or signature"
    )
    header: str = Field(
        default="Authorization", pattern=r"^[A-Za-z0-9-]+$", description="a header's name"
    )
    credentials: tuple[SecretName, ...] = Field(
        min_length=1, max_length=2, description="a list of one or two names of secrets"
    )
    failure_status: Literal[401, 503] = Field(default=401, description="401 or 503")
    date_window_seconds: int = Field(
        default=900, gt=0, le=86400, description="whole seconds, 1 to 86400"
    )

    @model_validator(mode="after")
    def _two_different(self) -> Espf:
        if len(set(self.credentials)) < len(self.credentials):
            raise ValueError("the two credentials are the same secret: write one, or two names")
        return self


class Console(_Keys):
    """``nsps:console``: who may use the console, and as what.

    ``domain``: where people find it in a browser; an Identity-Aware Proxy stands there.
    ``viewers_see_subscribers``: numbers and names are masked for viewers otherwise.
    ``interception``: who may also see warrants; person by person, never a domain.
    """

    viewer: tuple[Who, ...] = Field(default=(), description="a list of e-mail addresses")
    operator: tuple[Who, ...] = Field(default=(), description="a list of e-mail addresses")
    admin: tuple[Who, ...] = Field(default=(), description="a list of e-mail addresses")
    interception: tuple[Annotated[str, Field(pattern=r"^[^\s@:]+@[^\s@]+$")], ...] = Field(
        default=(), description="a list of e-mail addresses"
    )
    domain: str | None = Field(
        default=None,
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,}$",
        description="a host's name, like console.acme.example",
    )
    viewers_see_subscribers: bool = Field(default=False, description="true or false")


class Alerts(_Keys):
    """``nsps:alerts``: who is notified when something is wrong.

    ``channels``: notification channels that there are already (a pager, a chat), by their names.
    """

    emails: tuple[Annotated[str, Field(pattern=r"^[^\s@]+@[^\s@]+$")], ...] = Field(
        default=(), description="a list of e-mail addresses"
    )
    channels: tuple[
        Annotated[str, Field(pattern=r"^projects/[^/\s]+/notificationChannels/[0-9]+$")], ...
    ] = Field(default=(), description="a list of projects/PROJECT/notificationChannels/NUMBER")
    old_minutes: int = Field(default=15, ge=1, le=1440, description="whole minutes, 1 to 1440")


class HandlerKeys(_Keys):
    """One of ``nsps:handlers``: an external system, and the connector that speaks to it."""

    name: Annotated[str, AfterValidator(_not_reserved)] = Field(
        pattern=r"^[a-z][a-z0-9-]{0,29}[a-z0-9]$", description=_HANDLER_NAME
    )
    connector: str = Field(
        description="the name of a connector, as docs/connectors/README.md lists them"
    )
    events: tuple[EventPattern, ...] = Field(
        min_length=1, description="a list of event types, like [SIM/*, Account/*]"
    )
    kind: Kind | None = Field(default=None, description="state, message or asynchronous")
    requires: tuple[Block, ...] | None = Field(
        default=None,
        description="a list of blocks: account_info, sim_info, prev_sim_info, "
        "access_policy_info, product_info, full_vd_counter_info, customer_info",
    )
    group: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="the name of an ESPF group"
    )
    call_timeout_seconds: CallSeconds | None = Field(
        default=None, description=f"seconds, up to {LONGEST_CALL_SECONDS}"
    )
    settings: dict[str, Any] = Field(default={}, description="{setting: value}")
    secrets: dict[str, SecretName] = Field(default={}, description="{secret: name of a secret}")
    contract_token: SecretName | None = Field(default=None, description="the name of a secret")
    max_rate: float | None = Field(default=None, gt=0, description="calls a second, above 0")
    retries: RetrySettings = Field(
        default=RetrySettings(),
        description="{push: {minimum, maximum, attempts}, long: {hours, then, days}}: "
        "seconds from 1 to 600, attempts from 5 to 100, hours above 0, days up to 60",
    )
    breaker: BreakerRule = Field(
        default=BreakerRule(),
        description="{failures, seconds, owners, first_probe_seconds, longest_probe_seconds}: "
        "numbers above 0",
    )
    answer_within_hours: float | None = Field(
        default=None, gt=0, le=2160, description="hours, up to 2160"
    )
    when_installed: str | None = Field(default=None, min_length=1, description="a program's name")


class Size(_Keys):
    """One of ``nsps:sizes``: how large a function's instances are, how many there may be."""

    memory: Literal["512Mi", "1Gi", "2Gi", "4Gi"] | None = Field(
        default=None, description="512Mi, 1Gi, 2Gi or 4Gi"
    )
    concurrency: int | None = Field(default=None, ge=1, le=250, description="1 to 250")
    min_instances: int | None = Field(default=None, ge=0, le=100, description="0 to 100")
    max_instances: int | None = Field(
        default=None, ge=1, le=1000, description="a number, 1 to 1000"
    )

    @model_validator(mode="after")
    def _min_below_max(self) -> Size:
        if self.min_instances and self.max_instances and self.min_instances > self.max_instances:
            raise ValueError("min_instances is above max_instances: write it no larger")
        return self
