"""The standard tests that every connector inherits, and what its own tests are written with.

A connector's test class names the class under test, a snapshot that calls for something and one
that calls for something else, and gives the system, behind a ChaosProxy, so that it can be made
to hang, reset, refuse and cut. Everything else is here:

    class TestMySystem(StateStandardTests):
        connector_class = MySystem
        pb = {"account_info": {...}, "sim_info": {...}}
        changed_pb = {"account_info": {..., "blocked": True}, "sim_info": {...}}
        secrets = {"api": '{"token": "..."}'}

        @pytest.fixture
        def system(self):
            with MySample() as sample, ChaosProxy(sample.address) as proxy:
                yield proxy

        def settings(self, system):
            return {"url": f"http://{system.host}:{system.port}"}

Connectors over HTTP inherit HttpStandardTests too, and define ``http_settings`` instead of
``settings``; with a fixture ``double`` (what ScriptedHttp answers with) they need no ``system``.
This module needs pytest: import it in tests.
"""

from __future__ import annotations

import atexit
import inspect
import json
import logging
import os
import re
import tempfile
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from nsps.cloud.store import from_json, open_store
from nsps.connector.base import (
    Action,
    Answer,
    AnswersLater,
    AsynchronousConnector,
    Call,
    CallbackInvalid,
    CallbackRefused,
    CallbackRequest,
    Connector,
    Context,
    Enriched,
    MessageConnector,
    Order,
    Receipt,
    Scheduled,
    State,
    StateConnector,
)
from nsps.connector.kinds import DeliveryContext, pipeline
from nsps.delivery.gate import Gate
from nsps.delivery.ledger.ledger import Ledger
from nsps.delivery.verdict import Verdict
from nsps.domain.event import EspfEvent, Owner, SnapshotTime, event_id
from nsps.domain.outcome import DeliveryError, NoAnswer, Outcome, Terminal, Transient
from nsps.domain.snapshot import Block, BlockNotRead, PbData
from nsps.espf.poster import Poster
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import SecretValue
from nsps.runtime.settings import HandlerSettings
from nsps.transport.answers import AnswerRules, Meaning
from nsps.transport.connection import AddressRefused
from nsps.transport.deadline import Deadline
from nsps.transport.http import Answer as HttpAnswer
from nsps.transport.http import Http
from nsps_local.manifest import FILE, Manifest, load

from nsps_testing.faults import ChaosProxy, Reply, ScriptedHttp, Seen
from nsps_testing.loopback import loopback_only

__all__ = [
    "AsynchronousStandardTests",
    "ChaosProxy",
    "FaultTests",
    "HttpStandardTests",
    "LocalStateStandardTests",
    "MessageStandardTests",
    "Reply",
    "ScriptedHttp",
    "Seen",
    "StandardTests",
    "StateStandardTests",
    "enriched",
    "make_call",
    "make_context",
]

MAX_TURNS = 40
"""More requests than any single call of a connector takes."""


def enriched(
    pb: Mapping[str, Any] | None,
    *,
    event_type: str = "SIM/Updated",
    variables: Mapping[str, Any] | None = None,
    owner: Owner | None = None,
    t: str = "2026-11-21T02:10:03.123456Z",
    read: Iterable[Block] = Block,
) -> Enriched:
    """An event as the kit hands it over; ``pb`` in the form of the published contract.

    ``read``: the blocks that were read; those of them that ``pb`` lacks are gone. Without
    ``owner`` it is the account of ``pb`` (else of ``variables``, else account 1).
    """
    document = pb or {}
    given = dict(variables or {})
    account = document.get("account_info")
    number = account.get("i_account") if isinstance(account, Mapping) else None
    i_account = number or given.get("i_account") or 1
    given.setdefault("i_account", i_account)
    event = EspfEvent(event_type, given)
    ident = event_id("test", event)
    return Enriched(
        event_id=ident,
        event=event,
        owner=owner or Owner("account", str(i_account)),
        t=SnapshotTime(f"{t}/{ident}"),
        pb=PbData.from_contract(document, read),
        created_at="2026-11-21T02:10:02.000000+00:00",
        updated_at="2026-11-21T02:10:03.500000+00:00",
    )


def make_context(secrets: Mapping[str, str] | None = None, handler: str = "test") -> Context:
    """Context with these secrets (name -> payload); any other name is an error of the connector."""
    known = dict(secrets or {})

    def secret(name: str) -> SecretValue:
        assert name in known, f"the connector asks for secret {name!r}, which is not configured"
        return SecretValue(known[name], f"env:{name.upper()}")

    return Context(handler=handler, http=Http(), secret=secret, has_secret=known.__contains__)


def rotated_parts(name: str, old: str, new: str) -> Context:
    """Context with one secret, whose value is another since it was read."""
    values = [SecretValue(old)]

    def refresh(_name: str) -> SecretValue:
        values.append(SecretValue(new))
        return values[-1]

    return replace(make_context({name: old}), secret=lambda _name: values[-1], refresh=refresh)


def make_call(seconds: float = 10.0, reference: str = "ref-1") -> Call:
    """One call with so many seconds from now."""
    return Call(
        deadline=Deadline(seconds),
        reference=reference,
        event_id="0b8f0c56-6f0e-5b6e-8f0a-1f1f5b2f9a11",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        request_id="req-1",
    )


class StandardTests(ABC):
    """What holds for a connector of any kind. Inherit one of the kinds below instead."""

    connector_class: ClassVar[type[Connector[Any]]]
    secrets: ClassVar[Mapping[str, str]] = {}
    """The secrets of the manifest that are configured: name -> payload."""
    requires: ClassVar[Sequence[Block]] = ()
    """Blocks that the handler under test requires besides those of the manifest."""
    canaries: ClassVar[Sequence[str]] = ()
    """Texts that must never show in errors or logs, besides the values in ``secrets``."""
    deadline: ClassVar[float] = 0.6
    """Seconds given to a call whose system hangs."""
    margin: ClassVar[float] = 0.7
    """Seconds by which such a call may end late."""

    @pytest.fixture
    @abstractmethod
    def system(self) -> Any:
        """A system that is well: a ChaosProxy before it, where it is reached over a network."""

    @abstractmethod
    def settings(self, system: Any) -> dict[str, Any]:
        """The handler's settings, so that the connector speaks to ``system``."""

    @abstractmethod
    def act(self, connector: Any, call: Call) -> object:
        """One call that writes; repeatable, as the kit repeats it."""

    def tidy(self, connector: Any) -> None:  # noqa: B027  (most systems begin anew with each test)
        """Bring a system that outlives a test back to where it began."""

    @pytest.fixture
    def connector(self, system: Any) -> Iterator[Any]:
        made = self.make(self.settings(system))
        self.tidy(made)
        yield made
        if isinstance(system, ChaosProxy):
            system.pass_all()
        self.tidy(made)
        made.close()

    def make(self, settings: Mapping[str, Any]) -> Any:
        """The connector with these settings and the class's secrets."""
        model = self.connector_class.settings_model.model_validate(dict(settings))
        return self.connector_class(model, make_context(self.secrets))

    @pytest.fixture(autouse=True)
    def _private_logs(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        caplog.set_level(logging.DEBUG)
        yield
        logged = "\n".join(
            record.getMessage() + repr(record.exc_info or "") + repr(vars(record))
            for record in caplog.records
        )
        self.assert_private(logged)

    def provoke(self, action: Callable[[], object]) -> DeliveryError:
        """The error that the action ends in: a DeliveryError that shows no secret."""
        error = self.attempt(action)
        assert error is not None, "the call succeeded although the system did not do it"
        return error

    def attempt(self, action: Callable[[], object]) -> DeliveryError | None:
        """None, or the DeliveryError that the action ended in. Anything else escapes."""
        try:
            action()
        except DeliveryError as error:
            assert str(error).strip(), "an error must say what, where and what to do"
            self.assert_private(f"{error!s}{error!r}{error.args!r}{vars(error)!r}")
            self.assert_private("".join(traceback.format_exception(error)))
            return error
        return None

    def assert_private(self, text: str) -> None:
        for canary in (*self.canaries, *_leaves(self.secrets)):
            assert canary not in text, "a secret shows"

    def timely(self, action: Callable[[], object]) -> DeliveryError:
        """As ``provoke``, and the error must come by the deadline plus the margin."""
        began = time.monotonic()
        error = self.provoke(action)
        took = time.monotonic() - began
        assert took <= self.deadline + self.margin, f"took {took:.2f} s of {self.deadline:.2f} s"
        return error

    # --- the folder ------------------------------------------------------------------------------

    @classmethod
    def folder(cls) -> Path:
        """The connector's folder: where its class is written."""
        return Path(inspect.getfile(cls.connector_class)).parent

    @classmethod
    def manifest(cls) -> Manifest:
        return _manifest_in(cls.folder())

    @classmethod
    def required(cls) -> tuple[Block, ...]:
        """The blocks that are read for the handler under test."""
        return (*map(Block, cls.manifest().blocks(None)), *cls.requires)

    def enriched(self, pb: Mapping[str, Any] | None, **more: Any) -> Enriched:
        """As the function ``enriched``, with no more read than the handler requires."""
        return enriched(pb, **{"read": self.required(), **more})

    def test_the_manifest_names_the_folder_and_the_kind(self) -> None:
        manifest = self.manifest()
        assert manifest.connector == self.folder().name
        kinds = {
            "state": StateConnector,
            "message": MessageConnector,
            "asynchronous": AsynchronousConnector,
        }
        assert any(issubclass(self.connector_class, kinds[kind]) for kind in manifest.kind)

    def test_the_manifest_says_whether_it_has_a_schedule(self) -> None:
        assert self.manifest().scheduled == issubclass(self.connector_class, Scheduled)

    def test_the_secrets_are_those_of_the_manifest(self) -> None:
        declared = self.manifest().secrets
        assert set(self.secrets) <= set(declared)
        for name, secret in declared.items():
            assert name in self.secrets or not secret.required, f"the tests configure no {name}"

    def test_the_requirements_are_pinned(self) -> None:
        lines = (self.folder() / "requirements.txt").read_text(encoding="utf-8").splitlines()
        wanted = [line for line in lines if line.strip() and not line.startswith("#")]
        assert wanted and all("==" in line for line in wanted)

    # --- the system is well, or is not -----------------------------------------------------------

    def test_no_secret_shows_in_the_connector(self, connector: Any) -> None:
        shown = f"{connector!r}{connector!s}{connector.settings!r}{connector.context!r}"
        self.assert_private(shown)

    def test_check_of_a_system_that_is_well(self, connector: Any) -> None:
        connector.check(make_call())


def assert_needs_what_it_reads(tests: Any, connector: Any) -> None:
    """Without a block that was not read the connector decides the same, or nothing."""
    wanted = connector.desired(tests.enriched(tests.pb))
    for unread in tests.required():
        rest = [block for block in tests.required() if block is not unread]
        try:
            decided = connector.desired(tests.enriched(tests.pb, read=rest))
        except BlockNotRead as error:
            assert unread in str(error)
        else:
            assert decided == wanted, f"{unread} was not read, and that changed what is wanted"


@cache
def _firestore() -> str:
    """The address of an embedded Firestore, which ends with this process."""
    from nsps_local.firestore import FirestoreServer

    server = FirestoreServer(Path(tempfile.mkdtemp(prefix="nsps-firestore-")))
    server.start()
    atexit.register(server.stop)
    return server.target


class OpenGate(Gate):
    """Lets every delivery and every call through."""

    slow = False

    def __init__(self) -> None: ...

    def admit(self) -> None: ...

    def turn(self) -> None: ...

    def well(self) -> None: ...

    def failed(self, owner: str, reason: str, retry_after: float | None) -> None: ...


class UnderTheKit:
    """A connector as its function runs it: the real ledger, on an embedded Firestore."""

    def __init__(self, tests: StandardTests, connector: Any) -> None:
        self._tests, self._redactor = tests, Redactor(b"the key of the standard tests ..")
        with mock.patch.dict(os.environ, {"FIRESTORE_EMULATOR_HOST": _firestore()}):
            self.store = open_store(f"kit-{uuid.uuid4()}", "(default)")
        manifest = tests.manifest()
        handler = HandlerSettings(name="test", connector=manifest.connector, events=manifest.events)
        poster = Poster(self.store, self._no_status)
        ledger = Ledger(self.store)
        context = DeliveryContext(handler, ledger, poster, lambda: self._redactor, OpenGate())
        self._pipeline = pipeline(connector, context)

    def deliver(self, event: Enriched) -> Outcome:
        """What becomes of the event; what Firestore keeps of it must show no secret."""
        verdict = self.attempt(event)
        assert verdict.ack, verdict.reason
        return verdict.outcome

    def attempt(self, event: Enriched) -> Verdict:
        """One attempt of the event, be it done or to be tried again."""
        for secret in self._tests.secrets.values():
            self._redactor.register(SecretValue(secret))
        with self._redactor.knowing(event.pb.to_contract()):
            verdict = self._pipeline.deliver(event)
        self._tests.assert_private(repr(self.kept()))
        return verdict

    def kept(self) -> list[dict[str, Any]]:
        """The documents of the ledger."""
        client = self.store.client
        groups = ("deliveries", "resources", "owners", "orders")
        found = (each for name in groups for each in client.collection_group(name).stream())
        return [each.to_dict() or {} for each in found]

    def _no_status(self) -> Any:
        raise AssertionError("a handler without a group tells ESPF nothing")


class FaultTests(StandardTests):
    """What holds for a connector whose system is reached over a network, through ``system``."""

    pings_first: ClassVar[bool] = False
    """True where a kept connection is proved before each use: what hangs is noticed by then."""

    def test_check_of_a_system_that_is_away(self, connector: Any, system: ChaosProxy) -> None:
        for fault in (system.refuse, system.reset):
            fault()
            error = self.provoke(lambda: connector.check(make_call()))
            assert isinstance(error, Transient)

    def test_check_of_a_system_that_hangs(self, connector: Any, system: ChaosProxy) -> None:
        system.hang()
        error = self.timely(lambda: connector.check(make_call(self.deadline)))
        assert isinstance(error, Transient)

    @pytest.mark.parametrize("warm", [False, True], ids=["new connection", "pooled connection"])
    def test_a_system_that_hangs_gives_no_answer_by_the_deadline(
        self, connector: Any, system: ChaosProxy, warm: bool
    ) -> None:
        if warm:
            connector.check(make_call())
        system.hang()
        error = self.timely(lambda: self.act(connector, make_call(self.deadline)))
        assert isinstance(error, Transient if self.pings_first else NoAnswer)

    def test_a_deadline_that_is_over_is_not_begun(self, connector: Any) -> None:
        connector.check(make_call())
        error = self.timely(lambda: self.act(connector, make_call(0)))
        assert isinstance(error, Transient)

    def test_a_system_that_resets_is_tried_later(self, connector: Any, system: ChaosProxy) -> None:
        system.reset()
        assert isinstance(self.provoke(lambda: self.act(connector, make_call())), Transient)

    def test_a_system_that_refuses_connections_was_never_reached(
        self, connector: Any, system: ChaosProxy
    ) -> None:
        system.refuse()
        error = self.provoke(lambda: self.act(connector, make_call()))
        assert isinstance(error, Transient)
        assert not isinstance(error, NoAnswer)

    @pytest.mark.parametrize("fault", ["hang", "reset", "refuse", "drop_connections"])
    def test_it_recovers_with_the_system(
        self, connector: Any, system: ChaosProxy, fault: str
    ) -> None:
        self.act(connector, make_call())
        getattr(system, fault)()
        if fault != "drop_connections":
            self.attempt(lambda: self.act(connector, make_call(0.3)))
        system.pass_all()
        _until_done(lambda: self.attempt(lambda: self.act(connector, make_call())))

    @pytest.mark.parametrize("torn", [0, 1, 7])
    def test_a_torn_answer_is_never_a_success(
        self, connector: Any, system: ChaosProxy, torn: int
    ) -> None:
        for turn in range(1, MAX_TURNS):
            self.tidy(connector)
            system.lose_answer(turn, let_through=torn)
            error = self.attempt(lambda: self.act(connector, make_call(3)))
            cut = system.cut
            system.pass_all()
            if not cut:
                assert error is None
                return
            assert error is None or isinstance(error, Transient)
        pytest.fail(f"the call takes more than {MAX_TURNS} requests")


class LocalStateStandardTests(StandardTests):
    """The standard tests of a state connector that need no network to break (a file)."""

    connector_class: ClassVar[type[StateConnector[Any]]]
    pb: ClassVar[Mapping[str, Any]]
    """A snapshot (as in the published contract) that calls for at least one resource."""
    changed_pb: ClassVar[Mapping[str, Any]]
    """A later one of the same owner: the same resources, looking different."""
    gone_pb: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """More snapshots, besides the empty one, that call for nothing."""

    def act(self, connector: Any, call: Call) -> object:
        """Create the first resource."""
        key, state = self.first(connector, self.pb)
        return connector.create(key, state, call)

    def tidy(self, connector: Any) -> None:
        for pb in (self.pb, self.changed_pb):
            for key in connector.desired(self.enriched(pb)):
                self.remove(connector, key)

    def first(self, connector: Any, pb: Mapping[str, Any]) -> tuple[str, State]:
        """The first resource that the snapshot calls for."""
        desired: Mapping[str, State] = connector.desired(self.enriched(pb))
        assert desired, "the snapshot calls for no resource"
        return next(iter(desired.items()))

    def bring(self, connector: Any, key: str, state: State) -> None:
        """Bring the key to the state as the kit does: read, compare, create or change."""
        was = connector.read(key, make_call()) if connector.readable else None
        if was is None:
            connector.create(key, state, make_call())
        elif any(name not in was or was[name] != value for name, value in state.items()):
            connector.change(key, state, was, make_call())

    def remove(self, connector: Any, key: str, call: Call | None = None) -> None:
        """Remove the key as the kit does: read, delete what is there."""
        call = call or make_call()
        was = connector.read(key, call) if connector.readable else None
        if was is not None or not connector.readable:
            connector.delete(key, was, call)

    def assert_holds(self, connector: Any, key: str, state: State | None) -> None:
        """The system has the state (None: nothing); where it tells."""
        if not connector.readable:
            return
        held = connector.read(key, make_call())
        if state is None or held is None:
            assert held is None and state is None, "the resource is there" if held else "it is not"
            return
        for name, value in state.items():
            shown = name in held
            assert shown or isinstance(value, SecretValue), f"the system does not tell {name}"
            assert not shown or held[name] == value, f"{name} is not as it was written"

    # --- what should be there --------------------------------------------------------------------

    def test_the_desired_state_depends_on_the_snapshot_alone(self, connector: Any) -> None:
        event = self.enriched(self.pb)
        others = [
            self.enriched(self.pb, event_type=event_type, variables=variables)
            for event_type in ("Account/Blocked", "SIM/Deleted", "Product/Changed", "X/Y")
            for variables in ({}, {"i_event": 7, "i_sim_card": 99, "imsi": "999990000000001"})
        ]
        others.append(replace(event, run=3, t=SnapshotTime("2027-01-01T00:00:00.000000Z/x")))
        assert connector.desired(event), "the snapshot calls for no resource"
        for other in others:
            assert connector.desired(other) == connector.desired(event)

    def test_an_owner_of_whom_everything_is_gone_should_have_nothing(self, connector: Any) -> None:
        for pb in ({}, *self.gone_pb):
            assert connector.desired(self.enriched(pb, variables={"i_account": 1})) == {}

    def test_what_was_not_read_is_not_gone(self, connector: Any) -> None:
        assert_needs_what_it_reads(self, connector)

    def test_the_two_snapshots_differ_in_state_and_not_in_key(self, connector: Any) -> None:
        one, other = (connector.desired(self.enriched(pb)) for pb in (self.pb, self.changed_pb))
        assert one.keys() == other.keys() and one != other

    def test_states_hold_plain_values(self, connector: Any) -> None:
        for pb in (self.pb, self.changed_pb):
            for key, state in connector.desired(self.enriched(pb)).items():
                assert key and isinstance(key, str)
                for name, value in state.items():
                    assert _is_plain(value), f"{name} is {type(value).__name__}"
                self.assert_private(repr(state))

    def test_any_snapshot_is_read_or_refused(self, connector: Any) -> None:
        for pb in _mutilated(self.pb):
            self.attempt(lambda pb=pb: connector.desired(self.enriched(pb)))  # type: ignore[misc]

    def test_the_kit_brings_it_there_and_keeps_what_was_done(self, connector: Any) -> None:
        kit = UnderTheKit(self, connector)
        owner = self.enriched(self.pb).owner
        steps = [
            (self.pb, Outcome.DELIVERED),
            (self.changed_pb, Outcome.DELIVERED),
            (self.changed_pb, Outcome.UNCHANGED),
            ({}, Outcome.DELIVERED),
        ]
        for number, (pb, outcome) in enumerate(steps):
            t = f"2026-11-21T02:10:0{number}.000000Z"
            event = self.enriched(pb, variables={"i_event": number}, owner=owner, t=t)
            assert kit.deliver(event) is outcome
        for key in connector.desired(self.enriched(self.pb)):
            self.assert_holds(connector, key, None)

    def test_what_follows_a_write_is_repeated_although_the_state_is_equal(
        self, connector: Any
    ) -> None:
        if type(connector).after_write is StateConnector.after_write:
            return  # nothing has to follow a write of this system
        kit, event, calls = UnderTheKit(self, connector), self.enriched(self.pb), []
        follow = connector.after_write

        def first_fails(key: str, state: State | None, was: State | None, call: Call) -> None:
            calls.append((key, state, was))
            if len(calls) == 1:
                raise Transient("what follows the write could not be done")
            follow(key, state, was, call)

        with mock.patch.object(connector, "after_write", first_fails):
            assert kit.attempt(event).outcome is Outcome.RETRYING
            assert kit.deliver(event) in (Outcome.DELIVERED, Outcome.UNCHANGED)
        key, state, _ = calls[0]
        assert (key, state, None) in calls[1:], "what was owed was not repeated"
        assert state is not None
        self.assert_holds(connector, key, state)

    # --- create, read, change, delete ------------------------------------------------------------

    def test_nothing_is_read_where_nothing_is(self, connector: Any) -> None:
        key, _ = self.first(connector, self.pb)
        self.assert_holds(connector, key, None)

    def test_every_resource_reads_back_as_created(self, connector: Any) -> None:
        for key, state in connector.desired(self.enriched(self.pb)).items():
            connector.create(key, state, make_call())
            self.assert_holds(connector, key, state)

    def test_many_keys_read_as_each_alone(self, connector: Any) -> None:
        if type(connector).read_many is StateConnector.read_many:
            return  # it reads one key at a time
        key, state = self.first(connector, self.pb)
        assert connector.read_many([key], make_call()) == {}
        connector.create(key, state, make_call())
        assert connector.read_many([key], make_call()) == {key: connector.read(key, make_call())}

    def test_created_twice_is_created_once(self, connector: Any) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        connector.create(key, state, make_call())
        self.assert_holds(connector, key, state)

    def test_create_where_something_else_is_brings_it_to_the_state(self, connector: Any) -> None:
        key, before = self.first(connector, self.changed_pb)
        _, state = self.first(connector, self.pb)
        connector.create(key, before, make_call())
        connector.create(key, state, make_call())
        self.assert_holds(connector, key, state)

    def test_a_change_reads_back_and_can_be_repeated(self, connector: Any) -> None:
        key, was = self.first(connector, self.pb)
        _, state = self.first(connector, self.changed_pb)
        connector.create(key, was, make_call())
        for _ in range(2):
            connector.change(key, state, was, make_call())
            self.assert_holds(connector, key, state)
        connector.change(key, was, state, make_call())
        self.assert_holds(connector, key, was)

    def test_a_change_of_what_was_removed_meanwhile_brings_it_back(self, connector: Any) -> None:
        key, was = self.first(connector, self.pb)
        _, state = self.first(connector, self.changed_pb)
        self.attempt(lambda: connector.change(key, state, was, make_call()))
        self.bring(connector, key, state)
        self.assert_holds(connector, key, state)

    def test_deleted_twice_is_deleted(self, connector: Any) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        was = connector.read(key, make_call()) if connector.readable else None
        for _ in range(2):
            connector.delete(key, was, make_call())
            self.assert_holds(connector, key, None)

    def test_what_never_was_can_be_deleted(self, connector: Any) -> None:
        key, _ = self.first(connector, self.pb)
        self.remove(connector, key)


class StateStandardTests(LocalStateStandardTests, FaultTests):
    """The standard tests of a connector whose system holds a state per resource."""

    @pytest.mark.parametrize("lost", ["request", "answer"])
    @pytest.mark.parametrize("step", ["create", "change", "delete"])
    def test_cut_off_anywhere_the_repetition_converges(
        self, connector: Any, system: ChaosProxy, step: str, lost: str
    ) -> None:
        key, first = self.first(connector, self.pb)
        _, second = self.first(connector, self.changed_pb)
        before = None if step == "create" else first
        after = {"create": first, "change": second, "delete": None}[step]

        def run(call: Call) -> None:
            if step == "create":
                connector.create(key, first, call)
            elif step == "change":
                connector.change(key, second, first, call)
            else:
                self.remove(connector, key, call)

        for turn in range(1, MAX_TURNS):
            self.tidy(connector)
            if before is not None:
                connector.create(key, before, make_call())
            (system.lose_request if lost == "request" else system.lose_answer)(turn)
            call = make_call()
            error = self.attempt(partial(run, call))
            cut = system.cut
            system.pass_all()
            if error is None:
                self.assert_holds(connector, key, after)
            else:
                assert isinstance(error, Transient), "a lost connection decides nothing for good"
                if not (isinstance(error, NoAnswer) or call.wrote):
                    self.assert_holds(connector, key, before)  # "nothing was changed" is true
            if turn % 2 and after is not None:
                self.bring(connector, key, after)
            else:
                run(make_call())
            self.assert_holds(connector, key, after)
            if not cut:
                return
        pytest.fail(f"{step} takes more than {MAX_TURNS} requests")


class MessageStandardTests(FaultTests):
    """The standard tests of a connector whose system counts each event once."""

    connector_class: ClassVar[type[MessageConnector[Any]]]
    pb: ClassVar[Mapping[str, Any]]
    """A snapshot with which ``event_type`` calls for a message."""
    event_type: ClassVar[str] = "SIM/Updated"
    silent: ClassVar[Sequence[tuple[str, Mapping[str, Any]]]] = ()
    """Pairs of event type and snapshot that call for no message."""

    def event(self) -> Enriched:
        return self.enriched(self.pb, event_type=self.event_type)

    def act(self, connector: Any, call: Call) -> object:
        """Send the message of the event."""
        message = connector.message(self.event())
        assert message is not None, "the event calls for no message"
        return connector.send(message, call)

    def test_the_same_event_gives_the_same_message(self, connector: Any) -> None:
        one, other = (connector.message(self.event()) for _ in range(2))
        assert one is not None and one == other
        assert one.summary.strip()
        self.assert_private(repr(one))

    def test_events_that_call_for_nothing(self, connector: Any) -> None:
        for event_type, pb in self.silent:
            assert connector.message(self.enriched(pb, event_type=event_type)) is None

    def test_any_snapshot_is_read_or_refused(self, connector: Any) -> None:
        for pb in ({}, *_mutilated(self.pb)):
            event = self.enriched(pb, event_type=self.event_type)
            self.attempt(lambda event=event: connector.message(event))  # type: ignore[misc]

    def test_the_kit_sends_it_once_and_keeps_what_was_done(self, connector: Any) -> None:
        kit = UnderTheKit(self, connector)
        late = isinstance(self.act(connector, make_call()), Receipt)
        assert kit.deliver(self.event()) is (Outcome.ACCEPTED if late else Outcome.DELIVERED)
        for event_type, pb in self.silent:
            assert kit.deliver(self.enriched(pb, event_type=event_type)) is Outcome.UNCHANGED

    def test_it_is_sent_and_says_so(self, connector: Any) -> None:
        said = self.act(connector, make_call())
        assert isinstance(said, str | Receipt)
        self.assert_private(repr(said))

    def test_the_manifest_says_whether_receipts_come(self) -> None:
        assert self.manifest().receipts == issubclass(self.connector_class, AnswersLater)


class AsynchronousStandardTests(FaultTests):
    """The standard tests of a connector whose system takes an order now and answers later."""

    connector_class: ClassVar[type[AsynchronousConnector[Any]]]
    pb: ClassVar[Mapping[str, Any]]
    """A snapshot that calls for at least one resource."""
    changed_pb: ClassVar[Mapping[str, Any]]
    gone_pb: ClassVar[Sequence[Mapping[str, Any]]] = ()

    @abstractmethod
    def callback(self, order_id: str, answer: Answer) -> CallbackRequest:
        """The system's genuine notification that says ``answer`` of the order."""

    def answers(self) -> Sequence[Answer]:
        """What a notification can say; ``order`` is put in by the test."""
        from nsps.connector.base import AnswerState

        return [Answer("", state) for state in AnswerState]

    def order(self, connector: Any, action: Action = Action.ADD) -> Order:
        event = self.enriched(self.pb)
        key, state = next(iter(connector.desired(event).items()))
        return Order(key, action, state, f"order-{action}", event.owner)

    def act(self, connector: Any, call: Call) -> object:
        """Submit an order."""
        return connector.submit(self.order(connector), call)

    def test_the_desired_state_depends_on_the_snapshot_alone(self, connector: Any) -> None:
        wanted = connector.desired(self.enriched(self.pb))
        assert wanted and wanted != connector.desired(self.enriched(self.changed_pb))
        for event_type in ("Account/Blocked", "SIM/Deleted", "X/Y"):
            assert connector.desired(self.enriched(self.pb, event_type=event_type)) == wanted

    def test_an_owner_of_whom_everything_is_gone_should_have_nothing(self, connector: Any) -> None:
        for pb in ({}, *self.gone_pb):
            assert connector.desired(self.enriched(pb, variables={"i_account": 1})) == {}

    def test_what_was_not_read_is_not_gone(self, connector: Any) -> None:
        assert_needs_what_it_reads(self, connector)

    def test_any_snapshot_is_read_or_refused(self, connector: Any) -> None:
        for pb in _mutilated(self.pb):
            self.attempt(lambda pb=pb: connector.desired(self.enriched(pb)))  # type: ignore[misc]

    def test_the_kit_orders_it_and_keeps_what_was_ordered(self, connector: Any) -> None:
        kit = UnderTheKit(self, connector)
        event = self.enriched(self.pb)
        assert kit.deliver(event) is Outcome.ACCEPTED
        ordered = [from_json(each["state"]) for each in kit.kept() if "order_id" in each]
        assert len(ordered) == len(connector.desired(event))

    @pytest.mark.parametrize("action", list(Action))
    def test_an_order_is_taken_and_may_be_repeated(self, connector: Any, action: Action) -> None:
        order = self.order(connector, action)
        for _ in range(2):
            ident = connector.submit(order, make_call())
            assert ident and isinstance(ident, str)

    def test_a_genuine_notification_is_read(self, connector: Any) -> None:
        for answer in self.answers():
            request = self.callback("4711", answer)
            connector.authenticate(request)
            answers = connector.parse_callback(request)
            assert [(each.order, each.state) for each in answers] == [("4711", answer.state)]

    def test_a_notification_without_proof_is_refused(self, connector: Any) -> None:
        genuine = self.callback("4711", self.answers()[0])
        with pytest.raises(CallbackRefused) as refusal:
            connector.authenticate(replace(genuine, headers={}, query={}))
        self.assert_private(f"{refusal.value!s}{refusal.value!r}")

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"\xff\xfe", b"null", b"[]", b"{}", b"7", b'"x"', b"{", b"[" * 5000,
            b'{"event": null}', b'{"event": {"serviceOrder": 7}}', b"<xml/>", b"a=1&b=2",
        ],
        ids=lambda body: repr(body[:12]),
    )  # fmt: skip
    def test_a_notification_that_cannot_be_read_is_invalid_or_holds_nothing(
        self, connector: Any, body: bytes
    ) -> None:
        request = replace(self.callback("4711", self.answers()[0]), body=body)
        try:
            assert all(isinstance(answer, Answer) for answer in connector.parse_callback(request))
        except CallbackInvalid as invalid:
            assert str(invalid).strip()
            self.assert_private(str(invalid))


_ENDS_IN: Mapping[Meaning, type[DeliveryError] | tuple[type[DeliveryError], ...]] = {
    Meaning.LATER: Transient,
    Meaning.SIGN_IN: Transient,
    Meaning.UNCLEAR: Transient,
    Meaning.REFUSED: (Terminal, Transient),  # Transient: of a request that only reads
}
"""How a call ends whose every request is answered so."""


class HttpStandardTests(FaultTests):
    """More tests for a connector that speaks HTTP; inherit it beside the kind's class."""

    rules: ClassVar[AnswerRules] = AnswerRules()
    """The connector's own table, of the requests that ``act`` makes."""
    hidden_failures: ClassVar[Sequence[Reply]]
    """Replies with a 2xx status that are failures all the same; () if the system has none."""
    any_body: ClassVar[bool] = False
    """True where the body of a 2xx says nothing, and so may be anything."""
    write_answers: ClassVar[Sequence[tuple[Reply, type[DeliveryError], str]]] = ()
    """Answers to ``writes``: the error that each ends in, and what its text says (a pattern)."""

    @pytest.fixture
    def system(self, double: Any) -> Iterator[ChaosProxy]:
        """``double``, a fixture of the connector's tests, served over HTTP."""
        with ScriptedHttp(double) as served, ChaosProxy(served.address) as proxy:
            yield proxy

    @abstractmethod
    def http_settings(self, url: str) -> dict[str, Any]:
        """The handler's settings, so that the connector speaks to the system at ``url``."""

    def settings(self, system: Any) -> dict[str, Any]:
        return self.http_settings(f"http://{system.host}:{system.port}")

    @pytest.fixture
    def scripted(self) -> Iterator[ScriptedHttp]:
        with ScriptedHttp() as scripted:
            yield scripted

    @pytest.fixture
    def towards(self, scripted: ScriptedHttp) -> Iterator[Any]:
        """The connector, speaking to ``scripted``."""
        made = self.make(self.http_settings(scripted.url))
        yield made
        made.close()

    @pytest.mark.parametrize(
        "status",
        [300, 302, 307, 400, 401, 403, 404, 405, 408, 409, 410, 418, 422, 425, 429, 451,
         500, 501, 502, 503, 504, 520, 529, 599],
    )  # fmt: skip
    def test_odd_codes(self, towards: Any, scripted: ScriptedHttp, status: int) -> None:
        scripted.always(Reply(status, {}))
        error = self.attempt(lambda: self.act(towards, make_call(3)))
        meaning = self.rules.read(HttpAnswer(status, {}, b"{}")).meaning
        assert isinstance(error, _ENDS_IN.get(meaning, DeliveryError))
        if meaning in (Meaning.LATER, Meaning.SIGN_IN):
            assert not isinstance(error, NoAnswer), "nothing was changed, and it says it may have"

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_is_heard(self, towards: Any, scripted: ScriptedHttp, status: int) -> None:
        scripted.always(Reply(status, {}, headers={"Retry-After": "7"}))
        error = self.provoke(lambda: self.act(towards, make_call(3)))
        assert isinstance(error, Transient) and error.retry_after == 7

    def writes(self, towards: Any, scripted: ScriptedHttp) -> Sequence[Callable[[], object]]:
        """Calls whose last request writes; ``scripted``: answer here what they ask before."""
        return [lambda: self.act(towards, make_call(3))]

    def test_what_an_answer_to_a_write_means(self, towards: Any, scripted: ScriptedHttp) -> None:
        for reply, meaning, message in self.write_answers:
            scripted.always(reply)
            for write in self.writes(towards, scripted):
                error = self.provoke(write)
                assert type(error) is meaning and re.search(message, str(error)), (reply, error)

    def test_success_that_is_none(self, towards: Any, scripted: ScriptedHttp) -> None:
        for reply in self.hidden_failures:
            scripted.always(reply)
            self.provoke(lambda: self.act(towards, make_call(3)))

    @pytest.mark.parametrize(
        "body", ["", "null", "[]", "7", "{", "<html>OK</html>", b"\xff\xfe\x00", "[" * 5000]
    )
    def test_bodies_that_are_not_what_they_should_be(
        self, towards: Any, scripted: ScriptedHttp, body: str | bytes
    ) -> None:
        headers = {"Content-Type": "application/json"}
        scripted.always(Reply(200, body, headers=headers))
        error = self.attempt(lambda: self.act(towards, make_call(3)))
        assert self.any_body or error is not None

    @pytest.mark.parametrize("status", [400, 401, 403, 409, 422, 429, 500, 503])
    def test_secrets_in_an_error_text_are_not_repeated(
        self, towards: Any, scripted: ScriptedHttp, status: int
    ) -> None:
        leaks = [*self.canaries, *_leaves(self.secrets)]
        text = f"integrity error near {' '.join(leaks)}"
        for body in (text, {"error": text, "reason": leaks}):
            scripted.always(Reply(status, body))
            self.attempt(lambda: self.act(towards, make_call(3)))

    def test_a_redirect_is_not_followed(self, towards: Any, scripted: ScriptedHttp) -> None:
        with ScriptedHttp() as other:
            for status in (301, 302, 303, 307, 308):
                scripted.always(Reply(status, "", headers={"Location": other.url}))
                self.provoke(lambda: self.act(towards, make_call(3)))
                self.attempt(lambda: towards.check(make_call(3)))
            assert other.requests == []

    def test_a_metadata_server_is_never_called(self) -> None:
        made = self.make(self.http_settings("http://169.254.169.254"))
        for call in (lambda: self.act(made, make_call(3)), lambda: made.check(make_call(3))):
            with loopback_only():
                assert isinstance(self.provoke(call), AddressRefused)
        made.close()

    @pytest.mark.parametrize("fault", ["close", "reset", "hang"])
    def test_a_request_without_an_answer(
        self, towards: Any, scripted: ScriptedHttp, fault: Any
    ) -> None:
        scripted.always(Reply(fault=fault))
        error = self.timely(lambda: self.act(towards, make_call(self.deadline)))
        assert isinstance(error, NoAnswer)

    def test_an_answer_that_trickles_ends_with_the_deadline(
        self, towards: Any, scripted: ScriptedHttp
    ) -> None:
        scripted.always(Reply(200, {}, delay=self.deadline + self.margin + 2))
        error = self.timely(lambda: self.act(towards, make_call(self.deadline)))
        assert isinstance(error, NoAnswer)


@cache
def _manifest_in(folder: Path) -> Manifest:
    return load(folder / FILE)


def _leaves(secrets: Mapping[str, str]) -> list[str]:
    """The texts inside the payloads: what may not show, besides the payload itself."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, str):
            if len(value) >= 6:  # shorter ones are words, such as an algorithm's name
                found.append(value)
        elif isinstance(value, Mapping):
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    for payload in secrets.values():
        walk(payload)
        try:
            walk(json.loads(payload))
        except ValueError:
            continue
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    return value is None or isinstance(value, str | int | float | bool | SecretValue)


def _mutilated(pb: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The snapshot with each block absent, and with each member absent, empty or odd."""
    odd_values: tuple[Any, ...] = (
        None,
        "",
        " ",
        "x" * 300,
        -1,
        True,
        [],
        {},
        "'; DROP TABLE x; --",
        "\x00",
    )
    for block, content in pb.items():
        for odd in odd_values:
            yield {**pb, block: odd}
        for member in content if isinstance(content, Mapping) else ():
            for odd in odd_values:
                yield {**pb, block: {**content, member: odd}}


def _until_done(attempt: Callable[[], DeliveryError | None], seconds: float = 10.0) -> None:
    """Try until it succeeds: a pool may hold more than one connection that broke."""
    end = time.monotonic() + seconds
    while (error := attempt()) is not None:
        assert isinstance(error, Transient), f"refused for good after the system was well: {error}"
        assert time.monotonic() < end, f"still failing although the system is well: {error}"
        time.sleep(0.02)
