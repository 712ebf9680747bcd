"""The ingress's decisions: which answer for which webhook, without a network."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.event import EspfEvent, event_id
from nsps.domain.outcome import Transient
from nsps.flows.ingress import Ingress, respond
from nsps.runtime.lazy import Lazy
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import SecretMissing, SecretUnavailable, SecretValue
from nsps.runtime.settings import IngressSettings
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request, Response

TOPIC = "projects/demo/topics/espf-events"
BODY = b'{"event_type": "SIM/Updated", "variables": {"i_event": 7, "i_account": 9}}'
NOW = datetime(2026, 11, 21, 2, 10, 3, 123456, tzinfo=UTC)


class Topic:
    def __init__(self, error: Exception | None = None) -> None:
        self.messages: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.error = error

    def publish(
        self, topic: str, data: bytes, attributes: Mapping[str, str], timeout: float
    ) -> str:
        if self.error:
            raise self.error
        self.messages.append((topic, data, attributes))
        return "m-1"


class Vault:
    """Secrets of two ages: what is cached, and what a refresh finds."""

    def __init__(self, cached: dict[str, Any], renewed: dict[str, Any] | None = None) -> None:
        self.cached, self.renewed = cached, renewed
        self.refreshed = 0

    def get(self, ref: str) -> SecretValue:
        return self._give(self.cached.get(ref), ref)

    def refresh(self, ref: str) -> SecretValue:
        self.refreshed += 1
        return self._give((self.cached if self.renewed is None else self.renewed).get(ref), ref)

    def _give(self, found: Any, ref: str) -> SecretValue:
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise SecretMissing(f"no {ref}")
        return SecretValue(json.dumps(found), ref)


def ingress(vault: Any, topic: Topic | None = None, **auth: Any) -> Ingress:
    settings = IngressSettings.from_env(
        {
            "GOOGLE_CLOUD_PROJECT": "demo",
            "NSPS_DEPLOYMENT": "operator-a",
            "NSPS_FUNCTION": "ingress",
            "NSPS_DATABASE": "(default)",
            "NSPS_DIGEST_KEY": "sm://digest-key",
            "NSPS_EVENTS_TOPIC": TOPIC,
            "NSPS_ESPF_AUTH": json.dumps(
                {"method": "basic", "credentials": ["sm://one", "sm://two"], **auth}
            ),
        }
    )
    return Ingress(settings, vault, topic or Topic(), Redactor(b"k"), now=lambda: NOW)


def post(
    made: Ingress, password: str = "pw", body: bytes = BODY, **headers: str
) -> tuple[int, dict[str, Any], Response]:
    token = base64.b64encode(f"espf:{password}".encode()).decode()
    given_headers = {"Authorization": f"Basic {token}", **headers}
    environ = EnvironBuilder(method="POST", path="/x", data=body, headers=Headers(given_headers))
    response = respond(Request(environ.get_environ()), lambda: made)
    return response.status_code, json.loads(b"".join(response.response)), response  # type: ignore[arg-type]


OLD, NEW = {"user": "espf", "password": "pw"}, {"user": "espf", "password": "new"}


def test_an_accepted_webhook_is_published_with_its_identity() -> None:
    topic = Topic()
    status, answer, _ = post(ingress(Vault({"sm://one": OLD, "sm://two": NEW}), topic))
    ident = event_id("operator-a", EspfEvent("SIM/Updated", {"i_event": 7, "i_account": 9}))
    assert (status, answer) == (200, {"event_id": ident})
    ((name, data, attributes),) = topic.messages
    assert (name, data) == (TOPIC, BODY)
    assert attributes["event_id"] == ident
    assert attributes["received_at"] == "2026-11-21T02:10:03.123456+00:00"


@pytest.mark.parametrize("password", ["pw", "new"])
def test_either_of_two_credentials_is_let_in_without_a_refresh(password: str) -> None:
    vault = Vault({"sm://one": OLD, "sm://two": NEW})
    assert post(ingress(vault), password)[0] == 200
    assert vault.refreshed == 0


def test_a_rotated_credential_is_found_by_one_refresh() -> None:
    vault = Vault({"sm://one": OLD}, {"sm://one": NEW})
    assert post(ingress(vault), "new")[0] == 200
    assert vault.refreshed == 2


def test_an_unusable_credential_that_was_corrected_serves_at_once() -> None:
    vault = Vault({"sm://one": {"user": "espf"}}, {"sm://one": OLD})
    assert post(ingress(vault))[0] == 200
    assert vault.refreshed > 0


@pytest.mark.parametrize("failure_status", [401, 503])
def test_a_wrong_password_is_refused_as_configured(failure_status: int) -> None:
    topic = Topic()
    made = ingress(Vault({"sm://one": OLD}), topic, failure_status=failure_status)
    status, answer, response = post(made, "wrong")
    assert status == failure_status
    assert answer == {"error": "the webhook's credentials are not accepted"}
    assert ("Retry-After" in response.headers) == (failure_status == 503)
    assert topic.messages == []


@pytest.mark.parametrize(
    "cached",
    [
        {},
        {"sm://one": SecretUnavailable("away")},
        {"sm://one": NEW, "sm://two": SecretUnavailable("away")},
        {"sm://one": {"user": "espf"}},
        {"sm://one": ["espf", "pw"]},
    ],
)
def test_a_webhook_that_cannot_be_checked_comes_again(cached: dict[str, Any]) -> None:
    status, _, response = post(ingress(Vault(cached)))
    assert (status, response.headers["Retry-After"]) == (503, "10")


def test_one_readable_credential_is_enough_for_who_shows_it() -> None:
    assert post(ingress(Vault({"sm://two": OLD, "sm://one": SecretUnavailable("x")})))[0] == 200
    assert post(ingress(Vault({"sm://one": OLD})), "wrong")[0] == 401


@pytest.mark.parametrize("error", [Transient("Pub/Sub is away"), RuntimeError("anything")])
def test_whatever_fails_afterwards_is_503(error: Exception) -> None:
    status, answer, response = post(ingress(Vault({"sm://one": OLD}), Topic(error)))
    assert (status, response.headers["Retry-After"]) == (503, "10")
    assert str(error) not in answer["error"]


def test_an_instance_that_cannot_be_made_answers_503_and_tries_again() -> None:
    tries: list[int] = []

    def make() -> Ingress:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no credentials yet")
        return ingress(Vault({"sm://one": OLD}))

    once = Lazy(make)
    environ = EnvironBuilder(method="POST", data=BODY).get_environ()
    assert respond(Request(environ), once).status_code == 503
    assert post(once())[0] == 200
    assert once() is once()
    assert len(tries) == 2


def test_health_needs_no_instance() -> None:
    def never() -> Ingress:
        raise AssertionError

    response = respond(Request(EnvironBuilder(path="/health").get_environ()), never)
    assert response.status_code == 200
    assert json.loads(response.get_data())["status"] == "Healthy"


@pytest.fixture(scope="class")
def quiet() -> Iterator[None]:
    """Hundreds of webhooks are logged by nobody, and what comes after logs as before."""
    ours = logging.getLogger("nsps")
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    yield
    ours.setLevel(before)


@pytest.mark.usefixtures("quiet")
@given(st.binary(max_size=200), st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_body_and_content_type_has_one_of_the_answers(body: bytes, kind: str) -> None:
    kind = kind.replace("\r", "").replace("\n", "")
    status, _, _ = post(ingress(Vault({"sm://one": OLD})), body=body, **{"Content-Type": kind})
    assert status in (200, 400)
    charset = f"application/json; charset={kind}"
    status, _, _ = post(ingress(Vault({"sm://one": OLD})), body=BODY, **{"Content-Type": charset})
    assert status == 200


def test_a_secret_in_a_webhook_does_not_reach_the_queue() -> None:
    topic = Topic()
    body = b'{"event_type": "SIM/Updated", "variables": {"i_event": 7, "password": "CANARY-pw"}}'
    assert post(ingress(Vault({"sm://one": OLD}), topic), body=body)[0] == 200
    ((_, data, _attributes),) = topic.messages
    assert b"CANARY" not in data
    assert json.loads(data)["variables"] == {"i_event": 7, "password": "***"}


def test_a_secret_that_a_later_member_hides_does_not_reach_the_queue() -> None:
    """JSON may name a member twice: readers keep the last, the bytes hold both."""
    topic = Topic()
    body = b'{"event_type": "SIM/Updated", "variables": {"password": "c4nary", "password": null}}'
    assert post(ingress(Vault({"sm://one": OLD}), topic), body=body)[0] == 200
    data = topic.messages[0][1]
    assert b"c4nary" not in data
    assert json.loads(data) == {"event_type": "SIM/Updated", "variables": {"password": None}}
