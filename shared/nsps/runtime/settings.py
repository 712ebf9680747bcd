"""A function's settings from its environment, read once and strictly.

Every function has its settings class: ``IngressSettings.from_env(os.environ)`` and so on. Members
marked ``FromJson`` hold JSON. A mistake is a SettingsError that names the variable and the member,
says what is wrong and what to write; it never quotes a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from nsps.domain.retry import LONG_RETRIES, PUSH, Backoff, LongRetries, Schedule
from nsps.domain.routing import check_pattern
from nsps.domain.snapshot import Block
from nsps.runtime.mistakes import mistakes

GOOGLE_CERTS_URL = "https://www.googleapis.com/oauth2/v1/certs"
IAP_CERTS_URL = "https://www.gstatic.com/iap/verify/public_key"

ReadCall = Literal[
    "account_info",
    "sim_card_info",
    "access_policy_info",
    "product_info",
    "full_vd_counter_info",
    "customer_info",
    "number_info",
    "invoice_info",
]
"""A call of PortaBilling that reads one object."""

Kind = Literal["state", "message", "asynchronous"]
Tier = Literal["bronze", "silver", "gold"]

_SECRET_REF = re.compile(
    r"sm://[A-Za-z0-9_-]{1,255}(/versions/([1-9][0-9]*|latest))?"
    r"|env:[A-Za-z_][A-Za-z0-9_]*|file:.+",
    re.DOTALL,
)

# A handler's name is an attribute of the enriched message, and an argument of the client's publish.
# PortaBilling's own breaker is kept beside the handlers' switches.
PORTABILLING = "portabilling"
RESERVED_NAMES = frozenset(
    {"owner", "run", "rung", "handler", "data", "topic", "retry", "timeout", PORTABILLING}
)


class SettingsError(ValueError):
    """The environment of a function is wrong; the message lists every mistake."""


class _FromJson:
    """Marks a member whose environment variable holds JSON."""


FromJson = _FromJson()


def check_secret_ref(ref: str) -> str:
    """Return a well-formed secret reference, or raise ValueError with what to write."""
    if not _SECRET_REF.fullmatch(ref):
        raise ValueError(
            "not a secret reference: write sm://NAME, sm://NAME/versions/N, env:NAME or file:PATH"
        )
    return ref


def _check_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):
        raise ValueError(
            "not a web address: write https://HOST[:PORT][/PATH] without user, password or query"
        )
    return url.rstrip("/")


def _check_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text


def _check_not_reserved(name: str) -> str:
    if name in RESERVED_NAMES:
        raise ValueError(f"{name} is a name of NSPS itself: choose another name")
    return name


Text = Annotated[str, AfterValidator(_check_blank)]
SecretRef = Annotated[str, AfterValidator(check_secret_ref)]
WebUrl = Annotated[str, AfterValidator(_check_url)]
EventPattern = Annotated[str, AfterValidator(check_pattern)]
HandlerName = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9-]{1,30}$"), AfterValidator(_check_not_reserved)
]
Topic = Annotated[str, Field(pattern=r"^projects/[^/\s]+/topics/[^/\s]+$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]

LONGEST_CALL_SECONDS = 285
"""Pub/Sub waits 600 s for a push at most, and one push may hold two calls and some waiting."""


def _check_call(seconds: float) -> float:
    if not 0 < seconds <= LONGEST_CALL_SECONDS:
        raise ValueError(
            "a call cannot take so long: Pub/Sub waits 600 s for a push, which may hold two calls: "
            f"write seconds, above 0 and up to {LONGEST_CALL_SECONDS}"
        )
    return seconds


CallSeconds = Annotated[float, AfterValidator(_check_call)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PushSettings(_Part):
    """Who may push to a function: the OIDC token's audience and service account."""

    audience: Text
    service_account: Text
    also: tuple[Text, ...] = ()
    """Further service accounts: other functions of the deployment that may call this one."""
    certs_url: WebUrl = GOOGLE_CERTS_URL
    unsigned: bool = False
    """Only on one machine: Google's Pub/Sub emulator signs no pushes."""


class EspfAuthSettings(_Part):
    """How ESPF proves itself; two credentials may be valid at once, for rotation without loss."""

    method: Literal["basic", "custom", "signature"]
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "Authorization"
    credentials: Annotated[tuple[SecretRef, ...], Field(min_length=1, max_length=2)]
    failure_status: Literal[401, 503] = 401
    date_window_seconds: Annotated[int, Field(gt=0, le=86400)] = 900


class PortaBillingSettings(_Part):
    """Where PortaBilling's API is, and with which of its calls each block is read."""

    url: WebUrl
    credentials: SecretRef
    timeout_seconds: Seconds = 20.0
    services: dict[Text, Text] = {}
    absence: dict[ReadCall, tuple[Text, ...]] = {}
    espf_status_content_type: Text = "application/json"


class ConsoleSettings(_Part):
    """Who may use the console's API, and as what.

    ``roles``: viewer, operator or admin -> e-mail addresses, or ``domain:example.com``.
    ``interception``: who may besides see what is confidential, an admin no more than others.
    ``audiences``: of Google ID tokens (a person's from gcloud has gcloud's own);
    ``iap_audience``: of the Identity-Aware Proxy, where it stands before the function.
    ``viewers_see_subscribers``: numbers and names are masked for viewers otherwise.
    ``monitoring_url``: of Cloud Monitoring's API, which knows how much waits in Pub/Sub.
    """

    audiences: Annotated[tuple[Text, ...], Field(min_length=1)]
    roles: dict[Literal["viewer", "operator", "admin"], tuple[Text, ...]]
    interception: tuple[Text, ...] = ()
    iap_audience: Text | None = None
    certs_url: WebUrl = GOOGLE_CERTS_URL
    iap_certs_url: WebUrl = IAP_CERTS_URL
    viewers_see_subscribers: bool = False
    monitoring_url: WebUrl = "https://monitoring.googleapis.com"


class HandlerLocation(_Part):
    """Where a handler's function is, and what feeds it (projects/P/subscriptions/S)."""

    url: WebUrl
    audience: Text
    subscription: Text


class PushSchedule(_Part):
    """A subscription's own retries, within what Pub/Sub takes: seconds, and attempts."""

    minimum: Annotated[int, Field(ge=1, le=600)] = PUSH.minimum
    maximum: Annotated[int, Field(ge=1, le=600)] = PUSH.maximum
    attempts: Annotated[int, Field(ge=5, le=100)] = PUSH.attempts

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError("minimum is above maximum: write it no larger")
        return self


Hours = Annotated[float, Field(gt=0, le=720)]


class LongSchedule(_Part):
    """The long retries: ``hours`` one after the other, then every ``then``, for ``days``."""

    hours: Annotated[tuple[Hours, ...], Field(max_length=24)] = LONG_RETRIES.hours
    then: Hours = LONG_RETRIES.then
    days: Annotated[float, Field(ge=0, le=60)] = LONG_RETRIES.days


class RetrySettings(_Part):
    """When a handler's failed deliveries are tried again."""

    push: PushSchedule = PushSchedule()
    long: LongSchedule = LongSchedule()

    @property
    def schedule(self) -> Schedule:
        push, long = self.push, self.long
        return Schedule(
            Backoff(push.minimum, push.maximum, push.attempts),
            LongRetries(long.hours, long.then, long.days),
        )


class BreakerRule(_Part):
    """When a system counts as down: ``failures`` in a row, or failing for ``seconds``.

    Either of at least so many different ``owners``: one event that can never work is no reason.
    Then it is asked how it is: ``first_probe_seconds`` later, and again after twice as long each
    time, up to ``longest_probe_seconds``.
    """

    failures: Annotated[int, Field(ge=1, le=1000)] = 20
    seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    owners: Annotated[int, Field(ge=1, le=100)] = 3
    first_probe_seconds: Annotated[float, Field(ge=1, le=600)] = 5.0
    longest_probe_seconds: Annotated[float, Field(ge=60, le=3600)] = 600.0


class HandlerSummary(_Part):
    """One external system as configured for this deployment, as enrichment sees it.

    ``max_rate``: calls a second that it bears; None: not known. ``answer_within_hours``: how
    long one that answers later may take. ``receipts``: it reports what became of messages.
    ``scheduled``: its function is called every minute.
    ``quality``: the tier of its connector's manifest.
    """

    name: HandlerName
    connector: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
    events: Annotated[tuple[EventPattern, ...], Field(min_length=1)]
    requires: tuple[Block, ...] = ()
    group: Text | None = None
    kind: Kind = "state"
    max_rate: Annotated[float, Field(gt=0)] | None = None
    retries: RetrySettings = RetrySettings()
    answer_within_hours: Annotated[float, Field(gt=0, le=2160)] = 24.0
    receipts: bool = False
    scheduled: bool = False
    quality: Tier | None = None

    @property
    def answers_later(self) -> bool:
        """Whether its system answers orders, or reports of messages, by and by."""
        return self.kind == "asynchronous" or self.receipts


class HandlerSettings(HandlerSummary):
    """One external system as its own function sees it.

    ``settings`` are the connector's own, checked by it; ``secrets`` maps the connector's secret
    names to references. ``instance_rate``: calls a second that one instance may make.
    """

    instance_rate: Annotated[float, Field(gt=0)] | None = None
    breaker: BreakerRule = BreakerRule()
    call_timeout_seconds: CallSeconds = 15.0
    settings: dict[str, Any] = {}
    secrets: dict[str, SecretRef] = {}
    contract_token: SecretRef | None = None


_H = TypeVar("_H", bound=HandlerSummary)


def _unique(handlers: tuple[_H, ...]) -> tuple[_H, ...]:
    names = [handler.name for handler in handlers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two handlers are named {twice[0]}: give each its own name")
    return handlers


Handlers = Annotated[tuple[HandlerSummary, ...], AfterValidator(_unique)]


def _only_late(handlers: tuple[HandlerSettings, ...]) -> tuple[HandlerSettings, ...]:
    for handler in handlers:
        if not handler.answers_later:
            raise ValueError(
                f"handler {handler.name} is of kind {handler.kind} without receipts: "
                "list only handlers that answer later"
            )
    return handlers


LateHandlers = Annotated[
    tuple[HandlerSettings, ...], AfterValidator(_unique), AfterValidator(_only_late)
]


class Shared(BaseModel):
    """What every function has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: Annotated[Text, Field(alias="GOOGLE_CLOUD_PROJECT")]
    deployment: Annotated[Text, Field(alias="NSPS_DEPLOYMENT")]
    function: Annotated[Text, Field(alias="NSPS_FUNCTION")]
    database: Annotated[Text, Field(alias="NSPS_DATABASE")]
    digest_key: Annotated[SecretRef, Field(alias="NSPS_DIGEST_KEY")]
    threads: Annotated[int, Field(alias="THREADS", ge=1, le=1000)] = 8
    workers: Annotated[int, Field(alias="WORKERS", ge=1, le=64)] = 1

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from environment variables; others are not looked at.

        Raises SettingsError naming each variable that is missing or wrong.
        """
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for field in cls.model_fields.values():
            variable = str(field.alias)
            raw = environ.get(variable)
            if raw is None:
                if field.is_required():
                    wrong.append(f"{variable} is missing: write {_EXPECTED[variable]}")
                continue
            if FromJson not in field.metadata:
                values[variable] = raw
                continue
            try:
                values[variable] = json.loads(raw)
            except (ValueError, RecursionError):
                wrong.append(f"{variable} is not JSON: write {_EXPECTED[variable]}")
        present = [name.split(" ", 1)[0] for name in wrong]
        try:
            settings = cls.model_validate_json(json.dumps(values))
        except ValidationError as error:
            wrong.extend(_explained(error, known=present))
        if wrong:
            raise SettingsError("; ".join(wrong))
        return settings


class IngressSettings(Shared):
    events_topic: Annotated[Topic, Field(alias="NSPS_EVENTS_TOPIC")]
    espf_auth: Annotated[EspfAuthSettings, Field(alias="NSPS_ESPF_AUTH"), FromJson]


class EnrichmentSettings(Shared):
    push: Annotated[PushSettings, Field(alias="NSPS_PUSH"), FromJson]
    enriched_topic: Annotated[Topic, Field(alias="NSPS_ENRICHED_TOPIC")]
    portabilling: Annotated[PortaBillingSettings, Field(alias="NSPS_PORTABILLING"), FromJson]
    handlers: Annotated[Handlers, Field(alias="NSPS_HANDLERS"), FromJson]


class ConnectorSettings(Shared):
    push: Annotated[PushSettings, Field(alias="NSPS_PUSH"), FromJson]
    portabilling: Annotated[PortaBillingSettings, Field(alias="NSPS_PORTABILLING"), FromJson]
    handler: Annotated[HandlerSettings, Field(alias="NSPS_HANDLER"), FromJson]
    events_topic: Annotated[Topic | None, Field(alias="NSPS_EVENTS_TOPIC")] = None
    """Only for a connector whose events may have to be read again."""


class CallbacksSettings(Shared):
    portabilling: Annotated[PortaBillingSettings, Field(alias="NSPS_PORTABILLING"), FromJson]
    handlers: Annotated[LateHandlers, Field(alias="NSPS_HANDLERS_FULL"), FromJson]
    events_topic: Annotated[Topic, Field(alias="NSPS_EVENTS_TOPIC")]


class RetriesSettings(Shared):
    push: Annotated[PushSettings, Field(alias="NSPS_PUSH"), FromJson]
    portabilling: Annotated[PortaBillingSettings, Field(alias="NSPS_PORTABILLING"), FromJson]
    handlers: Annotated[Handlers, Field(alias="NSPS_HANDLERS"), FromJson]
    late: Annotated[LateHandlers, Field(alias="NSPS_HANDLERS_FULL"), FromJson] = ()
    events_topic: Annotated[Topic, Field(alias="NSPS_EVENTS_TOPIC")]
    functions: Annotated[
        dict[HandlerName, HandlerLocation], Field(alias="NSPS_FUNCTIONS"), FromJson
    ] = {}


class ConsoleFunctionSettings(Shared):
    push: Annotated[PushSettings, Field(alias="NSPS_PUSH"), FromJson]
    portabilling: Annotated[PortaBillingSettings, Field(alias="NSPS_PORTABILLING"), FromJson]
    handlers: Annotated[Handlers, Field(alias="NSPS_HANDLERS"), FromJson]
    functions: Annotated[
        dict[HandlerName, HandlerLocation], Field(alias="NSPS_FUNCTIONS"), FromJson
    ]
    console: Annotated[ConsoleSettings, Field(alias="NSPS_CONSOLE"), FromJson]
    events_topic: Annotated[Topic, Field(alias="NSPS_EVENTS_TOPIC")]
    jobs_topic: Annotated[Topic, Field(alias="NSPS_JOBS_TOPIC")]


_EXPECTED = {
    "GOOGLE_CLOUD_PROJECT": "the id of the Google Cloud project",
    "NSPS_DEPLOYMENT": "the name of the deployment",
    "NSPS_FUNCTION": "the name of this function",
    "NSPS_DATABASE": "the id of the Firestore database, for example (default)",
    "NSPS_DIGEST_KEY": "a secret reference, for example sm://digest-key",
    "THREADS": "a whole number from 1 to 1000",
    "WORKERS": "a whole number from 1 to 64",
    "NSPS_PUSH": '{"audience": URL, "service_account": EMAIL}',
    "NSPS_EVENTS_TOPIC": "projects/PROJECT/topics/espf-events",
    "NSPS_ENRICHED_TOPIC": "projects/PROJECT/topics/enriched-events",
    "NSPS_ESPF_AUTH": '{"method": "basic", "credentials": ["sm://espf-webhook"]}',
    "NSPS_PORTABILLING": '{"url": URL, "credentials": "sm://portabilling-api"}',
    "NSPS_HANDLERS": '[{"name": "hss", "connector": "hss_http", "events": ["SIM/*"]}]',
    "NSPS_HANDLER": '{"name": "hss", "connector": "hss_http", "events": ["SIM/*"]}',
    "NSPS_FUNCTIONS": '{"hss": {"url": URL, "audience": URL, "subscription": NAME}}',
    "NSPS_CONSOLE": '{"audiences": [URL], "roles": {"viewer": [EMAIL], "operator": [EMAIL]}}',
    "NSPS_JOBS_TOPIC": "projects/PROJECT/topics/jobs",
    "NSPS_HANDLERS_FULL": "a list of NSPS_HANDLER objects that answer later",
}


def _explained(error: ValidationError, known: Sequence[str]) -> Iterator[str]:
    """The mistakes of an environment, except those of variables that are known to be wrong."""
    for mistake in mistakes(error):
        variable = str(mistake.path[0]) if mistake.path else ""
        if not variable:
            yield mistake.what
        elif variable not in known:
            yield f"{mistake.where}: {mistake.text(_EXPECTED.get(variable, ''))}"
