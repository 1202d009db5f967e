"""A web server whose answers have the faults of the network."""

from __future__ import annotations

import http.server
import threading


class Server:
    """A web server on this machine that answers every path as its name says."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop and free the port."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    served: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.served.asked.append(self.path)
        fault, _, name = self.path.strip("/").partition("/")
        if fault.isdigit():
            self.send_error(int(fault))
        elif fault == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        elif fault == "stall":
            self.served.closing.wait(30)
        elif fault == "html":
            self._send(b"<html>Please sign in to the proxy.</html>")
        elif fault == "cut":
            self._send(self.served.files.get(name, b"x" * 1000), announced=100_000)
        else:
            self._send(self.served.files[name])

    def _send(self, body: bytes, announced: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(announced or len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
