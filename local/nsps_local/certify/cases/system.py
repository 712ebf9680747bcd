"""The system behind the connector is slow, away, or hangs; and the connector is stopped.

These need the system to be a test system, reached by way of this command (``--system``).
"""

from __future__ import annotations

from nsps_local.certify import expectations as expect
from nsps_local.certify.case import Case, Level, Request, Target, Trouble, Way
from nsps_local.certify.samples import Samples

AWAY, HANGS = "system-away", "system-hangs"
_WHY_NOT_DONE = (
    "2xx means processed: the event is never sent again, and the subscriber stays as he was. "
    "(contract, responses: 2XX = processed; 503 Core service is not available)"
)
_MEND_NOT_DONE = (
    "Answer 202 only after the system has confirmed the change. A queue of your own does not do: "
    "what fails there no one sees in NSPS."
)


def _slow(samples: Samples) -> Case:
    people = [samples.subscriber() for _ in range(4)]
    return Case(
        name="system-slow",
        level=Level.ROBUST,
        title="A slow system delays its events, and not the health page",
        why="An instance whose health page does not answer is taken for dead and stopped, with the "
        "events that it has begun. (contract, endpoints: GET /health -> 200; responses: 503, 429; "
        "the limit is ours: 1 s)",
        mend="Wait for the system without holding up other requests: several threads or workers, "
        "no synchronous call in an event loop (Node: await, FastAPI: def or an asynchronous "
        "client), and no call to the system in the health page.",
        send=[
            *(samples.request(f"event {n}", who) for n, who in enumerate(people, 1)),
            Request(what="health meanwhile", method="GET", target=Target.HEALTH),
        ],
        way=Way.AT_ONCE,
        trouble=Trouble.SLOW,
        needs_system=True,
        patience=20,
        expect=[expect.processed_or_later(), expect.within(1, Target.HEALTH)],
    )


def cases(samples: Samples) -> list[Case]:
    one, other = samples.subscriber(), samples.subscriber()
    for_away = samples.document(one)
    for_hang = samples.document(other)
    return [
        _slow(samples),
        Case(
            name=AWAY,
            level=Level.CONTRACT,
            title="What could not be done is not answered 2xx: the system is away",
            why=_WHY_NOT_DONE,
            mend=_MEND_NOT_DONE,
            send=[samples.request("an event", one, for_away)],
            trouble=Trouble.AWAY,
            needs_system=True,
            patience=20,
            expect=[expect.not_processed(), expect.error_bodies()],
        ),
        Case(
            name="system-back",
            level=Level.CONTRACT,
            title="When the system is back, the same event is processed",
            why="NSPS sends again what failed. (technical specification: retries)",
            mend="Do not remember an event as done before it is; make the connection anew.",
            send=[samples.request("the same event again", one, for_away)],
            way=Way.UNTIL_DONE,
            needs_system=True,
            patience=20,
            expect=[expect.processed(), expect.something_to_system()],
        ),
        Case(
            name=HANGS,
            level=Level.CONTRACT,
            title="What could not be done is not answered 2xx: the system hangs",
            why=_WHY_NOT_DONE,
            mend=_MEND_NOT_DONE + " Give every call a time limit of some 10 s.",
            send=[samples.request("an event", other, for_hang)],
            trouble=Trouble.HANGS,
            needs_system=True,
            patience=40,
            expect=[expect.not_processed(), expect.error_bodies()],
        ),
        Case(
            name="system-answers-again",
            level=Level.CONTRACT,
            title="When the system answers again, the same event is processed",
            why="NSPS sends again what failed. (technical specification: retries)",
            mend="Drop a connection on which a call has timed out; do not hold locks or sessions.",
            send=[samples.request("the same event again", other, for_hang)],
            way=Way.UNTIL_DONE,
            needs_system=True,
            patience=20,
            expect=[expect.processed(), expect.something_to_system()],
        ),
        Case(
            name="system-trouble-is-temporary",
            level=Level.ROBUST,
            title="Trouble of the system is answered 5xx or 429",
            why="A 4xx says that the event is wrong, and whoever reads it so drops it for good. "
            "(contract, responses: 503 CONNECTION_ERROR, 500 SERVICE_ERROR, 429; the published "
            "sample maps time-outs to 422, against its own table)",
            mend="Map time-outs and refused connections to 503 with type CONNECTION_ERROR.",
            judges=[AWAY, HANGS],
            needs_system=True,
            expect=[expect.later()],
        ),
        Case(
            name="system-hang-in-time",
            level=Level.ROBUST,
            title="A system that hangs is given up within 31 s",
            why="Until then the sender waits too, and the instance serves no other event. (sample "
            "connector: 30 s)",
            mend="Give every call to the system a time limit, the whole event too.",
            judges=[HANGS],
            needs_system=True,
            expect=[expect.within(31)],
        ),
    ]


def at_the_very_end(samples: Samples) -> list[Case]:
    people = [samples.subscriber() for _ in range(4)]
    return [
        Case(
            name="graceful-stop",
            level=Level.ROBUST,
            title="Stopped, it finishes what it has begun",
            why="Every deployment and every scale-in stops an instance. What is cut off may be "
            "half done. (vendor's test list: graceful shutdown without losing in-flight work)",
            mend="On SIGTERM stop listening, finish the requests under way, then end.",
            send=[samples.request(f"event {n}", who) for n, who in enumerate(people, 1)],
            way=Way.STOPPING,
            needs_system=True,
            patience=20,
            expect=[expect.none_cut()],
        )
    ]
