"""What ``Pulumi.<stack>.yaml`` may say, checked as a whole before anything is made.

``load`` returns a StackConfig or raises ConfigError with every problem of the file, one a line:
``Pulumi.acme.yaml: nsps:handlers[1].events[0]: <what is wrong>: write <what to do>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from nsps.manifest import FILE, PREDEFINED_GROUPS, InvalidManifest, Manifest, Problem, load, one_of
from nsps.settings import Block, EventPattern, Kind
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

FUNCTIONS = ("ingress", "enrichment", "callbacks", "retries")
RESERVED = frozenset(
    {*FUNCTIONS, "console", "dead-letters", "espf-events", "enriched-events", "invoker", "builder"}
)
ATTRIBUTES = frozenset({"owner", "run", "handler", "data", "topic", "retry", "timeout"})
SANDBOX = "sandbox"
STATE = "${state}"

_SECRET_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}(/versions/([1-9][0-9]*|latest))?")


# ---- what may be written ---------------------------------------------------------------------


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
    if name in RESERVED or name in ATTRIBUTES:
        raise ValueError(f"{name} is a name of NSPS itself: write another, like {name}-1")
    return name


SecretName = Annotated[str, AfterValidator(_secret_name)]
_HANDLER_NAME = "2 to 31 small letters, digits and '-', beginning with a letter, like hss"


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
    failure_status: Literal[401, 503] = Field(default=503, description="503 or 401")
    date_window_seconds: int = Field(
        default=900, gt=0, le=86400, description="whole seconds, 1 to 86400"
    )

    @model_validator(mode="after")
    def _two_different(self) -> Espf:
        if len(set(self.credentials)) < len(self.credentials):
            raise ValueError("the two credentials are the same secret: write one, or two names")
        return self


class HandlerKeys(_Keys):
    """One of ``nsps:handlers``: an external system, and the connector that speaks to it."""

    name: Annotated[str, AfterValidator(_not_reserved)] = Field(
        pattern=r"^[a-z][a-z0-9-]{1,30}$", description=_HANDLER_NAME
    )
    connector: str = Field(description="the name of a folder in functions/connectors")
    events: tuple[EventPattern, ...] = Field(
        min_length=1, description="a list of event types, like [SIM/*, Account/*]"
    )
    kind: Kind | None = Field(default=None, description="state, message or asynchronous")
    requires: tuple[Block, ...] = Field(
        default=(),
        description="a list of blocks: account_info, sim_info, prev_sim_info, "
        "access_policy_info, product_info, full_vd_counter_info, customer_info",
    )
    group: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="the name of an ESPF group"
    )
    call_timeout_seconds: float = Field(default=15.0, gt=0, le=480, description="seconds, 1 to 480")
    settings: dict[str, Any] = Field(default={}, description="{setting: value}")
    secrets: dict[str, SecretName] = Field(default={}, description="{secret: name of a secret}")
    contract_token: SecretName | None = Field(default=None, description="the name of a secret")
    max_rate: float | None = Field(default=None, gt=0, description="calls a second, above 0")
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


# ---- what the program works with -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler with what its connector's manifest adds: kind, required blocks, defaults."""

    name: str
    connector: str
    kind: Kind
    events: tuple[str, ...]
    requires: tuple[str, ...]
    group: str | None
    call_timeout_seconds: float
    settings: Mapping[str, object]
    secrets: Mapping[str, str]
    contract_token: str | None
    max_rate: float | None
    when_installed: str | None = None


@dataclass(frozen=True, slots=True)
class StackConfig:
    """A whole configuration that holds together. ``notes``: allowed, but worth saying."""

    project: str
    region: str
    deployment: str
    portabilling: PortaBilling
    espf: Espf
    handlers: tuple[Handler, ...]
    sizes: Mapping[str, Size]
    digest_key: str
    static_egress: bool
    notes: tuple[str, ...] = ()


class ConfigError(ValueError):
    """The configuration cannot be used; ``problems`` is one line for each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


_Digits = r"^[a-z]+-[a-z]+[0-9]{1,2}$"
_KEYS: dict[str, tuple[TypeAdapter[Any], str]] = {
    "gcp:project": (
        TypeAdapter(Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]),
        "the id of a Google Cloud project, like acme-provisioning",
    ),
    "gcp:region": (
        TypeAdapter(Annotated[str, Field(pattern=_Digits)]),
        "a region of Google Cloud, like europe-west3",
    ),
    "nsps:deployment": (
        TypeAdapter(Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,14}[a-z0-9]$")]),
        "3 to 16 small letters, digits and '-', beginning with a letter, like acme",
    ),
    "nsps:portabilling": (TypeAdapter(PortaBilling), "{url, credentials}"),
    "nsps:espf": (TypeAdapter(Espf), "{credentials: [the name of a secret]}"),
    "nsps:handlers": (TypeAdapter(list[Any]), "a list of handlers, or []"),
    "nsps:sizes": (TypeAdapter(dict[str, Size]), "{function: {memory, concurrency, ...}}"),
    "nsps:digest_key": (TypeAdapter(SecretName), "the name of a secret"),
    "nsps:static_egress": (TypeAdapter(bool), "true or false"),
}
_OPTIONAL = frozenset({"nsps:sizes", "nsps:digest_key", "nsps:static_egress"})
_MODELS: dict[str, type[BaseModel]] = {
    "nsps:portabilling": PortaBilling,
    "nsps:espf": Espf,
    "nsps:handlers": HandlerKeys,
    "nsps:sizes": Size,
}
_HANDLER = TypeAdapter(HandlerKeys)

T = TypeVar("T")


def read_file(file: Path) -> dict[str, Any]:
    """The ``config:`` of a stack's file. Raises ConfigError."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            [f"{file.name}: there is no such file: copy Pulumi.example.yaml"]
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{file.name}: cannot be read: {error}"]) from error
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise ConfigError([f"{file.name}: config: missing: write the keys below `config:`"])
    return {str(key): value for key, value in config.items()}


def load_stack(
    values: Mapping[str, Any], file: str, connectors: Path, *, local: bool = False
) -> StackConfig:
    """Check the values of a stack's file and return them as one whole.

    ``connectors``: the folder of connectors, each with its manifest. ``local``: for the local
    stack, which alone may write ``sandbox``, ``${state}`` and ``when_installed``.
    Raises ConfigError with every problem, each beginning with the file and the key.
    """
    return _Check(file, connectors, local).run(values)


class _Check:
    """One pass over one file; collects the problems as it goes."""

    def __init__(self, file: str, connectors: Path, local: bool) -> None:
        self._file = file
        self._connectors = connectors
        self._local = local
        self._problems: list[str] = []
        self._notes: list[str] = []

    def run(self, values: Mapping[str, Any]) -> StackConfig:
        self._unknown_keys(values)
        read = {key: self._value(key, values) for key in _KEYS}
        handlers = self._handlers(read["nsps:handlers"] or [])
        self._sizes(read["nsps:sizes"] or {}, handlers)
        self._sandbox(read["nsps:portabilling"])
        if self._problems:
            raise ConfigError(self._problems)
        deployment = read["nsps:deployment"]
        return StackConfig(
            project=read["gcp:project"],
            region=read["gcp:region"],
            deployment=deployment,
            portabilling=read["nsps:portabilling"],
            espf=read["nsps:espf"],
            handlers=tuple(handler for handler in handlers if handler is not None),
            sizes=read["nsps:sizes"] or {},
            digest_key=read["nsps:digest_key"] or f"{deployment}-digest-key",
            static_egress=read["nsps:static_egress"] is not False,
            notes=tuple(self._notes),
        )

    def _problem(self, where: str, text: str) -> None:
        self._problems.append(f"{self._file}: {where}: {text}")

    def _unknown_keys(self, values: Mapping[str, Any]) -> None:
        for key in values:
            if key not in _KEYS and not key.startswith("gcp:"):
                self._problem(key, f"unknown key: {one_of(key, _KEYS)}")

    def _value(self, key: str, values: Mapping[str, Any]) -> Any:
        adapter, expected = _KEYS[key]
        if values.get(key) is None:
            if key not in _OPTIONAL:
                self._problem(key, f"missing: write {expected}")
            return None
        return self._parsed(adapter, values[key], key, expected)

    def _parsed(
        self, adapter: TypeAdapter[T], value: object, where: str, expected: str
    ) -> T | None:
        try:
            return adapter.validate_json(json.dumps(value, default=str))
        except ValidationError as error:
            model = _MODELS.get(where.partition("[")[0])
            for fault in error.errors(include_url=False, include_input=False):
                self._problem(where + _path(fault["loc"]), _said(fault, model, expected))
            return None

    # -- handlers --

    def _handlers(self, entries: Sequence[object]) -> list[Handler | None]:
        first: dict[str, int] = {}
        handlers = []
        for index, entry in enumerate(entries):
            where = f"nsps:handlers[{index}]"
            self._repeated(entry, index, first)
            keys = self._parsed(_HANDLER, entry, where, "{name, connector, events}")
            handlers.append(self._handler(keys, where) if keys else None)
        return handlers

    def _repeated(self, entry: object, index: int, first: dict[str, int]) -> None:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            return
        if first.setdefault(name, index) != index:
            self._problem(
                f"nsps:handlers[{index}].name",
                f"handlers[{first[name]}] is named {name} too: write another name, like {name}-2",
            )

    def _handler(self, keys: HandlerKeys, where: str) -> Handler | None:
        manifest = self._manifest(keys.connector, where)
        if manifest is None:
            return None
        for problem in _handler_problems(keys, manifest, local=self._local):
            self._problem(f"{where}.{problem.where}", problem.text)
        self._note_group(keys, where)
        return Handler(
            name=keys.name,
            connector=keys.connector,
            kind=keys.kind or manifest.kind[0],
            events=keys.events,
            requires=tuple(dict.fromkeys([*manifest.requires, *keys.requires])),
            group=keys.group,
            call_timeout_seconds=keys.call_timeout_seconds,
            settings=manifest.complete(keys.settings),
            secrets=keys.secrets,
            contract_token=keys.contract_token,
            max_rate=keys.max_rate or manifest.rate,
            when_installed=keys.when_installed,
        )

    def _manifest(self, connector: str, where: str) -> Manifest | None:
        there = sorted(file.parent.name for file in self._connectors.glob(f"*/{FILE}"))
        if connector not in there:
            self._problem(
                f"{where}.connector",
                f"there is no connector {connector}: " + one_of(connector, there),
            )
            return None
        try:
            return load(self._connectors / connector / FILE)
        except InvalidManifest as error:
            self._problem(f"{where}.connector", f"its manifest is wrong: {error}")
            return None

    def _note_group(self, keys: HandlerKeys, where: str) -> None:
        if keys.group and keys.group not in PREDEFINED_GROUPS:
            self._notes.append(
                f"{self._file}: {where}.group: {keys.group} is not one of ESPF's own groups "
                f"({', '.join(PREDEFINED_GROUPS)}): register it through the ESPF API "
                "(POST /espf/v1/group/create), or PortaBilling refuses the status"
            )

    # -- the rest --

    def _sizes(self, sizes: Mapping[str, Size], handlers: Sequence[Handler | None]) -> None:
        names = [*FUNCTIONS, *(handler.name for handler in handlers if handler)]
        if None in handlers:
            return  # the name may be that of a handler that could not be read
        for name in sizes:
            if name not in names:
                self._problem(f"nsps:sizes.{name}", f"no such function: {one_of(name, names)}")

    def _sandbox(self, portabilling: PortaBilling | None) -> None:
        if portabilling and portabilling.url == SANDBOX and not self._local:
            self._problem(
                "nsps:portabilling.url",
                "the sandbox is there on the local stack alone: write https://HOST of PortaBilling",
            )


def _handler_problems(keys: HandlerKeys, manifest: Manifest, *, local: bool) -> Iterator[Problem]:
    yield from manifest.problems(keys.settings, keys.secrets)
    if keys.kind and keys.kind not in manifest.kind:
        yield Problem(
            "kind",
            f"the connector {manifest.connector} is none of kind {keys.kind}: "
            f"write {' or '.join(manifest.kind)}",
        )
    for name, value in keys.settings.items():
        text = json.dumps(value, default=str)
        if STATE in text and not local:
            yield Problem(
                f"settings.{name}",
                f"{STATE} is known on the local stack alone: write the value itself",
            )
        if re.search(r"://[^/@\s\"]*:[^/@\s\"]+@", text):
            yield Problem(
                f"settings.{name}",
                "carries a password: write the whole value into a secret in Secret Manager "
                "and its name under secrets",
            )
    if keys.when_installed and not local:
        yield Problem(
            "when_installed",
            "only the local stack knows what is installed: "
            "write a stack of its own for each deployment, with the handlers it has",
        )


# ---- the local stack -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine puts in the place of what only it knows.

    ``portabilling_url``: of its sandbox; ``state``: the folder for local data; ``installed``:
    whether a program is there.
    """

    portabilling_url: str
    state: str
    installed: Callable[[str], bool] = field(default=lambda _program: True)


def localised(values: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The values of a local stack as a deployment's: sandbox, state and programs resolved.

    The values must have passed ``load_stack(..., local=True)``.
    """
    local: dict[str, Any] = json.loads(
        json.dumps(values, default=str).replace(STATE, json.dumps(machine.state)[1:-1])
    )
    if local["nsps:portabilling"]["url"] == SANDBOX:
        local["nsps:portabilling"]["url"] = machine.portabilling_url
    kept = []
    for handler in local["nsps:handlers"]:
        program = handler.pop("when_installed", None)
        if program is None or machine.installed(program):
            kept.append(handler)
    names = {handler["name"] for handler in local["nsps:handlers"]}
    left = {handler["name"] for handler in kept}
    local["nsps:handlers"] = kept
    for gone in names - left:
        (local.get("nsps:sizes") or {}).pop(gone, None)
    return local


# ---- wording ---------------------------------------------------------------------------------


def _path(loc: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _said(fault: Any, model: type[BaseModel] | None, expected: str) -> str:
    """A fault found by pydantic in our words: what is wrong, and what to write."""
    fields = model.model_fields if model else {}
    names = [part for part in fault["loc"] if isinstance(part, str)]
    if fault["type"] == "extra_forbidden":
        return f"unknown key: {one_of(names[-1], list(fields))}"
    message = fault["msg"].removeprefix("Value error, ")
    if "write " in message:
        return str(message)
    described = next((fields[name].description for name in names if name in fields), None)
    what = "missing" if fault["type"] == "missing" else _lower(_plain(fault["type"], message))
    return f"{what}: write {described or expected}"


def _plain(kind: str, message: str) -> str:
    if kind == "string_pattern_mismatch":
        return "not written as it must be"
    return (
        message.removeprefix("Input should be ").join(("must be ", ""))
        if (message.startswith("Input should be "))
        else message
    )


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
