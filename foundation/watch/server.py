"""The server of the page: the loopback interface, reading only, files by ids and never by the words of a request."""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from foundation.errors import UserError
from foundation.watch.access import Access
from foundation.watch.board import Board, curves, listed
from foundation.watch.compare import compare
from foundation.watch.page import AT_ONCE, render
from foundation.watch.samples import Samples

LOOPBACK = "127.0.0.1"
_MOST_CURVES = 500  # in one request
_SECONDS = 30.0  # that a connection may be silent
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Server(ThreadingHTTPServer):
    """Serves the page about a board.

    Args:
        board: of the watched folder.
        port: to listen on; 0: a free one.

    Attributes:
        access: the rules, with the port and the token.

    Raises:
        UserError: the port cannot be had.
    """

    daemon_threads = True
    block_on_close = False  # Ctrl-C waits for no browser

    def __init__(self, board: Board, port: int = 0) -> None:
        self.board = board
        self.samples = Samples()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on port {port} of {LOOPBACK}: {error.strerror}. Leave --port out to get a free one"
            ) from error
        self.access = Access(self.server_address[1])

    @property
    def address(self) -> str:
        """To be opened in a browser; holds the token."""
        return f"http://{LOOPBACK}:{self.access.port}/?token={self.access.token}"

    def address_once(self) -> str:
        """An address that opens the page once, for a command line, which other users can see."""
        return f"http://{LOOPBACK}:{self.access.port}/?ticket={self.access.ticket()}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "foundation", ""
    timeout = _SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: the token stands in some."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Also called by the base class, for methods that are not served and requests that are none."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code = HTTPStatus.METHOD_NOT_ALLOWED
        self._answer(code, f"{message or HTTPStatus(code).phrase}\n".encode(), "text/plain; charset=utf-8")

    def do_HEAD(self) -> None:
        """The headers of the same answer."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer, if the request may be answered."""
        reason = self.server.access.refusal(self.path, self.headers)
        if reason is not None:
            self.send_error(HTTPStatus.FORBIDDEN, reason)
            return
        self.server.board.asked()
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path == "/":
            self._page()
        elif path == "/runs":
            self._json(listed(self.server.board))
        elif path in ("/curves", "/samples"):
            self._of_run(path, query)
        elif path == "/compare":
            self._compare(query)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        policy = f"{_NOTHING}; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'"
        content = render(self.server.board, nonce).encode("utf-8", "replace")
        access = self.server.access
        cookie = (("Set-Cookie", access.set_cookie),) if access.by_address(self.path) else ()
        access.spend(self.path)
        self._answer(HTTPStatus.OK, content, "text/html; charset=utf-8", cookie, policy)

    def _of_run(self, path: str, query: str) -> None:
        """``?run=ID&key=NAME&have=GENERATION.START&key=...``: what a page has of each curve stands behind its name."""
        try:
            fields = parse_qsl(query, keep_blank_values=True, max_num_fields=2 * _MOST_CURVES + 1)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST, f"more than {_MOST_CURVES} curves at once")
            return
        run = self.server.board.run(dict(fields).get("run", ""))
        if run is None:
            self.send_error(HTTPStatus.NOT_FOUND, "no such run (any more)")
            return
        if path == "/samples":
            self._json(self.server.samples.of(run))
            return
        keys, having = ([value for name, value in fields if name == wanted] for wanted in ("key", "have"))
        try:
            wanted = {key: _having(text) for key, text in zip(keys, having, strict=True)}
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        with self.server.board.lock:
            content = curves(run, wanted)
        self._json(content)

    def _compare(self, query: str) -> None:
        wanted = parse_qs(query).get("run", [])[:AT_ONCE]
        found = [run for run in map(self.server.board.run, wanted) if run is not None]
        with self.server.board.lock:
            content = compare(found)
        self._json(content)

    def _json(self, value: Any) -> None:
        content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        mark = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        if self.headers.get("If-None-Match") == mark:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", "application/json", (("ETag", mark),))
            return
        self._answer(HTTPStatus.OK, content, "application/json", (("ETag", mark),))

    def _answer(
        self, code: int, content: bytes, kind: str, headers: tuple[tuple[str, str], ...] = (), policy: str = _NOTHING
    ) -> None:
        self.send_response(code)
        for name, value in (*_HEADERS, *headers, ("Content-Type", kind), ("Content-Security-Policy", policy)):
            self.send_header(name, value)
        if code != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and content:
            self.wfile.write(content)


def _having(text: str) -> tuple[int, int]:
    generation, _, start = text.partition(".")
    return int(generation[:18]), max(0, int(start[:18]))


def refuse_other_addresses(address: str) -> None:
    """There is no service for other machines.

    Raises:
        UserError: an address is not the one of this machine alone.
    """
    if address not in (LOOPBACK, "localhost"):
        raise UserError(
            f"--host {address}: the page is served on {LOOPBACK} only, as whoever reaches it can read the runs. From "
            "another machine forward the port: ssh -L PORT:127.0.0.1:PORT THIS-MACHINE"
        )


def machine() -> str:
    """Name of this machine, for the command that forwards a port."""
    return socket.gethostname() or "THIS-MACHINE"
