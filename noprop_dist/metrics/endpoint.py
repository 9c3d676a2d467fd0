"""A small HTTP server: /metrics for Prometheus, /healthz and /readyz for whatever restarts the process."""

import errno
import socket
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from noprop_dist.errors import UserError, why

CLOSE_TIMEOUT_SECONDS, STOP_POLL_SECONDS = 5.0, 0.05


class Endpoint:
    """Serves until closed; a taken port moves to a free one.

    Args:
        registry: what /metrics shows.
        host: name or address to listen on, IPv4 or IPv6; "" is every address.
        port: 0 is any free one.
        healthy: asked by /healthz.
        ready: asked by /readyz.

    Raises:
        UserError: this machine cannot listen on the host's address.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        handler = _handler(registry, {"/healthz": healthy, "/readyz": ready})
        try:
            self._server = _Server(host, port, handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"metrics.host={host}: cannot be listened on: {why(error)}") from error
            self._server = _Server(host, 0, handler)
        self.port = self._server.server_port
        serve = partial(self._server.serve_forever, STOP_POLL_SECONDS)
        self._thread = threading.Thread(target=serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=CLOSE_TIMEOUT_SECONDS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = found[0][0], found[0][4]
        super().__init__((str(address[0]), port), handler)


def _handler(registry: CollectorRegistry, checks: dict[str, Callable[[], bool]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLOSE_TIMEOUT_SECONDS  # of a client that says nothing

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, encode(registry), content_type)
            elif path in checks:
                holds = checks[path]()
                self._answer(200 if holds else 503, b"ok\n" if holds else b"not yet\n")
            else:
                self._answer(404, b"/metrics, /healthz, /readyz\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def version_string(self) -> str:
            return "noprop"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            """Do not log scrapes."""

    return Handler
