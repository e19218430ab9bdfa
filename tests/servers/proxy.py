"""A proxy before an S3 server that lets a test break each request: the server behind it is real.

::

    with faulty(seaweedfs) as proxy:
        proxy.break_(BEFORE, method="PUT", key="backup.json", times=1)
        store = open_store(proxy.server.repository("bucket"), seaweedfs.credentials)

Requests are handed on byte for byte, the Host header too, so that their signatures hold.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from tests.contracts.broken_s3 import fault
from tests.servers.s3 import S3Server

# What can be done to one request. Only the first, the hang and the reset keep it from the server
BEFORE = "fail before"  # 503 SlowDown
AFTER = "fail after"  # the server has done it, and 500 is the answer
LOST = "lost answer"  # the server has done it, and the connection breaks
TRUNCATE = "truncate"  # half of the answer
HANG = "hang"  # no answer at all
SLOW = "slow"  # the answer comes a few bytes a second
KINDS = (BEFORE, AFTER, LOST, TRUNCATE, HANG)


@dataclass(frozen=True)
class Request:
    """One request: method, key with its bucket, and query."""

    method: str
    key: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.key}{'?' if self.query else ''}{self.query}"


@dataclass
class Fault:
    """What happens to some requests.

    Args:
        kind: one of the above.
        method, key: of the requests; regular expressions, searched for.
        times: so many of them; None is all.
        seconds: for so long after the first.
        skip: so many are let through before.
        rate: bytes a second, of SLOW.
        answer: another answer than 503 SlowDown, of BEFORE.
    """

    kind: str
    method: str = ""
    key: str = ""
    times: int | None = None
    seconds: float | None = None
    skip: int = 0
    rate: float = 1.0
    answer: bytes = fault("503 Slow Down", "SlowDown")
    met: int = field(default=0, init=False)
    began: float = field(default=0.0, init=False)

    def meets(self, request: Request) -> bool:
        """Whether it befalls this request, which then counts."""
        if not re.search(self.method, request.method) or not re.search(self.key, str(request)):
            return False
        if self.skip:
            self.skip -= 1
            return False
        now = time.monotonic()
        self.began = self.began or now
        over = self.seconds is not None and now - self.began > self.seconds
        if over or (self.times is not None and self.met >= self.times):
            return False
        self.met += 1
        return True


@dataclass
class Proxy:
    """A running proxy.

    Args:
        server: as a client sees it, through the proxy.
        latency: seconds before each request is handed on.
        requests: every request so far.
    """

    server: S3Server
    latency: float = 0.0
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    def break_(self, kind: str, **how: object) -> Fault:
        """Add a fault."""
        made = Fault(kind, **how)  # type: ignore[arg-type]
        self.faults.append(made)
        return made

    def heal(self) -> None:
        """Let every request through again, those that hang too, and forget those that were seen."""
        with self._lock:
            self.over.set()
            self.over = threading.Event()
            self.faults.clear()
            self.requests.clear()

    def meet(self, request: Request) -> Fault | None:
        """Note a request; the fault that befalls it."""
        with self._lock:
            self.requests.append(request)
            return next((found for found in list(self.faults) if found.meets(request)), None)


@contextlib.contextmanager
def faulty(server: S3Server, **how: float) -> Iterator[Proxy]:
    """A proxy before a server, for the time of a block."""
    host, port = urlsplit(server.endpoint).hostname, urlsplit(server.endpoint).port

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with socket.create_connection((host, port)) as upstream, contextlib.suppress(OSError):
                upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client, behind = self.request.makefile("rb"), upstream.makefile("rb")
                while _pass_on(proxy, client, self.request.sendall, behind, upstream.sendall):
                    pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that went away is no error here."""

    with Server(("127.0.0.1", 0), Handler) as listener:
        seen = replace(server, endpoint=f"http://127.0.0.1:{listener.server_address[1]}")
        proxy = Proxy(seen, **how)  # type: ignore[arg-type]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.over.set()
            listener.shutdown()
            thread.join()


Send = Callable[[bytes], None]


def _pass_on(proxy: Proxy, client: object, answer: Send, behind: object, ask: Send) -> bool:
    """One request and its answer; whether the connection goes on."""
    head, body = _message(client)
    if not head:
        return False
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    path, _, query = target.partition("?")
    found = proxy.meet(Request(method, unquote(path).lstrip("/"), query))
    over = proxy.over
    if proxy.latency:
        time.sleep(proxy.latency)
    if found is not None and found.kind == BEFORE:
        answer(found.answer)
        return False
    if found is not None and found.kind == HANG:
        over.wait(300)
        return False
    ask(head + body)
    said, content = _message(behind, answer_of=method)
    if not said:
        return False
    if found is None:
        answer(said + content)
        return True
    if found.kind == AFTER:
        answer(fault("500 Internal Server Error", "InternalError"))
    elif found.kind == TRUNCATE:
        whole = said + content
        answer(whole[: len(said) + len(content) // 2 if content else len(whole) // 2])
    elif found.kind == SLOW:
        answer(said)
        for number in range(len(content)):
            answer(content[number : number + 1])
            if over.wait(1 / found.rate):
                break
    return False


def _message(file: object, answer_of: str = "") -> tuple[bytes, bytes]:
    """Head and body of a request, or of the answer to a request with this method; empty at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()  # type: ignore[attr-defined]
        if not line:
            return b"", b""
        head += line
    status = head.split(b" ", 2)[1] if answer_of else b""
    if answer_of == "HEAD" or status in (b"204", b"304"):
        return head, b""
    if re.search(rb"(?i)\r\ntransfer-encoding:\s*chunked", head):
        body = b""
        while True:
            line = file.readline()  # type: ignore[attr-defined]
            size = int(line.split(b";")[0], 16)
            body += line + file.read(size + 2)  # type: ignore[attr-defined]
            if not size:
                return head, body
    length = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
    return head, file.read(int(length[1])) if length else b""  # type: ignore[attr-defined]
