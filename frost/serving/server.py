"""Accepts connections, a scan each, and outlives whatever is sent: every connection ends in one line of the log."""

import socket
import socketserver
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from queue import Queue
from threading import Semaphore, Thread
from typing import Any, BinaryIO, cast

from frost.errors import InputError
from frost.serving.protocol import BoundedReader, Message, ProtocolSerializer, messages
from frost.serving.session import Session, Settings

PATIENCE = 600.0  # seconds without a byte in either direction after which a connection is given up
FAREWELL = 5.0  # seconds for what a client is still sending when it is told why it is not served


@dataclass(frozen=True)
class Limits:
    """What clients may use; none of them is trusted."""

    connections: int
    """At once."""
    patience: float = PATIENCE


class Server(socketserver.ThreadingTCPServer):
    """Listens from the moment it is made. log: is given a line for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, settings: Settings, limits: Limits, log: Callable[[str], object]) -> None:
        self.settings, self.limits, self.log = settings, limits, log
        self._free = Semaphore(limits.connections)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Connection)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"--host {host} --port {port}: cannot listen there: {reason}") from None

    @property
    def port(self) -> int:
        """On which it listens."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or refuse it while there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        self.log(_line(client_address, f"refused: {self.limits.connections} connections are open (--connections)"))
        _tell(request, "the server is busy; try again later")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to write: `_Connection` has written its line."""


class _Connection(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        connection = self.request
        connection.settimeout(self.server.limits.patience)
        ahead = _ReadAhead(BoundedReader(connection.recv, self.server.settings.memory))
        with cast(BinaryIO, connection.makefile("wb")) as stream:
            try:
                line, reason = self._answered(ahead, stream)
                self.server.log(_line(self.client_address, line))
                if reason:
                    _tell(connection, line)
            finally:  # not before its thread has ended may the connection's number go to another
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                ahead.thread.join()

    def _answered(self, ahead: "_ReadAhead", stream: BinaryIO) -> tuple[str, bool]:
        """A line about the scan, and whether its client is still connected to receive it."""
        answer = ProtocolSerializer(stream)

        def send(image: Any) -> None:
            answer.serialize(image)
            stream.flush()

        session = Session(self.server.settings, send)
        try:
            line = session.run(ahead)
            answer.close()
        except InputError as error:
            return f"error: {error}", True
        except TimeoutError:
            return f"error: {session.name}: nothing came or went for {self.server.limits.patience:g} s", True
        except OSError as error:
            return f"error: {session.name}: the client went away ({error.strerror or error})", False
        except Exception as error:  # whatever the numbers of a client cause: the others are served all the same
            return f"error: {session.name}: {type(error).__name__}: {error}", True
        return line, False


class _ReadAhead:
    """The messages, read ahead by a thread: a client that sends all before it reads would else wait without end."""

    def __init__(self, read: BoundedReader) -> None:
        self._read = read
        self._queue: Queue[Message | Exception | None] = Queue()
        self.thread = Thread(target=self._fill, daemon=True)
        self.thread.start()

    def _fill(self) -> None:
        try:
            for message in messages(self._read):
                self._queue.put(message)
            self._queue.put(None)
        except Exception as error:
            self._queue.put(error)

    def __iter__(self) -> Iterator[Message]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


def _tell(connection: socket.socket, text: str) -> None:
    """Why a scan is not done, and CLOSE. What still comes is thrown away: to close on it would take back the text."""
    with suppress(OSError):
        connection.settimeout(FAREWELL)
        with cast(BinaryIO, connection.makefile("wb")) as stream:
            answer = ProtocolSerializer(stream)
            answer.serialize(text)
            answer.close()
        connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + FAREWELL
        while connection.recv(1 << 20) and time.monotonic() < end:
            pass


def _line(address: tuple[Any, ...], text: str) -> str:
    """One line, whatever a client has put into names: what is not printable is shown as its code."""
    safe = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:500])
    return f"{address[0]}:{address[1]}: {safe}"


def log_line(text: str) -> None:
    """Write one line with the time to stderr, in one piece."""
    sys.stderr.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")
    sys.stderr.flush()
