"""The situations of the runbook, in its order: what is the matter before each of its blocks.

Each is a generator: it yields when the section's next block is to be run, and leaves all well.
What takes days is made by moving a date in Firestore back, never by waiting.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import requests
from nsps.domain.outcome import Outcome
from nsps_testing.waiting import wait_for

from tests.end_to_end.runbook_site import Site

Situation = Callable[[Site], Iterator[None]]
PAST = datetime(2026, 1, 1, tzinfo=UTC)


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


# ---- all is well, and one subscriber -------------------------------------------------------------


def all_is_well(site: Site) -> Iterator[None]:
    for number in range(1, 7):
        site.account(number)
    site.idle()
    yield


def a_sim_does_not_work(site: Site) -> Iterator[None]:
    site.change("update subscribers set status = 'barred' where i_account = 277001")
    yield
    yield
    site.idle()
    yield


def refused(site: Site) -> Iterator[None]:
    site.hss.unknown = {"001010000000007"}
    site.account(7)
    yield
    site.hss.unknown = set()
    yield
    site.idle()
    yield


# ---- a system ------------------------------------------------------------------------------------


def down(site: Site) -> Iterator[None]:
    site.hss.down = True
    _changes(site, 9001)
    wait_for(lambda: site.switch("hss").off, 30, "the breaker to open")
    site.stack.tick()
    yield
    site.hss.down = False
    site.store.handler("hss").update({"breaker.next_probe": PAST})
    site.stack.tick()
    yield
    # All may have been delivered by now: then the tick's probe closes it, and not a call.
    site.store.handler("hss").update({"breaker.changed_at": ago(0.01), "breaker.next_probe": PAST})
    site.stack.tick()
    site.wait_in_service("hss")
    site.idle()
    yield


def _changes(site: Site, first: int) -> None:
    """An event about each of the first six subscribers."""
    for number in range(6):
        site.stack.send("SIM/Updated", i_account=277001 + number, i_event=first + number)


def stopped(site: Site) -> Iterator[None]:
    yield
    site.pause_known()
    site.stack.send("SIM/Updated", i_account=277001, i_event=9101)
    site.until_others_have(9101, "hss")
    yield
    yield
    site.stack.tick()
    site.idle()


def left_paused(site: Site) -> Iterator[None]:
    site.run('nsps pause subscribers --reason "new database server"')
    site.store.handler("subscribers").update({"pause.at": ago(25)})
    site.stack.tick()
    yield
    site.store.handler("subscribers").update({"pause.at": ago(32)})
    yield
    site.stack.tick()
    yield


def deployed_over(site: Site) -> Iterator[None]:
    site.run('nsps pause subscribers --reason "new database server"')
    site.pause_known()
    site.stack.tick()
    location, subscriptions = site.location("subscribers"), site.subscriptions()
    subscriptions.turn(location, off=False)  # as a deployment does
    site.stack.send("SIM/Updated", i_account=277001, i_event=9151)
    site.until_others_have(9151, "subscribers")
    yield
    site.stack.tick()
    assert subscriptions.is_off(location)
    site.run("nsps resume subscribers")
    site.stack.tick()
    site.idle()


# ---- retries -------------------------------------------------------------------------------------


def parked(site: Site) -> Iterator[None]:
    site.hss.down = True
    site.stack.send("SIM/Updated", i_account=277003, i_event=9301)
    site.until_outcome(9301, "hss", Outcome.PARKED)
    yield
    site.hss.down = False
    yield
    site.idle()
    yield


def given_up(site: Site) -> Iterator[None]:
    site.hss.down = True
    site.stack.send("SIM/Updated", i_account=277004, i_event=9311)
    site.until_outcome(9311, "hss", Outcome.PARKED)
    site.hss.down = False
    for each in site.store.client.collection("parked").stream():
        last = (each.to_dict() or {})["delivery"] == site.event_id(9311)
        each.reference.update({"next_try": PAST, "last": last})
    site.stack.tick()
    site.until_outcome(9311, "hss", Outcome.EXPIRED)
    site.idle()
    yield


def unreadable_owner(site: Site) -> Iterator[None]:
    site.stack.send("SIM/Updated", i_account="277004/2", i_event=9315)
    site.until_outcome(9315, "hss", Outcome.REJECTED)
    yield


def not_answered(site: Site) -> Iterator[None]:
    site.conduct("never")
    site.stack.send("SIM/Updated", i_account=277001, i_event=9321)
    i_event = site.changed("block_account", i_account=277002)
    assert i_event == 7608
    site.until_outcome(i_event, "orders", Outcome.ACCEPTED)
    yield
    for order in site.store.orders("orders").order_by("due_at").stream():
        order.reference.update({"due_at": PAST, "accepted_at": ago(31)})
    site.stack.tick()
    site.until_outcome(i_event, "orders", Outcome.REJECTED)
    site.conduct("normal")
    yield


# ---- PortaBilling --------------------------------------------------------------------------------


def portabilling_away(site: Site) -> Iterator[None]:
    site.stack.portabilling_fault("bad_gateway")
    i_event = site.changed("block_account", i_account=277003)
    assert i_event == 7609
    wait_for(lambda: any(s.retry for s in site.stack.histories(i_event)), 30, "a failed read")
    yield
    site.stack.well()
    site.stack.all_finished([i_event])
    yield


def statuses_not_taken(site: Site) -> Iterator[None]:
    site.stack.portabilling_fault("status_api_down")
    site.hss.unknown = {"001010000000004"}
    i_event = site.changed("block_account", i_account=277004)
    assert i_event == 7610
    site.until_outcome(i_event, "hss", Outcome.REJECTED)
    site.until_others_have(i_event, "hss")
    yield
    site.stack.well()
    site.hss.unknown = set()
    site.stack.tick()
    yield


def group_missing(site: Site) -> Iterator[None]:
    url = site.stack.description["sandbox"]["url"]
    assert requests.delete(f"{url}/sandbox/groups/CRM", timeout=10).ok
    site.account(8)
    yield
    yield


def secret_unreadable(site: Site) -> Iterator[None]:
    site.secrets_away(True)
    site.stack.kill_part("ingress")
    site.stack.answering("ingress")
    yield
    site.secrets_away(False)
    yield
    site.idle()


def credentials_changed(site: Site) -> Iterator[None]:
    auth = {"method": "basic", "credentials": {"user": "espf", "password": "new-4711"}}
    (site.desk / "new.json").write_text(json.dumps(auth))
    site.stack.put_secret("e2e-espf-webhook-next", json.dumps(auth["credentials"]))
    yield
    site.idle()


# ---- what systems hold ---------------------------------------------------------------------------


def left_over(site: Site) -> Iterator[None]:
    site.without_events("close_account", i_account=277005)
    site.change("insert into subscribers (i_account, name) values (5, 'Mallory')")
    yield
    yield
    site.idle()
    site.change("delete from subscribers where i_account = 5")


def empty(site: Site) -> Iterator[None]:
    site.change("delete from subscribers")
    site.stack.post("/sandbox/seed", accounts=60)
    yield
    site.until_over("reconcile")
    yield
    yield
    wait_for(lambda: _rows(site) >= 68, 60, "the rows")
    site.idle()
    yield


def _rows(site: Site) -> int:
    with sqlite3.connect(site.stack.state / "subscribers.db", timeout=20) as database:
        return int(database.execute("select count(*) from subscribers").fetchone()[0])


def replay_gone_wrong(site: Site) -> Iterator[None]:
    yield
    site.until_first_page("replay")
    yield
    yield
    site.idle()


def erased(site: Site) -> Iterator[None]:
    site.stack.do("close_account", i_account=277006)
    site.idle()
    yield
    yield


def who_did_it(site: Site) -> Iterator[None]:
    yield


SITUATIONS: Mapping[str, Situation] = {
    "Is all well?": all_is_well,
    "A SIM does not work": a_sim_does_not_work,
    "PortaBilling shows FAILED": refused,
    "A system is down": down,
    "A system must be stopped": stopped,
    "A handler was left paused": left_paused,
    "A deployment came over a pause": deployed_over,
    "Events are parked": parked,
    "Events were given up": given_up,
    "An event does not say whom it is about": unreadable_owner,
    "An order is not answered": not_answered,
    "PortaBilling cannot be read": portabilling_away,
    "PortaBilling does not take statuses": statuses_not_taken,
    "PortaBilling refuses statuses": group_missing,
    "Webhooks are answered 503": secret_unreadable,
    "ESPF's password is to be changed": credentials_changed,
    "A system holds what PortaBilling has not": left_over,
    "A system is empty": empty,
    "A replay went wrong": replay_gone_wrong,
    "A subscriber asks to be erased": erased,
    "Who did that?": who_did_it,
}
