"""The API client against a real server: tokens that die, faults, HTML, hangs, resets."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from nsps.domain.outcome import NoAnswer, Transient
from nsps.portabilling import login
from nsps.portabilling.client import PortaBilling, ServicePaths
from nsps.portabilling.errors import (
    AUTH_CODES,
    BadAnswer,
    Fault,
    LoginRefused,
    NotFound,
    Reading,
    SessionDied,
)
from nsps.portabilling.login import ApiCredentials

from tests.unit.portabilling import fake_api
from tests.unit.portabilling.fake_api import FakeApi, fault, html, in_json, raw

WHAT, METHOD = "account_info", "Account/get_account_info"
GOOD = in_json({"account_info": {"i_account": 1}})


def test_one_login_serves_many_calls(api: FakeApi, client: PortaBilling) -> None:
    api.answers[METHOD] = GOOD
    for _ in range(5):
        reading = client.call(WHAT, {"i_account": 1})
        assert reading == Reading({"account_info": {"i_account": 1}})
    assert len(api.called("Session/login")) == 1
    assert api.called(METHOD)[0] == {"i_account": 1}
    assert {token for name, _, token in api.calls if name == METHOD} == {"t1"}


def test_an_api_token_logs_in_too(api: FakeApi) -> None:
    api.answers[METHOD] = GOOD
    api.credentials = {"login": "nsps", "token": "api-token"}
    client = PortaBilling(api.url + "/", lambda: ApiCredentials("nsps", token="api-token"))
    assert client.call(WHAT, {})


@pytest.mark.parametrize("code", sorted(AUTH_CODES))
def test_each_auth_fault_means_one_new_login_and_one_repetition(
    api: FakeApi, client: PortaBilling, code: str
) -> None:
    api.answers[METHOD] = GOOD
    api.dead_code = code
    client.call(WHAT, {})
    api.kill_tokens()
    assert client.call(WHAT, {})
    assert len(api.called("Session/login")) == 2
    assert len(api.called(METHOD)) == 3


def test_a_token_that_dies_at_every_call_ends_in_a_transient(
    api: FakeApi, client: PortaBilling
) -> None:
    api.answers[METHOD] = fault(fake_api.CHECK_FAILED)
    with pytest.raises(SessionDied, match=METHOD):
        client.call(WHAT, {})
    assert len(api.called(METHOD)) == 2
    assert len(api.called("Session/login")) == 2


def test_a_token_that_lives_for_one_call_only(api: FakeApi, client: PortaBilling) -> None:
    def once(handler: fake_api.Handler) -> None:
        api.kill_tokens()
        GOOD(handler)

    api.answers[METHOD] = once
    for _ in range(5):
        assert client.call(WHAT, {})
    assert len(api.called("Session/login")) == 5


def test_wrong_credentials_are_an_operators_message_without_secrets(api: FakeApi) -> None:
    client = PortaBilling(api.url, lambda: ApiCredentials("nsps", "wr0ng-canary"))
    with pytest.raises(LoginRefused) as caught:
        client.call(WHAT, {"id": "34600000001@msisdn"})
    assert "portabilling-api secret" in str(caught.value)
    assert "wr0ng-canary" not in repr(caught.value) + str(caught.value)
    assert "wr0ng-canary" not in repr(ApiCredentials("nsps", "wr0ng-canary"))
    assert not api.called(METHOD)


def test_a_rotated_password_is_read_again_at_once(api: FakeApi) -> None:
    api.answers[METHOD] = GOOD
    known = ["old"]
    client = PortaBilling(
        api.url,
        lambda: ApiCredentials("nsps", known[-1]),
        refused=lambda: known.append("right"),
    )
    assert client.call(WHAT, {})
    assert len(api.called("Session/login")) == 2


def test_a_password_that_must_be_changed(api: FakeApi, client: PortaBilling) -> None:
    api.next["Session/login"] = [fault("Server.Session.alert_You_must_change_password")]
    with pytest.raises(LoginRefused, match="wants the API user's password changed"):
        client.call(WHAT, {})


@pytest.mark.parametrize("code", ["standalone_mode", "Server.Account.standalone_mode"])
def test_a_standby_site(api: FakeApi, client: PortaBilling, code: str) -> None:
    api.answers[METHOD] = fault(code)
    with pytest.raises(Fault, match="read-only standby"):
        client.call(WHAT, {})


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (html(), BadAnswer, "HTML"),
        (html(502), BadAnswer, "HTTP 502 with HTML"),
        (raw(b"", 502), BadAnswer, "HTTP 502"),
        (raw(b"Not here", 404), BadAnswer, "HTTP 404"),
        (raw(b""), BadAnswer, "empty body"),
        (raw(b'{"account_info": {'), BadAnswer, "not .whole. JSON"),
        (raw(b"\xff\xfe"), BadAnswer, "JSON"),
        (in_json([1, 2]), BadAnswer, "not an object"),
        (raw(b"Internal error", 500), BadAnswer, "HTTP 500"),
        (fault("Server.Account.busy", "34600000001 of Ada Lovelace"), Fault, "Server.Account.busy"),
        (fault("34600000001 Ada"), Fault, "not safe to show"),
        (fake_api.truncated, NoAnswer, "cut off|lost|closed"),
        (fake_api.reset, NoAnswer, "reset|closed|lost"),
    ],
)
def test_bad_answers_are_transient_and_name_method_and_cause(
    api: FakeApi, client: PortaBilling, answer: fake_api.Answer, kind: type[Exception], words: str
) -> None:
    api.answers[METHOD] = answer
    with pytest.raises(Transient, match=words) as caught:
        client.call(WHAT, {"id": "34600000001@msisdn"})
    assert isinstance(caught.value, kind)
    assert METHOD in str(caught.value)
    assert "34600000001" not in str(caught.value)
    assert "Ada" not in str(caught.value)
    api.answers[METHOD] = GOOD
    assert client.call(WHAT, {})


@pytest.mark.parametrize("slow", [fake_api.hang, fake_api.drip])
def test_the_deadline_holds_for_the_whole_answer(api: FakeApi, slow: fake_api.Answer) -> None:
    api.answers[METHOD] = slow
    client = PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"), timeout_seconds=0.6)
    began = time.monotonic()
    with pytest.raises(NoAnswer, match=METHOD):
        client.call(WHAT, {})
    assert time.monotonic() - began < 2


def test_nobody_listens(api: FakeApi) -> None:
    url = api.url
    api.__exit__()
    client = PortaBilling(url, lambda: ApiCredentials("nsps", "right"), timeout_seconds=2)
    with pytest.raises(Transient, match="Session/login"):
        client.call(WHAT, {})
    api.__enter__()


@pytest.mark.parametrize(
    ("what", "params", "code"),
    [
        ("account_info", {"i_account": 1}, "Server.Account.account_not_found"),
        ("sim_card_info", {"i_account": 1}, "Server.SIMCard.card_not_found"),
        ("sim_card_info", {"i_account": 1}, "Server.Account.account_not_found"),
        ("sim_card_info", {"i_sim_card": 1}, "Server.SIMCard.SIM_Card_Not_Found"),
        ("number_info", {"number": "1"}, "Server.DID.number_not_found"),
        ("account_list", {"i_customer": 1}, "Server.Customer.customer_not_found"),
        ("account_list", {"id": "1"}, "Server.Account.account_not_found"),
    ],
)
def test_a_fault_that_names_the_object_asked_for_means_absence(
    api: FakeApi, client: PortaBilling, what: str, params: dict[str, object], code: str
) -> None:
    api.answers[getattr(client.services, what)] = fault(code)
    with pytest.raises(NotFound):
        client.call(what, params)


@pytest.mark.parametrize(
    ("what", "params"),
    [
        ("account_info", {"i_account": 1}),
        ("sim_card_info", {"i_account": 1}),
        ("account_list", {"limit": 1000, "offset": 0}),
    ],
)
@pytest.mark.parametrize(
    "answer",
    [
        *map(
            fault,
            (
                "Method.not_found",
                "not_found",
                "Server.Account.not_found",
                "Server.SIMCard.method_not_found",
                "Client.service_not_found",
                "Server.Session.session_not_found",
                "Server.CDR.xdr_not_found",
                "Server.Customer.customer_not_found",
                "Client.unknown_method",
            ),
        ),
        in_json({}),
        raw(b"null"),
    ],
)
def test_no_other_answer_means_absence(
    api: FakeApi,
    client: PortaBilling,
    what: str,
    params: dict[str, object],
    answer: fake_api.Answer,
) -> None:
    api.answers[getattr(client.services, what)] = answer
    with pytest.raises(Transient, match="says nothing of what was asked for") as caught:
        client.call(what, params)
    assert not isinstance(caught.value, NotFound)
    assert (f"nsps:portabilling.absence.{what}" in str(caught.value)) == (what != "account_list")


def test_what_else_means_absence_is_configured_for_each_call(api: FakeApi) -> None:
    absence = {"sim_card_info": frozenset({"Server.SIMCard.none", "empty"})}
    client = PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"), absence=absence)
    for answer in (fault("Server.SIMCard.none"), in_json({}), raw(b"null")):
        for what, expected in (("sim_card_info", NotFound), ("account_info", Transient)):
            api.answers[getattr(client.services, what)] = answer
            with pytest.raises(Transient) as caught:
                client.call(what, {"i_account": 1})
            assert isinstance(caught.value, NotFound) == (expected is NotFound)


LATIN1 = (
    b'{"account_info":{"i_account":277001,"id":"447700900001@msisdn","bill_status":"O",'
    b'"blocked":"Y","lastname":"M\xfcller"}}'
)


def test_a_bad_byte_in_a_name_does_not_keep_an_account_from_being_read(
    api: FakeApi, client: PortaBilling
) -> None:
    api.answers[METHOD] = raw(LATIN1)
    reading = client.call(WHAT, {"i_account": 277001})
    assert reading.damaged
    assert reading.members["account_info"]["blocked"] == "Y"
    assert reading.members["account_info"]["lastname"] == "M\ufffdller"


def test_a_bad_byte_in_a_fault_does_not_hide_its_code(api: FakeApi, client: PortaBilling) -> None:
    said = b'{"faultcode": "Server.Account.account_not_found", "faultstring": "M\xfcller\n"}'
    for status in (500, 200):
        api.answers[METHOD] = raw(said, status)
        with pytest.raises(NotFound):
            client.call(WHAT, {"i_account": 1})


def test_a_stale_kept_alive_connection_is_replaced_at_once(
    api: FakeApi, client: PortaBilling
) -> None:
    def then_closes(handler: fake_api.Handler) -> None:
        GOOD(handler)
        handler.close_connection = True  # without saying so

    api.answers[METHOD] = then_closes
    for _ in range(5):
        assert client.call(WHAT, {})


def test_sixteen_threads_make_one_login(api: FakeApi, client: PortaBilling) -> None:
    api.answers[METHOD] = GOOD
    api.login_delay = 0.2
    with ThreadPoolExecutor(16) as pool:
        for round_ in (1, 2):
            assert all(pool.map(lambda _: client.call(WHAT, {}), range(16)))
            assert len(api.called("Session/login")) == round_
            api.kill_tokens()
    assert api.most_in_login == 1


def test_a_login_that_fails_fails_for_all_who_wait_for_it(
    api: FakeApi, client: PortaBilling
) -> None:
    api.login_delay = 0.3
    api.credentials = {"login": "someone", "password": "else"}
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            client.call(WHAT, {})
        except LoginRefused as error:
            errors.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8
    assert len(api.called("Session/login")) <= 2


@pytest.fixture
def expiring(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> PortaBilling:
    """A client that renews a token only shortly before its end."""
    monkeypatch.setattr(login, "MARGIN_SECONDS", 0.01)
    return PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"), timeout_seconds=5)


def test_a_token_near_its_end_is_refreshed_without_a_login(
    api: FakeApi, expiring: PortaBilling
) -> None:
    api.answers[METHOD] = GOOD
    api.login_extra = {"expires_in": 0.02}
    expiring.call(WHAT, {})
    time.sleep(0.03)
    api.login_extra = {"expires_at": "2999-01-01 00:00:00"}
    expiring.call(WHAT, {})
    expiring.call(WHAT, {})
    assert len(api.called("Session/login")) == 1
    assert api.called("Session/refresh_access_token") == [{"refresh_token": "r1"}]


def test_where_the_refresh_is_refused_a_login_follows(api: FakeApi, expiring: PortaBilling) -> None:
    api.answers[METHOD] = GOOD
    api.login_extra = {"expires_in": 0.02}
    expiring.call(WHAT, {})
    time.sleep(0.03)
    api.next["Session/refresh_access_token"] = [fault("Server.Session.gone")]
    assert expiring.call(WHAT, {})
    assert len(api.called("Session/login")) == 2


@pytest.mark.parametrize(
    "expiry",
    [
        *({"expires_at": at} for at in ("2001-01-01 00:00:00", "soon", None, 7)),
        *({"expires_in": seconds} for seconds in (-5, 0, 100, "600", True)),
    ],
)
def test_an_odd_or_early_expiry_does_not_mean_a_login_or_refresh_per_call(
    api: FakeApi, client: PortaBilling, expiry: dict[str, object]
) -> None:
    api.answers[METHOD] = GOOD
    api.login_extra = expiry
    for _ in range(3):
        client.call(WHAT, {})
    assert len(api.called("Session/login")) == 1
    assert not api.called("Session/refresh_access_token")


@pytest.mark.parametrize("token", [None, "", 5, "bad\r\nX-Evil: 1", "ünsafe"])
def test_a_login_without_a_usable_token(api: FakeApi, client: PortaBilling, token: object) -> None:
    api.login_extra = {"access_token": token}
    with pytest.raises(BadAnswer, match="access_token"):
        client.call(WHAT, {})


def test_credentials_are_read_strictly() -> None:
    assert ApiCredentials.parse({"login": "a", "token": "t"}).params() == {
        "login": "a",
        "token": "t",
    }
    for wrong in ({}, {"login": "a"}, {"login": "", "password": "x"}, {"login": 1, "password": 2}):
        with pytest.raises(ValueError, match="write"):
            ApiCredentials.parse(wrong)


def test_a_secret_that_is_written_wrongly_can_be_corrected(api: FakeApi) -> None:
    api.answers[METHOD] = GOOD
    secret: dict[str, str] = {"login": "nsps"}
    client = PortaBilling(api.url, lambda: ApiCredentials.parse(secret))
    with pytest.raises(Transient, match="not complete"):
        client.call(WHAT, {})
    secret["password"] = "right"
    assert client.call(WHAT, {})


def test_service_paths() -> None:
    assert ServicePaths.of({"sim_card_info": "SIM/get"}).sim_card_info == "SIM/get"
    with pytest.raises(ValueError, match="sim_info"):
        ServicePaths.of({"sim_info": "SIM/get"})
