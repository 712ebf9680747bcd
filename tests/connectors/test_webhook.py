"""The webhook connector: the standard tests, and an existing NSPS connector in its own process."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar, cast
from unittest import mock

import flask
import pytest
import requests
from nsps.cloud.messages import EnrichedMessage, Publisher, PushMessage, RawEventMessage
from nsps.connector.base import Ordering
from nsps.connector.serve import HandlerFunction
from nsps.domain.event import EspfEvent, Owner, SnapshotTime, event_id
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.runtime.lazy import Lazy
from nsps.runtime.settings import SettingsError
from nsps.runtime.trace import Trace
from nsps_local.firestore import FirestoreServer
from nsps_local.manifest import load
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    MessageStandardTests,
    Reply,
    ScriptedHttp,
    enriched,
    make_call,
    make_context,
    rotated_parts,
)
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from werkzeug.test import EnvironBuilder

from functions.connectors.webhook import connector as webhook
from functions.connectors.webhook import contract
from functions.connectors.webhook.connector import WebhookConnector
from functions.connectors.webhook.settings import Settings

TOKEN = "s3cret-token-of-the-partner"
PB = {
    "account_info": {
        "i_account": 277147,
        "i_customer": 6392,
        "id": "79123456789@msisdn",
        "bill_status": "open",
        "blocked": False,
        "email": "ann@example.net",
    },
    "sim_info": {"i_sim_card": 3793, "imsi": "001010000020349", "iccid": "8970101000000203493"},
}
OPEN = {"allow_http": True}
_numbers = itertools.count(1)


def connector(url: str, token: str = TOKEN, **settings: Any) -> WebhookConnector:
    model = Settings.model_validate({"url": url, **OPEN, **settings})
    return WebhookConnector(model, make_context({"token": token}, handler="partner"))


def deliver(made: WebhookConnector, pb: Any = PB, seconds: float = 10.0) -> str:
    return made.send(made.message(enriched(pb)), make_call(seconds))


class Sample:
    """The sample connector's process."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("sample_connector.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), TOKEN],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/process-event"

    def core(self, mode: str) -> None:
        requests.post(f"{self.origin}/core", json={"mode": mode}, timeout=5)

    def seen(self) -> dict[str, Any]:
        return requests.get(f"{self.origin}/core", timeout=5).json()  # type: ignore[no-any-return]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(5)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def sample_process() -> Iterator[Sample]:
    sample = Sample()
    yield sample
    sample.close()


@pytest.fixture
def sample(sample_process: Sample) -> Sample:
    sample_process.core("well")
    return sample_process


class TestStandard(MessageStandardTests, HttpStandardTests):
    connector_class = WebhookConnector
    pb = PB
    rules = contract.answers(())
    secrets: ClassVar = {"token": TOKEN}
    deadline = 0.5
    hidden_failures = ()
    any_body = True

    @pytest.fixture
    def system(self, sample: Sample) -> Iterator[ChaosProxy]:
        with ChaosProxy(("127.0.0.1", sample.port)) as proxy:
            yield proxy

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": f"{url}/process-event", **OPEN}


class TestAnExistingConnector:
    """What a partner's connector gets, and how its answers are read."""

    def test_it_processes_the_event(self, sample: Sample) -> None:
        assert deliver(connector(sample.url)) == "202 Event processed successfully"
        seen = sample.seen()
        assert seen["hlr"]["001010000020349"] == {"msisdn": "79123456789", "barred": False}
        last = seen["received"][-1]
        assert last["trace"] == make_call().trace_id
        assert last["request"] == "req-1"
        event = enriched(PB)
        assert last["event"] == {
            "event_id": event.event_id,
            "data": {"event_type": "SIM/Updated", "variables": {"i_account": 277147}},
            "pb_data": PB
            | {
                "account_info": PB["account_info"] | {"assigned_addons": [], "service_features": []}
            },
            "handler_id": "partner",
            "status": "queued",
            "created_at": event.created_at,
            "updated_at": event.updated_at,
        }

    def test_an_event_without_data_carries_an_empty_object(self) -> None:
        """The contract's pb_data defaults to {}; a published connector crashes on null."""
        message = connector("https://partner.example").message(enriched({}))
        assert message.content["pb_data"] == {}

    def test_it_is_well(self, sample: Sample) -> None:
        connector(sample.url).check(make_call())
        connector(sample.url, health_url=f"{sample.origin}/no-such-page").check(make_call())

    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            ("timeout", "422 Timeout: Timed out [service_error]"),
            ("busy", "429 Too many requests to API Core: Rate limit exceeded [rate_limit_error]"),
            ("error", "500 API Core HTTP error: Internal server error [service_error]"),
            ("away", "503 Core service is not available: Connection timeout [connection_error]"),
        ],
    )
    def test_a_fault_behind_it_is_tried_again(self, sample: Sample, mode: str, words: str) -> None:
        sample.core(mode)
        with pytest.raises(Transient, match="answered") as error:
            deliver(connector(sample.url))
        assert words in str(error.value)
        assert error.value.retry_after == (3 if mode == "busy" else None)
        assert not isinstance(error.value, NoAnswer)

    def test_a_token_that_is_refused_is_tried_again(self, sample: Sample) -> None:
        with pytest.raises(Transient, match="Invalid access token") as error:
            deliver(connector(sample.url, token="another-token"))
        assert "another-token" not in str(error.value)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_token_is_read_again_and_the_event_sent_once_more(self, status: int) -> None:
        with ScriptedHttp() as system:
            system.script(Reply(status, {}), Reply(202, {"message": "ok"}))
            made = WebhookConnector(
                Settings(url=system.url, allow_http=True), rotated_parts("token", "old", "new")
            )
            assert deliver(made) == "202 ok"
            shown = [each.headers["Authorization"] for each in system.requests]
        assert shown == ["Bearer old", "Bearer new"]

    @pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/health", 405)])
    def test_a_wrong_address_names_the_setting(
        self, sample: Sample, path: str, status: int
    ) -> None:
        with pytest.raises(Transient, match=f"{status} .*check the setting url"):
            deliver(connector(f"{sample.origin}{path}"))

    def test_not_found_in_the_contract_s_words_does_not_blame_the_address(self) -> None:
        said = {"message": "Resource not found", "error": "no such SIM", "type": "NOT_FOUND_ERROR"}
        with ScriptedHttp() as system:
            system.always(Reply(404, said))
            with pytest.raises(Transient, match="the connector itself says so") as error:
                deliver(connector(system.url))
        assert "no such SIM" in str(error.value) and "check the setting" not in str(error.value)

    def test_validation_is_final_only_if_the_settings_say_so(self, sample: Sample) -> None:
        made = connector(sample.url)
        message = made.message(enriched(PB))
        message.content["data"].pop("variables")
        with pytest.raises(Transient, match=r"body\.data\.variables: Field required"):
            made.send(message, make_call())
        with pytest.raises(Terminal, match=r"body\.data\.variables: Field required"):
            connector(sample.url, permanent_codes=[422]).send(message, make_call())


class Handler:
    """The partner's handler as its function runs it; what it publishes is kept."""

    def __init__(
        self, url: str, project: str, *, call_seconds: float = 15.0, **settings: Any
    ) -> None:
        handler = {
            "name": "partner",
            "connector": "webhook",
            "kind": "message",
            "events": ["SIM/*", "Account/*"],
            "requires": ["account_info", "sim_info"],
            "group": None,
            "call_timeout_seconds": call_seconds,
            "settings": {"url": url, **OPEN, **settings},
            "secrets": {"token": "env:TOKEN"},
        }
        push = {"audience": "http://f.test", "service_account": "push@f.test", "unsigned": True}
        portabilling = {"url": "http://portabilling.test", "credentials": "env:TOKEN"}
        self.environ = {
            "GOOGLE_CLOUD_PROJECT": project,
            "NSPS_DEPLOYMENT": "test",
            "NSPS_FUNCTION": "partner",
            "NSPS_DATABASE": "(default)",
            "NSPS_DIGEST_KEY": "env:TOKEN",
            "NSPS_EVENTS_TOPIC": "projects/test/topics/espf-events",
            "NSPS_PUSH": json.dumps(push),
            "NSPS_PORTABILLING": json.dumps(portabilling),
            "NSPS_HANDLER": json.dumps(handler),
            "TOKEN": TOKEN,
        }
        self.published: list[RawEventMessage] = []
        self.fails: list[Exception] = []

    def start(self) -> Handler:
        self._function = HandlerFunction(WebhookConnector, self.environ)
        publisher = Lazy(lambda: cast(Publisher, self))
        self._function.start().context.publisher = publisher
        return self

    def publish(self, topic: str, data: bytes, attributes: dict[str, str]) -> str:
        assert topic == self.environ["NSPS_EVENTS_TOPIC"]
        if self.fails:
            raise self.fails.pop()
        self.published.append(RawEventMessage.from_push(PushMessage(data, attributes, "1")))
        return "1"

    def bring(self, message: EnrichedMessage) -> int:
        """What Pub/Sub is answered."""
        data, attributes = message.to_pubsub()
        body = {"data": base64.b64encode(data).decode(), "attributes": attributes, "messageId": "1"}
        builder = EnvironBuilder("/", method="POST", json={"message": body})
        return self._function.handle(flask.Request(builder.get_environ())).code


def read_at(
    second: int, event_type: str, *, blocked: bool = False, i_event: int = 7, **more: Any
) -> EnrichedMessage:
    """An event of the one account, with what PortaBilling said of it at that second."""
    event = EspfEvent(event_type, {"i_event": i_event, "i_account": 277147})
    ident = event_id("test", event)
    at = f"2026-11-21T02:10:{second:02}.000000Z"
    return EnrichedMessage(
        event_id=ident,
        event=event,
        pb_data=PB | {"account_info": PB["account_info"] | {"blocked": blocked}},
        t=SnapshotTime(f"{at}/{ident}"),
        owner=Owner("account", "277147"),
        received_at="2026-11-21T02:10:00.000000+00:00",
        created_at=at,
        updated_at=at,
        trace=Trace("0123456789abcdef0123456789abcdef", "req-1"),
        handlers=("partner",),
        **more,
    )


@pytest.fixture(scope="module")
def firestore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with FirestoreServer(tmp_path_factory.mktemp("firestore")) as server:
        emulators = {"FIRESTORE_EMULATOR_HOST": server.target, "PUBSUB_EMULATOR_HOST": "unused"}
        with mock.patch.dict(os.environ, emulators):
            yield


class TestAConnectorThatTakesItsTime:
    """The contract's sample waits 30 s for its own system. Here a twentieth of each time."""

    FASTER = 20
    ANSWERS_AFTER = 20.0

    def deliver(self, seconds: float) -> tuple[list[int], int]:
        """What three events, each brought twice at once, are answered; what the partner got."""
        project = f"webhook-{next(_numbers)}"
        with ScriptedHttp() as partner, ThreadPoolExecutor(2) as pool:
            partner.always(Reply(202, {"message": "ok"}, delay=self.ANSWERS_AFTER / self.FASTER))
            handler = Handler(partner.url, project, call_seconds=seconds / self.FASTER).start()
            codes: list[int] = []
            for number in (1, 2, 3):
                message = read_at(number, "SIM/Updated", i_event=number)
                codes += pool.map(handler.bring, [message] * 2)
            return codes, len(partner.requests)

    def test_after_20_s_it_has_each_event_once(self, firestore: None) -> None:
        manifest = load(Path(webhook.__file__).with_name("connector.yaml"))
        assert manifest.call_timeout_seconds > 30
        assert self.deliver(manifest.call_timeout_seconds) == ([204] * 6, 3)

    def test_with_less_time_than_it_needs_nothing_is_delivered(self, firestore: None) -> None:
        codes, _ = self.deliver(15)
        assert set(codes) == {503}


class TestAConnectorThatIgnoresTypes:
    """Only the partner knows which events it processes. A block came as two, in the wrong order."""

    @pytest.fixture
    def handler(self, firestore: None, sample: Sample) -> Handler:
        return Handler(sample.url, f"webhook-{next(_numbers)}").start()

    def test_a_block_is_not_lost_behind_an_event_that_is_ignored(
        self, handler: Handler, sample: Sample
    ) -> None:
        assert handler.bring(read_at(1, "SIM/Created", blocked=False)) == 204
        assert handler.bring(read_at(3, "Account/Blocked", blocked=True)) == 204
        updated = read_at(2, "SIM/Updated", blocked=False)
        assert handler.bring(updated) == 204
        assert sample.seen()["hlr"]["001010000020349"]["barred"] is False
        (raw,) = handler.published
        assert (raw.event, raw.event_id) == (updated.event, updated.event_id)
        assert (raw.handler, raw.run, raw.retry_round) == ("partner", None, None)
        assert (raw.received_at, raw.trace) == (updated.received_at, updated.trace)
        assert handler.bring(read_at(4, "SIM/Updated", blocked=True)) == 204
        assert sample.seen()["hlr"]["001010000020349"]["barred"] is True
        assert len(handler.published) == 1

    def test_the_message_comes_again_until_its_event_is_published(self, handler: Handler) -> None:
        handler.fails = [Transient("Pub/Sub did not confirm the message")]
        assert handler.bring(read_at(3, "Account/Blocked", blocked=True)) == 204
        assert handler.bring(read_at(2, "SIM/Updated", blocked=False)) == 503
        assert handler.bring(read_at(2, "SIM/Updated", blocked=False)) == 204
        assert len(handler.published) == 1

    @pytest.mark.parametrize("more", [{"run": 2}, {"retry_round": 3}])
    def test_a_replay_and_a_parked_event_stay_what_they_are(
        self, handler: Handler, more: dict[str, int]
    ) -> None:
        assert handler.bring(read_at(3, "Account/Blocked", blocked=True)) == 204
        assert handler.bring(read_at(2, "SIM/Updated", blocked=False, **more)) == 204
        (published,) = handler.published
        kept = (published.run, published.retry_round)
        assert kept == (more.get("run"), more.get("retry_round"))

    def test_where_only_the_data_counts_nothing_is_read_again(
        self, firestore: None, sample: Sample
    ) -> None:
        handler = Handler(sample.url, f"webhook-{next(_numbers)}", ordering="state").start()
        assert handler.bring(read_at(3, "Account/Blocked", blocked=True)) == 204
        assert handler.bring(read_at(2, "SIM/Updated", blocked=False)) == 204
        assert handler.published == []

    def test_without_a_topic_to_publish_to_it_does_not_start(self, sample: Sample) -> None:
        handler = Handler(sample.url, "webhook-0")
        del handler.environ["NSPS_EVENTS_TOPIC"]
        with pytest.raises(SettingsError, match=r"NSPS_EVENTS_TOPIC is missing.*reads_again: true"):
            handler.start()


class TestSigned:
    """A receiver verifies with the specification's own library."""

    KEYS = tuple(f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in range(3))

    def signed(self, url: str, **keys: str) -> WebhookConnector:
        made = Settings(url=url, allow_http=True)
        return WebhookConnector(made, make_context({"token": TOKEN, **keys}, handler="partner"))

    def test_a_receiver_verifies_with_either_key_while_two_are_in_use(self) -> None:
        old, new, another = self.KEYS
        with ScriptedHttp() as receiver:
            receiver.always(Reply(202, {}))
            made = self.signed(receiver.url, signing_key=old, signing_key_next=new)
            assert deliver(made) == "202 {}"
            (seen,) = receiver.requests
        for key in (old, new):
            verified = Webhook(key).verify(seen.body, dict(seen.headers))
            assert verified["event_id"] == enriched(PB).event_id
        for key, body in ((another, seen.body), (old, seen.body.replace(b"false", b"true "))):
            with pytest.raises(WebhookVerificationError):
                Webhook(key).verify(body, dict(seen.headers))
        assert seen.headers["Authorization"] == f"Bearer {TOKEN}"

    def test_a_repetition_has_the_same_id_and_another_delivery_another(self) -> None:
        with ScriptedHttp() as receiver:
            receiver.always(Reply(202, {}))
            made = self.signed(receiver.url, signing_key=self.KEYS[0])
            for reference in ("event/message", "event/message", "event.1/message"):
                made.send(made.message(enriched(PB)), make_call(reference=reference))
            first, again, replay = (seen.headers["webhook-id"] for seen in receiver.requests)
            for seen in receiver.requests:
                Webhook(self.KEYS[0]).verify(seen.body, dict(seen.headers))
        assert first == again != replay and "." not in first

    @pytest.mark.parametrize(
        "key", ["whsec_c2hvcnQ=", "whsec_" + "*" * 44, KEYS[0].removeprefix("whsec_")]
    )
    def test_what_is_no_key_sends_nothing_and_says_so(self, key: str) -> None:
        with ScriptedHttp() as receiver:
            with pytest.raises(Transient, match="no signing key: write whsec_") as error:
                deliver(self.signed(receiver.url, signing_key=key))
            assert receiver.requests == []
        assert not isinstance(error.value, NoAnswer) and key not in str(error.value)


class TestWaiting:
    @pytest.mark.parametrize("status", [425, 429, 503])
    def test_a_date_is_heard(self, status: int) -> None:
        with ScriptedHttp() as system:
            later = formatdate(usegmt=True, timeval=4_000_000_000)
            system.always(Reply(status, {}, headers={"Retry-After": later}))
            with pytest.raises(Transient) as error:
                deliver(connector(system.url))
        assert error.value.retry_after is not None and error.value.retry_after > 1e9


def test_a_connection_reset_while_it_is_made_was_never_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reset(*_: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("nsps.transport.http._connect", reset)
    with pytest.raises(Transient, match="nothing was sent") as error:
        deliver(connector("http://127.0.0.1:9/"))
    assert not isinstance(error.value, NoAnswer)


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"url": "http://connector.example.net/"},
            {"url": "ftp://connector.example.net/"},
            {"url": "https://user:password@connector.example.net/"},
            {"url": "connector.example.net"},
            {"url": "https://x.example.net/", "health_url": "http://x.example.net/health"},
            {"url": "https://x.example.net/", "permanent_codes": [429]},
            {"url": "https://x.example.net/", "permanent_codes": [401]},
            {"url": "https://x.example.net/", "permanent_codes": [500]},
            {"url": "https://x.example.net/", "ordering": "oldest"},
        ],
    )
    def test_mistakes_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Settings.model_validate(wrong)

    @pytest.mark.parametrize(
        ("url", "health"),
        [
            ("https://x.example.net", "https://x.example.net/health"),
            ("https://x.example.net/process-event", "https://x.example.net/health"),
            ("https://x.example.net/hss/process-event", "https://x.example.net/hss/health"),
            ("https://x.example.net/hss/", "https://x.example.net/hss/health"),
        ],
    )
    def test_health_is_beside_the_service(self, url: str, health: str) -> None:
        assert Settings(url=url).health == health

    def test_newest_wins_unless_the_settings_say_otherwise(self) -> None:
        assert connector("https://x.example.net").ordering is Ordering.NEWEST
        for ordering in Ordering:
            assert connector("https://x.example.net", ordering=ordering).ordering is ordering
