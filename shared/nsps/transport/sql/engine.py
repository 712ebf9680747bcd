"""Pooled connections of one database whose transactions end in time."""

from __future__ import annotations

import math
import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.runtime.secrets import OptionalSecret, SecretValue
from nsps.transport.deadline import Deadline
from nsps.transport.sql.errors import concerns_node, refusal, unreached

PASSWORD = "password"  # noqa: S105 (a secret's name)
_SEVERAL_HOSTS = (
    "postgresql://USER@/DATABASE?host=HOST1:5432&host=HOST2:5432&target_session_attrs=read-write"
)


def check_url(text: str) -> str:
    """The URL of a database that can be used, without a password. Raises ValueError."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(
            "not a database URL: write postgresql://USER@HOST:PORT/DATABASE, or for several hosts "
            + _SEVERAL_HOSTS
        ) from None
    if url.drivername not in _KINDS:
        raise ValueError(
            "write sqlite:///FILE or postgresql://USER@HOST/DATABASE, or mysql:// or mariadb:// "
            "instead of postgresql://"
        )
    if url.password is not None or "password" in url.query:
        raise ValueError("holds a password: leave it out and put it into the secret password")
    _KINDS[url.drivername].check(url)
    return text


class Transactions:
    """Transactions on pooled connections; each ends by its deadline.

    Only one that is proved alive is used, and when a server says that it is read-only or shutting
    down, all connections to it are thrown away.
    """

    def __init__(self, url: str, secret: OptionalSecret) -> None:
        parsed = make_url(url)
        self._running = threading.local()
        self._kind = _KINDS[parsed.drivername](secret, lambda: self._running.watch)
        self.engine = self._kind.engine(parsed)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def open(
        self, deadline: Deadline, *, writes: bool, end: Literal["COMMIT", "ROLLBACK"] = "COMMIT"
    ) -> Iterator[Connection]:
        """A transaction, which ``end`` ends if nothing goes wrong.

        Raises Transient, NoAnswer or Terminal for what does; then it is rolled back.
        """
        with _Watch(deadline) as watch:
            self._running.watch = watch
            try:
                connection = self._alive(deadline)
            except SQLAlchemyError as error:
                raise unreached(error, deadline) from None
            try:
                self._kind.begin(connection, writes)
                yield connection
                connection.exec_driver_sql(end)
            except DBAPIError as error:
                verdict = refusal(error, deadline)
                if isinstance(verdict, NoAnswer):
                    connection.invalidate()  # its answer may still come: to no other question
                else:
                    _roll_back(connection)
                if concerns_node(error):
                    self.engine.dispose()  # what else is pooled is connected to the same node
                raise verdict from None
            except SQLAlchemyError as error:
                _roll_back(connection)
                raise Transient(f"the database call failed: {type(error).__name__}") from None
            except OverflowError:  # SQLite's driver, of an integer with more than 64 bits
                _roll_back(connection)
                raise Terminal("the table refuses the values: a number is too large") from None
            except BaseException:
                _roll_back(connection)
                raise
            finally:
                self._running.watch = None
                connection.close()

    def _alive(self, deadline: Deadline) -> Connection:
        """A connection whose first statements prove it; a dead one is replaced once."""
        for again in (True, False):
            if deadline.expired:
                break
            connection = self.engine.connect()
            try:
                self._running.watch.add(connection.connection.info.get("fileno"))
                # A little less than the deadline: a clear "not done" is worth more than no answer.
                left = deadline.remaining()
                self._kind.limit(connection, max(0.001, left - min(0.5, left * 0.2)))
                return connection
            except DBAPIError:
                connection.invalidate()
                connection.close()
                if not again:
                    raise
        raise Transient("no time left to reach the database; nothing was sent")


class _Kind(ABC):
    """What is particular to one kind of database."""

    def __init__(self, secret: OptionalSecret, watch: Callable[[], _Watch]) -> None:
        self._secret, self._watch = secret, watch

    @classmethod
    @abstractmethod
    def check(cls, url: URL) -> None:
        """Raises ValueError for what this kind of database does not understand."""

    @abstractmethod
    def engine(self, url: URL) -> Engine:
        """The pool. The driver begins no transaction by itself: that is for ``begin``."""

    @abstractmethod
    def limit(self, connection: Connection, seconds: float) -> None:
        """Let the statements of the next transaction take so long and no longer."""

    def begin(self, connection: Connection, writes: bool) -> None:
        connection.exec_driver_sql("BEGIN")


class _Sqlite(_Kind):
    @classmethod
    def check(cls, url: URL) -> None:
        if url.database in (None, "", ":memory:"):
            raise ValueError("names no file: write sqlite:////FOLDER/FILE.db")

    def engine(self, url: URL) -> Engine:
        engine = create_engine(
            url, isolation_level="AUTOCOMMIT", hide_parameters=True, max_overflow=-1
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA busy_timeout = 1000")
            connection.execute("PRAGMA journal_mode = WAL")

        return engine

    def limit(self, connection: Connection, seconds: float) -> None:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {_milliseconds(seconds)}")

    def begin(self, connection: Connection, writes: bool) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class _Server(_Kind):
    """A database behind a network."""

    driver: str
    options: dict[str, Any]

    def engine(self, url: URL) -> Engine:
        engine = create_engine(
            url.set(drivername=self.driver),
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            max_overflow=-1,  # the instance's threads are the limit
            **self.options,
        )

        @event.listens_for(engine, "do_connect")
        def connect(dialect: Any, record: Any, _: Any, given: dict[str, Any]) -> Any:
            watch, password = self._watch(), self._secret(PASSWORD)
            try:
                found = self.connect(dialect, _showing(password, given), watch)
            except dialect.loaded_dbapi.OperationalError:
                # Drivers do not all say that it was the password.
                renewed = self._renewed(password, watch)
                if renewed is None:
                    raise
                found = self.connect(dialect, _showing(renewed, given), watch)
            connection, record.info["fileno"] = found
            return connection

        return engine

    def _renewed(self, refused: SecretValue | None, watch: _Watch) -> SecretValue | None:
        """The password, if it is another by now."""
        if refused is None or watch.deadline.expired:
            return None
        with suppress(Transient):  # what the database says is the better explanation
            again = self._secret(PASSWORD, again=True)
            return again if again != refused else None
        return None

    @abstractmethod
    def connect(self, dialect: Any, given: dict[str, Any], watch: _Watch) -> tuple[Any, int]:
        """A new connection of the driver's and the file number of its socket, which is watched."""


class _Postgresql(_Server):
    driver = "postgresql+psycopg"
    options = {  # noqa: RUF012
        "use_native_hstore": False,
        "connect_args": {"prepare_threshold": None},  # poolers between here and there
    }

    @classmethod
    def check(cls, url: URL) -> None:
        from psycopg import ProgrammingError
        from psycopg.conninfo import make_conninfo

        try:
            given = _connect_args(url, cls.driver)
            make_conninfo(**given)
        except (ArgumentError, ValueError):
            raise ValueError(f"hosts or ports cannot be read: write {_SEVERAL_HOSTS}") from None
        except ProgrammingError as error:
            raise ValueError(f"{str(error).strip()}: correct or remove it") from None
        allowed = ["read-write", "primary"]
        if _hosts(given) == 1:
            allowed.append("any")
        if given.get("target_session_attrs", "any") not in allowed:
            raise ValueError(
                "a node that takes writes is needed: with several hosts, or where "
                f"target_session_attrs is given, let it be one of {', '.join(allowed)}"
            )

    def connect(self, dialect: Any, given: dict[str, Any], watch: _Watch) -> tuple[Any, int]:
        # The driver gives each host so long: one that is dead must leave time for the others.
        each = watch.deadline.remaining() / _hosts(given)
        given["connect_timeout"] = max(2, math.ceil(each))
        connection = dialect.connect(**given)
        number: int = connection.fileno()
        watch.add(number)
        return connection, number

    def limit(self, connection: Connection, seconds: float) -> None:
        """Begins the transaction too, in one round trip: the limit must end with it, because behind
        a pooler the connection is another client's afterwards."""
        milliseconds = _milliseconds(seconds)
        connection.exec_driver_sql(f"BEGIN; SET LOCAL statement_timeout = {milliseconds}")

    def begin(self, connection: Connection, writes: bool) -> None:
        """``limit`` has done it."""


class _Mysql(_Server):
    """MariaDB and MySQL, through the pure Python driver."""

    driver = "mysql+pymysql"
    options = {}  # noqa: RUF012

    @classmethod
    def check(cls, url: URL) -> None:
        if _hosts(_connect_args(url, cls.driver)) > 1:
            raise ValueError(
                "MariaDB and MySQL are given one host: name a proxy or an address that moves to "
                "the primary"
            )

    def connect(self, dialect: Any, given: dict[str, Any], watch: _Watch) -> tuple[Any, int]:
        connection = dialect.connect(**given, defer_connect=True)
        try:
            link = _connected(connection, max(0.001, watch.deadline.remaining()))
        except OSError:
            raise dialect.loaded_dbapi.OperationalError(2003, "no connection") from None
        number = link.fileno()  # TLS keeps it
        watch.add(number)
        connection.connect(link)
        return connection, number

    def limit(self, connection: Connection, seconds: float) -> None:
        limits = f"innodb_lock_wait_timeout = {max(1, int(seconds))}"
        if getattr(connection.dialect, "is_mariadb", False):
            limits += f", max_statement_time = {seconds:.3f}"
        connection.exec_driver_sql(f"SET {limits}")


def _connect_args(url: URL, driver: str) -> dict[str, Any]:
    """What the driver is given of the URL."""
    whole = url.set(drivername=driver)
    return dict(whole.get_dialect()().create_connect_args(whole)[1])


def _hosts(given: dict[str, Any]) -> int:
    """How many hosts the driver is given."""
    host = given.get("host", "")
    return len(host.split(",") if isinstance(host, str) else host)


def _showing(password: SecretValue | None, given: dict[str, Any]) -> dict[str, Any]:
    return given if password is None else {**given, "password": password.reveal()}


def _connected(connection: Any, seconds: float) -> socket.socket:
    """A socket to the server that the driver's connection, not yet connected, is for."""
    if connection.unix_socket:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(seconds)
        link.connect(connection.unix_socket)
        return link
    link = socket.create_connection((connection.host, connection.port), seconds)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return link


_KINDS: dict[str, type[_Kind]] = {
    "sqlite": _Sqlite,
    "postgresql": _Postgresql,
    "mysql": _Mysql,
    "mariadb": _Mysql,
}


class _Watch:
    """Cuts the sockets of a call at the deadline: the driver itself would wait for ever."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._sockets: list[socket.socket] = []
        self._over = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(deadline.remaining(), self._cut)
        self._timer.daemon = True

    def add(self, number: int | None) -> None:
        """Watch the socket with this file number; None: there is none."""
        if number is None:
            return
        with self._lock:
            self._sockets.append(socket.socket(fileno=os.dup(number)))
            if self._over:
                self._shut()

    def _cut(self) -> None:
        with self._lock:
            self._over = True
            self._shut()

    def _shut(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()


def _roll_back(connection: Connection) -> None:
    """End the transaction; a connection that cannot even do that is thrown away."""
    try:
        connection.exec_driver_sql("ROLLBACK")
    except SQLAlchemyError:
        connection.invalidate()


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
