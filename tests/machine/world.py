"""One history: a PortaBilling, the real functions, three external systems, and what happens.

Every operation takes small numbers and picks by them among what there is at the moment, so that
any sequence of operations is a history. Nothing happens by itself: the machine brings each message
(twice, late, in any order), lets each attempt go on or die, and moves the clock.
"""

from __future__ import annotations

import base64
import itertools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import flask
import requests
from nsps.cloud.documents import Documents
from nsps.connector.serve import HandlerFunction
from nsps.console.identity import Person, Role
from nsps.delivery import switch
from nsps.domain.outcome import Outcome
from nsps.runtime.settings import HandlerLocation
from nsps.transport.http import Answer
from nsps_local.sandbox.domain import Refused
from nsps_local.sandbox.faults import Fault
from werkzeug.datastructures import Headers
from werkzeug.test import Client, EnvironBuilder

from tests.machine.cloud import ENVIRON, WEBHOOK_SECRET, Cloud, SteppedStore, environment
from tests.machine.connectors.letters.connector import Letters, Partner
from tests.machine.connectors.orders.connector import PROOF, Orders
from tests.machine.connectors.sims.connector import Sims
from tests.machine.invariants import Ended, needs_repair, violations
from tests.machine.steps import Attempt, Go
from tests.machine.systems import SYSTEMS, OrderSystem, Placed, System, register

DEPLOYMENT = "machine"
CONNECTORS: dict[str, Any] = {
    "sims": Sims,
    "letters": Letters,
    "orders": Orders,
    "partner": Partner,
}
GROUPS = {"sims": "HSS", "letters": "VoIP", "orders": "PCRF", "partner": "IPTV"}
KINDS = {"sims": "state", "letters": "message", "orders": "asynchronous", "partner": "message"}
HANDLERS = ("sims", "letters", "orders")
ORDERED = frozenset({"partner"})
"""Handlers whose messages go out in the order of their data."""
STATES = ("sims", "orders")
"""The handlers whose system holds a state."""
ATTEMPTS = 5
"""Deliveries of a message before it is a dead letter."""
CALL_SECONDS = 3.0
DOUBT_SECONDS = 900.0
"""An order that the ledger does not know to be taken is carried out within so long."""
ACCOUNTS, CARDS, SLOTS = 2, 2, 2
STEPS = (1.0, 6.0, 31.0, 120.0, 1000.0, 3700.0, 30000.0, 90000.0)
"""How far the clock is moved, in seconds."""
SETTLING = (6, 61, 61, 61, 700, 1000, 3700, 3700, 7300, 15000, 30000, 60000, 90000, 90000)
BACK = "a message comes back"

_projects = itertools.count(1)


class Unsettled(AssertionError):
    """The faults have ended, time has passed, and something is still not finished."""


class Elsewhere(AssertionError):
    """A history by hand is not what its writer thought."""


class Violated(AssertionError):
    """A promise that was not kept."""


@dataclass
class Letter:
    """A message on its way to a function. ``target``: which; ``path``: where there."""

    target: str
    data: bytes
    attributes: Mapping[str, str]
    ident: str
    path: str = "/"
    attempt: int = 1

    def push(self) -> bytes:
        message = {
            "data": base64.b64encode(self.data).decode(),
            "attributes": dict(self.attributes),
            "messageId": self.ident,
        }
        subscription = f"projects/p/subscriptions/{DEPLOYMENT}-{self.target}"
        return json.dumps(
            {"message": message, "subscription": subscription, "deliveryAttempt": self.attempt}
        ).encode()


@dataclass
class Endpoints:
    """The push endpoints of the handlers' subscriptions, as a tick leaves them."""

    off: set[str] = field(default_factory=set)

    def is_off(self, location: HandlerLocation) -> bool:
        return location.subscription in self.off

    def turn(self, location: HandlerLocation, *, off: bool) -> None:
        (self.off.add if off else self.off.discard)(location.subscription)


class World:
    """One history. ``handlers``: those that the deployment has."""

    def __init__(self, cloud: Cloud, handlers: tuple[str, ...] = HANDLERS) -> None:
        self.cloud, self.clock, self.handlers = cloud, cloud.clock, handlers
        self.states = tuple(name for name in handlers if name in STATES)
        cloud.world = self
        self.project = f"history-{next(_projects)}"
        self.store = SteppedStore(cloud.client(self.project), Documents(self.project, "(default)"))
        self.endpoints = Endpoints()
        self.published: set[str] = set()
        """Topics with messages that the machine has not in its hands yet."""
        self.events = 0
        """Webhooks that there were."""
        self.history: list[str] = []
        self.accepted: list[str] = []
        """The events that ESPF was answered 200 for, by their event_id."""
        self.waiting: list[dict[str, Any]] = []
        """Webhooks that ESPF has still to send."""
        self.bag: list[Letter] = []
        self.attempts: list[Attempt] = []
        self._instances: dict[tuple[str, int], Any] = {}
        self.started = 0
        """Attempts so far."""
        self._make_systems()
        self._make_topics()
        self.sandbox = cloud.sandbox
        self._browser = Client(self.sandbox.app)
        self._make_subscribers()

    # ---- setting up --------------------------------------------------------------------------

    def _make_systems(self) -> None:
        self.sims, self.letters = System("sims", self._tell), System("letters", self._tell)
        self.orders = OrderSystem("orders", self._tell, self.clock.monotonic)
        partner = System("partner", self._tell)
        systems: tuple[System, ...] = (self.sims, self.letters, self.orders, partner)
        self.systems = {system.name: system for system in systems}
        self._registered = {name: register(system) for name, system in self.systems.items()}

    def _make_topics(self) -> None:
        self._subscribed = {
            "espf-events": ("enrichment",),
            "enriched-events": self.handlers,
            "jobs": ("console",),
        }
        for topic, names in self._subscribed.items():
            self.cloud.publisher.create_topic(name=self._topic(topic))
            for name in names:
                request = {"name": self._subscription(name), "topic": self._topic(topic)}
                if name in self.handlers:
                    request["filter"] = f"attributes:{name}"
                self.cloud.subscriber.create_subscription(request=request)

    def _make_subscribers(self) -> None:
        """Accounts without cards, and cards without accounts; of none of it an event tells."""
        billing, queue, store = self.sandbox.billing, self.sandbox.queue, self.sandbox.store
        self.sandbox.faults.clear()
        for table in ("sim_cards", "accounts", "customers", "products", "events"):
            store.run(f"DELETE FROM {table}")
        queue.enabled = False
        product = store.run("INSERT INTO products (name) VALUES ('mobile')")
        customer = billing.add_customer("one")["i_customer"]
        self.accounts = [
            billing.add_account(f"44770090000{n}", customer, product)["i_account"]
            for n in range(1, ACCOUNTS + 1)
        ]
        self.cards = [
            billing.add_sim_card(f"00101000000000{n}", f"891000000000000000{n}")["i_sim_card"]
            for n in range(1, CARDS + 1)
        ]
        queue.enabled = True

    def _topic(self, name: str) -> str:
        return f"projects/{self.project}/topics/{name}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self.project}/subscriptions/{DEPLOYMENT}-{name}"

    def close(self) -> None:
        """Nothing of it goes on."""
        for attempt in list(self.attempts):
            attempt.crash()
        for name in self._registered.values():
            del SYSTEMS[name]

    def _tell(self, text: str) -> None:
        self.history.append(text)

    # ---- the functions -----------------------------------------------------------------------

    def _environment(self, function: str) -> dict[str, str]:
        handlers = [self._handler(name) for name in self.handlers]
        summaries = [{k: v for k, v in each.items() if k in _SUMMARY} for each in handlers]
        locations = {
            name: {
                "url": f"http://{name}.function.test",
                "audience": f"http://{name}.function.test",
                "subscription": self._subscription(name),
            }
            for name in self.handlers
        }
        push = {"audience": "http://f.test", "service_account": "push@f.test", "unsigned": True}
        auth = {"method": "basic", "credentials": ["env:MACHINE_WEBHOOK"]}
        documents = {
            "NSPS_PUSH": push,
            "NSPS_ESPF_AUTH": auth,
            "NSPS_PORTABILLING": {
                "url": "http://portabilling.test",
                "credentials": "env:MACHINE_API",
            },
            "NSPS_HANDLERS": summaries,
            "NSPS_HANDLERS_FULL": [each for each in handlers if each["kind"] == "asynchronous"],
            "NSPS_FUNCTIONS": locations,
            "NSPS_CONSOLE": {"audiences": ["http://console.test"], "roles": {}},
        }
        if function in self.handlers:
            documents["NSPS_HANDLER"] = self._handler(function)
        return {
            "GOOGLE_CLOUD_PROJECT": self.project,
            "NSPS_DEPLOYMENT": DEPLOYMENT,
            "NSPS_FUNCTION": function,
            "NSPS_DATABASE": "(default)",
            "NSPS_DIGEST_KEY": "env:MACHINE_DIGEST",
            "NSPS_EVENTS_TOPIC": self._topic("espf-events"),
            "NSPS_ENRICHED_TOPIC": self._topic("enriched-events"),
            "NSPS_JOBS_TOPIC": self._topic("jobs"),
            **{name: json.dumps(document) for name, document in documents.items()},
        }

    def _handler(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "connector": name,
            "kind": KINDS[name],
            "events": ["SIM/*"],
            "requires": ["account_info", "sim_info"],
            "group": GROUPS[name],
            "retries": {"push": {"minimum": 10, "maximum": 600, "attempts": ATTEMPTS}},
            "answer_within_hours": 1.0,
            "call_timeout_seconds": CALL_SECONDS,
            "breaker": {"failures": 4, "seconds": 60.0, "owners": 2},
            "settings": {"system": self._registered[name]},
        }

    def _instance(self, function: str, slot: int) -> Any:
        """An instance of a function; a new one where the last has crashed."""
        at = (function, slot % SLOTS)
        if at not in self._instances:
            environ = self._environment(function)
            if function in self.handlers:
                self._instances[at] = HandlerFunction(CONNECTORS[function], {**ENVIRON, **environ})
            else:
                module = self.cloud.modules[function]
                make = module._make if function == "ingress" else module.Function
                with environment(environ):
                    self._instances[at] = make()
        return self._instances[at]

    def _call(self, function: str, instance: Any, request: flask.Request) -> Any:
        """What the function answers, as the web server would call it."""
        if function in self.handlers:
            return instance.handle(request).to_flask()
        module = self.cloud.modules[function]
        name = "_ingress" if function == "ingress" else "_function"
        setattr(module, name, lambda: instance)  # each main looks at it first, before any stop
        return module.main(request)

    def reach(self, verb: str, url: str, **given: Any) -> Answer:
        """An HTTP request to PortaBilling, to another function or to the metadata server."""
        parts = urlsplit(url)
        if parts.hostname == "portabilling.test":
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            response = self._browser.open(
                target,
                method=verb,
                headers=dict(given.get("headers") or {}),
                **({"json": given["json"]} if given.get("json") is not None else {}),
                **({"data": given["data"]} if given.get("data") is not None else {}),
            )
            return _answer(response, url)
        name = str(parts.hostname).partition(".")[0]
        if name not in self.handlers:
            return Answer(200, {}, b"a token of this instance", url)
        body = json.dumps(given["json"]).encode() if given.get("json") is not None else b""
        request = _request(verb, parts.path, body, query=parts.query)
        response = self._call(name, self._instance(name, 0), request)
        return _answer(response, url)

    # ---- attempts ----------------------------------------------------------------------------

    def _start(
        self,
        function: str,
        slot: int,
        request: flask.Request,
        done: Callable[[Any], None],
        about: Mapping[str, str],
    ) -> Attempt:
        instance = self._instance(function, slot)
        self.started += 1
        name = f"{function}#{self.started}"

        def ended(reply: Any) -> None:
            self.attempts.remove(attempt)
            self._tell(f"  {name} {_said(reply)}")
            done(reply)
            self._collect()

        attempt = Attempt(
            name, instance, lambda: self._call(function, instance, request), ended, dict(about)
        )
        self.attempts.append(attempt)
        attempt.start()
        return attempt

    def _collect(self) -> None:
        """What was published comes into the machine's hands."""
        topics, self.published = self.published, set()
        for name in [name for topic in sorted(topics) for name in self._subscribed[topic]]:
            request = {"subscription": self._subscription(name), "max_messages": 100}
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                found = self.cloud.subscriber.pull(request=request | {"return_immediately": True})
            ids = []
            for each in found.received_messages:
                ids.append(each.ack_id)
                message = each.message
                path = "/work" if name == "console" else "/"
                self.bag.append(
                    Letter(name, message.data, dict(message.attributes), message.message_id, path)
                )
            if ids:
                subscription = self._subscription(name)
                self.cloud.subscriber.acknowledge(subscription=subscription, ack_ids=ids)

    def _picked(self, number: int) -> Attempt | None:
        return self.attempts[number % len(self.attempts)] if self.attempts else None

    def step(self, number: int) -> None:
        """An attempt goes on to its next stop."""
        if attempt := self._picked(number):
            self._tell(f"{attempt.name} goes on from {attempt.at}")
            self._go(attempt, Go.ON)

    def run(self, number: int) -> None:
        """An attempt goes on until it ends, or must wait."""
        if attempt := self._picked(number):
            self._tell(f"{attempt.name} runs from {attempt.at}")
            self._run(attempt)

    def until(self, number: int, where: str) -> None:
        """An attempt goes on until it is there. Raises Elsewhere if it never comes there."""
        attempt = self.attempts[number]
        while attempt.at != where:
            if attempt.ended or attempt.waits:
                raise Elsewhere(f"{attempt.name} does not come to {where!r}: at {attempt.at!r}")
            self._go(attempt, Go.ON)
        self._tell(f"{attempt.name} is at {where}")

    def hurt(self, number: int, how: Go) -> None:
        """Something goes wrong for an attempt, which goes on to its next stop."""
        if attempt := self._picked(number):
            self._tell(f"{attempt.name} {how.value} at {attempt.at}")
            self._go(attempt, how)

    def hurt_at(self, number: int, where: str, how: Go) -> None:
        """An attempt goes on until it is there (if it comes there), and something goes wrong."""
        attempt = self._picked(number)
        while attempt and not (attempt.ended or attempt.waits):
            if attempt.at.startswith(where):
                self._tell(f"{attempt.name} {how.value} at {attempt.at}")
                self._go(attempt, how)
                return
            self._go(attempt, Go.ON)

    def crash(self, number: int, *, late: bool = False) -> None:
        """An attempt's instance dies, with all attempts that it had."""
        if picked := self._picked(number):
            self._tell(f"the instance of {picked.name} dies at {picked.at}")
            for attempt in [a for a in self.attempts if a.instance is picked.instance]:
                attempt.crash(late=late)
            for at in [at for at, each in self._instances.items() if each is picked.instance]:
                del self._instances[at]
            self._collect()

    def _go(self, attempt: Attempt, how: Go) -> None:
        attempt.go(how)
        self._collect()

    def _go_stops(self, attempt: Attempt, stops: int) -> None:
        for _ in range(stops):
            if attempt.ended or attempt.waits:
                return
            self._go(attempt, Go.ON)
        if not attempt.ended:
            self._tell(f"  {attempt.name} is at {attempt.at}")

    def _run(self, attempt: Attempt) -> None:
        self._go(attempt, Go.ON)
        while not attempt.ended and not attempt.waits:
            self._go(attempt, Go.ON)

    # ---- PortaBilling ------------------------------------------------------------------------

    def change(self, what: str, account: int = 0, card: int = 0) -> None:
        """Something changes in PortaBilling, unless it would not allow it."""
        billing = self.sandbox.billing
        i_account = self.accounts[account % len(self.accounts)]
        i_sim_card = self.cards[card % len(self.cards)]
        does: dict[str, Callable[[], dict[str, Any]]] = {
            "block": lambda: billing.block_account(i_account),
            "unblock": lambda: billing.unblock_account(i_account),
            "assign": lambda: billing.assign_sim(i_account, i_sim_card),
            "swap": lambda: billing.swap_sim(i_account, i_sim_card),
            "release": lambda: billing.release_sim(i_account),
            "move": lambda: billing.move_sim(i_sim_card, i_account),
        }
        try:
            done = does[what]()
        except Refused:
            return
        self._tell(f"PortaBilling: {what} account {i_account}, card {i_sim_card}: {done['events']}")
        for event in done["events"]:
            row = self.sandbox.queue.event(event["i_event"])
            assert row is not None
            body = {"event_type": event["event_type"], "variables": row["variables"]}
            self.waiting.append(body)
            self.events += 1

    def send(self, number: int, slot: int = 0, *, twice: bool = False) -> None:
        """ESPF sends a webhook; ``twice``: and will send it again, whatever it is answered."""
        if not self.waiting:
            return
        body = self.waiting.pop(number % len(self.waiting))
        if twice:
            self.waiting.append(body)

        def done(reply: Any) -> None:
            if reply is not None and reply.status_code == 200:
                self.accepted.append(json.loads(reply.get_data())["event_id"])
            elif body not in self.waiting:
                self.waiting.append(body)

        request = _request("POST", "/", json.dumps(body).encode(), _espf())
        attempt = self._start("ingress", slot, request, done, {})
        self._tell(f"ESPF sends {body['variables']['i_event']} ({attempt.name}): at {attempt.at}")

    def webhook(self, body: bytes) -> int:
        """A webhook byte for byte, to its end; what ESPF is answered."""
        codes: list[int] = []

        def done(reply: Any) -> None:
            codes.append(reply.status_code)
            if reply.status_code == 200:
                self.accepted.append(json.loads(reply.get_data())["event_id"])

        attempt = self._start("ingress", 0, _request("POST", "/", body, _espf()), done, {})
        self._finish([attempt])
        self._tell(f"a webhook of {len(body)} bytes is answered {codes}")
        return codes[0]

    def send_through(self, slot: int = 0) -> None:
        """Every webhook is accepted, and every event enriched, without a fault."""
        while self.waiting:
            self.send(0, slot)
            self._finish(self.attempts[-1:])
        self._bring_all(self._waiting_for("enrichment"), slot)

    def portabilling(self, trouble: str) -> None:
        """PortaBilling's tokens die, or its next calls fail."""
        self._tell(f"PortaBilling: {trouble}")
        if trouble == "tokens":
            self.sandbox.sessions.kill_all()
        elif trouble == "fails":
            self.sandbox.faults.add(Fault(fault="fail", percent=100, times=3))
        else:
            self.sandbox.faults.add(Fault(fault="status_api_down", times=2))

    # ---- messages ----------------------------------------------------------------------------

    def deliver(self, number: int, slot: int = 0, *, stops: int = 0, twice: bool = False) -> None:
        """A message is brought to its function; ``twice``: it will be brought again.

        ``stops``: so many stops its attempt goes on at once, unless it must wait.
        """
        able = [letter for letter in self.bag if not self._held_back(letter)]
        if not able:
            return
        letter = able[number % len(able)]
        self.bag.remove(letter)
        if twice:
            self.bag.append(replace(letter))
        attempt = self._bring(letter, slot)
        self._tell(f"{attempt.name}: message {letter.ident} of {_about(letter)}: at {attempt.at}")
        self._go_stops(attempt, stops)

    def _held_back(self, letter: Letter) -> bool:
        return self._subscription(letter.target) in self.endpoints.off

    def _bring(self, letter: Letter, slot: int) -> Attempt:
        def done(reply: Any) -> None:
            if reply is None or reply.status_code >= 300:
                self._again(letter)

        request = _request("POST", letter.path, letter.push())
        return self._start(letter.target, slot, request, done, letter.attributes)

    def _again(self, letter: Letter) -> None:
        """Not acknowledged: it comes again, or is a dead letter."""
        if letter.attempt < ATTEMPTS or letter.target in ("retries", "console"):
            self.bag.append(replace(letter, attempt=letter.attempt + 1))
            return
        source = {"CloudPubSubDeadLetterSourceSubscription": self._subscription(letter.target)}
        self.bag.append(
            Letter("retries", letter.data, {**letter.attributes, **source}, letter.ident)
        )

    # ---- external systems --------------------------------------------------------------------

    def trouble(self, number: int, what: str) -> None:
        """A system refuses the next call for good, is busy at it, goes down or comes up."""
        system = self.systems[self.handlers[number % len(self.handlers)]]
        self._tell(f"{system.name}: {what}")
        if what in ("down", "up"):
            system.down = what == "down"
        else:
            system.next.append(what)

    def land(self, number: int) -> None:
        """A call that nobody waits for any more takes effect."""
        self.systems[self.handlers[number % len(self.handlers)]].land(number)

    def answer(self, number: int, *, done: bool = True) -> None:
        """The order manager carries an order out, or gives it up."""
        if opened := self.orders.open():
            self.orders.carry_out(opened[number % len(opened)], done=done)

    def notify(self, number: int, slot: int = 0, *, stops: int = 0, twice: bool = False) -> None:
        """A notification of the order manager; until it is answered with success it comes again."""
        if not self.orders.notices:
            return
        notice = self.orders.notices.pop(number % len(self.orders.notices))
        if twice:
            self.orders.notices.append(notice)

        def ended(reply: Any) -> None:
            if (reply is None or reply.status_code >= 300) and notice not in self.orders.notices:
                self.orders.notices.append(notice)

        request = _request("POST", "/orders", json.dumps(notice).encode(), {"X-Proof": PROOF})
        attempt = self._start("callbacks", slot, request, ended, {})
        self._tell(f"{attempt.name}: {notice}: at {attempt.at}")
        self._go_stops(attempt, stops)

    # ---- operators and time ------------------------------------------------------------------

    def tick(self, slot: int = 0, *, stops: int = 0) -> Attempt:
        """The scheduler's tick."""
        attempt = self._start("retries", slot, _request("POST", "/tick"), lambda _: None, {})
        self._tell(f"{attempt.name}: tick: at {attempt.at}")
        self._go_stops(attempt, stops)
        return attempt

    def pause(self, number: int) -> None:
        self._turn(number, switch.pause)

    def resume(self, number: int) -> None:
        self._turn(number, switch.resume)

    def _turn(self, number: int, how: Callable[..., Any]) -> None:
        name = self.handlers[number % len(self.handlers)]
        try:
            how(self.store, name, "somebody@example.com", "because")
        except switch.SwitchRefused:
            return
        self._tell(f"{how.__name__} {name}")

    def replay(self, number: int, handler: int) -> None:
        """An operator sends an accepted event once more to one handler."""
        if self.accepted:
            event = self.accepted[number % len(self.accepted)]
            self._job(
                "replay", {"event": event, "handler": self.handlers[handler % len(self.handlers)]}
            )

    def replay_unread(self, handler: int, slot: int = 0) -> None:
        """Every webhook is accepted; the first attempt to enrich its event fails once the event
        has its history entry; then the event is replayed for one handler, and that is enriched."""
        while self.waiting:
            self.send(0, slot)
            self._finish(self.attempts[-1:])
        for letter in self._waiting_for("enrichment"):
            repair = letter.attributes["event_id"] not in self.accepted  # no webhook was accepted
            if "run" in letter.attributes or repair:
                continue
            self.bag.remove(letter)
            first = self._bring(letter, slot)
            if not first.ended:
                self._tell(f"{first.name} {Go.LOST.value} at {first.at}")
                first.go(Go.LOST)
            self._finish([first])
            self.replay(self.accepted.index(letter.attributes["event_id"]), handler)
            self._bring_all(self._waiting_for("console"), slot)
            replays = self._waiting_for("enrichment")
            self._bring_all([each for each in replays if "run" in each.attributes], slot)

    def _waiting_for(self, target: str) -> list[Letter]:
        return [letter for letter in self.bag if letter.target == target]

    def _bring_all(self, letters: list[Letter], slot: int) -> None:
        """Bring messages, each to the end of its attempt."""
        for letter in letters:
            self.bag.remove(letter)
            self._finish([self._bring(letter, slot)])

    def reconcile(self, number: int) -> None:
        """An operator has a handler compared and repaired."""
        if self.states:
            self._job("reconcile", {"handler": self.states[number % len(self.states)]}, fix=True)

    def _job(self, kind: str, spec: dict[str, Any], *, fix: bool = False) -> None:
        person = Person("somebody@example.com", Role.admin)
        ident = self._instance("console", 0).jobs.start(kind, spec, person, fix=fix)
        self._tell(f"{kind} {spec}: job {ident}")
        self._collect()

    def advance(self, seconds: float) -> None:
        """Time passes for everybody."""
        for system in self.systems.values():
            system.before(seconds)
        for placed in self.orders.open():
            if self.clock.passed + seconds - placed.at > DOUBT_SECONDS and not self._taken(placed):
                self.orders.carry_out(placed, done=True)
        for attempt in self.attempts:
            attempt.cut()
        self.clock.passed += seconds
        self._tell(f"{seconds:g} s pass")

    def _taken(self, placed: Placed) -> bool:
        """Whether the ledger knows that the order manager has it."""
        data = self.store.read(self.store.resource("orders", placed.order.key)) or {}
        pending = data.get("pending") or {}
        known = pending.get("reference") == placed.order.reference
        return known and pending.get("doubt_until") is None

    # ---- the end -----------------------------------------------------------------------------

    def settle(self) -> None:
        """All faults end, and time passes until nothing is left to do. Raises Unsettled."""
        self._tell("the faults end")
        for system in self.systems.values():
            system.down, system.next = False, []
        self.sandbox.faults.clear()
        for number in range(len(self.handlers)):
            self.resume(number)
        for seconds in SETTLING:
            self._work_off()
            if not self.unfinished():
                return
            self.advance(seconds)
            self._finish([self.tick()])
        self._work_off()
        if left := self.unfinished():
            raise Unsettled("not finished: " + "; ".join(left))

    def ended(self) -> Ended:
        """What is to be judged."""
        book, client = self.sandbox.statuses, self.store.client

        def documents(*path: str) -> dict[str, dict[str, Any]]:
            return {each.id: each.to_dict() or {} for each in client.collection(*path).stream()}

        return Ended(
            accepted=self.accepted,
            events=documents("events"),
            deliveries={h: documents("handlers", h, "deliveries") for h in self.handlers},
            resources={
                h: list(documents("handlers", h, "resources").values()) for h in self.handlers
            },
            seen={name: system.seen for name, system in self.systems.items()},
            overlaps={name: system.overlaps for name, system in self.systems.items()},
            holds={name: self.systems[name].states for name in self.states},
            followed={"sims": self.systems["sims"].followed} if "sims" in self.systems else {},
            portabilling=self._portabilling_has(),
            posted={
                (i_account, group): posted["status"]
                for i_account in self.accounts
                for group, posted in book.current(i_account).items()
            },
            groups={name: GROUPS[name] for name in self.handlers},
            ordered=ORDERED,
        )

    def _portabilling_has(self) -> dict[str, dict[str, Any]]:
        """The SIM cards in use, as a system with a state should hold them."""
        rows = self.sandbox.store.rows(
            "SELECT imsi, msisdn, i_account, blocked FROM sim_cards JOIN accounts USING (i_account)"
        )
        return {
            row["imsi"]: {
                "msisdn": row["msisdn"],
                "active": row["blocked"] != "Y",
                "i_account": row["i_account"],
            }
            for row in rows
        }

    def judge(self) -> None:
        """Settle, and check every promise; then repair what was refused, and check again.

        Raises AssertionError with the violations.
        """
        self.settle()
        broken = violations(self.ended())
        if not broken and needs_repair(self.ended()):
            for number in range(len(self.states)):
                self.reconcile(number)
            self.settle()
            ended = self.ended()
            broken = violations(ended)
            broken += [
                f"{name} was repaired, and holds {holds}; PortaBilling has {ended.portabilling}"
                for name, holds in ended.holds.items()
                if holds != ended.portabilling
            ]
        if broken:
            raise Violated("\n".join(broken))

    def _work_off(self) -> None:
        """Everything that can be done now."""
        self._finish(list(self.attempts))
        brought: list[Attempt] = []
        for _ in range(4 * ATTEMPTS):
            while self.waiting:
                self.send(0)
                self._finish(self.attempts)
            able = [letter for letter in self.bag if not self._held_back(letter)]
            if not able and not self.orders.open() and not self.orders.notices:
                return
            for letter in able:
                self.bag.remove(letter)
                brought = [self._bring(letter, 0)]
                self._finish(brought)
            while self.orders.open():
                self.answer(0)
            while self.orders.notices:
                self.notify(0)
                self._finish(self.attempts)
            if able and all(letter.attempt > 1 for letter in self.bag) and self.bag:
                return  # they come again: time must pass

    def _finish(self, attempts: list[Attempt]) -> None:
        """To the end; who waits is given time."""
        for attempt in list(attempts):
            while not attempt.ended:
                if attempt.waits:
                    self.advance(1.0)
                self._run(attempt)

    def unfinished(self) -> list[str]:
        """What is on its way, open, or due."""
        left = [f"message {letter.ident} of {_about(letter)}" for letter in self.bag]
        left += [f"webhook {body['variables']['i_event']}" for body in self.waiting]
        left += [f"order {placed.ident}" for placed in self.orders.open()]
        client = self.store.client
        for handler in self.handlers:
            for found in client.collection("handlers", handler, "deliveries").stream():
                outcome = (found.to_dict() or {}).get("outcome")
                if not outcome or not Outcome(outcome).final:
                    left.append(f"{handler}: delivery {found.id} is {outcome}")
        for found in client.collection("parked").stream():
            if (found.to_dict() or {}).get("next_try"):
                left.append(f"parked {found.id}")
        for found in client.collection("jobs").stream():
            if (found.to_dict() or {}).get("state") == "running":
                left.append(f"job {found.id}")
        left += [f"status {found.id}" for found in self.store.statuses_due().stream()]
        return left


_SUMMARY = frozenset(
    {"name", "connector", "kind", "events", "requires", "group", "retries", "answer_within_hours"}
)


def _espf() -> dict[str, str]:
    """How ESPF shows who it is."""
    user = f"{WEBHOOK_SECRET['user']}:{WEBHOOK_SECRET['password']}".encode()
    return {"Authorization": f"Basic {base64.b64encode(user).decode()}"}


def _request(
    verb: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    query: str = "",
) -> flask.Request:
    builder = EnvironBuilder(
        path, method=verb, data=body, headers=Headers(headers or {}), query_string=query
    )
    return flask.Request(builder.get_environ())


def _answer(response: Any, url: str) -> Answer:
    headers = requests.structures.CaseInsensitiveDict(response.headers.items())
    return Answer(response.status_code, headers, response.get_data(), url)


def _said(reply: Any) -> str:
    if reply is None:
        return "crashed"
    return f"{reply.status_code} {reply.get_data(as_text=True) if reply.status_code >= 300 else ''}"


def _about(letter: Letter) -> str:
    return f"{letter.attributes.get('event_id', 'job')[:8]} for {letter.target}"
