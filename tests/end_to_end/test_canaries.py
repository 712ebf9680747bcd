"""Secrets and subscribers stay private: canaries are planted everywhere, and every sink searched.

One stack with a handler of each kind is driven along all its ways: success, refusal, time-out,
dead letter, malformed and forged requests, a PortaBilling that misbehaves, external systems that
put what they were sent, and their own secrets, into their answers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
import requests
from aiosmtpd.controller import Controller
from google.cloud.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from nsps_local.cli.send import signed_headers
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.sandbox.seed import seed_demo
from nsps_local.sandbox.store import Store as SandboxStore
from nsps_testing.faults import Reply, ScriptedHttp
from nsps_testing.waiting import wait_for

from tests.connectors.test_voip_kamailio import make_database
from tests.end_to_end.whole_stack import DATABASE, ROOT, WholeStack, configuration

pytestmark = pytest.mark.timeout(600)

WITH_HLR = (
    shutil.which("osmo-hlr", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
)


def word(what: str) -> str:
    """A secret that is the same in every run and like no other text."""
    return f"{what}Cn4ry{hashlib.sha256(what.encode()).hexdigest()[:14]}zQ"


def key(what: str) -> str:
    """One that looks like a Ki: 32 hexadecimal digits."""
    return hashlib.md5(what.encode(), usedforsecurity=False).hexdigest().upper()


class Plants:
    """Every canary that is planted."""

    first, last = "Zebulonka", "Quixnardovic"
    company = "Vrkljan Telekomunikacije"
    email = "zebulonka.quixnardovic@canary-mail.example"
    imsis = ("001019912345678", "001019987654321")
    iccids = ("8900101991234567890", "8900101998765432109")
    msisdns = ("447712345678", "447787654321")

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}

    def secret(self, what: str) -> str:
        return self.secrets.setdefault(what, word(what))

    def ki(self, what: str) -> str:
        return self.secrets.setdefault(what, key(what))

    @property
    def persons(self) -> dict[str, str]:
        digits = (*self.imsis, *self.iccids, *self.msisdns)
        return {
            "first name": self.first,
            "last name": self.last,
            "company": self.company,
            "e-mail": self.email,
            **{f"digits {number}": number for number in digits},
        }


# ---- external systems that tell everything ------------------------------------------------------


class Chatterbox:
    """An HTTP system that answers with all that it was sent, and with secrets of its own."""

    def __init__(self, plants: Plants) -> None:
        self.plants = plants
        self.modes: list[str] = []
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.released = threading.Event()
        system = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                system.seen.append((self.path, dict(self.headers), body))
                mode = system.modes.pop(0) if system.modes else "200"
                if mode == "hang":
                    system.released.wait(20)
                    return
                system.answer(self, int(mode), body)

            do_GET = do_POST  # noqa: N815 - the name that http.server looks for

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        order = json.loads(body).get("order") if b'"order"' in body else None
        document = {
            "message": self.indiscretion(handler, body),
            "error": f"cannot use ki={self.plants.ki('system-ki')} of {self.plants.first} "
            f"{self.plants.last} <{self.plants.email}> IMSI {self.plants.imsis[0]}",
            "type": "SERVICE_ERROR",
            "id": f"so-{len(self.seen)}",
            "order": order,
        }
        text = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def indiscretion(self, handler: BaseHTTPRequestHandler, body: bytes) -> str:
        bare = (handler.headers.get("Authorization") or " ").split(" ", 1)[1]
        if len(self.seen) % 2:  # wherever a text is cut, a token stands there
            return "." * (len(self.seen) * 7 % 330) + bare
        return (
            f"Authorization: {handler.headers.get('Authorization')}\n"
            f'{{"password": "{self.plants.secret("system-password")}"}} token {bare} and again '
            f"{quote(bare, safe='')} {body[:100].decode()}"
        )

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


class Postmaster:
    """A mail server that quotes what it refuses."""

    def __init__(self, plants: Plants) -> None:
        self.replies: list[str] = []
        self.mails = 0
        self.said = f"{plants.email} ({plants.first}) password={plants.secret('mail-password')}"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        reply = self.replies.pop(0) if self.replies else "250"
        self.mails += reply == "250"
        return f"{reply} {self.said}"


# ---- the search ---------------------------------------------------------------------------------


def forms(canary: str) -> set[bytes]:
    """How a text may be written: plain, in JSON, in an address, in base64 at any offset."""
    plain = canary.encode()
    written = {plain, json.dumps(canary)[1:-1].encode(), quote(canary, safe="").encode()}
    for before in range(3):
        cut = -(-8 * before // 6)
        coded = base64.b64encode(b"\0" * before + plain)
        written.add(coded[cut : len(coded) - 4])  # what does not depend on its neighbours
    if re.fullmatch(r"[0-9A-F]{32}", canary):
        written.add(bytes.fromhex(canary))
    return {form.lower() for form in written}


@dataclass
class Sinks:
    """What is searched: a place and the bytes found there."""

    found: list[tuple[str, bytes]] = field(default_factory=list)

    def add(self, place: str, data: bytes) -> None:
        self.found.append((place, data.lower()))
        for unpacked in decompressed(data):
            self.found.append((f"{place} (decompressed)", unpacked.lower()))

    def add_database(self, file: Path) -> None:
        """Every value of every table, and the files as they are."""
        for path in file.parent.glob(f"{file.name}*"):
            self.add(path.name, path.read_bytes())
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=20) as database:
            tables = [row[0] for row in database.execute("select name from sqlite_master")]
            for table in tables:
                try:
                    rows = database.execute(f'select * from "{table}"').fetchall()
                except sqlite3.OperationalError:  # an index
                    continue
                for value in (value for row in rows for value in row):
                    if isinstance(value, str | bytes):
                        data = value.encode() if isinstance(value, str) else value
                        self.add(f"{file.name}/{table}", data)

    def leaks(self, canaries: dict[str, str]) -> list[str]:
        """Where each canary is found, with some of what stands around it."""
        leaks = []
        for name, canary in canaries.items():
            either = re.compile(b"|".join(re.escape(form) for form in forms(canary)))
            for place, data in self.found:
                match = either.search(data)
                if match:
                    around = data[max(0, match.start() - 120) : match.end() + 40]
                    leaks.append(f"{name} in {place}: {around!r}")
        return leaks


def decompressed(data: bytes) -> Iterator[bytes]:
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data):
        try:
            yield zlib.decompressobj().decompress(data[start.start() :])
        except zlib.error:
            continue


# ---- the stack, and all that is done to it ------------------------------------------------------


class Drive:
    """The stack with its canaries; ``answers`` are the bodies of all HTTP answers we saw."""

    def __init__(self, folder: Path) -> None:
        self.plants = Plants()
        self.chatterbox = Chatterbox(self.plants)
        self.postmaster = Postmaster(self.plants)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.mail_port = probe.getsockname()[1]
        self.mail = Controller(self.postmaster, hostname="127.0.0.1", port=self.mail_port)
        self.mail.start()
        self.sip_rpc = ScriptedHttp(Reply(200, {"jsonrpc": "2.0", "result": {}, "id": 1}))
        self.sip_database = folder / "kamailio.db"
        make_database(self.sip_database)
        self.answers: list[tuple[str, bytes]] = []
        self.answered: set[str] = set()
        state = folder / "state"
        self._furnish(state / "sandbox")
        config = configuration(folder, self._handlers())
        secrets = folder / "given.json"
        secrets.write_text(json.dumps(self._secrets()))
        self.stack = WholeStack(state, config, secrets)

    def _handlers(self) -> list[dict[str, Any]]:
        events = ["SIM/*", "Subscriber/*/*", "Account/*", "Account/*/*", "Customer/*"]
        wanted = {"events": events, "call_timeout_seconds": 3}
        private = {"allow_http": True}
        hlr = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.7"
        hss = {
            **wanted,
            "name": "hss",
            "connector": "hss_osmocom",
            "group": "HSS",
            "settings": {"host": hlr},
            "secrets": {"auc": "auc"},
        }
        blocks = ["account_info", "sim_info", "prev_sim_info", "access_policy_info"]
        return [
            DATABASE | {"contract_token": "contract"},
            {
                **wanted,
                "name": "crm",
                "connector": "webhook",
                "requires": [*blocks, "product_info", "full_vd_counter_info", "customer_info"],
                "group": "CRM",
                "settings": private
                | {
                    "url": f"{self.chatterbox.url}/process-event",
                    "ordering": "every",
                    "permanent_codes": [422],
                },
                "secrets": {"token": "crm-token"},
            },
            {
                **wanted,
                "name": "orders",
                "connector": "oms_tmf641",
                "group": "PCRF",
                "settings": private | {"url": f"{self.chatterbox.url}/orders", "profile": "plain"},
                "secrets": {"credentials": "orders-token", "callback": "orders-callback"},
            },
            {
                "name": "mail",
                "connector": "notification",
                "events": ["Account/Blocked", "SIM/Updated"],
                "group": "Mail",
                "call_timeout_seconds": 3,
                "settings": {
                    "host": "127.0.0.1",
                    "port": self.mail_port,
                    "security": "none",
                    "sender": "nsps@example.net",
                    "to": "{{ account_info.email }}",
                    "templates": {
                        "SIM/*": {
                            "subject": "For {{ account_info.firstname }}",
                            "text": "Your SIM card is {{ sim_info.iccid }}.",
                        }
                    },
                },
            },
            {
                **wanted,
                "name": "sip",
                "connector": "voip_kamailio",
                "group": "VoIP",
                "settings": {
                    "database_url": f"sqlite:///{self.sip_database}",
                    "rpc_url": f"{self.sip_rpc.url}/RPC",
                    "domain": "sip.example.net",
                    "status_column": "status",
                    "credentials": {"source": "portabilling"},
                },
            },
            *([hss] if WITH_HLR else []),
        ]

    def _secrets(self) -> dict[str, Any]:
        plants = self.plants
        webhook = {"user": "espf", "password": plants.secret("webhook-password")}
        pair = f"espf:{webhook['password']}".encode()
        plants.secrets["webhook-basic"] = base64.b64encode(pair).decode()
        auc = {
            imsi: {"ki": plants.ki(f"auc-ki-{imsi}"), "opc": plants.ki(f"auc-opc-{imsi}")}
            for imsi in plants.imsis
        }
        given = {
            "espf-webhook": webhook,
            "portabilling-api": {"login": "nsps", "password": plants.secret("api-password")},
            "digest-key": plants.secret("digest-key"),
            "contract": plants.secret("contract-token"),
            "crm-token": plants.secret("crm-token"),
            "orders-token": plants.secret("orders-token"),
            "orders-callback": plants.secret("orders-callback"),
        }
        return given | ({"auc": auc} if WITH_HLR else {})

    def _furnish(self, folder: Path) -> None:
        """A PortaBilling whose subscribers, cards and policies hold canaries."""
        plants, store = self.plants, SandboxStore(folder)
        seed_demo(store)
        store.run(
            "UPDATE customers SET firstname = ?, lastname = ?, email = ?, companyname = ?",
            *(plants.first, plants.last, plants.email, plants.company),
        )
        store.run(
            "UPDATE access_policies SET attributes = json_insert(attributes, '$[#]', json(?))",
            json.dumps(
                {"group_name": "radius", "name": "password", "values": [plants.secret("policy")]}
            ),
        )
        for n, (imsi, iccid) in enumerate(zip(plants.imsis, plants.iccids, strict=True)):
            codes = [plants.secret(f"card-{n}-{code}") for code in ("pin1", "puk1", "puk2", "act")]
            store.run(
                "INSERT INTO sim_cards (iccid, imsi, ki, opc, pin1, puk1, pin2, puk2,"
                " activation_code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(iccid, imsi, plants.ki(f"card-{n}-ki"), plants.ki(f"card-{n}-opc")),
                *(codes[0], codes[1], codes[0], codes[2], codes[3]),
            )
        features = {
            "voice_authentication": {
                "flag": "Y",
                "attributes": {
                    "service_password": plants.secret("service-password"),
                    "auth_key": plants.ki("feature-key"),
                },
            }
        }
        store.run(
            "INSERT INTO accounts (id, i_customer, i_product, firstname, lastname, email,"
            " activation_date, h323_password, features) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(f"{plants.msisdns[0]}@msisdn", 2501, 61, plants.first, plants.last, plants.email),
            *("2026-01-01", plants.secret("h323-password"), json.dumps(features)),
        )
        store.close()

    def start(self) -> None:
        self.stack.start()
        self._tap()
        self.i_account = next(iter(self.stack.get("/sandbox/state")["accounts"]))["i_account"]

    def _tap(self) -> None:
        """Subscriptions that nobody reads: every message of every topic is kept."""
        described = self.stack.description
        channel = grpc.insecure_channel(described["pubsub"]["host"])
        client = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        for topic in described["pubsub"]["topics"]:
            name = f"projects/{described['project']}/subscriptions/tap-{topic}"
            client.create_subscription(
                name=name, topic=f"projects/{described['project']}/topics/{topic}"
            )

    def stop(self) -> None:
        self.stack.stop()
        self.mail.stop()
        self.sip_rpc.close()
        self.chatterbox.close()

    # ---- doing

    def do(self, operation: str, **parameters: Any) -> list[int]:
        done = self.stack.sandbox.do(operation, **parameters)
        return [event["i_event"] for event in done["events"]]

    def finish(self, events: Iterable[int]) -> None:
        """Until each is finished everywhere; back-offs are cut short, orders are answered."""
        for event in events:
            wait_for(partial(self._finished, event), 60, f"event {event} to be finished")

    def _finished(self, i_event: int) -> bool:
        histories = self.stack.running.timeline.find(str(i_event))
        if histories and histories[-1].final:
            return True
        for each in histories[-1].deliveries if histories else ():
            for order in {*each.orders} - self.answered:
                self.answered.add(order)
                self.late_answer({"order": order, "status": "done", **self.gossip()})
        self.stack.control("pubsub", "/clock", advance=11)
        self.stack.control("firestore", "/clock", advance=20)
        time.sleep(0.1)
        return False

    def gossip(self) -> dict[str, str]:
        plants = self.plants
        return {
            "message": f"for {plants.first} {plants.last}, {plants.imsis[0]}: "
            f"opc: {plants.ki('gossip-opc')}; access_token={plants.secret('gossip-token')}"
        }

    def call(self, where: str, path: str = "/", **request: Any) -> requests.Response:
        """An HTTP call of a function; its answer is a sink."""
        described = self.stack.description
        url = (described["handlers"].get(where) or described[where])["url"]
        method = request.pop("method", "POST")
        answer = requests.request(method, url + path, timeout=30, **request)
        shown = f"{answer.status_code} {dict(answer.headers)}".encode() + answer.content
        self.answers.append((f"answer of {where}{path}", shown))
        return answer

    def late_answer(self, document: object, token: str | None = None) -> requests.Response:
        proof = token if token is not None else self.plants.secrets["orders-callback"]
        headers = {"Authorization": f"Bearer {proof}"}
        return self.call("callbacks", "/orders/listener", json=document, headers=headers)

    def webhook(self, event_type: str, **variables: Any) -> requests.Response:
        body = json.dumps({"event_type": event_type, "variables": variables})
        headers = signed_headers(self.stack.description["ingress"]["auth"])
        return self.call("ingress", "/", data=body, headers=headers)

    def push(self, function: str, data: bytes, **attributes: str) -> requests.Response:
        """A push as Pub/Sub makes it, token and all; so that we see the answer."""
        pids = {each["name"]: each["pid"] for each in self.stack.description["processes"]}
        environ = Path(f"/proc/{pids[function]}/environ").read_bytes().split(b"\0")
        settings = next(v for v in environ if v.startswith(b"NSPS_PUSH="))
        expected = json.loads(settings.partition(b"=")[2])
        issuer = TokenIssuer(self.stack.state / "pubsub")
        token = issuer.token(expected["service_account"], expected["audience"])
        message = {
            "message": {
                "data": base64.b64encode(data).decode(),
                "attributes": attributes,
                "messageId": "1",
            }
        }
        headers = {"Authorization": f"Bearer {token}"}
        return self.call(function, "/", json=message, headers=headers)

    # ---- the ways

    def all_ways(self) -> None:
        self.success()
        self.bad_webhooks()
        self.systems_that_fail()
        self.forged_requests()
        self.callbacks()
        self.a_portabilling_that_misbehaves()
        self.dead_letters()

    def success(self) -> None:
        cards = {card["imsi"]: card for card in self.stack.sandbox.state()["free_sim_cards"]}
        one, two = (cards[imsi]["i_sim_card"] for imsi in self.plants.imsis)
        self.finish(self.do("assign_sim", i_account=self.i_account, i_sim_card=one))
        self.finish(self.do("block_account", i_account=self.i_account))
        self.finish(self.do("swap_sim", i_account=self.i_account, i_sim_card=two))
        self.finish(self.do("unblock_account", i_account=self.i_account))
        number = self.plants.msisdns[1]
        self.finish(self.do("change_account_id", i_account=self.i_account, msisdn=number))
        self.finish(self.do("update_account", i_account=self.i_account, lastname=self.plants.last))

    def bad_webhooks(self) -> None:
        plants = self.plants
        nested = {
            "a": [{"Ki": plants.ki("variable-ki")}, {"x": {"opc": plants.ki("variable-opc")}}],
            "text": json.dumps({"password": plants.secret("variable-in-text")}),
            "custom_fields": [{"name": "PUK1", "value": plants.secret("variable-pair")}],
        }
        sent = self.webhook(
            "SIM/Updated",
            i_event=880001,
            i_account=self.i_account,
            password=plants.secret("variable-password"),
            access_token=plants.secret("variable-token"),
            imsi=plants.imsis[0],
            prev_imsi=plants.imsis[1],
            nested=nested,
        )
        assert sent.status_code == 200
        headers = signed_headers(self.stack.description["ingress"]["auth"])
        named_twice = f'"password": "{plants.secret("variable-twice")}", "password": null'
        ids = f'"i_event": 880002, "i_account": {self.i_account}'
        twice = f'{{"event_type": "SIM/Updated", "variables": {{{ids}, {named_twice}}}}}'
        assert self.call("ingress", "/", data=twice, headers=headers).status_code == 200
        broken = f'{{"event_type": "SIM/Updated", "password": "{plants.secret("broken-body")}"'
        assert self.call("ingress", "/", data=broken, headers=headers).status_code == 400
        wrong = (
            "Basic " + base64.b64encode(f"espf:{plants.secret('wrong-password')}".encode()).decode()
        )
        path = f"/hook?key={plants.secret('query-key')}&imsi={plants.imsis[0]}"
        refused = self.call("ingress", path, data="{}", headers={"Authorization": wrong})
        assert refused.status_code == 401
        assert self.call("ingress", path, method="PUT", data=broken).status_code == 405
        huge = json.dumps({"password": plants.secret("huge-body") * 9000})
        assert self.call("ingress", "/", data=huge, headers=headers).status_code == 413
        strange = f"SIM/Updated password={plants.secret('type-password')}"
        assert self.webhook(strange, i_event=880003, i_account=self.i_account).status_code == 200
        self.finish([880001, 880002, 880003])

    def systems_that_fail(self) -> None:
        for modes, replies in (
            (["500", "429", "503"], ["451", "250"]),
            (["422"], ["550"]),
            (["hang"], ["421"]),
        ):
            self.chatterbox.modes += modes
            self.postmaster.replies += replies
            self.finish(self.do("block_account", i_account=self.i_account))
            self.finish(self.do("unblock_account", i_account=self.i_account))
        self.chatterbox.modes.clear()
        self.postmaster.replies.clear()
        # what a handler's function itself answers is a sink too
        pb = {
            "account_info": {
                "i_account": 5,
                "id": f"{self.plants.msisdns[0]}@msisdn",
                "firstname": self.plants.first,
                "lastname": self.plants.last,
                "email": self.plants.email,
            },
            "sim_info": {"imsi": self.plants.imsis[0], "iccid": self.plants.iccids[0]},
        }
        for number, mode in enumerate(("500", "429", "422", "200")):
            self.chatterbox.modes = [mode]
            self.push_enriched("crm", f"pushed-{number}", pb)
        self.chatterbox.modes.clear()
        self.push_enriched("mail", "pushed-mail", pb, event_type="Account/Blocked")

    def push_enriched(
        self, handler: str, ident: str, pb: dict[str, Any], event_type: str = "SIM/Updated"
    ) -> requests.Response:
        body = {
            "event_id": ident,
            "data": {"event_type": event_type, "variables": {"i_account": 5}},
            "pb_data": pb,
        }
        attributes = {
            "event_id": ident,
            "t": f"2026-11-21T02:10:03.000000Z/{ident}",
            "owner": f"event:{ident}",
            "received_at": "2026-11-21T02:10:03.000000Z",
            handler: "1",
        }
        return self.push(handler, json.dumps(body).encode(), **attributes)

    def forged_requests(self) -> None:
        plants = self.plants
        jwt = f"eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.{plants.secret('forged-jwt')}.c2lnbmF0dXJl"
        forged = {"Authorization": f"Bearer {jwt}"}
        body = {"password": plants.secret("forged-body"), "imsi": plants.imsis[0]}
        for function in ("enrichment", "retries", "crm", "orders", "mail", "subscribers"):
            assert self.call(function, "/", json=body, headers=forged).status_code in (401, 403)
        assert self.call("retries", "/tick", json=body, headers=forged).status_code in (401, 403)
        for function in ("enrichment", "retries", "crm", "orders", "subscribers"):
            for data in (b"\xff\xfe", json.dumps(body).encode(), b"[" * 10000):
                assert self.push(function, data).status_code == 400
        for token in (plants.secret("forged-contract"), plants.secrets["contract-token"]):
            for text in (json.dumps(body), f"{{{plants.secret('contract-body')}"):
                answer = self.call(
                    "subscribers",
                    "/process-event",
                    data=text,
                    headers={"Authorization": f"Bearer {token}"},
                )
                assert answer.status_code in (401, 422)
        self.call("crm", "/health?deep=1", method="GET")

    def callbacks(self) -> None:
        plants = self.plants
        self.finish(self.do("block_account", i_account=self.i_account))
        assert self.late_answer({"order": "nobody", "status": "done"}).status_code == 204
        unknown = {"order": "so-none", "status": "failed", **self.gossip()}
        assert self.late_answer(unknown).status_code == 204
        assert self.late_answer(unknown, plants.secret("forged-callback")).status_code == 401
        odd = {"order": "x", "status": f"password={plants.secret('odd-state')}", **self.gossip()}
        assert self.late_answer(odd).status_code == 400
        headers = {"Authorization": f"Bearer {plants.secrets['orders-callback']}"}
        text = f"ki={plants.ki('broken-callback')} {plants.first}"
        answer = self.call("callbacks", "/orders/x", data=text, headers=headers)
        assert answer.status_code == 400
        path = f"/nobody/x?token={plants.secret('callback-query')}"
        assert self.call("callbacks", path, data=text, headers=headers).status_code == 404
        (event,) = self.do("unblock_account", i_account=self.i_account)
        orders = wait_for(lambda: self._orders_of(event), 30, "an order")
        self.late_answer({"order": orders[0], "status": "failed", **self.gossip()})
        self.finish([event])

    def _orders_of(self, event: int) -> tuple[str, ...]:
        histories = self.stack.running.timeline.find(str(event))
        deliveries = histories[-1].deliveries if histories else ()
        return next((d.orders for d in deliveries if d.handler == "orders"), ())

    def a_portabilling_that_misbehaves(self) -> None:
        plants = self.plants
        text = f"{plants.first} {plants.email} password={plants.secret('fault-password')}"
        for fault in (
            {"fault": "fail", "percent": 100, "faultcode": text, "faultstring": text, "times": 2},
            {"fault": "html", "times": 2},
            {"fault": "kill_tokens", "faultcode": "Server.Session.check_auth.auth_failed"},
            {"fault": "login_refused", "faultstring": text, "times": 1},
            {"fault": "status_api_down", "times": 1},
        ):
            self.stack.post("/sandbox/faults", **fault)
            self.finish(self.do("block_account", i_account=self.i_account))
            self.finish(self.do("unblock_account", i_account=self.i_account))

    def dead_letters(self) -> None:
        """A message that was tried to the end; then it is told to the retries function again."""
        self.chatterbox.modes = ["500"] * 400
        (event,) = self.do("block_account", i_account=self.i_account)
        wait_for(lambda: self._parked(event), 120, "the event to be parked")
        self.chatterbox.modes.clear()

    def _parked(self, event: int) -> bool:
        histories = self.stack.running.timeline.find(str(event))
        if histories and any(each.outcome == "parked" for each in histories[-1].deliveries):
            return True
        self.stack.control("pubsub", "/clock", advance=601)
        time.sleep(0.02)
        return False

    # ---- what is left of it

    def logs(self) -> Sinks:
        sinks = Sinks()
        for file in (self.stack.state / "logs").glob("*.log"):
            if file.name != "osmo-hlr.log":  # an external system: it holds what it is to hold
                sinks.add(file.name, file.read_bytes())
        sinks.add("nsps up", self.stack.output().encode())
        return sinks

    def everything(self) -> Sinks:
        sinks = self.logs()
        for place, data in self.answers:
            sinks.add(place, data)
        for database in (self.stack.state / "pubsub", self.stack.state / "firestore"):
            for file in (*database.glob("*.db"), *database.glob("*.sqlite")):
                sinks.add_database(file)
        for place, shown in self.shown.items():
            sinks.add(place, shown)
        return sinks

    def ask(self) -> None:
        """What ``nsps events`` and ``nsps explain`` say."""
        self.shown = {"nsps events": self._nsps("events", "--limit", "1000", "--json")}
        histories = json.loads(self.shown["nsps events"])
        with ThreadPoolExecutor(2) as pool:
            names = [history["event_id"] for history in histories[:40]]
            explained = pool.map(lambda name: self._nsps("explain", name, "--json"), names)
            self.shown |= {f"nsps explain {n}": t for n, t in zip(names, explained, strict=True)}
        self.shown["nsps explain (text)"] = self._nsps("explain", names[0])

    def _nsps(self, *arguments: str) -> bytes:
        command = [sys.executable, "-m", "nsps_local.cli", *arguments]
        command += ["--state", str(self.stack.state)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
        return done.stdout


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    driven = Drive(tmp_path_factory.mktemp("canaries"))
    try:
        driven.start()
        driven.all_ways()
        driven.ask()
    finally:
        driven.stop()
    yield driven


def test_the_canaries_were_really_there(drive: Drive) -> None:
    """Else nothing below means anything: the systems had the secrets and the subscribers."""
    received = b"".join(
        json.dumps(headers).encode() + body for _, headers, body in drive.chatterbox.seen
    )
    for canary in (drive.plants.secrets["crm-token"], drive.plants.secrets["orders-token"]):
        assert canary.encode() in received
    for person in drive.plants.persons.values():
        assert person.encode() in received or person == drive.plants.company, person
    assert drive.postmaster.mails > 0
    user, password = drive.plants.msisdns[1], drive.plants.secrets["h323-password"]
    digest = hashlib.md5(f"{user}:sip.example.net:{password}".encode()).hexdigest()
    with sqlite3.connect(drive.sip_database) as rows:
        held = rows.execute("SELECT ha1 FROM subscriber").fetchall()
    assert (digest,) in held, "the password was looked up in PortaBilling"
    if WITH_HLR:  # it keeps the keys as they came
        files = (drive.stack.state / "hss").glob("hlr.db*")
        cards = b"".join(file.read_bytes() for file in files).lower()
        ki = drive.plants.secrets[f"auc-ki-{drive.plants.imsis[1]}"].lower()
        assert ki.encode() in cards or bytes.fromhex(ki) in cards
    stored = drive.everything().leaks(drive.plants.persons)
    assert any("firestore" in place for place in stored), "an operator sees whom an event is about"


def test_no_secret_is_in_any_sink(drive: Drive) -> None:
    assert drive.everything().leaks(drive.plants.secrets) == []


def test_no_token_is_in_any_sink(drive: Drive) -> None:
    jwt = re.compile(rb"eyj[\w-]{8,}\.[\w-]{8,}")
    found = [(place, m[0]) for place, data in drive.everything().found for m in jwt.finditer(data)]
    assert found == []


def test_no_subscriber_is_in_any_log(drive: Drive) -> None:
    assert drive.logs().leaks(drive.plants.persons) == []


def test_half_of_a_secret_is_none_the_less_one(drive: Drive) -> None:
    """Cutting a text before it is redacted would leave the beginning of a secret."""
    halves = {
        f"half of {name}": text[: len(text) * 2 // 3] for name, text in drive.plants.secrets.items()
    }
    assert drive.everything().leaks(halves) == []


@pytest.mark.parametrize("how", ["plain", "json", "address", "base64", "snapshot", "row"])
def test_the_search_finds_what_is_there(tmp_path: Path, how: str) -> None:
    canary = 'Zebulonka "Q" + ö/7'
    sinks = Sinks()
    log = tmp_path / "hss.log"
    text = {
        "plain": f"refused for {canary}!",
        "json": json.dumps({"m": canary}),
        "address": f"GET /x?name={quote(canary, safe='')}",
        "base64": base64.b64encode(f"x{canary}yz".encode()).decode(),
    }
    if how in text:
        log.write_text("a line\n" + text[how] + "\nanother\n")
        sinks.add(log.name, log.read_bytes())
    elif how == "snapshot":
        sinks.add("firestore", b"\x0a\x12" + zlib.compress(f"x {canary} y".encode()) + b"\x00")
    else:
        with sqlite3.connect(tmp_path / "x.db") as database:
            database.execute("create table t (a blob)")
            database.execute("insert into t values (?)", (b"x" * 5000 + canary.encode(),))
        sinks.add_database(tmp_path / "x.db")
    assert sinks.leaks({"canary": canary}), sinks
    assert not sinks.leaks({"another": "not there at all"})
