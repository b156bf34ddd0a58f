"""A server of its own for each test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundation.watch.board import Board
from foundation.watch.server import Server


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """Starts a server for a folder."""
    servers = []

    def start(folder: Path) -> Server:
        board = Board(folder)
        server = Server(board)
        servers.append(server)
        board.refresh()
        board.start()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
