"""Framed requests over TCP connections that are kept: for systems with a protocol of their own.

    pool = TcpPool("CTRL", host, port, read_frame)
    answer = pool.request(frame, answer_of, call.deadline)

The connector's ``protocol.py`` says what a frame is; this module sends it in time, and says
afterwards whether it may have taken effect: Unreachable and Transient (nothing was sent), NoAnswer
(sent, and no whole answer came). Each message begins with protocol and address.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from nsps.domain.outcome import NoAnswer, Transient, Unreachable
from nsps.transport.connection import Connection, connect, reason_of, resolve
from nsps.transport.http import Deadline

_MAX_FRAMES = 1000
"""Frames that may come before the answer (notifications); who sends more is not well."""
_KEEP_SECONDS = 240.0
"""Firewalls forget an idle connection after some minutes; what is sent then gets no answer."""
_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)

FrameT = TypeVar("FrameT")
AnswerT = TypeVar("AnswerT")


class BadFrame(Exception):
    """What came is not the protocol. The text is for operators: it quotes no bytes."""


class TcpPool(Generic[FrameT]):
    """Connections to one address, shared by threads: each request has one to itself.

    ``protocol``: its name in messages. ``read_frame`` reads one frame from a connection; it raises
    BadFrame where the bytes are none. ``tls``: for a server that begins with TLS, as
    ``tls_context`` makes it.

    A connection whose answer was not whole is closed: the rest may still come, and would be taken
    for the answer to the next request.
    """

    def __init__(
        self,
        protocol: str,
        host: str,
        port: int,
        read_frame: Callable[[Connection], FrameT],
        *,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._port = host, port
        self._where = f"{protocol} {host}:{port}"
        self._read_frame = read_frame
        self._tls = tls
        self._clock = clock
        self._idle: list[tuple[Connection, float]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"TcpPool({self._where})"

    def request(
        self, frame: bytes, answer_of: Callable[[FrameT], AnswerT | None], deadline: Deadline
    ) -> AnswerT:
        """Send a frame, and return the first of the frames that come that is its answer.

        ``answer_of``: the answer in a frame, or None if the frame answers something else (a
        notification). It may raise BadFrame.

        Raises Unreachable, Transient (no time left to send), NoAnswer.
        """
        connection = self._kept(deadline) or self._connect(deadline)
        whole = False
        try:
            answer = self._exchange(connection, frame, answer_of, deadline)
            whole = True
        finally:
            if not whole:
                connection.close()
        with self._lock:
            self._idle.append((connection, self._clock()))
        return answer

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _kept(self, deadline: Deadline) -> Connection | None:
        """An idle connection that the server has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            if self._clock() - since < _KEEP_SECONDS and connection.is_open():
                connection.time_left = deadline.time_left
                return connection
            connection.close()

    def _connect(self, deadline: Deadline) -> Connection:
        if deadline.expired:
            raise Transient(f"{self._where}: no time left to connect; nothing was sent")
        try:
            found = resolve(self._host, self._port, deadline.time_left())
            made = connect(found, deadline.time_left, _OPTIONS)
            return Connection(self._secured(made, deadline), deadline.time_left)
        except OSError as error:
            raise Unreachable(
                f"{self._where} cannot be reached: {reason_of(error)}; nothing was sent"
            ) from None

    def _secured(self, made: socket.socket, deadline: Deadline) -> socket.socket:
        if self._tls is None:
            return made
        try:
            made.settimeout(deadline.time_left())
            return self._tls.wrap_socket(made, server_hostname=self._host)
        except BaseException:
            made.close()
            raise

    def _exchange(
        self,
        connection: Connection,
        frame: bytes,
        answer_of: Callable[[FrameT], AnswerT | None],
        deadline: Deadline,
    ) -> AnswerT:
        if deadline.expired:
            raise Transient(f"{self._where}: no time left for the request; nothing was sent")
        try:
            connection.send(frame)
            for _ in range(_MAX_FRAMES):
                answer = answer_of(self._read_frame(connection))
                if answer is not None:
                    return answer
        except TimeoutError:
            raise NoAnswer(f"{self._where} did not answer within {deadline.seconds:g} s") from None
        except OSError as error:
            raise NoAnswer(f"{self._where}: connection lost: {reason_of(error)}") from None
        except BadFrame as error:
            raise NoAnswer(f"{self._where}: {error}") from None
        raise NoAnswer(f"{self._where} sends messages without end, and no answer")
