"""The connector iptv_tvheadend, against a double of Tvheadend's API; and against a real one.

The double answers as Tvheadend 4.3 was recorded to: several entries of one name, HTML for what is
not there, passwords in clear, a digest log-in whose nonces end, and no word about unknown tags.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from nsps.domain.outcome import Outcome, Terminal, Transient, Unclear
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    UnderTheKit,
    enriched,
    make_call,
)
from pydantic import ValidationError

from functions.connectors.iptv_tvheadend.api import ANSWERS, PAGE
from functions.connectors.iptv_tvheadend.connector import IptvTvheadend
from functions.connectors.iptv_tvheadend.settings import Settings

USER = "420777000003"
ADMIN, ADMIN_PASSWORD = "nsps", "tvheadend-canary"
PASSWORD = "tv-password-4711"  # of the subscriber
BASIC, PREMIUM, SPORT = (letter * 32 for letter in "abc")
SETTINGS: dict[str, Any] = {
    "tariffs": {
        "TV Basic": {"channel_tags": [BASIC], "conn_limit": 1},
        "TV Premium": {"channel_tags": [PREMIUM, BASIC], "streaming": ["htsp", "basic"]},
        "TV All": {"channel_tags": "all"},
    },
    "packages": {"Sport": [SPORT]},
}
HTML = "<HTML><BODY><H1>HTTP error</H1></BODY></HTML>"


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class TvheadendDouble:
    """Access and password entries, and who may watch what by them."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, dict[str, Any]]] = {"access": {}, "passwd": {}}
        self.tags = {BASIC, PREMIUM, SPORT}
        self.nonce, self.pages = "nonce-1", 0
        self._uuids = (f"{number:032x}" for number in itertools.count(1))
        self._lock = threading.Lock()

    def __call__(self, request: Seen) -> Reply:
        if not self._knows(request):
            challenge = f'Digest realm="tvheadend", qop=auth, nonce="{self.nonce}", opaque="o"'
            return Reply(401, HTML, headers={"WWW-Authenticate": challenge})
        parts = urlsplit(request.path)
        path = parts.path.removeprefix("/api/")
        given = {n: v[0] for n, v in parse_qs(parts.query or request.body.decode()).items()}
        with self._lock:
            kind = path.partition("/")[0]
            if path.endswith("/entry/grid"):
                return self._grid(kind, given)
            if path.endswith("/entry/create"):
                return self._create(kind, json.loads(given["conf"]))
            entries = {"idnode/save": self._save, "idnode/delete": self._delete}
            return entries[path](given) if path in entries else Reply(404, HTML)

    def _knows(self, request: Seen) -> bool:
        shown = request.headers.get("Authorization", "")
        of = dict(re.findall(r'(\w+)="?([^",]+)"?', shown.removeprefix("Digest ")))
        if of.get("nonce") != self.nonce or of["uri"] != request.path:
            return False
        ours = _md5(f"{ADMIN}:tvheadend:{ADMIN_PASSWORD}")
        what = _md5(f"{request.method}:{request.path}")
        right = _md5(f"{ours}:{self.nonce}:{of['nc']}:{of['cnonce']}:auth:{what}")
        return (of["username"], of["response"]) == (ADMIN, right)

    def _grid(self, kind: str, given: dict[str, str]) -> Reply:
        self.pages += 1
        [asked] = json.loads(given["filter"])
        wanted = re.compile(asked["value"], re.IGNORECASE)
        found = [each for each in self.held[kind].values() if wanted.search(each["username"])]
        start = int(given["start"])
        page = found[start : start + int(given["limit"])]
        return Reply(200, {"entries": page, "total": len(found)})

    def _create(self, kind: str, conf: dict[str, Any]) -> Reply:
        uuid = next(self._uuids)
        self.held[kind][uuid] = {"uuid": uuid, **self._kept(conf)}
        return Reply(200, {"uuid": uuid})

    def _save(self, given: dict[str, str]) -> Reply:
        node = json.loads(given["node"])
        entry = self.by_uuid().get(node["uuid"])
        if entry is None:
            return Reply(400, HTML)
        entry.update(self._kept(node))
        return Reply(200, {})

    def _delete(self, given: dict[str, str]) -> Reply:
        for entries in self.held.values():
            if entries.pop(given["uuid"], None):
                return Reply(200, {})
        return Reply(404, HTML)

    def _kept(self, conf: dict[str, Any]) -> dict[str, Any]:
        tags = [each for each in conf.get("channel_tag", ()) if each in self.tags]
        return {**conf, "channel_tag": tags} if "channel_tag" in conf else conf

    def by_uuid(self) -> dict[str, dict[str, Any]]:
        return self.held["access"] | self.held["passwd"]

    def add(self, kind: str, username: str, **fields: Any) -> dict[str, Any]:
        self._create(kind, {"enabled": True, "username": username, **fields})
        return [*self.held[kind].values()][-1]

    def watches(self, user: str, password: str) -> list[str] | None:
        """The tags of the channels that a subscriber sees; None: refused (403)."""
        known = any(
            (each["username"], each["password"], each["enabled"]) == (user, password, True)
            for each in self.held["passwd"].values()
        )
        access = [
            each
            for each in self.held["access"].values()
            if each["username"] == user and each["enabled"]
        ]
        if not known or not access:
            return None
        return sorted({tag for each in access for tag in each["channel_tag"]}) or ["all"]


def snapshot(product: str = "TV Basic", *addons: str, **account: Any) -> dict[str, Any]:
    usual = {"i_account": 1000889, "id": f"{USER}@msisdn", "bill_status": "open"}
    return {
        "account_info": {
            **usual,
            "assigned_addons": [{"name": each} for each in addons],
            **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
        "product_info": {"i_product": 7, "name": product},
    }


class OfTvheadend(StateStandardTests):
    connector_class = IptvTvheadend
    pb = snapshot("TV Basic", "Sport", "Voice mail")
    changed_pb = snapshot("TV Premium", blocked=True)
    gone_pb = (
        {"sim_info": pb["sim_info"]},
        snapshot(bill_status="terminated"),
        snapshot("Voice only"),
    )
    secrets: ClassVar = {
        "credentials": f"{ADMIN}:{ADMIN_PASSWORD}",
        "look_up": "look-up-canary",
    }

    @pytest.fixture(autouse=True)
    def passwords(self) -> Iterator[ScriptedHttp]:
        """Where subscribers' passwords are looked up."""
        with ScriptedHttp(Reply(200, {"password": PASSWORD})) as source:
            self._look_up = f"{source.url}/{{i_account}}"
            yield source

    def complete(self, settings: dict[str, Any]) -> dict[str, Any]:
        look_up = {"source": "http", "url": self._look_up, "allow_http": True}
        return {**SETTINGS, "credentials": look_up, "allow_http": True, **settings}


class TestTvheadend(OfTvheadend, HttpStandardTests):
    rules = ANSWERS
    canaries = (ADMIN_PASSWORD,)
    hidden_failures = (Reply(200, {}), Reply(204), Reply(200, {"entries": []}))

    @pytest.fixture
    def double(self) -> TvheadendDouble:
        return TvheadendDouble()

    def http_settings(self, url: str) -> dict[str, Any]:
        return self.complete({"url": url})

    def bring_to(self, connector: IptvTvheadend, pb: dict[str, Any]) -> None:
        self.bring(connector, *self.first(connector, pb))

    @pytest.mark.parametrize(
        ("pb", "seen"),
        [
            (snapshot("TV Basic"), [BASIC]),
            (snapshot("TV Basic", "Sport"), [BASIC, SPORT]),
            (snapshot("TV Premium", "Cinema"), [BASIC, PREMIUM]),
            (snapshot("TV All", "Sport"), ["all"]),
            (snapshot("TV Basic", blocked=True), None),
            (snapshot("TV Basic", status="customer_suspended"), None),
            (snapshot("Voice only"), None),
            ({}, None),
        ],
    )
    def test_what_a_subscriber_sees(
        self, connector: IptvTvheadend, double: TvheadendDouble, pb: dict[str, Any], seen: Any
    ) -> None:
        kit, owner = UnderTheKit(self, connector), self.enriched(self.pb).owner
        double.add("access", "*", channel_tag=[BASIC])
        assert kit.deliver(self.enriched(self.pb)) is Outcome.DELIVERED
        later = self.enriched(
            pb, owner=owner, variables={"i_event": 2}, t="2026-11-21T02:11:00.000000Z"
        )
        assert kit.deliver(later) in (Outcome.DELIVERED, Outcome.UNCHANGED)
        assert double.watches(USER, PASSWORD) == seen
        assert double.watches(USER, "wrong") is None
        assert "*" in [each["username"] for each in double.held["access"].values()]

    def test_the_entries(self, connector: IptvTvheadend, double: TvheadendDouble) -> None:
        self.bring_to(connector, snapshot("TV Premium", "Sport"))
        [access], [password] = (list(each.values()) for each in double.held.values())
        assert access == {
            "uuid": access["uuid"], "username": USER, "enabled": True, "comment": "NSPS",
            "prefix": "0.0.0.0/0,::/0", "streaming": ["basic", "htsp"], "conn_limit": 0,
            "channel_tag": [BASIC, PREMIUM, SPORT],
        }  # fmt: skip
        assert password == {
            "uuid": password["uuid"], "username": USER, "enabled": True, "password": PASSWORD,
        }  # fmt: skip

    def test_names_that_look_alike_are_others_on_whatever_page(
        self, connector: IptvTvheadend, double: TvheadendDouble
    ) -> None:
        """Tvheadend's filter is a pattern, and it shows some at a time."""
        others = [double.add("access", f"{USER}{n}", enabled=False) for n in range(PAGE * 2)]
        double.add("access", USER, enabled=False)
        self.bring_to(connector, self.pb)
        held = list(double.held["access"].values())
        assert held[: PAGE * 2] == others and len(held) == PAGE * 2 + 1
        assert double.watches(USER, PASSWORD) == [BASIC, SPORT]
        before = double.pages
        connector.read(USER, make_call())
        assert double.pages == before + 4  # three of access, one of passwords

    def test_several_entries_of_one_name_become_one(
        self, connector: IptvTvheadend, double: TvheadendDouble
    ) -> None:
        for tag in (PREMIUM, BASIC):
            double.add("access", USER, channel_tag=[tag])
            double.add("passwd", USER, password=f"old of {tag}")
        self.bring_to(connector, self.pb)
        assert [len(each) for each in double.held.values()] == [1, 1]
        assert double.watches(USER, PASSWORD) == [BASIC, SPORT]
        for kind, entries in double.held.items():
            [same] = entries.values()
            double.add(kind, **{n: v for n, v in same.items() if n != "uuid"})
            self.bring_to(connector, self.pb)
            assert len(entries) == 1
        double.add("passwd", USER, password="another")
        self.remove(connector, USER)
        assert double.by_uuid() == {}

    @pytest.mark.parametrize("kind", ["access", "passwd"])
    def test_half_of_it_was_removed_or_disabled_by_hand(
        self, connector: IptvTvheadend, double: TvheadendDouble, kind: str
    ) -> None:
        self.bring_to(connector, self.pb)
        [entry] = double.held[kind].values()
        entry["enabled"] = False
        self.bring_to(connector, self.pb)
        assert double.watches(USER, PASSWORD) == [BASIC, SPORT]
        double.held[kind].clear()
        self.bring_to(connector, self.pb)
        assert double.watches(USER, PASSWORD) == [BASIC, SPORT]

    def test_a_tag_that_is_not_there_opens_nothing(
        self, connector: IptvTvheadend, double: TvheadendDouble
    ) -> None:
        """Without it the entry has no tag, and who has none sees every channel."""
        double.tags.clear()
        kit = UnderTheKit(self, connector)
        verdict = kit.attempt(self.enriched(self.pb))
        assert verdict.outcome is Outcome.RETRYING and "has it these channel tags" in verdict.reason
        assert double.watches(USER, PASSWORD) is None
        double.tags |= {BASIC, SPORT}
        assert kit.deliver(self.enriched(self.pb)) is Outcome.DELIVERED
        assert double.watches(USER, PASSWORD) == [BASIC, SPORT]

    def test_a_log_in_that_is_over(self, connector: IptvTvheadend, double: TvheadendDouble) -> None:
        self.bring_to(connector, self.pb)
        double.nonce = "nonce-2"
        self.bring_to(connector, snapshot("TV Basic"))
        assert double.watches(USER, PASSWORD) == [BASIC]

    def test_who_is_barred_is_so_without_a_password(
        self, system: ChaosProxy, double: TvheadendDouble, passwords: ScriptedHttp
    ) -> None:
        connector = self.make(self.settings(system))
        self.bring_to(connector, self.pb)
        passwords.always(Reply(404))
        connector = self.make(self.settings(system))
        self.bring_to(connector, snapshot("TV Basic", blocked=True))
        assert double.watches(USER, PASSWORD) is None
        with pytest.raises(Transient, match="there is no credential"):
            connector.desired(enriched(self.pb))

    def test_without_a_source_passwords_are_left_alone(
        self, system: ChaosProxy, double: TvheadendDouble
    ) -> None:
        connector = self.make({**self.settings(system), "credentials": None})
        double.add("passwd", USER, password="by hand")
        assert connector.read(USER, make_call()) is None
        self.bring_to(connector, self.pb)
        assert double.watches(USER, "by hand") == [BASIC, SPORT]
        self.remove(connector, USER)
        assert [*map(len, double.held.values())] == [0, 1]

    write_answers = (
        (Reply(200, {}), Unclear, "is url Tvheadend's"),
        (Reply(200, "[]"), Unclear, "is url Tvheadend's"),
        (Reply(400, HTML), Terminal, "HTTP error"),
        (Reply(404, HTML), Transient, "is url Tvheadend's"),
        (Reply(403, HTML), Transient, "may this user do that"),
        (Reply(500, HTML), Unclear, "500"),
    )

    def writes(self, towards: IptvTvheadend, scripted: ScriptedHttp) -> list[Callable[[], object]]:
        scripted.script(Reply(200, {"entries": [], "total": 0}))
        return [lambda: self.act(towards, make_call())]

    def test_an_entry_that_goes_while_it_is_changed(
        self, towards: IptvTvheadend, scripted: ScriptedHttp
    ) -> None:
        [state] = towards.desired(enriched(self.pb)).values()
        entry = {"uuid": "1", "username": USER}
        scripted.script(Reply(200, {"entries": [entry], "total": 1}), Reply(400, HTML))
        with pytest.raises(Transient, match="removed meanwhile"):
            towards.change(USER, state, {}, make_call())

    @pytest.mark.parametrize("ident", ["zoe@voip", "", ".*"])
    def test_an_account_without_a_user_name(self, connector: IptvTvheadend, ident: str) -> None:
        with pytest.raises(Terminal, match="msisdn is no name"):
            connector.desired(enriched(snapshot(id=ident)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tariffs": {}},
        {"tariffs": {"TV": {"channel_tags": []}}},
        {"tariffs": {"TV": {"channel_tags": ["Sport"]}}},
        {"tariffs": {"TV": {"channel_tags": "all", "streaming": ["recorder"]}}},
        {"packages": {"Sport": ["sport"]}},
        {"username": "no.such"},
        {"url": "http://tv.example.net:9981"},
    ],
)
def test_settings_that_are_refused(wrong: dict[str, Any]) -> None:
    right = {**SETTINGS, "url": "https://tv.example.net:9981"}
    Settings.model_validate(right)
    with pytest.raises(ValidationError):
        Settings.model_validate({**right, **wrong})


@pytest.mark.skipif(
    not os.environ.get("NSPS_IT_TVHEADEND_URL"),
    reason="no Tvheadend to try: NSPS_IT_TVHEADEND_URL is not set",
)
class TestRealTvheadend(OfTvheadend):
    """With an administrator's NSPS_IT_TVHEADEND_CREDENTIALS; in NSPS_IT_TVHEADEND_TAGS the UUIDs of
    three of its channel tags, with commas. What is written is removed."""

    secrets: ClassVar = {
        "credentials": os.environ.get("NSPS_IT_TVHEADEND_CREDENTIALS", ""),
        "look_up": "look-up-canary",
    }

    @pytest.fixture
    def system(self) -> Iterator[ChaosProxy]:
        with ChaosProxy.before(os.environ["NSPS_IT_TVHEADEND_URL"]) as proxy:
            yield proxy

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        path = urlsplit(os.environ["NSPS_IT_TVHEADEND_URL"]).path
        one, two, three = os.environ["NSPS_IT_TVHEADEND_TAGS"].split(",")
        text = json.dumps(SETTINGS)
        for ours, theirs in ((BASIC, one), (PREMIUM, two), (SPORT, three)):
            text = text.replace(ours, theirs)
        url = f"http://{system.host}:{system.port}{path}"
        return self.complete({**json.loads(text), "url": url})
