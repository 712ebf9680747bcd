"""How the refusals of a database are to be read. Their own texts are left out: they hold values."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from nsps.domain.outcome import DeliveryError, NoAnswer, Terminal, Transient, Unreachable
from nsps.transport.deadline import Deadline

# SQLSTATEs of PostgreSQL (or their beginnings), names of SQLite, numbers of MariaDB and MySQL.
_UNIQUE = ("23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "1062")
_FOREIGN = ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY", "1216", "1217", "1451", "1452")
_VALUES = ("1048", "1264", "1265", "1292", "1364", "1366", "1406", "3819", "4025")
_NO_UNIQUE_INDEX = "42P10"
_LOST = ("08", "57P", "1053", "1927", "2003", "2006", "2013", "2014", "2055", "4031")
_READ_ONLY = ("25006", "SQLITE_READONLY", "1290", "1792", "1836")
_TIMED_OUT = ("57014", "SQLITE_BUSY", "1205", "1317", "1969", "3024")
_IN_THE_WAY = ("40001", "40P01", "1020", "1213")

NO_UNIQUE_INDEX = "the key's columns have no unique index of their own"


def code_of(error: SQLAlchemyError) -> str:
    """What the database calls its refusal; empty where the driver says none."""
    cause = getattr(error, "orig", None)
    first = cause.args[0] if cause is not None and cause.args else None
    if isinstance(first, int):  # PyMySQL; its SQLSTATE says less
        return str(first) if first else ""
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or "")


def is_duplicate(error: DBAPIError) -> bool:
    """Whether a unique index refuses the row."""
    return code_of(error) in _UNIQUE


def concerns_node(error: DBAPIError) -> bool:
    """Whether the refusal is of the server that the connection leads to: it is shutting down, or
    was made read-only."""
    return code_of(error).startswith((*_LOST, *_READ_ONLY))


def unreached(error: SQLAlchemyError, deadline: Deadline) -> DeliveryError:
    """Why there is no session: nothing was sent."""
    if deadline.expired:
        return Unreachable("the database did not answer in time; nothing was sent")
    code = code_of(error)
    reason = f" ({code})" if code else ""
    return Unreachable(
        f"the database cannot be reached{reason}: check url, the secret password and the network"
    )


def refusal(error: DBAPIError, deadline: Deadline) -> DeliveryError:
    """What a statement's failure says of the transaction."""
    code = code_of(error)
    unanswered = not code and not isinstance(error, IntegrityError | DataError | ProgrammingError)
    if unanswered or error.connection_invalidated or code.startswith(_LOST):
        late = " in time" if deadline.expired else ": the connection was lost"
        return NoAnswer(f"the database did not answer{late}")
    if code.startswith(_READ_ONLY):
        return Transient(
            f"the database takes no writes ({code}): the node is read-only, as after a switchover; "
            "the connections to it were thrown away. If it goes on, let url name the primary"
        )
    return _of_values(error, code) or _of_statement(code)


def _of_values(error: DBAPIError, code: str) -> DeliveryError | None:
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    named = f" {constraint}" if constraint else ""
    if code in _UNIQUE:
        return Transient(f"another row has one of the values (unique constraint{named})")
    if code in _FOREIGN:
        return Transient(f"a row that this one refers to is missing (foreign key{named})")
    if code in _VALUES or isinstance(error, IntegrityError | DataError):
        return Terminal(f"the table refuses the values{named} ({code}): correct them or the table")
    return None


def _of_statement(code: str) -> DeliveryError:
    if code == _NO_UNIQUE_INDEX:
        return Transient(f"{NO_UNIQUE_INDEX} ({code}): create one")
    if code.startswith(_TIMED_OUT):
        return Transient("the database could not do it in time; nothing was changed")
    if code in _IN_THE_WAY:
        return Transient(f"another transaction was in the way ({code}); nothing was changed")
    return Transient(f"the database refused the statement ({code}): check table and privileges")
