"""The SMS connector: the standard tests before a double of Kannel, and what a text becomes.

tests/systems/test_kannel.py runs it against Kannel itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from nsps.connector.base import AnswerState, CallbackInvalid, CallbackRefused, CallbackRequest
from nsps.connector.proof import proof_of
from nsps.domain.outcome import NoAnswer, Terminal
from nsps.domain.snapshot import Block
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    MessageStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.sms_kannel import reports
from functions.connectors.sms_kannel.connector import ANSWERS, SmsConnector
from functions.connectors.sms_kannel.settings import DEFAULT_TEXTS, Settings
from functions.connectors.sms_kannel.text import coded

SECRETS = {"password": "kannel-password-4711", "callback": "a-key-for-the-reports-of-messages"}
PB: dict[str, dict[str, Any]] = {
    "account_info": {"i_account": 277147, "id": "79123456789@msisdn", "blocked": True},
    "sim_info": {"imsi": "001010000020349", "iccid": "8970101000000203493"},
}
OPEN = PB | {"account_info": PB["account_info"] | {"blocked": False}}
GIVEN = {
    "user": "nsps",
    "sender": "Example",
    "reports_url": "http://127.0.0.1:9/sms",
    "allow_http": True,
}


def kannel(seen: Seen) -> Reply:
    """sendsms as Kannel 1.4.5 answers."""
    headers = {name.lower(): value for name, value in seen.headers.items()}
    if headers.get("x-kannel-username") != "nsps" or (
        headers.get("x-kannel-password") != SECRETS["password"]
    ):
        return Reply(403, "Authorization failed for sendsms")
    if "x-kannel-to" not in headers:
        return Reply(400, "Missing receiver(s) number(s), rejected")
    return Reply(202, "0: Accepted for delivery")


def connector(url: str = "http://127.0.0.1:9/", **settings: Any) -> SmsConnector:
    model = Settings.model_validate({"url": url, **GIVEN, **settings})
    return SmsConnector(model, make_context(SECRETS, handler="sms"))


def text_of(made: SmsConnector, event_type: str = "Account/Blocked", pb: Any = PB) -> str | None:
    message = made.message(enriched(pb, event_type=event_type))
    return None if message is None else message.content.text.text


class TestStandard(MessageStandardTests, HttpStandardTests):
    connector_class = SmsConnector
    pb = PB
    event_type = "Account/Blocked"
    secrets = SECRETS
    silent = (
        ("Account/Blocked", {}),
        ("Account/Blocked", OPEN),
        ("Account/Unblocked", PB),
        ("Account/Blocked", PB | {"account_info": {"id": "alice", "blocked": True}}),
        ("Account/BalanceChanged", PB),
    )
    hidden_failures = (Reply(202, "nonsense"), Reply(200, "0: Accepted for delivery"), Reply(204))
    rules = ANSWERS

    @pytest.fixture
    def double(self) -> Callable[[Seen], Reply]:
        return kannel

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": f"{url}/cgi-bin/sendsms", **GIVEN}

    def test_a_lost_answer_is_repeated_under_the_same_name(
        self, connector: Any, system: ChaosProxy
    ) -> None:
        system.lose_answer(1)
        assert isinstance(self.provoke(lambda: self.act(connector, make_call())), NoAnswer)
        system.pass_all()
        first, second = (self.act(connector, make_call()) for _ in range(2))
        assert first == second


class TestTheText:
    @pytest.mark.parametrize(
        ("text", "coding", "parts"),
        [
            ("a" * 160, 0, 1),
            ("a" * 161, 0, 2),
            ("a" * 153 * 3, 0, 3),
            ("a" * (153 * 3 + 1), 0, 4),
            ("€" * 80, 0, 1),
            ("€" * 81, 0, 2),
            ("a" + "€" * 152, 0, 2),
            ("€" * 153, 0, 3),  # 76 whole ones in a part of 153
            ("à@Δ\n¤", 0, 1),
            ("č" * 70, 2, 1),
            ("č" * 71, 2, 2),
            ("😀" * 35, 2, 1),
            ("😀" * 67, 2, 2),
            ("č" * 67 * 3, 2, 3),
            ("č" * (67 * 3 + 1), 2, 4),
            ("don\u2019t", 2, 1),
        ],
    )
    def test_its_alphabet_and_parts(self, text: str, coding: int, parts: int) -> None:
        found = coded(text)
        assert found is not None and (found.text, found.coding, found.parts) == (
            text, coding, parts,
        )  # fmt: skip

    def test_control_characters_are_spaces_and_nothing_is_nothing(self) -> None:
        found = coded("\r\n a\x00\tb\r\nc\x1b \n")
        assert found is not None and found.text == "a b\nc"
        assert coded(" \n\x00") is None

    def test_one_that_is_too_long_is_rejected_not_cut(self) -> None:
        made = connector(templates={"Account/*": "{{ 'x' * 460 }}"})
        with pytest.raises(Terminal, match=r"takes 4 parts, and max_parts is 3"):
            text_of(made)
        assert text_of(connector(templates=made.settings.templates, max_parts=4)) == "x" * 460

    @pytest.mark.parametrize("event_type", sorted(DEFAULT_TEXTS))
    def test_what_is_built_in_fits_into_one_part_of_gsm_7(self, event_type: str) -> None:
        pb = OPEN if event_type == "Account/Unblocked" else PB
        message = connector().message(enriched(pb, event_type=event_type))
        assert message is not None and message.content.text.coding == 0
        assert message.content.text.parts == 1 and "8970101000000203493" not in repr(message)

    def test_it_comes_in_the_recipient_s_language(self) -> None:
        made = connector(
            language="{{ customer_info.country }}",
            languages={"CZ": {"Account/*": "Došel vám kredit"}, "DE": {"SIM/*": "Neue Karte"}},
            templates={"Account/*": "{{ product_info.name }}"},
        )
        spoken = {"CZ": "Došel vám kredit", "DE": "Basic", "": "Basic", None: "Basic"}
        for country, text in spoken.items():
            pb = PB | {"customer_info": {"country": country}, "product_info": {"name": "Basic"}}
            assert text_of(made, pb=pb) == text
        assert {block for _, block in made.reads(made.settings)} == {
            Block.ACCOUNT_INFO, Block.SIM_INFO, Block.CUSTOMER_INFO, Block.PRODUCT_INFO,
        }  # fmt: skip


class TestTheRecipient:
    @pytest.mark.parametrize(
        "to", ["+420 777", "alice", "+", "1" * 16, "420777000001\r\nX-Evil: 1"]
    )
    def test_what_is_no_number_is_rejected(self, to: str) -> None:
        made = connector(to="{{ variables.to }}")
        with pytest.raises(Terminal, match="no number in international form"):
            made.message(enriched(PB, event_type="Account/Blocked", variables={"to": to}))

    def test_the_history_shows_its_end_only(self) -> None:
        message = connector().message(enriched(PB, event_type="Account/Blocked"))
        assert message is not None
        assert message.summary == "SMS Account/Blocked to ...789, parts: 1"


class TestTheRequest:
    def test_it_carries_its_own_address_for_reports_and_no_password(self) -> None:
        with ScriptedHttp(kannel) as double:
            made = connector(double.url, smsc="NET", valid_minutes=60)
            message = made.message(enriched(PB, event_type="Account/Blocked"))
            assert message is not None
            receipt = made.send(message, make_call(reference="one"))
            assert made.send(message, make_call(reference="other")).id != receipt.id
            seen = double.requests[0]
        sent = {n: v for n, v in seen.headers.items() if n.lower().startswith("x-kannel")}
        url = sent.pop("X-Kannel-DLR-Url")
        assert seen.path == "/" and seen.body.startswith(b"Your account has been blocked.")
        assert SECRETS["password"] == sent.pop("X-Kannel-Password") and "password" not in url
        assert sent == {
            "X-Kannel-Username": "nsps",
            "X-Kannel-From": "Example",
            "X-Kannel-To": "+79123456789",
            "X-Kannel-Coding": "0",
            "X-Kannel-Validity": "60",
            "X-Kannel-DLR-Mask": "19",
            "X-Kannel-SMSC": "NET",
        }
        assert (receipt.id, receipt.answer) == (dict(parse_qsl(url))["http://127.0.0.1:9/sms?id"],
                                                "202 0: Accepted for delivery")  # fmt: skip

    def test_a_refused_number_is_final(self) -> None:
        with ScriptedHttp() as double:
            said = "Number(s) has/have been denied by white- and/or black-lists."
            double.always(Reply(400, said))
            made = connector(double.url)
            message = made.message(enriched(PB, event_type="Account/Blocked"))
            assert message is not None
            with pytest.raises(Terminal, match="black-lists"):
                made.send(message, make_call())


def report(made: SmsConnector, name: str, **query: str) -> CallbackRequest:
    """A call of the address that a message of this name carries, as Kannel makes it."""
    url = reports.address("http://x/sms", name, proof_of(name, made.context.secret("callback")))
    given = dict(parse_qsl(urlsplit(url).query)) | {"said": ""} | query
    return CallbackRequest("GET", "/", {}, b"", given)


SAID = (
    "id:7 sub:001 dlvrd:000 submit date:2611292300 done date:2611292301 stat:{} err:069 text:Hi Ann"
)


class TestReports:
    @pytest.mark.parametrize(
        ("kind", "said", "state", "message"),
        [
            ("1", SAID.format("DELIVRD"), AnswerState.DONE, "the network says DELIVRD, error 069"),
            ("2", SAID.format("EXPIRED"), AnswerState.FAILED,
             "the network says EXPIRED, error 069"),
            ("2", "", AnswerState.FAILED, "the network did not deliver it"),
            ("16", "NACK/0x0000000b/Invalid Destination Address", AnswerState.FAILED,
             "the network refused it: NACK/0x0000000b/Invalid Destination Address"),
            ("8", "ACK/", AnswerState.PROGRESS, ""),
            ("4", "", AnswerState.PROGRESS, ""),
        ],
    )  # fmt: skip
    def test_each_kind(self, kind: str, said: str, state: AnswerState, message: str) -> None:
        (answer,) = connector().parse_callback(report(connector(), "n1", type=kind, said=said))
        assert (answer.order, answer.state, answer.message) == ("n1", state, message)

    @pytest.mark.parametrize("query", [{"type": "x"}, {"type": "%d"}, {"type": "0"}, {"type": "²"}])
    def test_what_is_no_report_is_refused(self, query: dict[str, str]) -> None:
        with pytest.raises(CallbackInvalid):
            connector().parse_callback(report(connector(), "n1", **query))

    def test_only_the_address_that_was_given_out_counts(self) -> None:
        made = connector()
        made.authenticate(report(made, "n1", type="1"))
        for wrong in ({"id": "n2"}, {"proof": ""}, {"proof": "0" * 32}, {"proof": "ž"}):
            with pytest.raises(CallbackRefused):
                made.authenticate(report(made, "n1", type="1", **wrong))

    def test_the_secret_can_be_changed_while_reports_are_due(self) -> None:
        old = connector()
        changed = {
            **SECRETS,
            "callback": "another-key-for-reports",
            "callback_next": SECRETS["callback"],
        }
        new = SmsConnector(old.settings, make_context(changed, handler="sms"))
        new.authenticate(report(old, "n1", type="1"))
        new.authenticate(report(new, "n1", type="1"))
        with pytest.raises(CallbackRefused):
            old.authenticate(report(new, "n1", type="1"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"allow_http": False, "reports_url": "https://callbacks.example.net/sms"},
        {"allow_http": False, "url": "https://kannel.example.net/"},
        {"reports_url": "https://callbacks.example.net/sms?x=1"},
        {"sender": "A name too long"},
        {"sender": "Größe"},
        {"user": "a b"},
        {"templates": {"Account": "x"}},
        {"templates": {"Account/*": "{{ nobody }}"}},
        {"languages": {"cs": {"Account": "x"}}},
        {"languages": {"cs": {"Account/*": ""}}},
        {"language": "{{ nobody }}"},
        {"max_parts": 0},
    ],
)
def test_mistakes_are_found_before_anything_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"url": "http://127.0.0.1/", **GIVEN, **wrong})
