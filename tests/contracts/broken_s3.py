"""An HTTP server that answers as a broken S3 does: with what a test tells it, byte for byte."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class BrokenS3:
    """The server's address, and the head of every request that it got."""

    endpoint: str
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[BrokenS3]:
    """A server on loopback that gives the answers in turn, the last one for ever; ``b""`` answers nothing.

    Every connection is closed after its answer.
    """
    given = iter(answers)
    over = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n") and (line := self.rfile.readline()):
                head += line
            broken.requests.append(head.decode("latin-1"))
            answer = next(given, answers[-1])
            if answer:
                self.wfile.write(answer)
            else:
                over.wait(60)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        broken = BrokenS3(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield broken
        finally:
            over.set()
            server.shutdown()
            thread.join()


def answer(status: str, body: bytes = b"", length: int | None = None) -> bytes:
    """An HTTP answer; a ``length`` above that of the body is a promise that the server breaks."""
    length = len(body) if length is None else length
    head = f'HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: "e"\r\nConnection: close\r\n'
    return f"{head}Last-Modified: Mon, 23 Nov 2026 00:00:00 GMT\r\n\r\n".encode() + body


def fault(status: str, code: str) -> bytes:
    """An answer with an error as S3 writes it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>no</Message></Error>'
    return answer(status, body.encode())
