"""The protocol run on Firestore: one attempt of one delivery, step by step.

Steps between which no call lies share a transaction: ``begin`` is begin, list and the takes up to
the first that needs a call; ``done`` is confirm, the further takes and finish with the status note.
The usual event costs one transaction and one commit: what ``begin`` left is known, so ``done`` of
the last call writes on condition that it still stands. Every transaction may be run again (a commit
in doubt equals a crash just after it).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from google.cloud.firestore import ArrayUnion, Increment

from nsps.cloud.store import HISTORY_DAYS, TOMBSTONE_DAYS, Known, Store, Tx, as_json
from nsps.delivery.ledger import protocol
from nsps.delivery.ledger.documents import Delivery, Resource, Watermark, listed
from nsps.delivery.ledger.protocol import Begun, CallEnd, Lease, Step, Taken, Todo
from nsps.domain.event import Owner, SnapshotTime
from nsps.domain.outcome import AnswerState, Outcome, Transient, worst
from nsps.domain.subscriber import as_msisdn
from nsps.espf import outbox
from nsps.espf.poster import note_status

MARGIN_SECONDS = 2.0
"""M of the model: how far a call may overrun its deadline before it can no longer take effect."""
TRANSACTION_SECONDS = 8.0
"""What a lease allows for the take transaction itself and for the way to the call."""
DOUBT_SECONDS = 900.0
"""How long an order whose submission got no answer keeps its resource from other orders."""

MOST_RESULTS = 50
"""How many results a delivery keeps: the newest."""
MOST_FAILURES = 10
"""How many different failures in a row a delivery keeps: the newest."""
LONGEST_WAIT_SECONDS = 86400.0
"""The longest Retry-After that is honoured: a day."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one attempt is to bring about: the desired state of an owner in one system."""

    handler: str
    delivery: str
    """Document id: the event_id, with ``.run`` for a replay."""
    event_id: str
    owner: Owner
    """Whose claim it is. A message that stands for itself is its own owner."""
    i_account: int | None
    """Whose status ESPF is told; None for events about no account."""
    t: SnapshotTime
    wanted: Mapping[str, str]
    """Resource key -> digest of the desired state."""
    visible: Mapping[str, Mapping[str, Any]]
    """Resource key -> the desired state without secrets, kept for people."""
    group: str | None
    call_seconds: float
    """C of the model: the longest that a call may take."""
    answer_seconds: float = 86400.0
    """How long an asynchronous system may take to answer an order."""
    lasting: bool = True
    """False where the resource is a message: forgotten with the history."""
    meaning: str | None = None
    """Digest of what a message says, where only a newer one that says the same may take its place;
    overtaken by another one, its event is read again. None: any newer one of the owner may."""
    asked: bool = False
    """A replay or a repair: write even what the ledger takes to be so already."""
    own_way: bool = False
    """A replay or a repair: another delivery with the same snapshot does not do for it."""
    receipts: bool = False
    """The system may report later what became of a message: until then it is only accepted."""
    effects: bool = False
    """Something has to follow each write: it is owed until it has been carried out."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def lease_seconds(self) -> float:
        return self.call_seconds + MARGIN_SECONDS + TRANSACTION_SECONDS


class Stage(Enum):
    """Where an attempt is after a transaction."""

    CALL = auto()
    """``step`` is mine: call the system, then report."""
    FINISHED = auto()
    """The delivery has its outcome (or is accepted): acknowledge."""
    STOPPED = auto()
    """Another message is responsible, or it was final already: acknowledge."""
    BUSY = auto()
    """Another attempt holds the resource: wait a little, begin again."""
    QUEUED = auto()
    """Asynchronous: an earlier order is open; its answer sends this event again: acknowledge."""
    LOST = auto()
    """My lease is gone: begin again."""
    OVERTAKEN = auto()
    """Another message to the owner went first, with newer data: have the event read again, then
    acknowledge."""
    BEHIND = auto()
    """The same, and that message has not got through: the message comes again."""
    HELD = auto()
    """The system asked to be left alone (Retry-After) for ``wait`` seconds more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What an attempt remembers between its transactions; all of it may be lost in a crash."""

    at: Stage
    outcome: Outcome = Outcome.UNCHANGED
    step: Step | None = None
    resource: Resource = field(default_factory=Resource)
    """As it was taken; but ``owed`` as it was found: what an earlier attempt left to be done."""
    todo: tuple[Step, ...] = ()
    sent: float = 0.0
    """Monotonic time at which the take transaction was sent."""
    dropping: bool = False
    """The claim was refused, and a former owner's state is being removed under the same lease."""
    orders: tuple[str, ...] = ()
    results: tuple[Mapping[str, Any], ...] = ()
    errors: tuple[str, ...] = ()
    post: outbox.Post | None = None
    wait: float = 0.0
    known: Known | None = None
    """The documents as my last transaction left them."""

    @property
    def current(self) -> Step:
        """The step that is called for: a claim that was refused may have become a removal."""
        assert self.step is not None
        if self.dropping:
            return replace(self.step, todo=Todo.RELEASE, wanted=None)
        return self.step


class Ledger:
    """One handler's ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clock = store.clock

    # ---- the steps of an attempt -----------------------------------------------------------

    def begin(self, work: Work, record: Mapping[str, Any]) -> Progress:
        """Steps 1 to 3: begin, list, take; and finish if no call is needed.

        ``record``: fields for people, kept in the delivery document.
        """

        def body(tx: Tx) -> Progress:
            sent = self._clock()
            view = self._view(tx, work, listing=True)
            ended = view.ended(record)
            if ended is not None:
                return ended
            if (wait := view.asked_to_wait()) > 0:
                return Progress(Stage.HELD, Outcome.WAITING, wait=wait)
            view.record(record)
            view.start()
            progress = Progress(Stage.FINISHED, todo=tuple(protocol.plan(view.owned, work.wanted)))
            went = view.go_on(progress, sent)
            if went.at is not Stage.BUSY:  # to wait for a lease is no attempt
                view.record({"attempts": Increment(1)})
            return went

        return self._went(None, body)

    def ended(self, work: Work, record: Mapping[str, Any]) -> Progress | None:
        """Step 1 alone, as far as it ends the attempt: the system need not be called. Else None,
        and nothing is written."""
        return self._store.transact(lambda tx: self._view(tx, work).ended(record))

    def may_call(self, work: Work, progress: Progress) -> bool:
        """Step 4: whether enough of the lease is left for the longest call (local)."""
        left = work.lease_seconds - (self._clock() - progress.sent)
        return left >= work.call_seconds + MARGIN_SECONDS

    def done(
        self, work: Work, progress: Progress, details: Mapping[str, Any], *, changed: bool
    ) -> Progress:
        """Step 5, the call is done: confirm, take the next, or finish.

        ``changed``: False if the system turned out to have the state already. ``details``: what
        was done, for people (no secrets); ``fields`` may hold any JSON.
        """
        step = _step(progress)
        if progress.dropping:
            result, outcome = "removed", Outcome.REJECTED
        else:
            what = "removed" if step.todo is Todo.RELEASE else "written"
            result = what if changed else "already so"
            outcome = Outcome.DELIVERED if changed else Outcome.UNCHANGED
        confirms = progress.current

        def settle(resource: Resource, token: str) -> Resource | None:
            return protocol.confirm(resource, confirms, token)

        about = {"result": result, **details}
        if "fields" in about:
            about["fields"] = as_json(about["fields"])
        return self._settle(work, progress, settle, outcome, about)

    def accepted(
        self, work: Work, progress: Progress, order_id: str, details: Mapping[str, Any]
    ) -> Progress:
        """The system took the order, or the message, and answers later: remember it, go on.

        Its answer may have come before the acceptance, even under an id that was not known
        then. A message that was taken is sent: its resource waits for no receipt, only its delivery
        does.
        """
        step = progress.current
        reference = order_reference(work, step)
        early = unknown_name(order_id)

        def body(tx: Tx) -> Progress:
            sent = self._clock()
            view = self._view(tx, work, keys=_keys(progress), orders=(reference, early))
            resource = view.resource(step.key)
            if not resource.held_by(work.token):
                return replace(progress, at=Stage.LOST)
            order = view.order(reference) or {}
            answered = order if order.get("answer") else view.order(early) or {}
            answer = answered.get("answer")
            known: dict[str, Any] = {"order_id": order_id, "accepted_at": tx.now}
            if not work.lasting:
                known |= _order_fields(work, step, "send")
            if answer is None:
                after = protocol.accept(resource, step, work.token, reference)
                due_at = tx.after(seconds=work.answer_seconds)
                view.put_order(reference, known | {"due_at": due_at})
            elif answer == AnswerState.DONE:
                after = protocol.confirm(resource, step, work.token)
                view.put_order(reference, known | {"answer": answer, "settled": True})
            else:
                after = protocol.not_settled(protocol.give_back(resource, work.token))
                failed = {"answer": answer, "message": answered.get("message"), "settled": True}
                view.put_order(reference, known | failed)
            if not work.lasting:
                after = protocol.confirm(resource, step, work.token)
            assert after is not None
            view.put(step, after)
            outcome = _ANSWERED.get(answer or "", Outcome.ACCEPTED)
            if progress.dropping:
                outcome = Outcome.REJECTED
            word = "ordered" if work.lasting else "sent"
            result = {"key": step.key, "result": word, "order": order_id, **details}
            errors = (_failure(answered),) if answer == AnswerState.FAILED else ()
            went = replace(
                progress,
                outcome=worst(progress.outcome, outcome),
                results=(*progress.results, result),
                errors=(*progress.errors, *errors),
                orders=(*progress.orders, reference),
                dropping=False,
            )
            return view.go_on(went, sent)

        return self._store.transact(body)

    def intend(self, work: Work, step: Step, action: str) -> str:
        """Write an order down before it is submitted, so that its answer can be found.

        From then on it counts as open: no other is submitted for the key until it is answered, or
        was in doubt for DOUBT_SECONDS. Returns its reference. Raises Transient.
        """
        reference = order_reference(work, step)
        order = _order_fields(work, step, action)
        at = self._store.resource(work.handler, step.key)

        def body(tx: Tx) -> None:
            resource = Resource.read(tx.read([at])[at.path])
            if not resource.held_by(work.token):
                raise Transient("the lease of this resource ran out before its order was submitted")
            until = tx.after(seconds=work.lease_seconds + DOUBT_SECONDS)
            after = protocol.intend(resource, step, reference, until)
            tx.merge(at, {"pending": after.write()["pending"]})
            tx.merge(self._store.order(work.handler, reference), order)

        self._store.transact(body)
        return reference

    def refused(
        self,
        work: Work,
        progress: Progress,
        reason: str,
        *,
        wrote: bool = False,
        written: bool = False,
    ) -> Progress:
        """Step 5, refused for good: remove a former owner's state, or give back and go on.

        ``wrote``: a part of the call was carried out before. ``written``: the whole state was, and
        what has to follow it was refused: nothing of a former owner is left.
        """
        step = _step(progress)
        errors = (*progress.errors, reason)
        foreign = step.todo is Todo.CLAIM and progress.resource.foreign
        if foreign and not progress.dropping and not written:
            return replace(progress, dropping=True, errors=errors)

        def settle(resource: Resource, token: str) -> Resource | None:
            if not work.lasting:
                return protocol.over(resource, token)
            if not resource.held_by(token):
                return None
            if not wrote:
                resource = protocol.not_written(resource, progress.resource, token)
            return protocol.give_back(protocol.not_ordered(resource, token, refused=True), token)

        return self._settle(
            work, replace(progress, errors=errors), settle, Outcome.REJECTED, {"result": "refused"}
        )

    def not_done(
        self,
        work: Work,
        progress: Progress,
        error: str,
        *,
        call: CallEnd,
        retry_after: float | None = None,
    ) -> outbox.Post | None:
        """Step 5, to be tried later: the message comes again, and waits for ``retry_after``.

        A call that was answered is over, so its lease is given back. Without an answer the lease is
        left to run out (rule hold). An order is no longer open only if the answer says so.
        """

        def body(tx: Tx) -> outbox.Post | None:
            keys = _keys(progress)[:1]
            view = self._view(tx, work, keys=keys)
            if call is not CallEnd.UNDER_WAY and progress.step is not None:
                resource = view.resource(progress.step.key)
                if resource.held_by(work.token):
                    if call is CallEnd.NOT_DONE:
                        resource = protocol.not_ordered(resource, work.token, refused=False)
                        resource = protocol.not_written(resource, progress.resource, work.token)
                    view.put(progress.step, protocol.give_back(resource, work.token))
            view.keep(progress)
            return view.retrying(error, retry_after)

        return self._store.transact(body)

    def reject(self, work: Work, record: Mapping[str, Any], reason: str) -> Progress:
        """The event can never be provisioned: decided before begin, the watermark stays."""

        def body(tx: Tx) -> Progress:
            view = self._view(tx, work)
            begun = view.begun()
            if begun in (Begun.ALREADY_FINAL, Begun.NEWER_COPY):
                return Progress(Stage.STOPPED, view.delivery.outcome or Outcome.WAITING)
            view.record(dict(record) | {"attempts": Increment(1), "t": work.t})
            outcome = Outcome.SUPERSEDED if begun is Begun.SUPERSEDED else Outcome.REJECTED
            return view.finish(Progress(Stage.FINISHED, outcome, errors=(reason,)), check=False)

        return self._store.transact(body)

    def postpone(self, work: Work, record: Mapping[str, Any], reason: str) -> outbox.Post | None:
        """What is wanted cannot be said yet (a secret cannot be read): before begin, nothing is
        touched, the message comes again."""

        def body(tx: Tx) -> outbox.Post | None:
            view = self._view(tx, work)
            begun = view.begun()
            if begun is not Begun.GO:
                return None
            view.record(dict(record) | {"attempts": Increment(1), "t": work.t} | view.listed())
            view.delivery = replace(view.delivery, t=work.t)
            return view.retrying(reason, None)

        return self._store.transact(body)

    def _settle(
        self,
        work: Work,
        progress: Progress,
        settle: Callable[[Resource, str], Resource | None],
        outcome: Outcome,
        result: Mapping[str, Any],
    ) -> Progress:
        step = _step(progress)

        def body(tx: Tx) -> Progress:
            sent = self._clock()
            view = self._view(tx, work, takes=bool(progress.todo), keys=_keys(progress))
            after = settle(view.resource(step.key), work.token)
            if after is None:
                return replace(progress, at=Stage.LOST)
            view.put(step, after)
            return view.go_on(
                replace(
                    progress,
                    outcome=worst(progress.outcome, outcome),
                    results=(*progress.results, {"key": step.key, **result}),
                    dropping=False,
                ),
                sent,
            )

        return self._went(progress.known, body)

    def _went(self, known: Known | None, body: Callable[[Tx], Progress]) -> Progress:
        progress, known = self._store.transact_on(known, body)
        return replace(progress, known=known)

    def _view(
        self,
        tx: Tx,
        work: Work,
        *,
        listing: bool = False,
        takes: bool = True,
        keys: tuple[str, ...] = (),
        orders: tuple[str, ...] = (),
    ) -> _View:
        """The documents of a transaction. ``takes``: it may take a resource (rule recheck)."""
        store, handler = self._store, work.handler
        owned: dict[str, dict[str, Any]] = {}
        if listing:
            owned = tx.query(store.resources(handler), "owner", str(work.owner))
            keys = tuple(work.wanted)
            if work.receipts:
                steps = [Step(Todo.CLAIM, key, wanted) for key, wanted in work.wanted.items()]
                orders = tuple(order_reference(work, step) for step in steps)
        references = [store.delivery(handler, work.delivery)]
        references += [store.owner(handler, str(work.owner))] if takes else []
        references += [
            reference
            for reference in (store.resource(handler, key) for key in keys)
            if reference.path not in owned
        ]
        references += [store.order(handler, reference) for reference in orders]
        if work.group is not None and work.i_account is not None:
            references.append(store.status(work.i_account, work.group))
        return _View(store, tx, work, owned, {**tx.read(references), **owned})


class _View:
    """The documents of one transaction: read at its start, changed, and written at its end."""

    def __init__(
        self,
        store: Store,
        tx: Tx,
        work: Work,
        owned: Mapping[str, Mapping[str, Any]],
        documents: dict[str, dict[str, Any] | None],
    ) -> None:
        self._store, self._tx, self._work = store, tx, work
        self._documents = documents
        self._ordered: dict[str, dict[str, Any]] = {}
        """What this transaction will write of orders: reads do not show it yet."""
        self._delivery = store.delivery(work.handler, work.delivery)
        self._owner = store.owner(work.handler, str(work.owner))
        self.owned = [str(data["key"]) for data in owned.values()]
        self.delivery = Delivery.read(documents[self._delivery.path])
        self.watermark = Watermark.read(documents.get(self._owner.path), work.meaning)

    def begun(self) -> Begun:
        work = self._work
        return protocol.begin(self.delivery, self.watermark, work.t, yields=not work.own_way)

    def ended(self, record: Mapping[str, Any]) -> Progress | None:
        """How step 1 ends the attempt; None where it goes on."""
        begun = self.begun()
        if begun in (Begun.ALREADY_FINAL, Begun.NEWER_COPY):
            return Progress(Stage.STOPPED, self.delivery.outcome or Outcome.WAITING)
        if begun is not Begun.SUPERSEDED:
            return None
        self.record(dict(record) | {"attempts": Increment(1), "superseded_by": self.watermark.by})
        return self.finish(Progress(Stage.FINISHED, Outcome.SUPERSEDED), check=False)

    def resource(self, key: str) -> Resource:
        return Resource.read(
            self._documents.get(self._store.resource(self._work.handler, key).path)
        )

    def order(self, reference: str) -> dict[str, Any] | None:
        return self._documents.get(self._store.order(self._work.handler, reference).path)

    def put_order(self, reference: str, fields: Mapping[str, Any]) -> None:
        order = self._store.order(self._work.handler, reference)
        self._tx.merge(order, fields)
        self._ordered[order.path] = {**self._ordered.get(order.path, {}), **fields}

    def put(self, step: Step, resource: Resource) -> None:
        """Write a resource, with what people want to see of it."""
        reference = self._store.resource(self._work.handler, step.key)
        fields = resource.write() | {"key": step.key, "changed_at": self._tx.now}
        lasting = self._work.lasting and resource.owner is not None
        days = TOMBSTONE_DAYS if self._work.lasting else HISTORY_DAYS
        fields["expire_at"] = None if lasting else self._tx.after(days=days)
        sure = resource.confirmed is not None and not resource.dirty
        if sure and resource.confirmed == step.wanted:
            state = self._work.visible.get(step.key, {})
            fields["state"] = as_json(state)
            fields["by"] = self._work.event_id
            fields["find"] = _findable(step.key, state)
        elif resource.owner is None:
            fields["state"] = None
        self._tx.merge(reference, fields)
        self._documents[reference.path] = fields

    def record(self, fields: Mapping[str, Any]) -> None:
        """Fields of the delivery document that are for people."""
        self._tx.merge(self._delivery, fields)

    def listed(self) -> dict[str, Any]:
        """The fields by which lists find the delivery while it is open."""
        return listed(self._documents[self._delivery.path], self._tx.now)

    def start(self) -> None:
        """The delivery begins with this snapshot; the owner's watermark rises to it."""
        work = self._work
        self.delivery = replace(self.delivery, t=work.t)
        begun = {"t": work.t, "outcome": None, "last_at": self._tx.now, "waits_for": None}
        self._tx.merge(self._delivery, self.listed() | begun)
        if self.watermark.t < work.t:
            self.watermark = Watermark(work.t, work.event_id)
            marked = self.watermark.write(self._documents.get(self._owner.path), work.meaning)
            expire = {"expire_at": self._tx.after(days=TOMBSTONE_DAYS)}
            self._tx.merge(self._owner, marked | expire)

    def go_on(self, progress: Progress, sent: float) -> Progress:
        """Take what is left to do, until a call is needed or nothing is left."""
        work = self._work
        until = self._tx.after(seconds=work.lease_seconds)
        lease = Lease(work.token, self._tx.now, until)
        todo = list(progress.todo)
        while todo:
            step = todo.pop(0)
            before = self.resource(step.key)
            mine = lease
            if before.pending is not None:
                mine = replace(lease, reference=order_reference(work, step))
            taken, after = protocol.take(
                step,
                before,
                self.watermark,
                str(work.owner),
                work.t,
                mine,
                asked=work.asked,
                effects=work.effects,
            )
            if taken is Taken.CALL:
                self.put(step, after)
                found = replace(after, owed=before.owed)
                return replace(
                    progress, at=Stage.CALL, step=step, resource=found, todo=tuple(todo), sent=sent
                )
            if taken in (Taken.BUSY, Taken.QUEUED):
                return self._wait(replace(progress, step=step), taken, before)
            if taken is Taken.CLAIMED_LATER and work.meaning is not None:
                return self._overtaken(before)
            if taken is Taken.UNCHANGED and self._awaits_receipt(step):
                taken = Taken.JOINED
            progress = replace(
                progress,
                outcome=worst(progress.outcome, protocol.OUTCOME_OF[taken]),
                results=(*progress.results, {"key": step.key, "result": _SAY[taken]}),
            )
            if taken is Taken.GAVE_WAY:
                self.record({"superseded_by": self.watermark.by})
                break
            if taken is Taken.JOINED:
                progress = self._join(progress, _open_order(work, step, before))
            if after != before:
                self.put(step, after)
        return self.finish(progress)

    def _awaits_receipt(self, step: Step) -> bool:
        """Whether the message was sent before, and its receipt decides."""
        sent = self.order(order_reference(self._work, step)) if self._work.receipts else None
        return sent is not None and bool(sent.get("order_id"))

    def _wait(self, progress: Progress, taken: Taken, resource: Resource) -> Progress:
        self.keep(progress)
        if taken is Taken.BUSY:
            return replace(progress, at=Stage.BUSY)
        assert resource.pending is not None
        self.put_order(resource.pending.reference, {"followers": ArrayUnion([self._work.delivery])})
        self.record({"waits_for": "the answer to an earlier order"})
        return replace(progress, at=Stage.QUEUED, outcome=Outcome.WAITING)

    def _overtaken(self, resource: Resource) -> Progress:
        """Sent now, an older message would undo a newer one that means something else."""
        if protocol.may_read_again(self.delivery, resource):
            waits_for = "newer data: another event of the owner went first"
            self.record({"read_again": Increment(1), "waits_for": waits_for})
            return Progress(Stage.OVERTAKEN, Outcome.WAITING)
        self.record({"waits_for": "another event of the owner, which went first and still fails"})
        return Progress(Stage.BEHIND, Outcome.WAITING)

    def _join(self, progress: Progress, reference: str) -> Progress:
        self.put_order(reference, {"deliveries": ArrayUnion([self._work.delivery])})
        return replace(progress, orders=(*progress.orders, reference))

    def keep(self, progress: Progress) -> None:
        """What this attempt has done, for people: another one will finish the delivery."""
        if progress.results:
            self.record({"results": self._so_far(progress)})

    def _so_far(self, progress: Progress) -> list[dict[str, Any]]:
        mine = [dict(result) for result in progress.results]
        return [*self._earlier(progress), *mine][-MOST_RESULTS:]

    def _earlier(self, progress: Progress) -> list[dict[str, Any]]:
        """What earlier attempts and copies of this delivery did and could not finish."""
        kept = (self._documents[self._delivery.path] or {}).get("results") or []
        return [each for each in kept if each["result"] in _DONE and each not in progress.results]

    def finish(self, progress: Progress, *, check: bool = True) -> Progress:
        """Step 6: the outcome, and in the same transaction the status for ESPF."""
        work, now = self._work, self._tx.now
        if check and not protocol.may_finish(self.delivery, work.t):
            if self.delivery.outcome is None or not self.delivery.outcome.final:
                self.keep(progress)
            return replace(progress, at=Stage.STOPPED)
        if any(each["result"] in _CHANGED for each in self._earlier(progress)):
            progress = replace(progress, outcome=worst(progress.outcome, Outcome.DELIVERED))
        waits = progress.outcome is Outcome.ACCEPTED
        if waits:
            progress = self._answered_already(progress)
        fields: dict[str, Any] = {
            "outcome": progress.outcome.value,
            "results": self._so_far(progress),
            "errors": list(progress.errors),
            "retry": None,
            "waits_for": None,
            "last_at": now,
            "expire_at": self._tx.after(days=HISTORY_DAYS),
        }
        if progress.outcome.final:
            fields["finished_at"] = now
        if progress.orders:
            fields["orders"] = list(progress.orders)
            fields["by_answer"] = waits and progress.outcome.final
        self._tx.merge(self._delivery, fields)
        post = self._note(progress.outcome, "; ".join(progress.errors))
        return replace(progress, at=Stage.FINISHED, post=post)

    def _answered_already(self, progress: Progress) -> Progress:
        """The answer that comes last finishes a delivery; it may have come before its end."""
        references = [self._store.order(self._work.handler, name) for name in progress.orders]
        found = self._tx.read(references)
        orders = [
            {**(found[reference.path] or {}), **self._ordered.get(reference.path, {})}
            for reference in references
        ]
        came = answers_together(orders)
        if came is None:
            return progress
        outcome, errors = came
        return replace(progress, outcome=outcome, errors=(*progress.errors, *errors))

    def asked_to_wait(self) -> float:
        """Seconds for which the system asked, with its last answer, not to be called for this."""
        retry = (self._documents[self._delivery.path] or {}).get("retry") or {}
        not_before = retry.get("not_before")
        return (not_before - self._tx.now).total_seconds() if not_before else 0.0

    def retrying(self, error: str, retry_after: float | None) -> outbox.Post | None:
        """Record a failure that is to be tried again; ESPF gets RETRY."""
        if not protocol.may_finish(self.delivery, self._work.t):
            return None
        retry: dict[str, Any] = {"error": error, "at": self._tx.now}
        if retry_after:
            retry["not_before"] = self._tx.after(seconds=min(retry_after, LONGEST_WAIT_SECONDS))
        self._tx.merge(
            self._delivery,
            {
                "retry": retry,
                "failures": self._failures(error),
                "last_at": self._tx.now,
                "expire_at": self._tx.after(days=HISTORY_DAYS),
            },
        )
        return self._note(Outcome.RETRYING, error)

    def _failures(self, error: str) -> list[dict[str, Any]]:
        """The newest failures with this one; the same one again is counted."""
        before = (self._documents[self._delivery.path] or {}).get("failures") or []
        now = self._tx.now
        new = {"error": error, "first_at": now, "at": now, "times": 1}
        if before and before[-1]["error"] == error:
            *before, same = before
            new |= {"first_at": same.get("first_at", same["at"]), "times": same["times"] + 1}
        return [*before, new][-MOST_FAILURES:]

    def _note(self, outcome: Outcome, message: str) -> outbox.Post | None:
        work = self._work
        return note_status(
            self._store,
            self._tx,
            self._documents,
            work.i_account,
            work.group,
            work.t,
            outcome,
            message,
        )


def _findable(key: str, state: Mapping[str, Any]) -> list[str]:
    """The numbers by which people look for a resource."""
    values = (state.get(name) for name in ("imsi", "msisdn", "iccid", "number"))
    texts = [each for each in values if isinstance(each, str) and each]
    numbers = filter(None, map(as_msisdn, texts))  # an MSISDN is looked for by its digits
    return sorted({key, *texts, *numbers})


def _order_fields(work: Work, step: Step, action: str) -> dict[str, Any]:
    """What is kept of an order, or of a message with a receipt, from its beginning."""
    return {
        "reference": order_reference(work, step),
        "key": step.key,
        "action": action,
        "wanted": step.wanted or "",
        "state": as_json(work.visible.get(step.key, {})),
        "owner": str(work.owner),
        "i_account": work.i_account,
        "group": work.group,
        "t": work.t,
        "deliveries": ArrayUnion([work.delivery]),
        "settled": False,
    }


def _open_order(work: Work, step: Step, resource: Resource) -> str:
    """The name of the order, or of the message, whose answer counts for this step, too."""
    return resource.pending.reference if resource.pending else order_reference(work, step)


def order_reference(work: Work, step: Step) -> str:
    """Our name for an order: equal when the same snapshot's order is submitted again.

    A message is the same in every snapshot of its delivery.
    """
    t = work.t if work.lasting else ""
    name = "\n".join((work.handler, step.key, t, step.wanted or ""))
    return str(uuid.uuid5(_ORDERS, name))


def unknown_name(order: str) -> str:
    """Where an answer is kept whose order is not known (yet)."""
    return f"~{order}"


def answers_together(
    orders: Sequence[Mapping[str, Any]],
) -> tuple[Outcome, tuple[str, ...]] | None:
    """What a delivery's orders came to, with the errors; None while one is not answered."""
    if not orders or any(not order.get("answer") for order in orders):
        return None
    errors = tuple(_failure(order) for order in orders if order["answer"] == AnswerState.FAILED)
    return (Outcome.REJECTED if errors else Outcome.DELIVERED), errors


def _failure(order: Mapping[str, Any]) -> str:
    return str(order.get("message") or "the system answered that the order failed")


def _step(progress: Progress) -> Step:
    assert progress.step is not None
    return progress.step


def _keys(progress: Progress) -> tuple[str, ...]:
    steps = (() if progress.step is None else (progress.step,)) + progress.todo
    return tuple(step.key for step in steps)


_ORDERS = uuid.UUID("0f2f5f7c-3b1e-5d39-8a68-2f8f52c9a0aa")
_CHANGED = frozenset({"written", "removed"})
_DONE = _CHANGED | {"ordered", "sent"}
_ANSWERED: Mapping[str, Outcome] = {
    AnswerState.DONE: Outcome.DELIVERED,
    AnswerState.FAILED: Outcome.REJECTED,
}
_SAY = {
    Taken.UNCHANGED: "unchanged",
    Taken.NOT_MINE: "not ours any more",
    Taken.CLAIMED_LATER: "claimed by a newer snapshot",
    Taken.GAVE_WAY: "superseded",
    Taken.JOINED: "ordered already",
}
