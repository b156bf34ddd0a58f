"""``foundation watch``: a live page about runs."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.watch.server import Server

DESCRIPTION = """\
Serve a live page about the runs below a folder: state, curves laid over each other, probes, samples, comparison of
settings. It reads the files of the run folders, writes nothing, and answers only this machine, with a token."""
EXAMPLES = """\
examples:
  foundation watch                        all runs below runs/; open the address that it prints
  foundation watch sweeps --open          opens it in the browser
  foundation watch runs --port 6010       on a port of your choice, as for SSH

On a machine that you reach by SSH: start 'foundation watch runs --port 6010' there, run
'ssh -L 6010:127.0.0.1:6010 THAT-MACHINE' here, and open the printed address here; the port must be the same on both
sides. Ctrl-C ends it."""

_HEIGHT = 1440  # CSS pixels of a picture: runs and the first curves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.ranges import SecondsOrNever, argument

    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--port", type=_port, default=0, help="to listen on (default: a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1, the default; all others are refused")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="draw the page by a Chromium that is installed, and end"
    )
    parser.add_argument(
        "--silent-after", type=argument(SecondsOrNever), default=600.0, metavar="SECONDS",
        help="without a sign of life for so long, a running run is silent (default: %(default)s)",
    )  # fmt: skip


def _port(word: str) -> int:
    if not word.isascii() or not word.isdecimal() or len(word) > 5 or int(word) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535 (or 0 for a free one), got {word!r}")
    return int(word)


def run(arguments: argparse.Namespace) -> int:
    from foundation.ctrl_c import INTERRUPTED, end_now
    from foundation.printable import printable
    from foundation.voice import to_stdout
    from foundation.watch.board import Board
    from foundation.watch.server import Server, machine, refuse_other_addresses

    refuse_other_addresses(arguments.host)
    board = Board(arguments.folder, arguments.silent_after)
    server = Server(board, arguments.port)
    try:
        board.refresh()
        board.start()
        if arguments.picture is not None:
            return _draw(server, arguments.picture)
        # As it is, not with the token masked as secrets in addresses are: it is meant to be opened.
        print(f"watching {printable(arguments.folder)}: {server.address}", flush=True)
        if "SSH_CONNECTION" in os.environ:
            port = server.access.port
            to_stdout(f"on your machine, before you open it: ssh -L {port}:127.0.0.1:{port} {machine()}")
        to_stdout("Ctrl-C ends it")
        if arguments.open:
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(server.address_once(),), daemon=True).start()
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        end_now(INTERRUPTED)
    return 0


def _draw(server: Server, out: Path) -> int:
    """The picture of the documentation: foundation watch runs --picture docs/images/watch.png"""
    from foundation.errors import UserError
    from foundation.report.screenshot import screenshot
    from foundation.voice import to_stdout

    if out.suffix.lower() != ".png":
        raise UserError(f"--picture is a PNG: give a name that ends in .png, not {out}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    to_stdout(f"written: {screenshot(server.address_once(), out, height=_HEIGHT)}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
