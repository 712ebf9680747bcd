"""The REST client, over real HTTP: what each answer means, and who we are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unclear
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning, words_of
from nsps.transport.call import Call
from nsps.transport.deadline import Deadline
from nsps.transport.http import Answer, Http
from nsps.transport.rest import NoAuthentication, Rest, SecretHeader, SignedIn
from nsps_testing.faults import Reply, ScriptedHttp
from pydantic import ValidationError

PLAIN = AnswerRules()
PYHSS = AnswerRules(
    (
        AnswerRule(Meaning.ABSENT, status="200", is_value=None, hint="not found or refused"),
        AnswerRule(Meaning.EXISTS, status="400", text="UNIQUE constraint"),
        AnswerRule(Meaning.REFUSED, status="200", member="result", equals=False),
    )
)


@pytest.fixture
def system() -> Iterator[ScriptedHttp]:
    with ScriptedHttp() as scripted:
        yield scripted


def call() -> Call:
    return Call(Deadline(10), "reference")


def rest(system: ScriptedHttp, rules: AnswerRules = PLAIN) -> Rest:
    return Rest(Http(), system.url, NoAuthentication(), rules)


def answer(status: int, body: Any = None) -> Answer:
    return Answer(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (200, Meaning.DONE), (204, Meaning.DONE), (302, Meaning.LATER), (400, Meaning.REFUSED),
        (401, Meaning.SIGN_IN), (403, Meaning.LATER), (404, Meaning.ABSENT),
        (405, Meaning.LATER), (409, Meaning.EXISTS), (410, Meaning.ABSENT),
        (422, Meaning.REFUSED), (429, Meaning.LATER), (500, Meaning.UNCLEAR),
        (501, Meaning.LATER), (502, Meaning.UNCLEAR), (503, Meaning.LATER),
    ],
)  # fmt: skip
def test_a_well_behaved_api_needs_no_rule(status: int, meaning: Meaning) -> None:
    assert AnswerRules().read(answer(status)).meaning is meaning


@pytest.mark.parametrize(
    ("given", "meaning"),
    [
        (answer(200, None), Meaning.ABSENT),
        (answer(200, {"imsi": "1"}), Meaning.DONE),
        (answer(200, {"result": False}), Meaning.REFUSED),
        (answer(200, {"result": True}), Meaning.DONE),
        (answer(400, {"reason": "unique CONSTRAINT failed"}), Meaning.EXISTS),
        (answer(400, {"reason": "NOT NULL"}), Meaning.REFUSED),
        (Answer(200, {}, b"no json"), Meaning.DONE),
    ],
)
def test_what_a_system_does_otherwise_is_one_rule(given: Answer, meaning: Meaning) -> None:
    assert PYHSS.read(given).meaning is meaning


def test_an_operation_s_rule_comes_before_its_connector_s() -> None:
    rules = PYHSS.before([AnswerRule(Meaning.DONE, status="200", is_value=None)])
    assert rules.read(answer(200, None)).meaning is Meaning.DONE


@pytest.mark.parametrize(
    "wrong",
    [
        {"meaning": "done"},
        {"meaning": "fine", "status": "200"},
        {"meaning": "done", "status": "2x"},
        {"meaning": "done", "status": "200", "equals": 1},
        {"meaning": "done", "status": "200", "statu": "x"},
    ],
)
def test_a_rule_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AnswerRule.model_validate(wrong)


def test_reading_making_changing_and_removing(system: ScriptedHttp) -> None:
    api = rest(system)
    one = call()
    system.script(Reply(200, {"id": 7}), Reply(404), Reply(201, {"id": 8}), Reply(409))
    assert api.get("parties/7", one, fields="id") == {"id": 7}
    assert api.get("parties/9", one) is None
    assert not one.wrote
    assert api.create("parties", one, {"name": "Zoë"}) == {"id": 8}
    assert one.wrote
    assert api.create("parties", call(), {"name": "Zoë"}) is None
    system.script(Reply(200, {"id": 8}), Reply(204), Reply(404))
    assert api.change("parties/8", call(), {"name": "Bo"}) == {"id": 8}
    assert api.delete("parties/8", call()) and not api.delete("parties/8", call())


@pytest.mark.parametrize(
    ("status", "method", "error"),
    [
        (404, "change", Unclear),
        (400, "change", Terminal),
        (500, "change", Unclear),
        (503, "change", Transient),
        (400, "get", Transient),
        (500, "get", Transient),
        (409, "change", Unclear),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_its_kind(
    system: ScriptedHttp, status: int, method: str, error: type[Exception]
) -> None:
    system.always(Reply(status, {"message": "no such tariff"}, headers={"Retry-After": "7"}))
    with pytest.raises(error, match=rf"{status} no such tariff") as raised:
        if method == "get":
            rest(system).get("x", call())
        else:
            rest(system).change("x", call(), {})
    assert type(raised.value) is error
    if isinstance(raised.value, Transient):
        assert raised.value.retry_after == 7


def test_a_post_that_reads_is_no_write(system: ScriptedHttp) -> None:
    one = call()
    system.script(Reply(200, {"result": []}), Reply(400, {"error": "no such method"}))
    assert rest(system).request("POST", "", one, body={}, reads=True).is_done()
    assert not one.wrote and "Idempotency-Key" not in system.requests[0].headers
    with pytest.raises(Transient, match="no such method"):
        rest(system).request("POST", "", one, body={}, reads=True).is_done()


def test_pages_end_with_the_last(system: ScriptedHttp) -> None:
    system.script(Reply(200, {"items": [1, 2]}), Reply(200, {"items": [3]}))

    def following(page: Any, number: int) -> dict[str, Any] | None:
        return {"page": number + 1} if len(page["items"]) == 2 else None

    assert list(rest(system).pages("list", call(), "items", following)) == [1, 2, 3]
    system.script(Reply(200, {"nothing": []}))
    with pytest.raises(Transient, match="no list"):
        list(rest(system).pages("list", call(), "items"))


def test_a_refused_credential_is_read_again_and_the_call_repeated_once(
    system: ScriptedHttp,
) -> None:
    values = ["old-token-1234", "new-token-5678"]
    shown = SecretHeader(
        lambda: SecretValue(values[0]), lambda: SecretValue(values.pop(0) and values[0])
    )
    api = Rest(Http(), system.url, shown)
    system.script(Reply(401), Reply(200, {"ok": 1}))
    assert api.get("x", call()) == {"ok": 1}
    same = SecretHeader(lambda: SecretValue("token-9999"), lambda: SecretValue("token-9999"))
    system.script(Reply(401, {"message": "token-9999 is wrong"}))
    with pytest.raises(Transient, match=r"\*\*\* is wrong \(are the credentials") as error:
        Rest(Http(), system.url, same).get("x", call())
    assert "token-9999" not in str(error.value)


def test_a_session_is_opened_once_and_again_when_it_is_refused(system: ScriptedHttp) -> None:
    opened: list[int] = []

    def sign_in(_call: Call) -> tuple[SecretValue, float | None]:
        opened.append(1)
        return SecretValue(f"session-{len(opened)}"), None

    signed = SignedIn(sign_in, lambda token: {"X-Session": token}, lambda: 0.0)
    api = Rest(Http(), system.url, signed)
    system.script(*(Reply(200, {"n": 1}), Reply(200, {"n": 2}), Reply(401), Reply(200, {"n": 3})))
    assert [api.get("x", call()) for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert len(opened) == 2


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"7", b"null"])
def test_what_is_no_object_did_not_come_from_the_api(system: ScriptedHttp, body: bytes) -> None:
    system.script(Reply(200, body), Reply(200, body), Reply(200, body))
    with pytest.raises(Transient, match=r"no(t)? JSON"):
        rest(system).get("x", call())
    with pytest.raises(NoAnswer, match=r"no(t)? JSON"):
        rest(system).change("x", call(), {})
    bare = replace(rest(system), any_body=True)
    assert bare.change("x", call(), {}) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message": "no", "code": 7}', "no"),
        (b'{"error": {"message": "bad\\nline"}}', "bad line"),
        (b'{"detail": [{"msg": "one"}, {"msg": "two"}]}', "one; two"),
        (b'{"message": "A", "error": "B", "type": "Service_Error"}', "A: B [service_error]"),
        (b'{"type": "https://errors.example/7", "title": "A", "detail": "B"}', "A: B"),
        (b'{"code": "20", "reason": "No", "message": "no such profile"}', "No: no such profile"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": {"message": "A", "error": "A", "type": "X"}}', "A [x]"),
        (b'{"detail": [{"loc": ["body", "x"], "msg": "bad", "input": "Ki"}]}', "body.x: bad"),
        (b'{"message": "A", "details": [{"loc": ["x"], "msg": "bad"}]}', "A: x: bad"),
        (b"<html>\n<b>Bad Gateway</b></html>", "<html> <b>Bad Gateway</b></html>"),
        (b"", ""),
        (b"plain\x1b[2J text", "plain [2J text"),
        (b"\xff", "\ufffd"),
        (b"[" * 3000, "[" * 299 + "…"),
        (b'{"id": 1}', '{"id": 1}'),
    ],
)
def test_what_a_body_says_is_one_bounded_line(body: bytes, words: str) -> None:
    assert words_of(body) == words


NAMES = ["detail", "details", "message", "error", "type", "loc", "msg"]
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner),
)


@given(DOCUMENTS.map(lambda document: json.dumps(document).encode()) | st.binary())
def test_any_body_is_read(body: bytes) -> None:
    words = words_of(body)
    assert len(words) <= 300
    assert "\n" not in words


def test_a_secret_is_taken_out_before_the_line_is_cut_off() -> None:
    secret = "s3cret-" * 10
    body = json.dumps({"message": "x" * 280 + secret}).encode()
    assert words_of(body, lambda text: text.replace(secret, "***")) == "x" * 280 + "***"


def test_texts_that_must_all_occur() -> None:
    rule = AnswerRule(Meaning.EXISTS, status="400", text=("externalId", "exist"))
    assert rule.fits(answer(400, {"reason": "externalid 7 exists"}))
    assert not rule.fits(answer(400, {"reason": "the category does not exist"}))


def test_of_a_write_that_does_no_harm_twice_a_dead_connection_is_replaced(
    system: ScriptedHttp,
) -> None:
    api = rest(system)
    for repeatable in (True, False):
        system.script(Reply(200, {}), Reply(fault="close"), Reply(200, {}))
        api.request("POST", "x", call(), body={})
        if repeatable:
            assert api.request("POST", "x", call(), body={}, repeatable=True).is_done()
        else:
            with pytest.raises(NoAnswer):
                api.request("POST", "x", call(), body={})


def test_what_another_thread_has_read_anew_is_shown_without_reading_it_again() -> None:
    again: list[SecretValue] = []
    shown = SecretHeader(lambda: SecretValue("new"), again.pop)
    assert shown.renewed({"Authorization": "Bearer old"}, call()) == {"Authorization": "Bearer new"}
    again.append(SecretValue("new"))
    assert shown.renewed({"Authorization": "Bearer new"}, call()) is None
    assert again == []


def test_a_session_that_another_thread_has_opened_meanwhile_is_kept() -> None:
    opened: list[int] = []

    def sign_in(_call: Call) -> tuple[SecretValue, float | None]:
        opened.append(1)
        return SecretValue(f"session-{len(opened)}"), None

    signed = SignedIn(sign_in, lambda token: {"X-Session": token}, lambda: 0.0)
    old = signed.headers(call())
    new = signed.renewed(old, call())
    assert new == {"X-Session": "session-2"}
    assert signed.renewed(old, call()) == new
    assert len(opened) == 2
    assert signed.hide("session-1 has ended, try session-2") == "*** has ended, try ***"


def test_what_was_shown_and_other_secrets_are_not_repeated(system: ScriptedHttp) -> None:
    """The token in an answer may have been replaced by the time the answer is shown."""
    values = [SecretValue("old-token")]
    api = Rest(
        Http(),
        system.url,
        SecretHeader(lambda: values[-1], lambda: values[-1]),
        hide=lambda text: text.replace("callback-token", "***"),
    )
    system.always(Reply(503, {"message": "old-token, new-token, callback-token"}))
    said = api.request("GET", "x", call())
    values.append(SecretValue("new-token"))
    assert said.text == "503 ***, ***, ***"
