"""A real HTTP server for pictures, which also does what no good one would."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(slots=True)
class Answer:
    """What one path answers.

    Attributes:
        length: Content-Length; None tells the true one, 0 tells none.
        endless: Repeat the body until the client goes away.
        stalls: Send the headers and the body, and then nothing, without closing.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    endless: bool = False
    stalls: bool = False


@dataclass(slots=True)
class ImageHost:
    """A running server.

    Attributes:
        answers: By path with query; change it at any time. Other paths answer 404.
        asked: Host header and path of every request so far.
        sent_bytes: Of all bodies so far.
    """

    port: int
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent_bytes: int = 0
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[ImageHost]:
    """Run a server on a free port of 127.0.0.1 for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host.asked.append((self.headers["Host"], self.path))
            answer = host.answers.get(self.path, Answer(status=404))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            length = len(answer.body) if answer.length is None else answer.length
            if length:
                self.send_header("Content-Length", str(length))
            elif answer.status != 204:
                self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):  # of a client that has seen enough
                self._send(answer)
            self.close_connection = True

        def _send(self, answer: Answer) -> None:
            while True:
                self.wfile.write(answer.body)
                self.wfile.flush()
                host.sent_bytes += len(answer.body)
                if not answer.endless:
                    break
            if answer.stalls:
                host.closing.wait()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    host = ImageHost(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
