"""How the configuration reaches the functions: JSON in environment variables, never a secret."""

from __future__ import annotations

import json
from collections.abc import Iterable

from infra.components.secrets import reference
from infra.stack_config import Handler
from infra.stack_keys import Console, Espf, PortaBilling


def json_text(value: object) -> str:
    """JSON, the same text for the same value: a function is not deployed again for nothing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def espf_json(espf: Espf) -> dict[str, object]:
    """NSPS_ESPF_AUTH."""
    return {
        **espf.model_dump(mode="json"),
        "credentials": [reference(name) for name in espf.credentials],
    }


def portabilling_json(portabilling: PortaBilling) -> dict[str, object]:
    """NSPS_PORTABILLING."""
    return {
        **portabilling.model_dump(mode="json"),
        "credentials": reference(portabilling.credentials),
    }


def summary_json(handler: Handler) -> dict[str, object]:
    """One of NSPS_HANDLERS: what enrichment and retries need to know of a handler."""
    return {
        "name": handler.name,
        "connector": handler.connector,
        "kind": handler.kind,
        "events": list(handler.events),
        "requires": list(handler.requires),
        "group": handler.group,
        "max_rate": handler.max_rate,
        "retries": handler.retries.model_dump(mode="json"),
        "answer_within_hours": handler.answer_within_hours,
        "receipts": handler.receipts,
        "scheduled": handler.scheduled,
        "quality": handler.quality,
    }


def handler_json(handler: Handler, max_instances: int = 1) -> dict[str, object]:
    """NSPS_HANDLER. ``max_instances``: among how many the system's rate is divided."""
    rate = handler.max_rate
    return {
        **summary_json(handler),
        "instance_rate": rate / max_instances if rate else None,
        "breaker": handler.breaker.model_dump(mode="json"),
        "call_timeout_seconds": handler.call_timeout_seconds,
        "settings": dict(handler.settings),
        "secrets": {name: reference(secret) for name, secret in handler.secrets.items()},
        "contract_token": reference(handler.contract_token) if handler.contract_token else None,
    }


def callback_json(handler: Handler) -> dict[str, object]:
    """One of NSPS_HANDLERS_FULL; callbacks may not read the contract's token and needs it not."""
    return {**handler_json(handler), "contract_token": None}


def summaries_json(handlers: Iterable[Handler]) -> list[dict[str, object]]:
    """NSPS_HANDLERS."""
    return [summary_json(handler) for handler in handlers]


GCLOUD = "32555940559.apps.googleusercontent.com"
"""The audience of every token that ``gcloud auth print-identity-token`` gives to a person."""


def console_json(console: Console, url: str, iap_audience: str | None) -> dict[str, object]:
    """NSPS_CONSOLE. ``url``: the console's own address, the audience of tokens made out to it.

    ``iap_audience``: of the Identity-Aware Proxy's assertions, where there is one.
    """
    return {
        "audiences": [url, GCLOUD],
        "roles": console.model_dump(mode="json", include={"viewer", "operator", "admin"}),
        "interception": list(console.interception),
        "iap_audience": iap_audience,
        "viewers_see_subscribers": console.viewers_see_subscribers,
    }
