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
from dataclasses import dataclass
from typing import Generic, TypeVar

from nsps.domain.outcome import NoAnswer, Transient, Unreachable
from nsps.transport.connection import Connection, connect, reason_of, resolve
from nsps.transport.deadline import Deadline
from nsps.transport.tls import Tls, TlsRefused, refusal

_MAX_FRAMES = 1000
"""Frames that may come before the answer (notifications); who sends more is not well."""
_KEEP_SECONDS = 240.0
"""Firewalls forget an idle connection after some minutes; what is sent then gets no answer."""
_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)

FrameT = TypeVar("FrameT")
AnswerT = TypeVar("AnswerT")


class BadFrame(Exception):
    """What came is not the protocol. The text is for operators: it quotes no bytes."""


@dataclass(frozen=True, slots=True)
class _Idle:
    """A connection that waits for the next request since then, made with these certificates."""

    connection: Connection
    since: float
    context: ssl.SSLContext | None


class TcpPool(Generic[FrameT]):
    """Connections to one address, shared by threads: each request has one to itself.

    ``protocol``: its name in messages. ``read_frame`` reads one frame from a connection; it raises
    BadFrame where the bytes are none. ``tls``: for a server that begins with TLS, the handler's
    certificates (``context.tls()``).

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
        tls: Tls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._port = host, port
        self._where = f"{protocol} {host}:{port}"
        self._read_frame = read_frame
        self._tls = tls
        self._clock = clock
        self._idle: list[_Idle] = []
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
        context = self._tls.context() if self._tls else None
        try:
            return self._request(frame, answer_of, deadline, context)
        except TlsRefused:
            if self._tls is None or not self._tls.renewed(context):
                raise
            return self._request(frame, answer_of, deadline, self._tls.context())

    def _request(
        self,
        frame: bytes,
        answer_of: Callable[[FrameT], AnswerT | None],
        deadline: Deadline,
        context: ssl.SSLContext | None,
    ) -> AnswerT:
        connection = self._kept(deadline, context) or self._connect(deadline, context)
        whole = False
        try:
            answer = self._exchange(connection, frame, answer_of, deadline)
            whole = True
        finally:
            if not whole:
                connection.close()
        with self._lock:
            self._idle.append(_Idle(connection, self._clock(), context))
        return answer

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, []
        for each in idle:
            each.connection.close()

    def _kept(self, deadline: Deadline, context: ssl.SSLContext | None) -> Connection | None:
        """An idle connection with these certificates that the server has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                idle = self._idle.pop()
            young = self._clock() - idle.since < _KEEP_SECONDS
            if young and idle.context is context and idle.connection.is_open():
                idle.connection.time_left = deadline.time_left
                return idle.connection
            idle.connection.close()

    def _connect(self, deadline: Deadline, context: ssl.SSLContext | None) -> Connection:
        if deadline.expired:
            raise Transient(f"{self._where}: no time left to connect; nothing was sent")
        try:
            found = resolve(self._host, self._port, deadline.time_left())
            made = connect(found, deadline.time_left, _OPTIONS)
            return Connection(self._secured(made, deadline, context), deadline.time_left)
        except OSError as error:
            self._raise_refusal(error)
            raise Unreachable(
                f"{self._where} cannot be reached: {reason_of(error)}; nothing was sent"
            ) from None

    def _raise_refusal(self, error: OSError) -> None:
        why = refusal(error)
        if why:
            raise TlsRefused(f"{self._where}: TLS: {why}; nothing was done") from None

    def _secured(
        self, made: socket.socket, deadline: Deadline, context: ssl.SSLContext | None
    ) -> socket.socket:
        if context is None:
            return made
        try:
            made.settimeout(deadline.time_left())
            return context.wrap_socket(made, server_hostname=self._host)
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
            self._raise_refusal(error)  # the server says so only after the handshake
            raise NoAnswer(f"{self._where}: connection lost: {reason_of(error)}") from None
        except BadFrame as error:
            raise NoAnswer(f"{self._where}: {error}") from None
        raise NoAnswer(f"{self._where} sends messages without end, and no answer")
