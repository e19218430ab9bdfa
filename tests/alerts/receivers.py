"""Receivers of messages on loopback: a web server and a mail server, both real."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

from tests.flows.runs import until


@dataclass(frozen=True)
class Message:
    """What arrived."""

    subject: str
    body: str


@dataclass
class Inbox:
    """The messages that arrived, in their order, and where to send them."""

    url: str = ""
    messages: list[Message] = field(default_factory=list)

    @property
    def subjects(self) -> list[str]:
        return [message.subject for message in self.messages]

    def of(self, cluster: str) -> list[str]:
        """Subjects of the messages that name a cluster."""
        return [m.subject for m in self.messages if f"cluster {cluster}" in f"{m.subject} {m.body}".lower()]

    def wait(self, count: int, timeout: float = 40) -> list[Message]:
        """The messages, once there are so many."""
        return until(lambda: list(self.messages), lambda found: len(found) >= count, timeout)


@contextmanager
def web_inbox() -> Iterator[Inbox]:
    """A web server that takes what a webhook posts."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tree = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inbox.messages.append(Message(tree["subject"], tree["body"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with _serving(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        inbox.url = f"http://127.0.0.1:{port}/pgproof"
        yield inbox


@contextmanager
def mail_inbox() -> Iterator[Inbox]:
    """A mail server of RFC 5321, without TLS and without a login."""
    inbox = Inbox()

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 ready")
            for line in self.rfile:
                word = line.strip().upper()
                if word == b"DATA":
                    self._say("354 go on")
                    self._take()
                elif word == b"QUIT":
                    self._say("221 bye")
                    return
                else:
                    self._say("250 ok")

        def _take(self) -> None:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line[1:] if line.startswith(b"..") else line)
            mail = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
            part = mail.get_body(("plain",))
            assert part is not None, mail.as_string()
            inbox.messages.append(Message(str(mail["Subject"]), _lines(part.get_content())))
            self._say("250 taken")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with _serving(Server(("127.0.0.1", 0), Session)) as port:
        inbox.url = f"mailto://127.0.0.1:{port}?from=pgproof@example.com&to=dba@example.com"
        yield inbox


def _lines(text: str) -> str:
    """Text as it was before mail made its own ends of lines."""
    return text.replace("\r\n", "\n").rstrip("\n")


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
