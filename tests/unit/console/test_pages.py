"""The pages: who sees what, that forms are our own, and that no value can act in them."""

from __future__ import annotations

import csv
import html
import io
import re
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.console.pages.events import happened
from nsps.console.pages.forms import SECONDS
from nsps.console.pages.render import timed
from nsps.console.pages.routes import ROUTES
from nsps.console.pages.subscriber import with_differences
from nsps.delivery.switch import Switches
from nsps.domain.outcome import Terminal
from nsps.runtime.settings import PORTABILLING

from tests.unit.connector.systems import IMSI
from tests.unit.console.site_kit import NUMBER, Pages, said
from tests.unit.test_timeline import Rig

NASTY = "<img src=x onerror=alert(1)>\"'&{{7*7}}\x1b[31m\u202eevil\u200b" + "n" * 2000
READING = [
    route.path for route in ROUTES if route.method == "GET" and not route.path.endswith(".csv")
]


@pytest.fixture
def pages(store: Store) -> Pages:
    return Pages(store)


@pytest.fixture
def rig(store: Store) -> Rig:
    return Rig(store)


def delivered(rig: Rig, number: int = 1, **account: Any) -> str:
    """An event that hss took."""
    message = rig.opened("hss", i_event=number)
    rig.hss.deliver(rig.enriched(message, 2 + number, **account))
    return message.event_id


# ---- every page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/events", "/handlers", "/handlers/hss", "/parked", "/jobs"])
@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_a_page_without_anything_says_what_would_fill_it(
    pages: Pages, path: str, role: str
) -> None:
    page = pages.text(path, role)
    assert "<h1" in page
    assert len(page) < 200_000
    if path not in ("/", "/handlers", "/handlers/hss"):
        assert 'class="empty"' in page


def test_every_answer_is_protected(pages: Pages, rig: Rig) -> None:
    event = delivered(rig)
    for path in ("/", f"/events/{event}", "/audit.csv", "/nothing", "/accounts/9"):
        answer = pages.get(path).to_flask()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers  # the proxy before it knows who it is


def test_no_page_needs_what_its_policy_forbids(pages: Pages, rig: Rig) -> None:
    event = delivered(rig)
    found = ["/", "/events", f"/events/{event}", "/accounts/9", "/handlers/hss", "/jobs", "/audit"]
    for path in found:
        page = pages.text(path, "admin")
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", page)
        assert not re.search(r"(src|href)=\"(https?:)?//", page)


def test_files_are_kept_by_browsers_under_an_address_of_their_content(pages: Pages) -> None:
    page = pages.text("/")
    for address in re.findall(r"/files/\w+/[\w.]+", page):
        answer = pages.get(address, role=None).to_flask()
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        tag = answer.headers["ETag"]
        assert pages.get(address, role=None, headers={"if-none-match": tag}).code == 304
    assert len(set(re.findall(r"/files/\w+/[\w.]+", page))) == 4
    assert pages.get("/files/../site.py", role="viewer").code == 404


def test_who_is_not_known_sees_nothing(pages: Pages) -> None:
    for path in READING:
        shown = pages.get(path.replace("{name}", "hss"), role=None)
        assert shown.code == 401
        assert b"hss" not in shown.body
    assert pages.site.handle("POST", "/handlers/hss/pause", {}, {}, b"reason=x").code == 401


def test_an_unknown_page_and_a_wrong_method_are_said(pages: Pages) -> None:
    assert pages.get("/nothing").code == 404
    assert pages.get("/handlers/hss/pause").code == 405
    assert pages.get("/handlers/nobody").code == 404
    assert pages.get("/events/nobody").code == 404


# ---- what a value may do -------------------------------------------------------------------------


def test_a_value_is_shown_and_does_nothing(pages: Pages, rig: Rig) -> None:
    message = rig.opened("hss")
    rig.box.seen.before = [Terminal(f"refused for {NASTY}")]
    rig.hss.deliver(rig.enriched(message, firstname=NASTY))
    Switches(rig.store).open("hss", 3, f"it said {NASTY}")
    pages.send("/handlers/mail/pause", {"reason": NASTY[:400]})
    for path in ("/", "/events", f"/events/{message.event_id}", "/handlers/hss", "/audit"):
        page = pages.text(path)
        assert "<img" not in page
        assert not {"\x1b", "\u202e", "\u200b"} & set(page)
    page = pages.text(f"/events/{message.event_id}")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert r"\x1b[31m\u202eevil\u200b" in page
    assert len(page) < 200_000


def test_a_value_does_nothing_in_a_spreadsheet(pages: Pages) -> None:
    pages.send("/handlers/hss/pause", {"reason": '=cmd|"/c calc"!A1'})
    shown = pages.get("/audit.csv")
    assert shown.kind.startswith("text/csv")
    lines = list(csv.reader(io.StringIO(shown.body.decode("utf-8-sig"))))
    assert lines[0][:4] == ["at", "who", "role", "action"]
    assert lines[1][1:6] == [
        "operator@acme.example",
        "operator",
        "pause",
        "hss",
        '\'=cmd|"/c calc"!A1',
    ]


@pytest.mark.parametrize("referer", ["//evil.example/x", "https://evil.example", "javascript:x"])
def test_the_way_back_is_always_ours(pages: Pages, referer: str) -> None:
    shown = pages.send("/handlers/hss/pause", {}, headers={"referer": referer})
    assert shown.code == 409
    found = re.findall(r'href="([^"]*)">Back', shown.body.decode())
    assert found and all(re.match(r"/(?!/)", address) for address in found)


# ---- forms ---------------------------------------------------------------------------------------


def test_an_operator_pauses_and_resumes(pages: Pages) -> None:
    shown = pages.send("/handlers/hss/pause", {"reason": "a new cable"})
    assert (shown.code, shown.headers["Location"]) == (303, "/handlers/hss?done=paused")
    page = said(pages.text("/handlers/hss?done=paused"))
    assert "It is paused." in page
    assert "by operator@acme.example" in page and "a new cable" in page
    assert "hss is paused by operator@acme.example" in said(pages.text("/"))
    assert pages.send("/handlers/hss/resume", {"reason": "done"}).code == 303
    page = said(pages.text("/audit"))
    assert re.search(r"resume hss done .* pause hss a new cable", page)


@pytest.mark.parametrize(
    "case", ["no key", "another's key", "an old key", "another site", "a made-up key"]
)
def test_a_form_that_is_not_ours_changes_nothing(pages: Pages, case: str) -> None:
    key = {"no key": "", "another's key": pages.key("admin"), "a made-up key": "0" * 64}.get(case)
    headers = {"sec-fetch-site": "cross-site"} if case == "another site" else {}
    if case == "an old key":
        key = pages.key("operator")
        pages.now += 2 * SECONDS
    shown = pages.send("/handlers/hss/pause", {"reason": "x"}, headers=headers, key=key)
    assert shown.code == 403
    assert not Switches(pages.store).read("hss").off


def test_a_form_works_for_as_long_as_somebody_thinks(pages: Pages) -> None:
    key = pages.key("operator")
    pages.now += SECONDS
    assert pages.send("/handlers/hss/pause", {"reason": "x"}, key=key).code == 303


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_another_sites_form_cannot_use_the_api(pages: Pages, kind: str) -> None:
    """The proxy adds who the browser's person is, to whatever page sends it."""
    headers = {"x-role": "operator", "content-type": kind}
    body = b'{"reason": "x"}'
    answer = pages.api.handle("POST", "/api/handlers/hss/pause", headers, {}, body)
    assert answer.code == 415
    assert not Switches(pages.store).read("hss").off


def test_a_viewer_sees_no_button_and_a_forged_form_is_refused(pages: Pages, rig: Rig) -> None:
    event = delivered(rig)
    for path in ("/", f"/events/{event}", "/accounts/9", "/handlers/hss", "/jobs", "/parked"):
        assert 'method="post"' not in pages.text(path, "viewer"), path
    for route in ROUTES:
        if route.method == "POST":
            shown = pages.send(
                route.path.replace("{name}", "hss"), {"reason": "x"}, "viewer", key=_viewers(pages)
            )
            assert shown.code == 403, route.path
            assert "is viewer: this needs" in said(shown.body.decode())
    assert pages.get("/health-of-all", "viewer").code == 403
    page = pages.text("/accounts/9?ask=now", "viewer")
    assert "as NSPS wrote it last" in page


def test_what_a_system_or_a_message_said_is_shown_to_no_viewer(pages: Pages) -> None:
    said, at = f"subscriber {IMSI} is not there", datetime.now(UTC) + timedelta(hours=4)
    kept: dict[str, Any] = {"stage": "hss", "handler": "hss", "only": None, "run": None}
    kept |= {
        "tries": 1,
        "body": None,
        "event_id": "e1",
        "delivery": "e1",
        "reason": said,
        "next_try": at,
        "parked_at": at,
    }
    pages.store.parked("hss.e1").set({**kept, "letter": zlib.compress(said.encode())})
    Switches(pages.store).open(PORTABILLING, 3, said)
    job = pages.send("/reconciles", {"handler": "hss", "all": "yes"}).headers["Location"]
    pages.store.client.document(job.strip("/")).update({"error": said})
    failed = {"outcome": "rejected", "finished_at": datetime.now(UTC), "errors": [said], "t": "t"}
    pages.store.delivery("hss", "e2").set(failed)
    pages.store.event("e2").set({"owner": "account:7"})
    assert pages.api_get("overview", "operator").body["handlers"][0]["to_mend_error"] == said
    for path in ("overview", "parked", "handlers", "jobs", job.strip("/")):
        assert IMSI in str(pages.api_get(path, "operator").body), path
        assert IMSI not in str(pages.api_get(path, "viewer").body), path


def _viewers(pages: Pages) -> str:
    """A key that a viewer could make out of nothing: the right one."""
    return pages.site._key.of("viewer@acme.example")


def test_only_an_admin_erases_and_only_with_the_number_typed(pages: Pages, rig: Rig) -> None:
    delivered(rig)
    assert "Type the account" not in pages.text("/accounts/9?ask=erase")
    page = pages.text("/accounts/9?ask=erase", "admin")
    assert "Type the account" in page
    given = {"typed": "9", "held": "yes"}
    assert pages.send("/accounts/9/erase", given).code == 403
    refused = pages.send("/accounts/9/erase", {**given, "typed": "8"}, "admin")
    assert refused.code == 400 and "nothing was erased" in refused.body.decode()
    assert pages.send("/accounts/9/erase", {"typed": "9"}, "admin").code == 409
    assert pages.send("/accounts/9/erase", given, "admin").code == 303
    assert "No event in the last three months" in pages.text("/accounts/9")


# ---- what is shown to whom -----------------------------------------------------------------------


def test_numbers_and_names_are_masked_for_viewers_on_pages_and_in_the_api(
    pages: Pages, rig: Rig
) -> None:
    message = rig.opened("hss")
    rig.box.seen.before = [Terminal(f"Ann Lovelace ({IMSI}) is unknown")]
    account = {"firstname": "Ann", "lastname": "Lovelace"}
    rig.hss.deliver(rig.enriched(message, 3, **account))
    second = delivered(rig, 2, **account)
    secret = ("Lovelace", IMSI, "ann@example.net")
    for path in (
        f"/events/{message.event_id}",
        f"/events/{second}",
        "/accounts/9",
        "/",
        "/events",
        f"/search?q={IMSI}",
    ):
        shown = pages.get(path, "viewer")
        assert not [each for each in secret if each in shown.body.decode()], path
    for path in (
        "events",
        f"events/{second}",
        f"events/{second}/details",
        "accounts/9",
        "overview",
    ):
        answer = str(pages.api_get(path, "viewer").body)
        assert not [each for each in secret if each in answer], path
    answer = str(pages.api_get("find", "viewer", imsi=IMSI).body)
    assert IMSI not in answer and "account:9" in answer
    shown_to_operator = pages.text(f"/events/{second}")
    assert IMSI in shown_to_operator and "Lovelace" in shown_to_operator
    page = pages.text(f"/events/{second}", "viewer")  # it can still be followed
    assert "account:9" in page
    assert re.search(r"class=\"mono\">(imsi|number)#[0-9a-f]{12}", page)


def test_a_deployment_may_show_them_to_viewers(store: Store, rig: Rig) -> None:
    from nsps.console.identity import Role

    event = delivered(rig)
    assert IMSI in Pages(store, Role.viewer).text(f"/events/{event}", "viewer")


def test_who_looked_up_a_subscriber_is_in_the_audit_trail(pages: Pages, rig: Rig) -> None:
    delivered(rig)
    pages.get(f"/search?q={IMSI}", "viewer")
    pages.get("/accounts/9")
    pages.api_get("accounts/9", "admin")
    page = said(pages.text("/audit?look_ups=true"))
    for who in ("viewer", "operator", "admin"):
        assert f"{who}@acme.example {who} look up account:9" in page
    assert IMSI not in page
    assert "look up account" not in said(pages.text("/audit"))


# ---- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "leads"),
    [
        (IMSI, "/accounts/9"),
        (f"imsi:{IMSI}", "/accounts/9"),
        ("account:9", "/accounts/9"),
        (" Account: 9 ", "/accounts/9"),
    ],
)
def test_one_field_finds_a_subscriber(pages: Pages, rig: Rig, typed: str, leads: str) -> None:
    delivered(rig)
    shown = pages.get(f"/search?q={typed}")
    assert (shown.code, shown.headers.get("Location")) == (303, leads)


def test_a_customer_is_found_by_its_number_and_shows_its_accounts(pages: Pages) -> None:
    """Also one that no event was about: PortaBilling lists its accounts."""
    assert pages.get("/search?q=2501").headers["Location"] == "/customers/2501"
    page = pages.text("/customers/2501")
    assert all(f'href="/accounts/{each}"' in page for each in (277001, 277002))
    assert "PortaBilling lists no account of it" in pages.text("/customers/2502")
    assert NUMBER in said(pages.text("/customers/2503"))
    assert NUMBER not in pages.text("/customers/2503", "viewer")


def test_the_settings_of_a_handler_are_its_functions_and_operators_alone_ask(pages: Pages) -> None:
    pages.handlers.answers["hss"] = {"settings": {"url": "https://hss.test"}, "secrets": ["token"]}
    assert "https://hss.test" in said(pages.text("/handlers/hss?ask=settings"))
    assert "https://hss.test" not in said(pages.text("/handlers/hss?ask=settings", "viewer"))
    assert pages.api_get("handlers/hss/settings", "viewer").code == 403


def test_one_field_finds_an_event(pages: Pages, rig: Rig) -> None:
    event = delivered(rig, 4711)
    assert pages.get("/search?q=4711").headers["Location"] == f"/events/{event}"
    assert pages.get(f"/search?q={event}").headers["Location"] == f"/events/{event}"


def test_a_number_that_is_both_shows_both(pages: Pages, rig: Rig) -> None:
    delivered(rig, 9)
    page = said(pages.text("/search?q=9"))
    assert "account 9" in page and "SIM/Updated" in page


@pytest.mark.parametrize("typed", ["999", "no such thing", "account:x", "x" * 300, "a/b"])
def test_what_is_not_there_is_said(pages: Pages, typed: str) -> None:
    page = said(pages.get(f"/search?q={typed}").body.decode())
    assert (
        "No system that NSPS writes to has it" in page or "not a number" in page or "write" in page
    )


# ---- lists ---------------------------------------------------------------------------------------


def test_events_are_narrowed_and_paged(
    pages: Pages, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nsps.console.pages import events

    monkeypatch.setattr(events, "PAGE", 2)
    for number in range(1, 4):
        delivered(rig, number, i_event=number)
    first = pages.text("/events")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = pages.text(following[1].replace("&amp;", "&"))
    shown = [re.findall(r'<td class="mono">(\d+)', page) for page in (first, second)]
    assert shown == [["3", "2"], ["1"]]
    assert "3" not in re.findall(r'<td class="mono">(\d+)', pages.text("/events?outcome=rejected"))
    until = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M")
    assert "No event is like that" in pages.text(f"/events?until={until}")
    assert f'name="until" value="{until}"' in pages.text(f"/events?until={until}:30Z")
    for wrong in ("since=x", "event_type=***", "outcome=odd", "handler=nobody", "account=x"):
        assert 'role="alert"' in pages.get(f"/events?{wrong}").body.decode(), wrong


def test_a_dry_run_is_shown_first_and_then_sent(pages: Pages, rig: Rig) -> None:
    event = delivered(rig)
    fields = {"event": event, "handler": "hss", "dry_run": "yes"}
    shown = pages.send("/replays", fields)
    job = shown.headers["Location"]
    assert re.fullmatch(r"/jobs/\d{8}-\d{6}-\w+", job)
    assert "only shown, nothing is written" in said(pages.text(job))
    rig.store.client.document("jobs", job.rpartition("/")[2]).set({"state": "done"}, merge=True)
    page = pages.text(job)
    assert "Send it again" in page
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    assert form["event"] == event and "dry_run" not in form
    assert pages.send("/replays", {**form, "reason": "ticket 815"}).code == 303
    assert len(pages.published) == 2
    answer = pages.send("/replays", {"rate": "many"})
    assert answer.code == 400


def test_what_is_parked_is_listed_page_by_page_and_sent_now(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsps.console.pages.parked.PAGE", 2)
    later = datetime.now(UTC) + timedelta(hours=4)
    for number, stage in enumerate(("hss", "enrichment", "mail")):
        kept = {"stage": stage, "handler": None, "only": None, "run": None, "tries": 1}
        kept |= {"event_id": f"e{number}", "delivery": f"e{number}", "body": None, "reason": "away"}
        at = later + timedelta(minutes=number)
        pages.store.parked(f"{stage}.e{number}").set({**kept, "next_try": at, "parked_at": at})
    first = pages.text("/parked")
    assert [f"/events/e{n}" in first for n in range(3)] == [True, True, False]
    (more,) = re.findall(r'rel="next" href="([^"]*)"', first)
    second = pages.text(html.unescape(more))
    assert "/events/e2" in second and "data-live" not in second
    for action in re.findall(r'action="(/parked/[^"]*)"', first):
        assert pages.send(action, {"reason": ""}).headers["Location"].endswith("done=sending")
    assert {
        (pages.store.read(pages.store.event(f"e{n}")) or {})["next_try"] < later for n in (0, 1)
    }
    assert pages.send("/parked/hss.never/send", {}).code == 404


def test_many_are_chosen_by_a_form(pages: Pages) -> None:
    fields = {"handler": "hss", "outcomes[]": "rejected", "since": "2026-11-01T00:00", "rate": "5"}
    job = pages.send("/replays", fields).headers["Location"]
    page = said(pages.text(job))
    assert "handler hss" in page and "outcomes rejected" in page and "5.0 a second" in page
    assert pages.send("/reconciles", {"handler": "hss", "all": "yes", "fix": "yes"}).code == 303
    assert pages.send("/reconciles", {"handler": "mail", "all": "yes"}).code == 409
    assert pages.send("/reconciles", {"handler": "hss"}).code == 400


def test_a_time_in_a_sentence_is_the_readers_and_nothing_else_becomes_markup() -> None:
    shown = timed("paused since 2026-11-30 02:49 UTC, until 2026-13-40 02:49:36 UTC: <b>\u202e")
    assert 'paused since <time datetime="2026-11-30T02:49:00+00:00"' in shown
    assert shown.endswith("until 2026-13-40 02:49:36 UTC: &lt;b&gt;\\u202e")
    assert shown.count("<time") == 1


def test_what_happened_within_a_minute_is_shown_by_its_distance() -> None:
    def at(second: float) -> dict[str, Any]:
        return {"at": f"2026-11-30T02:{int(second // 60):02}:{second % 60:06.3f}+00:00", "text": ""}

    lines = [at(0), at(0.02), at(9.5), at(61), {"at": None, "text": ""}]
    assert [each["after"] for each in happened({"happened": lines})] == [
        "",
        "+20 ms",
        "+9.5 s",
        "",
        "",
    ]


def test_a_system_that_was_written_and_differs_now_stands_first() -> None:
    standing = {"rows": [{"handler": "crm"}], "rest": [], "done": ["hss", "mail"], "compare": []}
    resource = {"key": "001010000000001", "what": "different", "rows": [("active", False, True)]}
    asked = [{"name": name, "resources": [resource]} for name in ("hss", "crm")]
    asked.append({"name": "mail", "resources": [{**resource, "what": "same"}]})
    found = with_differences(standing, asked, "account:9")
    assert [each["handler"] for each in found["rows"]] == ["hss", "crm"]
    assert "001010000000001: active is False, it should be True" in found["rows"][0]["text"]
    assert found["done"] == ["mail"]
