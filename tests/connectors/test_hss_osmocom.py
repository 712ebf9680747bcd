"""The OsmoHLR connector's rules, and its manners with a server that misbehaves.

The connector against a real OsmoHLR is in tests/systems; here a double does what that one cannot.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.connection import Connection
from nsps.transport.deadline import Deadline
from nsps.transport.tcp import BadFrame
from nsps_testing.faults import Reply, ScriptedHttp
from nsps_testing.sockets import SocketServer
from nsps_testing.standard import enriched, make_call, make_context
from pydantic import ValidationError

from functions.connectors.hss_osmocom.connector import OsmoHlr, Settings
from functions.connectors.hss_osmocom.protocol import (
    Answer,
    CtrlClient,
    CtrlRefused,
    answer_of,
    read_frame,
)

IMSI = "001010000000003"
KI, OPC = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"


def snapshot(imsi: Any = IMSI, msisdn: Any = None, **account: Any) -> dict[str, Any]:
    return {
        "account_info": {
            "i_account": 1000889,
            "id": "420777000003@msisdn",
            "bill_status": "open",
            "blocked": False,
            **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": imsi, "msisdn": msisdn},
    }


def desired(pb: Mapping[str, Any], auc: Any = None) -> Any:
    secrets = {} if auc is None else {"auc": auc if isinstance(auc, str) else json.dumps(auc)}
    return OsmoHlr(Settings(host="127.0.0.1"), make_context(secrets)).desired(enriched(pb))


def test_keys_that_are_looked_up_and_barring_without_them() -> None:
    with ScriptedHttp() as source:
        url = f"{source.url}/{{imsi}}"
        credentials = {"source": "http", "url": url, "authentication": "none", "allow_http": True}
        chosen = Settings.model_validate({"host": "127.0.0.1", "credentials": credentials})
        hlr = OsmoHlr(chosen, make_context())
        source.always(Reply(200, {"ki": KI, "opc": OPC}))
        assert (
            hlr.desired(enriched(snapshot()))[IMSI]["aud3g"].reveal() == f"milenage,{KI},OPC,{OPC}"
        )
        source.always(Reply(404))
        hlr = OsmoHlr(chosen, make_context())  # without what is kept
        with pytest.raises(Transient, match="there is no credential"):
            hlr.desired(enriched(snapshot()))
        barred = {"msisdn": "420777000003", "cs": False, "ps": False}
        assert hlr.desired(enriched(snapshot(blocked=True))) == {IMSI: barred}


class TestDesired:
    @pytest.mark.parametrize(
        ("account", "msisdn", "served"),
        [
            ({}, "420777000003", True),
            ({"blocked": True}, "420777000003", False),
            ({"bill_status": "suspended"}, None, False),
            ({"bill_status": "terminated", "blocked": True}, None, False),
            ({"bill_status": None}, None, False),
            ({"blocked": None}, "420777000003", True),
            ({"status": "customer_suspended"}, "420777000003", False),
        ],
    )
    def test_who_is_served(self, account: Any, msisdn: str | None, served: bool) -> None:
        state = {"msisdn": msisdn, "cs": served, "ps": served}
        assert desired(snapshot(**account)) == {IMSI: state}

    @pytest.mark.parametrize(
        ("ident", "of_sim", "msisdn"),
        [
            ("420777000003@msisdn", "1", "420777000003"),
            ("+420777000003@msisdn", None, "420777000003"),
            ("420777000003", None, "420777000003"),
            ("office@voip", "+420999", "420999"),
            ("office@voip", None, None),
            (None, "420999", "420999"),
        ],
    )
    def test_the_number(self, ident: str | None, of_sim: str | None, msisdn: str | None) -> None:
        assert desired(snapshot(msisdn=of_sim, id=ident))[IMSI]["msisdn"] == msisdn

    @pytest.mark.parametrize("ident", ["abc@msisdn", "1234567890123456@msisdn", IMSI])
    def test_a_number_that_is_none_does_not_hold_up_a_block(self, ident: str) -> None:
        state = {"msisdn": None, "cs": False, "ps": False}
        assert desired(snapshot(id=ident, blocked=True)) == {IMSI: state}

    @pytest.mark.parametrize(
        "imsi", [None, "", "12345", "0" * 16, "00101000000000x", "00101000000000 ", "\u0660" * 15]
    )
    def test_an_imsi_that_is_none(self, imsi: Any) -> None:
        with pytest.raises(Terminal, match=r"sim_info\.imsi") as refusal:
            desired(snapshot(imsi))
        assert not imsi or imsi not in str(refusal.value)

    @pytest.mark.parametrize(
        "pb",
        [
            {},
            {"account_info": snapshot()["account_info"]},
            {"sim_info": snapshot()["sim_info"]},
            {**snapshot(), "sim_info": {}},
        ],
    )
    def test_without_account_or_sim_there_is_nothing(self, pb: Any) -> None:
        assert desired(pb) == {}


class TestKeys:
    @pytest.mark.parametrize(
        ("entry", "aud2g", "aud3g"),
        [
            ({"ki": KI, "opc": OPC}, None, f"milenage,{KI},OPC,{OPC}"),
            ({"ki": KI.upper(), "opc": OPC.upper()}, None, f"milenage,{KI},OPC,{OPC}"),
            ({"ki": KI, "opc": None}, f"comp128v3,{KI}", None),
            ({"ki": KI, "opc": None, "algorithm": "COMP128v1"}, f"comp128v1,{KI}", None),
        ],
    )
    def test_what_an_entry_means(self, entry: Any, aud2g: str | None, aud3g: str | None) -> None:
        state = desired(snapshot(), {IMSI: entry})[IMSI]
        wanted = [None if text is None else SecretValue(text) for text in (aud2g, aud3g)]
        assert [state["aud2g"], state["aud3g"]] == wanted
        assert KI not in repr(state)

    def test_a_sim_that_the_secret_does_not_name_keeps_its_keys(self) -> None:
        assert set(desired(snapshot(), {"999": {}})[IMSI]) == {"msisdn", "cs", "ps"}

    @pytest.mark.parametrize(
        "entry",
        [
            7,
            {},
            {"ki": KI[:-1]},
            {"ki": KI + "\n"},
            {"ki": KI, "opc": "short"},
            {"ki": KI, "algorithm": "milenage"},
            {"ki": KI, "algorithm": "rot13"},
        ],
    )
    def test_a_wrong_entry_can_be_corrected(self, entry: Any) -> None:
        with pytest.raises(Transient, match="secret auc") as error:
            desired(snapshot(), {IMSI: entry})
        assert KI[:12] not in str(error.value) and IMSI not in str(error.value)

    @pytest.mark.parametrize("payload", ["", "[]", "{", KI])
    def test_a_secret_that_is_no_json_object(self, payload: str) -> None:
        with pytest.raises(Transient) as error:
            desired(snapshot(), payload)
        assert KI not in str(error.value)


@pytest.mark.parametrize("wrong", [{}, {"host": ""}, {"host": "x", "port": 0}, {"hots": "x"}])
def test_settings_that_are_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)


def frame(text: str | bytes, protocol: int = 0xEE, extension: int = 0) -> bytes:
    body = text.encode() if isinstance(text, str) else text
    return struct.pack(">HBB", len(body) + 1, protocol, extension) + body


@contextmanager
def server(*answers: bytes | Callable[[str], bytes]) -> Iterator[tuple[str, int]]:
    """A CTRL server: the n-th request of any connection gets the n-th answer (b"": closes)."""
    left = list(answers)

    def converse(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            answer = left.pop(0) if left else b""
            reply = answer if isinstance(answer, bytes) else answer(data[4:].decode())
            if not reply:
                return
            connection.sendall(reply)

    with SocketServer(converse) as listening:
        yield listening.address


def received(connection: socket.socket, seconds: float) -> Answer:
    """The first answer that comes over a connection."""
    stream = Connection(connection, Deadline(seconds).time_left)
    while (answer := answer_of(read_frame(stream))) is None:
        pass
    return answer


TRAP = frame("TRAP 0 subscriber.event 001010000000003")


class TestCtrl:
    def test_traps_and_other_protocols_are_passed_over(self) -> None:
        noise = TRAP + frame(b"\x01", protocol=0xFE) + frame(b"x", extension=9) + TRAP
        late = frame("GET_REPLY 77 other value") + frame("ERROR 77 of another")
        with server(noise + late + frame("GET_REPLY 1 some.thing a value")) as address:
            client = CtrlClient(*address)
            assert client.get("some.thing", make_call(5)) == "a value"
            client.close()

    def test_a_trap_between_two_requests(self) -> None:
        one, two = frame("GET_REPLY 1 x 1") + TRAP, frame("GET_REPLY 1 x 2")
        with server(one, two) as address:
            client = CtrlClient(*address)
            assert [client.get("x", make_call(5)) for _ in range(2)] == ["1", "2"]
            client.close()

    def test_an_answer_in_many_pieces(self) -> None:
        whole = TRAP + frame("GET_REPLY 1 x " + "y" * 3000)
        near, far = socket.socketpair()
        pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
        thread = threading.Thread(target=lambda: [far.send(piece) for piece in pieces])
        thread.start()
        with near, far:
            assert received(near, 5) == Answer(refused=False, text="y" * 3000)
            thread.join()

    def test_a_connection_that_the_server_closed_is_replaced(self) -> None:
        with server(frame("SET_REPLY 1 x OK"), b"", frame("SET_REPLY 1 x OK")) as address:
            client = CtrlClient(*address)
            client.set("x", "1", make_call(5))
            with pytest.raises(NoAnswer, match="closed by the other side"):
                client.set("x", "2", make_call(5))
            client.set("x", "3", make_call(5))
            client.close()

    def test_traps_without_end_end_with_the_deadline(self) -> None:
        with server(TRAP * 20_000) as address:
            with pytest.raises(NoAnswer):
                CtrlClient(*address).get("x", make_call(1))

    @pytest.mark.parametrize(
        "garbage",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n" * 700,
            b"\x00\x00\xee\x00",
            frame(""),
            frame("\n\n"),
            frame("WELCOME 1 x"),
            b"220 smtp.example.net ESMTP\r\n" * 700,
        ],
    )
    def test_what_is_not_ctrl(self, garbage: bytes) -> None:
        with server(garbage) as address:
            with pytest.raises(NoAnswer, match="not CTRL"):
                CtrlClient(*address).get("x", make_call(1))

    def test_an_error_is_shown_without_numbers_and_keys(self) -> None:
        with server(frame(f"ERROR 1 cannot store {KI} for {IMSI}: disk full")) as address:
            with pytest.raises(CtrlRefused) as refusal:
                CtrlClient(*address).set("x", "y", make_call(5))
        assert refusal.value.shown == "cannot store *** for ***: disk full"
        assert KI not in repr(refusal.value)

    @settings(max_examples=60, deadline=None)
    @given(noise=st.binary(max_size=200))
    def test_any_bytes_end_in_an_answer_or_an_error(self, noise: bytes) -> None:
        near, far = socket.socketpair()
        with near, far:
            far.sendall(noise)
            far.shutdown(socket.SHUT_WR)
            try:
                assert received(near, 2).text is not None
            except (BadFrame, ConnectionError) as error:
                assert str(error)


class TestOddAnswers:
    """What OsmoHLR's answers mean, where the real one cannot be brought to give them."""

    def connector(self, address: tuple[str, int]) -> OsmoHlr:
        return OsmoHlr(Settings(host=address[0], port=address[1]), make_context())

    def test_a_subscriber_that_is_another(self) -> None:
        with server(frame("GET_REPLY 1 x \nid\t1\nimsi\t001019999999999\nnam_cs\t1")) as address:
            with pytest.raises(NoAnswer, match="another subscriber"):
                self.connector(address).read(IMSI, make_call())

    def test_an_unclear_error_may_have_taken_effect(self) -> None:
        was, state = ({"msisdn": None, "cs": served, "ps": served} for served in (False, True))
        with server(frame("ERROR 1 An error has occurred.")) as address:
            with pytest.raises(NoAnswer):
                self.connector(address).change(IMSI, state, was, make_call())

    def test_a_refusal_after_the_first_step_is_not_called_untouched(self) -> None:
        was, state = ({"msisdn": None, "cs": served, "ps": served} for served in (False, True))
        done, busy = frame("SET_REPLY 1 x OK"), frame("ERROR 1 database is locked")
        for answers, wrote in (((done, busy), True), ((busy,), False)):
            call = make_call()
            with server(*answers) as address:
                with pytest.raises(Transient, match="database is locked") as refusal:
                    self.connector(address).change(IMSI, state, was, call)
            assert not isinstance(refusal.value, NoAnswer)
            assert call.wrote is wrote  # the kit takes it from here

    def test_barring_comes_first_and_allowing_last(self) -> None:
        seen: list[str] = []

        def note(message: str) -> bytes:
            seen.append(message.rsplit(".", maxsplit=1)[-1])
            return frame("SET_REPLY 1 x OK")

        for served, order in ((True, ["msisdn 2", "cs-enabled 1", "ps-enabled 1"]),
                              (False, ["cs-enabled 0", "ps-enabled 0", "msisdn 2"])):  # fmt: skip
            seen.clear()
            free = frame("ERROR 1 No such subscriber.")
            with server(free, note, note, note) as address:
                state = {"msisdn": "2", "cs": served, "ps": served}
                was = {"msisdn": "1", "cs": not served, "ps": not served}
                self.connector(address).change(IMSI, state, was, make_call())
            assert seen == order

    def test_a_key_that_is_no_imsi_is_never_sent(self) -> None:
        with server() as address:
            connector = self.connector(address)
            for key in ("1; drop", "001010000000003 1", "", "abcdef"):
                with pytest.raises(Terminal):
                    connector.delete(key, connector.read(key, make_call()), make_call())
