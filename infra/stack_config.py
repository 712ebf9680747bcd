"""What ``Pulumi.<stack>.yaml`` may say, checked as a whole before anything is made.

``load_stack`` returns a StackConfig or raises ConfigError with every problem, one a line:
``Pulumi.acme.yaml: nsps:handlers[1].events[0]: <what is wrong>: write <what to do>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from nsps.runtime.mistakes import Mistake, mistakes
from nsps.runtime.settings import BreakerRule, Kind, RetrySettings, Tier
from nsps_local.described import connectors_in, load_connector_file
from nsps_local.manifest import (
    PREDEFINED_GROUPS,
    InvalidManifest,
    Manifest,
    Problem,
    one_of,
)
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from infra.stack_keys import (
    EXISTING,
    FUNCTIONS,
    SANDBOX,
    STATE,
    Alerts,
    Console,
    Espf,
    HandlerKeys,
    PortaBilling,
    SecretName,
    Size,
)


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
    retries: RetrySettings
    breaker: BreakerRule
    answer_within_hours: float
    reads_again: bool
    """Its events may have to go through enrichment again before they are delivered."""
    receipts: bool
    """Its system reports later what became of a message."""
    scheduled: bool
    """Its function is called every minute."""
    quality: Tier

    @property
    def answers_later(self) -> bool:
        return self.kind == "asynchronous" or self.receipts

    @property
    def subscriber_secrets(self) -> str | None:
        """The pattern of the names of its subscribers' secrets, like acme-sim-{imsi}, if any."""
        chosen = self.settings.get("credentials")
        if isinstance(chosen, Mapping) and chosen.get("source") == "secret_manager":
            return str(chosen["name"])
        return None


@dataclass(frozen=True, slots=True)
class StackConfig:
    """A whole configuration that holds together. ``notes``: allowed, but worth saying.

    Secrets stand in it by their names in Secret Manager; ``existing``: those that the program does
    not make.
    """

    project: str
    region: str
    deployment: str
    portabilling: PortaBilling
    espf: Espf
    handlers: tuple[Handler, ...]
    sizes: Mapping[str, Size]
    digest_key: str
    console: Console
    static_egress: bool
    alerts: Alerts
    kms_key: str | None
    existing: frozenset[str]
    notes: tuple[str, ...] = ()


class ConfigError(ValueError):
    """The configuration cannot be used; ``problems`` is one line for each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


_KMS_KEY = re.compile(r"^projects/[^/\s]+/locations/([^/\s]+)/keyRings/[^/\s]+/cryptoKeys/[^/\s]+$")
_PASSWORD_IN_URL = re.compile(r"://[^/@\s\"]*:[^/@\s\"]+@")
KEYS: dict[str, tuple[TypeAdapter[Any], str]] = {
    "gcp:project": (
        TypeAdapter(Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]),
        "the id of a Google Cloud project, like acme-provisioning",
    ),
    "gcp:region": (
        TypeAdapter(Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+[0-9]{1,2}$")]),
        "a region of Google Cloud, like europe-west3",
    ),
    "nsps:deployment": (
        # No '-': the first one ends it in every name, so no two deployments can share a name.
        TypeAdapter(Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{2,15}$")]),
        "3 to 16 small letters and digits, beginning with a letter, like acme",
    ),
    "nsps:portabilling": (TypeAdapter(PortaBilling), "{url, credentials}"),
    "nsps:espf": (TypeAdapter(Espf), "{credentials: [the name of a secret]}"),
    "nsps:handlers": (TypeAdapter(list[Any]), "a list of handlers, or []"),
    "nsps:sizes": (TypeAdapter(dict[str, Size]), "{function: {memory, concurrency, ...}}"),
    "nsps:digest_key": (TypeAdapter(SecretName), "the name of a secret"),
    "nsps:console": (TypeAdapter(Console), "{viewer, operator, admin: [e-mail addresses]}"),
    "nsps:static_egress": (TypeAdapter(bool), "true or false"),
    "nsps:alerts": (TypeAdapter(Alerts), "{emails: [e-mail addresses]}"),
    "nsps:kms_key": (
        TypeAdapter(Annotated[str, Field(pattern=_KMS_KEY.pattern)]),
        "projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY",
    ),
}
OPTIONAL = frozenset(
    {
        "nsps:sizes",
        "nsps:digest_key",
        "nsps:console",
        "nsps:static_egress",
        "nsps:alerts",
        "nsps:kms_key",
    }
)
MODELS: dict[str, type[BaseModel]] = {
    "nsps:portabilling": PortaBilling,
    "nsps:espf": Espf,
    "nsps:handlers": HandlerKeys,
    "nsps:console": Console,
    "nsps:sizes": Size,
    "nsps:alerts": Alerts,
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
        reason = " ".join(str(error).split())  # YAML's mistakes come in several lines
        raise ConfigError([f"{file.name}: cannot be read: {reason}"]) from error
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
        self._manifests: dict[Path, Manifest] = {}

    def run(self, values: Mapping[str, Any]) -> StackConfig:
        self._unknown_keys(values)
        read = {key: self._value(key, values) for key in KEYS}
        handlers = self._handlers(read["nsps:handlers"] or [])
        self._sizes(read["nsps:sizes"] or {}, handlers)
        self._sandbox(read["nsps:portabilling"])
        self._key(read["nsps:kms_key"], read["gcp:region"])
        if self._problems:
            raise ConfigError(self._problems)
        ids = _SecretIds(read["nsps:deployment"])
        portabilling, espf = read["nsps:portabilling"], read["nsps:espf"]
        config = StackConfig(
            project=read["gcp:project"],
            region=read["gcp:region"],
            deployment=read["nsps:deployment"],
            portabilling=portabilling.model_copy(
                update={"credentials": ids(portabilling.credentials)}
            ),
            espf=espf.model_copy(update={"credentials": tuple(map(ids, espf.credentials))}),
            handlers=tuple(_with_secrets(handler, ids) for handler in handlers if handler),
            sizes=read["nsps:sizes"] or {},
            digest_key=ids(read["nsps:digest_key"] or "digest-key"),
            static_egress=read["nsps:static_egress"] is not False,
            console=read["nsps:console"] or Console(),
            alerts=read["nsps:alerts"] or Alerts(),
            kms_key=read["nsps:kms_key"],
            existing=frozenset(ids.existing),
            notes=tuple(self._notes),
        )
        self._others_secrets(config)
        if self._problems:
            raise ConfigError(self._problems)
        return config

    def _others_secrets(self, config: StackConfig) -> None:
        """A handler may read all secrets whose names begin as its subscribers' do: no others."""
        others = {config.portabilling.credentials, *config.espf.credentials, config.digest_key}
        for handler in config.handlers:
            others |= {*handler.secrets.values(), *filter(None, [handler.contract_token])}
        for index, handler in enumerate(config.handlers):
            begins = (handler.subscriber_secrets or "").partition("{")[0]
            taken = [name for name in sorted(others) if begins and name.startswith(begins)]
            if taken:
                self._problem(
                    f"nsps:handlers[{index}].settings.credentials.name",
                    f"{taken[0]} begins with {begins}, so that the handler could read it as a "
                    "subscriber's: write another beginning, like sim-{imsi}",
                )

    def _problem(self, where: str, text: str) -> None:
        self._problems.append(f"{self._file}: {where}: {text}")

    def _unknown_keys(self, values: Mapping[str, Any]) -> None:
        for key in values:
            if key not in KEYS and not key.startswith("gcp:"):
                self._problem(key, f"unknown key: {one_of(key, KEYS)}")

    def _value(self, key: str, values: Mapping[str, Any]) -> Any:
        adapter, expected = KEYS[key]
        if values.get(key) is None:
            if key not in OPTIONAL:
                self._problem(key, f"missing: write {expected}")
            return None
        return self._parsed(adapter, values[key], key, expected)

    def _parsed(
        self, adapter: TypeAdapter[T], value: object, where: str, expected: str
    ) -> T | None:
        try:
            return adapter.validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            model = MODELS.get(where.partition("[")[0])
            for mistake in mistakes(error):
                self._problem(_below(where, mistake), _explained(mistake, model, expected))
            return None

    # -- handlers --

    def _handlers(self, entries: Sequence[object]) -> list[Handler | None]:
        first: dict[str, int] = {}
        handlers: list[Handler | None] = []
        for index, entry in enumerate(entries):
            where, before = f"nsps:handlers[{index}]", len(self._problems)
            self._repeated(entry, index, first)
            keys = self._parsed(_HANDLER, entry, where, "{name, connector, events}")
            manifest = self._manifest(entry, where)
            if keys and manifest:
                self._note_group(keys, where)
                handler = _handler(keys, manifest)
                if len(self._problems) == before:
                    self._by_its_settings(handler, manifest, where)
                handlers.append(handler)
            else:
                handlers.append(None)
        return handlers

    def _by_its_settings(self, handler: Handler, manifest: Manifest, where: str) -> None:
        """Blocks and secrets that its settings need."""
        for problem in (
            *manifest.not_read(handler.settings, handler.requires),
            *manifest.not_given(handler.settings, handler.secrets),
        ):
            self._problem(f"{where}.{problem.where}", problem.text)

    def _repeated(self, entry: object, index: int, first: dict[str, int]) -> None:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            return
        if first.setdefault(name, index) != index:
            self._problem(
                f"nsps:handlers[{index}].name",
                f"handlers[{first[name]}] is named {name} too: write another name, like {name}-2",
            )

    def _manifest(self, entry: object, where: str) -> Manifest | None:
        """The connector's manifest, after what can be checked against it whatever else is wrong."""
        connector = entry.get("connector") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(connector, str):
            return None
        there = connectors_in(self._connectors)
        if connector not in there:
            self._problem(
                f"{where}.connector",
                f"there is no connector {connector}: " + one_of(connector, there),
            )
            return None
        try:
            manifest = self._loaded(there[connector])
        except InvalidManifest as error:
            self._problem(f"{where}.connector", f"its manifest is wrong: {error}")
            return None
        for problem in _handler_problems(entry, manifest, local=self._local):
            self._problem(f"{where}.{problem.where}", problem.text)
        return manifest

    def _loaded(self, file: Path) -> Manifest:
        """Raises InvalidManifest."""
        if file not in self._manifests:
            self._manifests[file] = load_connector_file(file)
        return self._manifests[file]

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

    def _key(self, key: str | None, region: str | None) -> None:
        found = _KMS_KEY.match(key or "")
        if found and region and found[1] != region:
            self._problem(
                "nsps:kms_key",
                f"the key is in {found[1]}, the deployment in {region}: write a key of {region}",
            )

    def _sandbox(self, portabilling: PortaBilling | None) -> None:
        if portabilling and portabilling.url == SANDBOX and not self._local:
            self._problem(
                "nsps:portabilling.url",
                "the sandbox is there on the local stack alone: write https://HOST of PortaBilling",
            )


def _handler(keys: HandlerKeys, manifest: Manifest) -> Handler:
    return Handler(
        name=keys.name,
        connector=manifest.folder,
        kind=keys.kind or manifest.kind[0],
        events=keys.events,
        requires=manifest.blocks(keys.requires),
        group=keys.group,
        call_timeout_seconds=keys.call_timeout_seconds or manifest.call_timeout_seconds,
        settings=manifest.complete(keys.settings),
        secrets=keys.secrets,
        contract_token=keys.contract_token,
        max_rate=keys.max_rate or manifest.rate,
        retries=keys.retries,
        breaker=keys.breaker,
        answer_within_hours=keys.answer_within_hours or 24.0,
        reads_again=manifest.reads_again,
        receipts=manifest.receipts,
        scheduled=manifest.scheduled,
        quality=manifest.quality.tier,
    )


class _SecretIds:
    """Secrets' names in Secret Manager, for their names in the configuration.

    They carry the deployment's name, so that two deployments in one project each have their own.
    ``existing``: those of ``existing:NAME``, which is NAME itself and made by somebody else.
    """

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self.existing: set[str] = set()

    def __call__(self, name: str) -> str:
        if not name.startswith(EXISTING):
            return f"{self._deployment}-{name}"
        there = name.removeprefix(EXISTING)
        self.existing.add(there.partition("/")[0])
        return there

    def pattern(self, name: str) -> str:
        """The same for the names of secrets that a pattern stands for."""
        there = name.removeprefix(EXISTING)
        return there if there != name else f"{self._deployment}-{name}"


def _with_secrets(handler: Handler, ids: _SecretIds) -> Handler:
    token, pattern = handler.contract_token, handler.subscriber_secrets
    secrets = {name: ids(secret) for name, secret in handler.secrets.items()}
    if pattern:
        chosen = {**_mapping(handler.settings, "credentials"), "name": ids.pattern(pattern)}
        handler = replace(handler, settings={**handler.settings, "credentials": chosen})
    return replace(handler, secrets=secrets, contract_token=token and ids(token))


def _handler_problems(
    entry: Mapping[str, Any], manifest: Manifest, *, local: bool
) -> Iterator[Problem]:
    settings, secrets = _mapping(entry, "settings"), _mapping(entry, "secrets")
    misplaced = list(_misplaced(settings, local=local))
    yield from misplaced
    named = tuple(problem.where for problem in misplaced)
    for problem in manifest.problems(settings, secrets):
        if not named or not problem.where.startswith(named):
            yield problem
    kind = entry.get("kind")
    if kind in get_args(Kind) and kind not in manifest.kind:
        yield Problem(
            "kind",
            f"the connector {manifest.connector} cannot be of kind {kind}: "
            f"write {' or '.join(manifest.kind)}",
        )
    late = manifest.receipts or "asynchronous" in (kind, *manifest.kind)
    if "answer_within_hours" in entry and not late:
        yield Problem(
            "answer_within_hours",
            f"the connector {manifest.connector} answers at once: "
            "write it only for those that answer later",
        )
    if entry.get("when_installed") and not local:
        yield Problem(
            "when_installed",
            "only the local stack knows what is installed: "
            "write a stack of its own for each deployment, with the handlers it has",
        )


def _misplaced(settings: Mapping[str, Any], *, local: bool) -> Iterator[Problem]:
    """Settings that hold what no setting may hold."""
    for name, value in settings.items():
        text = json.dumps(value, default=str)
        if STATE in text and not local:
            yield Problem(
                f"settings.{name}",
                f"{STATE} is known on the local stack alone: write the value itself",
            )
        if _PASSWORD_IN_URL.search(text):
            yield Problem(
                f"settings.{name}",
                "carries a password: write the whole value into a secret in Secret Manager "
                "and its name under secrets",
            )


def _mapping(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


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


def _below(where: str, mistake: Mistake) -> str:
    joint = "" if mistake.where.startswith("[") or not mistake.path else "."
    return f"{where}{joint}{mistake.where}"


def _explained(mistake: Mistake, model: type[BaseModel] | None, expected: str) -> str:
    """What is wrong and what to write, by the description of the key."""
    fields = model.model_fields if model else {}
    names = [part for part in mistake.path if isinstance(part, str)]
    if mistake.kind == "extra_forbidden":
        return f"{mistake.what}: {one_of(names[-1], list(fields))}"
    described = next((fields[name].description for name in names if name in fields), None)
    return mistake.text(described or expected)
