"""Telling ESPF: real HTTP codes, the same token as the main API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.espf.status_api import EspfStatusApi
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.login import ApiCredentials

from tests.unit.portabilling import fake_api
from tests.unit.portabilling.fake_api import FakeApi, Handler, fault, html, in_json, raw

STATUS = "/espf/v1/account/i/1000889/status"
GROUPS = "/espf/v1/groups"
CREATE = "/espf/v1/group/create"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        fake.answers[STATUS] = raw(b"")
        yield fake


@pytest.fixture
def status_api(api: FakeApi) -> EspfStatusApi:
    return EspfStatusApi(
        PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"), timeout_seconds=1)
    )


def test_a_status_is_posted_with_the_token_of_the_main_api(
    api: FakeApi, status_api: EspfStatusApi
) -> None:
    status_api.post(1000889, "HSS", "FAILED", "m" * 5000)
    (body,) = api.called(STATUS)
    assert body == {"status": "FAILED", "group": "HSS", "message": "m" * 4000}
    assert api.calls[-1][2] == "t1"
    status_api.post(1000889, "HSS", "OK")
    assert api.called(STATUS)[1] == {"status": "OK", "group": "HSS"}
    assert len(api.called("Session/login")) == 1


def test_a_post_ends_before_its_lease_whatever_other_calls_may_take(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsps.espf.status_api.CALL_SECONDS", 0.3)
    api.answers[STATUS] = fake_api.hang
    client = PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"), timeout_seconds=300)
    with pytest.raises(NoAnswer):
        EspfStatusApi(client).post(1000889, "HSS", "OK")


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_the_content_type_can_be_chosen(api: FakeApi, content_type: str) -> None:
    seen: list[str] = []

    def answer(handler: Handler) -> None:
        seen.append(handler.headers["Content-Type"])
        raw(b"")(handler)

    api.answers[STATUS] = answer
    client = PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"))
    EspfStatusApi(client, content_type).post(1000889, "HSS", "OK")
    assert seen == [content_type]
    assert api.called(STATUS) == [{"status": "OK", "group": "HSS"}]


def test_one_new_login_after_401(api: FakeApi, status_api: EspfStatusApi) -> None:
    status_api.post(1000889, "HSS", "OK")
    api.kill_tokens()
    status_api.post(1000889, "HSS", "RETRY")
    assert len(api.called("Session/login")) == 2
    api.answers[STATUS] = raw(b"", 401)
    with pytest.raises(Transient, match="token"):
        status_api.post(1000889, "HSS", "OK")
    assert len(api.called(STATUS)) == 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (in_json({"message": "unknown"}, 404), Terminal),
        (raw(b"", 404), Terminal),
        (raw(b"", 400), Terminal),
        (in_json({"message": "group"}, 422), Terminal),
        (fault("Server.Account.account_not_found"), Terminal),
        (fault("group_not_found"), Terminal),
        (fault("Method.not_found"), Transient),
        (in_json({"faultcode": "Server.ESPF.service_not_found"}, 404), Transient),
        (html(404), Transient),
        (html(200), Transient),
        (raw(b"", 302), Transient),
        (raw(b"", 403), Transient),
        (raw(b"", 429), Transient),
        (raw(b"", 503), Transient),
        (fault("standalone_mode"), Transient),
        (fake_api.hang, NoAnswer),
        (fake_api.drip, NoAnswer),
        (fake_api.reset, NoAnswer),
    ],
)
def test_what_answers_mean(
    api: FakeApi, status_api: EspfStatusApi, answer: fake_api.Answer, kind: type[Exception]
) -> None:
    api.answers[STATUS] = answer
    with pytest.raises(kind) as caught:
        status_api.post(1000889, "HSS", "OK", "canary of a message")
    assert isinstance(caught.value, Terminal) == (kind is Terminal)
    assert "canary" not in str(caught.value)
    assert len(api.called(STATUS)) == 1


def test_retry_after_is_passed_on(api: FakeApi, status_api: EspfStatusApi) -> None:
    def busy(handler: Handler) -> None:
        handler.send_response(429)
        handler.send_header("Retry-After", "7")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    api.answers[STATUS] = busy
    with pytest.raises(Transient) as caught:
        status_api.post(1000889, "HSS", "OK")
    assert caught.value.retry_after == 7


def test_a_status_that_there_is_not(api: FakeApi, status_api: EspfStatusApi) -> None:
    with pytest.raises(ValueError, match="write one of"):
        status_api.post(1, "HSS", "DONE")
    assert not api.calls


def test_groups(api: FakeApi, status_api: EspfStatusApi) -> None:
    listed = [{"i_group": "1", "name": "VoIP", "is_custom": False}]
    api.answers |= {GROUPS: in_json({"group_list": listed}), CREATE: in_json({"i_group": 1001})}
    assert status_api.groups() == {"VoIP"}
    api.next[GROUPS] = [raw(b'{"group_list": [{"name": "VoIP"}, {"name": "T\xe9l\xe9"}]}')]
    assert status_api.groups() == {"VoIP", "T\ufffdl\ufffd"}
    assert not status_api.ensure_group("VoIP")
    assert status_api.ensure_group("CRM")
    assert api.called(CREATE) == [{"name": "CRM"}]
    for wrong in ("", " ", "x" * 65):
        with pytest.raises(ValueError, match="1 to 64"):
            status_api.ensure_group(wrong)


@pytest.mark.parametrize("answer", [in_json([]), in_json({"group_list": [1]}), raw(b"{"), html()])
def test_groups_that_cannot_be_read(
    api: FakeApi, status_api: EspfStatusApi, answer: fake_api.Answer
) -> None:
    api.answers[GROUPS] = answer
    with pytest.raises(Transient, match=r"group_list|web page"):
        status_api.groups()
