"""A handler's function: what it makes of a message, and what it refuses to start with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from ssl import TLSVersion
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from flask import Request
from nsps.cloud.messages import EnrichedMessage, PushMessage
from nsps.cloud.receiver import Reply
from nsps.connector.base import Call, Confidential, Context, Scheduled
from nsps.connector.serve import HandlerFunction
from nsps.domain.event import EspfEvent, Owner, SnapshotTime
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import Block
from nsps.runtime.settings import SettingsError
from nsps.runtime.trace import Trace
from werkzeug.test import EnvironBuilder

from tests.unit.connector.systems import IMSI, Box, NoSettings
from tests.unit.test_tls import AUTHORITY_OF_TEST, OURS, Server

TOKEN = "token-of-the-contract"
WHEN = "2026-11-21T02:10:03.123456+00:00"
BLOCKS = (Block.ACCOUNT_INFO, Block.SIM_INFO)
PB = {"account_info": {"i_account": 1001, "blocked": False}, "sim_info": {"imsi": IMSI}}


class Subscribers(Box):
    """A box as a function makes it; its settings may name a block."""

    def __init__(self, settings: NoSettings, context: Context) -> None:
        super().__init__()

    @classmethod
    def reads(cls, settings: NoSettings) -> Iterable[tuple[str, Block]]:
        return [("columns.plan (product_info.name)", Block.PRODUCT_INFO)] if cls.plan else []

    plan = False


class WithPlan(Subscribers):
    plan = True


class Calling(Subscribers):
    """Asks its system over HTTPS how it is."""

    url = ""

    def __init__(self, settings: NoSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.http = context.http

    def check(self, call: Call) -> None:
        self.http.request("GET", self.url, deadline=call.deadline)


def function(
    box: type[Box],
    project: str,
    requires: Iterable[str] = BLOCKS,
    secrets: Mapping[str, str] | None = None,
    *,
    scheduled: bool = False,
) -> HandlerFunction:
    """``secrets``: of the handler, name -> value."""
    values = {f"SECRET_{name}": value for name, value in (secrets or {}).items()}
    handler = {
        "name": "hss",
        "connector": "box",
        "events": ["SIM/*"],
        "requires": [*requires],
        "secrets": {name: f"env:SECRET_{name}" for name in secrets or {}},
        "contract_token": "env:TOKEN",
        "scheduled": scheduled,
    }
    portabilling = {"url": "http://portabilling.test", "credentials": "env:API"}
    push = {"audience": "http://f.test", "service_account": "push@f.test", "unsigned": True}
    return HandlerFunction(
        box,
        {
            "GOOGLE_CLOUD_PROJECT": project,
            "NSPS_DEPLOYMENT": "demo",
            "NSPS_FUNCTION": "hss",
            "NSPS_DATABASE": "(default)",
            "NSPS_DIGEST_KEY": "env:DIGEST",
            "DIGEST": "a key of these tests, 32 bytes ..",
            "NSPS_PUSH": json.dumps(push),
            "NSPS_PORTABILLING": json.dumps(portabilling),
            "NSPS_HANDLER": json.dumps(handler),
            "TOKEN": TOKEN,
            **values,
        },
    )


def test_a_handler_has_its_certificates_on_its_own_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path, TLSVersion.TLSv1_3, http=True)
    monkeypatch.setattr(Calling, "url", f"https://localhost:{server.port}/")
    secrets = {"client_certificate": OURS.pem, "ca": AUTHORITY_OF_TEST.cert_pem}
    made: Any = function(Calling, "p", secrets=secrets).start()
    assert made.ask_system() is None
    assert made.connector.http is not made.context.http, "PortaBilling is not shown it"
    wrong: Any = function(Calling, "p", secrets=secrets | {"client_certificate": "-"}).start()
    assert "secret client_certificate (env:SECRET_client_certificate) holds no" in (
        wrong.ask_system() or ""
    )
    server.close()


class Mistaken(Subscribers):
    def check(self, call: Call) -> None:
        raise KeyError("hunter2")


def test_a_mistake_in_a_connectors_check_is_found_in_its_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: Any = function(Mistaken, "p").start()
    reason = made.ask_system()
    assert "KeyError" in reason and "its log" in reason and "hunter2" not in reason
    (line,) = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert line["severity"] == "ERROR" and ", in check" in line["stack_trace"]


def message(number: int, pb_data: Any, read: Iterable[Block] | None) -> PushMessage:
    data, attributes = EnrichedMessage(
        event_id=f"e-{number}",
        event=EspfEvent("SIM/Updated", {"i_account": 1001}),
        pb_data=pb_data,
        t=SnapshotTime(f"2026-11-21T02:10:03.00000{number}Z/e-{number}"),
        owner=Owner("account", "1001"),
        received_at=WHEN,
        created_at=WHEN,
        updated_at=WHEN,
        trace=Trace("t", "r"),
        handlers=("hss",),
        read=None if read is None else frozenset(read),
    ).to_pubsub()
    return PushMessage(data, attributes, f"m-{number}")


@pytest.fixture
def started(store: Any, target: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that has provisioned one subscriber."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", target)
    made: Any = function(Subscribers, store.client.project).start()
    assert made.deliver_push(message(1, PB, BLOCKS)).code == 204
    assert list(made.connector.holds) == [IMSI]
    return made


@pytest.mark.parametrize("unread", BLOCKS)
@pytest.mark.parametrize("read_the_other", [True, False])
def test_a_block_that_was_not_read_removes_nothing(
    started: Any, unread: Block, read_the_other: bool
) -> None:
    """The message was enriched before the handler required the block."""
    read = [block for block in BLOCKS if block is not unread and read_the_other]
    pb = {block.value: PB[block] for block in read}
    reply: Reply = started.deliver_push(message(2, pb, read))
    assert reply.code == 503 and reply.body
    assert "was not read" in reply.body["error"] and "requires" in reply.body["error"]
    assert unread in reply.body["error"] or not read_the_other
    assert list(started.connector.holds) == [IMSI]


@pytest.mark.parametrize("read", [BLOCKS, None])
def test_a_block_that_was_read_and_is_gone_removes_the_subscriber(started: Any, read: Any) -> None:
    """A message of an earlier version does not say what was read: all that was required."""
    assert started.deliver_push(message(2, {}, read)).code == 204
    assert started.connector.holds == {}


def test_a_setting_that_names_a_block_which_is_not_required_is_refused(
    store: Any, target: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        function(WithPlan, store.client.project).start()
    assert str(refused.value) == (
        "handler hss, settings.columns.plan (product_info.name): needs product_info, which is not "
        "read from PortaBilling: add product_info to requires"
    )
    function(WithPlan, store.client.project, [*BLOCKS, Block.PRODUCT_INFO]).start()


def test_an_answer_of_the_contract_repeats_no_imsi(
    store: Any, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connector's error may quote an address, and an address an IMSI."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", target)
    made = function(Subscribers, store.client.project)
    box: Any = made.start().connector
    box.seen.before = [Transient(f"GET http://hss.test/subscribers/{IMSI}: 503 busy")]
    event = {"event_type": "SIM/Updated", "variables": {"i_account": 1001}}
    document = {
        "event_id": "e-9",
        "data": event,
        "pb_data": PB,
        "handler_id": "hss",
        "created_at": WHEN,
        "updated_at": WHEN,
        "status": "received",
    }
    request = Request(
        EnvironBuilder(
            method="POST",
            path="/process-event",
            json=document,
            headers=[("Authorization", f"Bearer {TOKEN}")],
        ).get_environ()
    )
    reply = made.handle(request)
    assert reply.code == 500, reply.body
    assert "503 busy" in json.dumps(reply.body) and IMSI not in json.dumps(reply.body)


# ---- what is due, and what is confidential -------------------------------------------------------


class Watcher(Calling, Scheduled, Confidential):
    """Its schedule fails with what the test says."""

    fails: ClassVar[Exception | None] = None

    def on_schedule(self, call: Call) -> None:
        if self.fails:
            raise self.fails

    def confidential(self, call: Call) -> list[dict[str, Any]]:
        return [{"target": IMSI}]


def asked(box: type[Box], path: str, method: str = "POST", **more: Any) -> Reply:
    made, welcome = function(box, "p", **more), SimpleNamespace(check=lambda headers: None)
    setattr(made.start(), "guard", welcome)  # noqa: B010  (the real one is tested elsewhere)
    request = EnvironBuilder(method=method, path=path, json={} if method == "POST" else None)
    return made.handle(Request(request.get_environ()))


@pytest.mark.parametrize(
    ("fails", "status"),
    [(None, 200), (Transient("not all could be followed"), 503), (ValueError(IMSI), 500)],
)
def test_the_schedule_is_kept_or_not(
    monkeypatch: pytest.MonkeyPatch, fails: Exception | None, status: int
) -> None:
    monkeypatch.setattr(Watcher, "fails", fails)
    reply = asked(Watcher, "/scheduled", scheduled=True)
    assert reply.code == status and IMSI not in json.dumps(reply.body)


def test_what_a_connector_keeps_confidential_is_its_own() -> None:
    told = asked(Watcher, "/confidential", scheduled=True)
    assert told.body == {"confidential": [{"target": IMSI}]}
    assert asked(Calling, "/confidential").code == 409
    assert asked(Calling, "/scheduled").code == 409
    assert asked(Watcher, "/scheduled", method="GET", scheduled=True).code == 405
    for path in ("/scheduled", "/confidential"):
        stranger = Request(EnvironBuilder(method="POST", path=path, json={}).get_environ())
        assert function(Watcher, "p", scheduled=True).handle(stranger).code == 401


class TunedSettings(NoSettings):
    url: str = "https://hss.test/api"


class Tuned(Calling):
    settings_model = TunedSettings

    def __init__(self, settings: NoSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.settings = settings


def test_the_settings_are_shown_with_their_defaults_and_of_secrets_the_names() -> None:
    shown = asked(Tuned, "/settings", secrets={"token": "s3cr3t-value"}).body or {}
    assert shown["settings"] == {"url": "https://hss.test/api"}
    assert shown["secrets"] == ["token"] and "s3cr3t" not in json.dumps(shown)
    assert shown["call_timeout_seconds"] == 15.0 and shown["breaker"]["failures"] == 20


def test_a_schedule_that_the_manifest_does_not_name_is_refused() -> None:
    with pytest.raises(SettingsError, match="scheduled: true"):
        function(Watcher, "p").start()
