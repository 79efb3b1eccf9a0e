"""A third-party HTTP service that records what it is asked and answers from a few fixed paths."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from waiting import DEADLINE, Watched


class Request:
    """One recorded request: method, path, query (name to value), headers and body."""

    def __init__(self, method, target, headers, body):
        parts = urlsplit(target)
        self.method = method
        self.path = parts.path
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.headers = headers
        self.body = body

    def __repr__(self):
        return f"{self.method} {self.path} {self.query} {self.body!r}"


class Service(Watched):
    """Listens on a free port of loopback from the moment it is made until `close`.

    /echo?v=X answers `echo X`; /pair answers the JSON it was sent; /fail answers 500; /hold?v=X answers
    `held X` once `let_go` was called.
    """

    def __init__(self):
        super().__init__()
        self._requests = []
        self._released = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                length = int(self.headers.get("Content-Length", 0))
                request = Request(self.command, self.path, self.headers, self.rfile.read(length))
                service._note(lambda: service._requests.append(request))
                status, kind, body = service._answer(request)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, request):
        text = "text/plain; charset=utf-8"
        if request.path == "/echo":
            return 200, text, b"echo " + request.query["v"].encode()
        if request.path == "/pair":
            return 200, "application/json", request.body
        if request.path == "/hold":
            # Bounded, so that a failed case does not keep this thread.
            self._released.wait(DEADLINE)
            return 200, text, b"held " + request.query["v"].encode()
        return 500, text, b"this path always fails"

    def let_go(self):
        """Answers all requests for /hold, those that wait and those to come."""
        self._released.set()

    def expect(self, path, **query):
        """The first recorded request for this path with this query; waits for it."""
        return self._wait_until(
            lambda: next((r for r in self._requests if r.path == path and r.query == query), None),
            lambda: f"the service got no request {path} {query}; the last were {self._requests[-5:]}",
        )

    def expect_body(self, path, accepts):
        """The first recorded request for this path whose body `accepts` takes; waits for it."""
        return self._wait_until(
            lambda: next((r for r in self._requests if r.path == path and accepts(r.body)), None),
            lambda: f"the service got no such body on {path}; the last were {self._requests[-5:]}",
        )

    def values_of(self, path):
        """The `v` of every request for this path so far."""
        with self._changed:
            return [r.query.get("v") for r in self._requests if r.path == path]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
