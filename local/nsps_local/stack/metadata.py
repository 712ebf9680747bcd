"""Google's metadata server on one machine: gives a function tokens of its own service account.
Beside it the part of Cloud Monitoring that tells what waits in Pub/Sub.

A function finds it as GCE_METADATA_HOST, with its account in the path: that is how we know who
asks. (Source: Google Cloud docs, metadata server, identity tokens.)
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_PATH = "/computeMetadata/v1/instance/service-accounts/default"
_SERIES = re.compile(r"/v3/projects/[^/]+/timeSeries")
CERTS = "/certs"
"""Where the certificates for these tokens are: {key id: PEM}, without the header."""
_ACCESS = "access of "
_FLAVOR = ("Metadata-Flavor", "Google")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # all functions ask at once when a stack starts


class MetadataServer:
    """Serves on ``host:port`` until stopped. ``token``: (service account, audience) -> token.

    ``certs``: what the tokens are verified with; ``series``: Monitoring's answer to a filter.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: Callable[[str, str], str],
        certs: Mapping[str, str],
        series: Callable[[str], dict[str, Any]],
    ) -> None:
        self._token, self._certs, self._series = token, dict(certs), series
        self._lock = threading.Lock()
        answer_of = self._answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                status, content = answer_of(self.path, self.headers)
                body = (content if isinstance(content, str) else json.dumps(content)).encode()
                kind = "text/plain" if isinstance(content, str) else "application/json"
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

    def _answer(self, path: str, headers: Message) -> tuple[int, str | dict[str, Any]]:
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == CERTS:
            return 200, self._certs
        if _SERIES.fullmatch(url.path):
            if not headers.get("Authorization", "").startswith(f"Bearer {_ACCESS}"):
                return 401, "an access token of this machine is missing"
            return 200, self._series(query.get("filter", ""))
        if headers.get(_FLAVOR[0]) != _FLAVOR[1]:
            return 403, "the header Metadata-Flavor: Google is missing"
        account, _, asked = url.path.lstrip("/").partition("/")
        if f"/{asked}" == f"{_PATH}/token":
            return 200, {"access_token": f"{_ACCESS}{unquote(account)}", "expires_in": 3600}
        if f"/{asked}" == f"{_PATH}/identity" and "audience" in query:
            with self._lock:
                return 200, self._token(unquote(account), query["audience"])
        return 404, "only access tokens, and identity tokens for an audience, are given here"
