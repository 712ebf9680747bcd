"""An event, or a subscriber, explained in plain words: what happened, in order; what each system
was sent and answered; what waits for what, until when; what an operator can do now.

The pages and the commands show these sentences; neither has words of its own for a history.
"""

from __future__ import annotations

from nsps.console.explanation.advice import advice_for, comparisons
from nsps.console.explanation.happened import event_entries, subject_entries
from nsps.console.explanation.model import Action, Advice, Entry, Explanation, Systems
from nsps.console.explanation.standing import standings
from nsps.console.explanation.waiting import together, waiting
from nsps.console.find import Subject
from nsps.delivery.timeline import EventHistory

__all__ = [
    "Action",
    "Advice",
    "Entry",
    "Explanation",
    "Systems",
    "explain_event",
    "explain_subject",
]


def explain_event(history: EventHistory, systems: Systems) -> Explanation:
    """An event, in the order of time."""
    entries = sorted(event_entries(history), key=lambda entry: entry.at or "")
    advice = advice_for([history], systems)
    return Explanation(
        standings([history], systems), tuple(entries), tuple(waiting(history, systems)), advice
    )


def explain_subject(subject: Subject, systems: Systems) -> Explanation:
    """A subscriber: the state first, then what its newest events came to."""
    advice = (*advice_for(subject.events, systems), *comparisons(subject, systems))
    return Explanation(
        standings(subject.events, systems),
        tuple(subject_entries(subject)),
        tuple(together(subject.events, systems)),
        tuple(dict.fromkeys(advice)),
    )
