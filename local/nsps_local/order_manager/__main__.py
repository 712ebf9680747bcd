"""Run the order manager on loopback until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from werkzeug.serving import WSGIRequestHandler, make_server

from nsps_local.order_manager.system import BEHAVIOURS, OrderManager
from nsps_local.order_manager.web import web


class _Handler(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """A line for each request hides what the tests and scenarios around it print."""


def main() -> None:
    arguments = _arguments()
    manager = OrderManager(
        arguments.callback,
        arguments.callback_token,
        behaviour=arguments.behaviour,
        delay=arguments.delay,
        late=arguments.late,
    )
    application = web(manager, arguments.token)
    server = make_server(
        "127.0.0.1", arguments.port, application, threaded=True, request_handler=_Handler
    )
    for name in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for the loop that this signal has interrupted.
        signal.signal(name, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stdout.write(f"order manager at http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
    manager.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nsps_local.order_manager",
        description="An order management system that takes orders now and answers later.",
        epilog="behaviours: " + "; ".join(f"{name}: {text}" for name, text in BEHAVIOURS.items()),
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one, printed")
    parser.add_argument("--callback", help="URL that every event is sent to, as after POST /hub")
    parser.add_argument("--token", help="Bearer token that orders must carry")
    parser.add_argument("--callback-token", help="Bearer token that notifications carry")
    parser.add_argument("--behaviour", choices=list(BEHAVIOURS), default="normal")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds to each notification")
    parser.add_argument("--late", type=float, default=5.0, help="seconds, for behaviour late")
    return parser.parse_args()


if __name__ == "__main__":
    main()
