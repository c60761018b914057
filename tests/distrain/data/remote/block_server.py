"""A small HTTP server of a folder, with byte ranges, counters and faults."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class BlockServer(ThreadingHTTPServer):
    """Serves ``folder``; ``fault(path, number)`` may name what happens to a path's n-th request.

    Faults: ``"busy"`` (503), ``"cut"`` (the connection ends within the body), ``"flip"`` (a byte
    of the body is another one), ``"hang"`` (nothing, until the server is closed).
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.counts: Counter[tuple[str, str]] = Counter()
        """Requests by (path, range)."""
        self.fault: Callable[[str, int], str | None] = lambda path, number: None
        self.delay_s = 0.0
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def block_counts(self):
        """How often each block of a ``.bin`` was asked for."""
        return {key: count for key, count in self.counts.items() if ".bin" in key[0]}


@contextmanager
def block_server(folder):
    """Serve ``folder`` on a free port."""
    server = BlockServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    server: BlockServer

    def do_GET(self):
        """Answer with a file or a part of it."""
        server, path = self.server, self.path.lstrip("/")
        bounds = self.headers.get("Range", "")
        with server.lock:
            number = sum(count for (name, _), count in server.counts.items() if name == path)
            server.counts[path, bounds] += 1
            fault = server.fault(path, number)
        time.sleep(server.delay_s)
        if fault == "hang":
            server.closing.wait()
            return
        file = server.folder / path
        status = 503 if fault == "busy" else 200 if file.is_file() else 404
        body = file.read_bytes() if status == 200 else b""
        if bounds and status == 200:
            first, last = bounds.removeprefix("bytes=").split("-")
            body, status = body[int(first) : int(last) + 1], 206
        if fault == "flip":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, format, *args):
        """Say nothing."""
