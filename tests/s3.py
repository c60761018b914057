"""A real S3 server on loopback, behind a proxy that makes it late, busy, cut off or short.

``with s3_server() as s3:`` starts both. What a test stores with ``s3.put`` goes to the server
directly; what it reads under ``s3.url`` with ``s3.storage_options`` goes through the proxy.
"""

import http.client
import itertools
import logging
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import quote

Kind = Literal["late", "busy", "reset", "truncate"]
KINDS: tuple[Kind, ...] = ("late", "busy", "reset", "truncate")
HOP_HEADERS = {"connection", "transfer-encoding", "keep-alive"}
BUCKET = "texts"


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Args:
        kind: ``late`` answers after ``seconds``; ``busy`` answers ``status``; ``reset`` resets the
            connection without an answer; ``truncate`` closes it within the body.
    """

    kind: Kind
    seconds: float = 0.05
    status: int = 503


def random_faults(
    seed: int, rate: float, kinds: Sequence[Kind] = KINDS, seconds: float = 0.05
) -> Iterator[Fault | None]:
    """Yield a fault for about ``rate`` of the requests, for ever."""
    chosen = random.Random(seed)
    while True:
        is_hit = chosen.random() < rate
        yield Fault(chosen.choice(kinds), seconds) if is_hit else None


class S3:
    """The server and its proxy, as tests use them.

    Attributes:
        url: Where objects are, such as ``s3://texts``.
        endpoint: The proxy's address, for clients other than fsspec.
        counts: Requests through the proxy by method (``GET``), and faults by kind (``busy``).
        requests: One line for each request through the proxy: method, path, ``Range``.
    """

    def __init__(self, backend: tuple[str, int]) -> None:
        self.url = f"s3://{BUCKET}"
        self.backend = backend
        self.counts: Counter[str] = Counter()
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._plan: Iterator[Fault | None] = iter(())
        self._methods: frozenset[str] = frozenset()
        self._proxy = _Proxy(("127.0.0.1", 0), _Handler)
        self._proxy.s3 = self
        self.endpoint = f"http://127.0.0.1:{self._proxy.server_port}"
        self._thread = threading.Thread(
            target=self._proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def storage_options(self) -> dict[str, Any]:
        """What fsspec needs to come here; plain values, so a recipe can hold it."""
        return {"endpoint_url": self.endpoint, "key": "test", "secret": "test"}

    def faults(
        self, plan: Iterable[Fault | Kind | None], methods: Iterable[str] = ("GET",)
    ) -> None:
        """Let the following requests with one of ``methods`` meet ``plan``, one item each.

        After the last item nothing happens any more; ``faults(())`` ends a plan.
        """
        with self._lock:
            self._plan = (Fault(item) if isinstance(item, str) else item for item in plan)
            self._methods = frozenset(methods)

    def always(self, fault: Fault | Kind, methods: Iterable[str] = ("GET", "HEAD")) -> None:
        """Let every following request meet ``fault``."""
        self.faults(itertools.repeat(fault), methods)

    def put(self, key: str, content: bytes) -> str:
        """Store an object that anyone may read, without the proxy, and return its URL."""
        self.direct("PUT", f"/{BUCKET}/{quote(key)}", content)
        return f"{self.url}/{key}"

    def get(self, key: str) -> bytes:
        """Return an object, without the proxy."""
        return self.direct("GET", f"/{BUCKET}/{quote(key)}")

    def delete(self, key: str) -> None:
        """Remove an object, without the proxy."""
        self.direct("DELETE", f"/{BUCKET}/{quote(key)}")

    def close(self) -> None:
        """Stop the proxy."""
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()

    def next_fault(self, method: str, request: str) -> Fault | None:
        """Count one request, and say what happens to it."""
        with self._lock:
            self.counts[method] += 1
            self.requests.append(request)
            fault = next(self._plan, None) if method in self._methods else None
            if fault is not None:
                self.counts[fault.kind] += 1
            return fault

    def direct(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """Ask the server without the proxy, and return the body of its answer."""
        connection = http.client.HTTPConnection(*self.backend, timeout=30)
        try:
            # The server checks no signature, but takes the service from the header.
            scope = "Credential=test/20200101/us-east-1/s3/aws4_request"
            headers = {
                "Authorization": f"AWS4-HMAC-SHA256 {scope}",
                "x-amz-acl": "public-read",  # plain HTTP may read it too
            }
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {body[:200]!r}"
        return body


@contextmanager
def s3_server() -> Iterator[S3]:
    """Start an S3 server with one empty bucket and the proxy before it, on free ports."""
    from moto.server import ThreadedMotoServer  # a second

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    s3 = S3(server.get_host_and_port())
    try:
        s3.direct("POST", "/moto-api/reset")  # objects outlive a server of the same process
        s3.direct("PUT", f"/{BUCKET}")
        yield s3
    finally:
        s3.close()
        server.stop()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    s3: S3

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms behind its headers
    server: _Proxy

    def handle_any(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip()
        fault = self.server.s3.next_fault(self.command, request)
        if fault is not None and fault.kind == "late":
            time.sleep(fault.seconds)
        if fault is not None and fault.kind == "reset":
            self._reset()
        elif fault is not None and fault.kind == "busy":
            self._answer(fault.status, [("Content-Type", "application/xml")], b"")
        else:
            self._pass_on(content, is_cut=fault is not None and fault.kind == "truncate")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    def _pass_on(self, content: bytes, is_cut: bool) -> None:
        connection = http.client.HTTPConnection(*self.server.s3.backend, timeout=30)
        try:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in HOP_HEADERS
            }
            connection.request(self.command, self.path, content or None, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        kept = [item for item in answer.getheaders() if item[0].lower() not in HOP_HEADERS]
        self._answer(answer.status, kept, body, is_cut)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, is_cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            # The length of a HEAD's answer is that of the body which it does not have.
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.close_connection = self.close_connection or is_cut

    def _reset(self) -> None:
        # Closing with a linger time of zero sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
