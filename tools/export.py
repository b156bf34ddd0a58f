"""``foundation export``: the encoders of a run as safetensors with their cards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = "Write the student's and the teacher's encoder of a run as safetensors, each with a card (JSON)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option

    add_option(parser)
    parser.add_argument("run", type=Path, help="run folder or checkpoint folder")
    parser.add_argument("--out", type=Path, help="folder for the exports (default: RUN/export)")


def run(arguments: argparse.Namespace) -> int:
    from foundation.checkpoints import checkpoint
    from foundation.errors import UserError
    from foundation.voice import to_stdout
    from foundation.zoo.export import export_checkpoint

    folder: Path = arguments.run
    if (folder / checkpoint.MANIFEST).exists():
        source, out = folder, arguments.out or folder.parent.parent / "export"
    else:
        newest, skipped = checkpoint.newest(folder / "checkpoints")
        for path, reason in skipped:
            to_stdout(f"{path.name} is not used: {reason}")
        if newest is None:
            raise UserError(f"no usable checkpoint in {folder}: give a run folder or a checkpoint folder")
        source, out = newest, arguments.out or folder / "export"
    for path in export_checkpoint(source, out):
        to_stdout(f"wrote {path} and {path.with_suffix('.json').name}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
