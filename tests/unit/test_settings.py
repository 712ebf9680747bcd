"""A function's environment: read strictly, and every mistake named with what to write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nsps.runtime.settings import (
    CallbacksSettings,
    ConnectorSettings,
    EnrichmentSettings,
    IngressSettings,
    RetriesSettings,
    SettingsError,
    Shared,
)

SHARED = {
    "GOOGLE_CLOUD_PROJECT": "demo",
    "NSPS_DEPLOYMENT": "operator-a",
    "NSPS_FUNCTION": "ingress",
    "NSPS_DATABASE": "(default)",
    "NSPS_DIGEST_KEY": "sm://digest-key",
    "THREADS": "16",
    "WORKERS": "1",
    "PATH": "/usr/bin",
}
PUSH = {"audience": "https://f.example", "service_account": "invoker@demo.example"}
PORTABILLING = {"url": "https://pb.example/", "credentials": "sm://portabilling-api"}
HANDLER = {
    "name": "hss-2",
    "connector": "hss_http",
    "events": ["SIM/*", "Account/*/*"],
    "requires": ["sim_info", "account_info"],
    "group": "HSS",
    "kind": "state",
}
FULL = HANDLER | {
    "call_timeout_seconds": 15,
    "settings": {"url": "https://hss.example"},
    "secrets": {"api_key": "env:HSS_KEY"},
    "contract_token": None,
}
AUTH = {"method": "basic", "credentials": ["sm://espf-webhook", "sm://espf-webhook-next"]}
TOPIC = "projects/demo/topics/espf-events"


def env(**members: Any) -> dict[str, str]:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in members.items()
        if value is not None
    }
    return {**SHARED, **texts}


COMPLETE: list[tuple[type[Shared], dict[str, str]]] = [
    (IngressSettings, env(NSPS_EVENTS_TOPIC=TOPIC, NSPS_ESPF_AUTH=AUTH)),
    (
        EnrichmentSettings,
        env(
            NSPS_PUSH=PUSH,
            NSPS_ENRICHED_TOPIC="projects/demo/topics/enriched-events",
            NSPS_PORTABILLING=PORTABILLING,
            NSPS_HANDLERS=[HANDLER],
        ),
    ),
    (ConnectorSettings, env(NSPS_PUSH=PUSH, NSPS_PORTABILLING=PORTABILLING, NSPS_HANDLER=FULL)),
    (
        CallbacksSettings,
        env(
            NSPS_PORTABILLING=PORTABILLING,
            NSPS_HANDLERS_FULL=[FULL | {"kind": "asynchronous"}],
            NSPS_EVENTS_TOPIC=TOPIC,
        ),
    ),
    (
        RetriesSettings,
        env(
            NSPS_PUSH=PUSH,
            NSPS_PORTABILLING=PORTABILLING,
            NSPS_HANDLERS=[HANDLER],
            NSPS_EVENTS_TOPIC=TOPIC,
        ),
    ),
]


@pytest.mark.parametrize(("kind", "environ"), COMPLETE)
def test_a_complete_environment_is_read(kind: type[Shared], environ: dict[str, str]) -> None:
    settings = kind.from_env(environ)
    assert (settings.project, settings.threads) == ("demo", 16)


@pytest.mark.parametrize(("kind", "environ"), COMPLETE)
def test_each_missing_variable_is_named(kind: type[Shared], environ: dict[str, str]) -> None:
    for field in kind.model_fields.values():
        without = {name: value for name, value in environ.items() if name != field.alias}
        if field.is_required():
            with pytest.raises(SettingsError, match=rf"^{field.alias} is missing: write \S"):
                kind.from_env(without)
        else:
            kind.from_env(without)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        IngressSettings.from_env(env(THREADS="many", NSPS_EVENTS_TOPIC="t", NSPS_ESPF_AUTH="{"))
    text = str(raised.value)
    assert all(name in text for name in ("THREADS:", "NSPS_EVENTS_TOPIC:", "NSPS_ESPF_AUTH is not"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "digest"}, "NSPS_ESPF_AUTH.method"),
        ({"credentials": []}, "NSPS_ESPF_AUTH.credentials"),
        ({"credentials": ["sm://a", "sm://b", "sm://c"]}, "NSPS_ESPF_AUTH.credentials"),
        ({"credentials": ["plain-password"]}, r"NSPS_ESPF_AUTH.credentials\[0\]: not a secret"),
        ({"failure_status": 404}, "NSPS_ESPF_AUTH.failure_status"),
        ({"header": "Bad Header:"}, "NSPS_ESPF_AUTH.header"),
        ({"headr": "Authorization"}, "NSPS_ESPF_AUTH.headr"),
    ],
)
def test_a_wrong_member_is_named_and_its_value_not_shown(change: Any, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as raised:
        IngressSettings.from_env(env(NSPS_EVENTS_TOPIC=TOPIC, NSPS_ESPF_AUTH=AUTH | change))
    assert "plain-password" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "HSS"}, r"NSPS_HANDLER.name"),
        ({"name": "portabilling"}, r"NSPS_HANDLER.name: portabilling is a name of NSPS"),
        ({"name": "owner"}, r"NSPS_HANDLER.name: owner is a name of NSPS"),
        ({"events": ["SIM"]}, r"NSPS_HANDLER.events\[0\]: event pattern"),
        ({"requires": ["sim"]}, r"NSPS_HANDLER.requires\[0\]"),
        ({"kind": "queue"}, r"NSPS_HANDLER.kind"),
        ({"secrets": {"api_key": "hunter2"}}, r"NSPS_HANDLER.secrets.api_key"),
        ({"call_timeout_seconds": "15"}, r"NSPS_HANDLER.call_timeout_seconds"),
    ],
)
def test_a_wrong_handler_is_named(change: Any, named: str) -> None:
    environ = env(NSPS_PUSH=PUSH, NSPS_PORTABILLING=PORTABILLING, NSPS_HANDLER=FULL | change)
    with pytest.raises(SettingsError, match=named):
        ConnectorSettings.from_env(environ)


def test_two_handlers_of_one_name_and_callbacks_of_another_kind_are_refused() -> None:
    base = {"NSPS_PUSH": PUSH, "NSPS_PORTABILLING": PORTABILLING, "NSPS_EVENTS_TOPIC": TOPIC}
    with pytest.raises(SettingsError, match="two handlers are named hss-2"):
        RetriesSettings.from_env(env(**base, NSPS_HANDLERS=[HANDLER, HANDLER]))
    with pytest.raises(SettingsError, match="hss-2 is of kind state"):
        CallbacksSettings.from_env(env(**base, NSPS_HANDLERS_FULL=[FULL]))


def test_callbacks_takes_the_receipts_of_message_handlers_too() -> None:
    receipts = FULL | {"kind": "message", "receipts": True, "answer_within_hours": 72}
    base = {"NSPS_PORTABILLING": PORTABILLING, "NSPS_EVENTS_TOPIC": TOPIC}
    (handler,) = CallbacksSettings.from_env(env(**base, NSPS_HANDLERS_FULL=[receipts])).handlers
    assert handler.answers_later and handler.answer_within_hours == 72
    with pytest.raises(SettingsError, match="of kind message without receipts"):
        CallbacksSettings.from_env(env(**base, NSPS_HANDLERS_FULL=[FULL | {"kind": "message"}]))


@pytest.mark.parametrize("url", ["pb.example", "https://u:p@pb.example", "https://pb.example/?a=1"])
def test_an_address_with_credentials_or_query_is_refused(url: str) -> None:
    environ = env(
        NSPS_PORTABILLING=PORTABILLING | {"url": url},
        NSPS_HANDLERS_FULL=[FULL | {"kind": "asynchronous"}],
    )
    with pytest.raises(SettingsError, match=r"NSPS_PORTABILLING.url"):
        CallbacksSettings.from_env(environ)
