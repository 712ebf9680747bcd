"""Google's metadata server on one machine: gives a function tokens of its own service account.

A function finds it as GCE_METADATA_HOST, with its account in the path: that is how we know who
asks. (Source: Google Cloud docs, metadata server, identity tokens.)
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_PATH = "/computeMetadata/v1/instance/service-accounts/default/identity"
CERTS = "/certs"
"""Where the certificates for these tokens are: {key id: PEM}, without the header."""
_FLAVOR = ("Metadata-Flavor", "Google")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # all functions ask at once when a stack starts


class MetadataServer:
    """Serves on ``host:port`` until stopped. ``token``: (service account, audience) -> token.

    ``certs``: what the tokens are verified with.
    """

    def __init__(
        self, host: str, port: int, token: Callable[[str, str], str], certs: Mapping[str, str]
    ) -> None:
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                account, _, path = url.path.lstrip("/").partition("/")
                audience = parse_qs(url.query).get("audience", [""])[0]
                if url.path == CERTS:
                    self._answer(200, json.dumps(dict(certs)), "application/json")
                elif self.headers.get(_FLAVOR[0]) != _FLAVOR[1]:
                    self._answer(403, "the header Metadata-Flavor: Google is missing")
                elif f"/{path}" != _PATH or not audience:
                    self._answer(404, "only identity tokens are given here, for an audience")
                else:
                    with lock:
                        self._answer(200, token(unquote(account), audience))

            def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header(*_FLAVOR)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Server((host, port), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metadata", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
