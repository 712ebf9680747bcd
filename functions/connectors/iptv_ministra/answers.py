"""How Ministra's answers are read: nearly all come with status 200, failures too.

``{"status": "OK", "results": ...}``, or ``{"status": "ERROR", "error": "Account not found"}``.
(Source: the published code of the API.)
"""

from __future__ import annotations

from nsps.transport.answers import AnswerRule, AnswerRules, Meaning

NOT_API = "is url the REST API v1, https://HOST/stalker_portal/api?"
_BOX = "another account has this set-top box: remove it there"
LOGIN = "another account of Ministra has it: change it there"


def _failure(meaning: Meaning, text: str = "", hint: str = "") -> AnswerRule:
    """A rule for a failure, which Ministra answers with a 200."""
    return AnswerRule(meaning, status="200", member="status", equals="ERROR", text=text, hint=hint)


ANSWERS = AnswerRules(
    (
        _failure(Meaning.ABSENT, "Account not found"),
        _failure(Meaning.LATER, "MAC address already in use", _BOX),
        _failure(Meaning.EXISTS, "Login already in use"),
        _failure(Meaning.REFUSED, "Login required"),
        _failure(Meaning.REFUSED, "Not valid mac address"),
        _failure(Meaning.UNCLEAR),
        AnswerRule(Meaning.UNCLEAR, status="200", member="results", equals=False),
        AnswerRule(Meaning.DONE, status="200", member="status", equals="OK"),
        AnswerRule(Meaning.UNCLEAR, status="2xx", hint=NOT_API),
        AnswerRule(Meaning.LATER, status="404,410", hint=NOT_API),
    )
)
# False also where there was nothing to change; the account is read again anyway.
SUBSCRIPTION = (AnswerRule(Meaning.DONE, status="200", member="results", equals=False),)
CHANGE = (_failure(Meaning.LATER, "Login already in use", LOGIN),)
