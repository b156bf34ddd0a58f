"""``foundation bench gpu``: all about one GPU in at most eight minutes: tests, parity, speed, memory, a profile."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Checks and measures this machine's GPU, in order of worth: what is installed and how fast the device is, the tests that
need a GPU, parity with the CPU, training steps of DINOv2's recipe with ViT-L/16 and ViT-S/16 (each way of attention,
compiled or not, the largest batch), attention alone, waits and launches of a step, augmentation, audio and video, and a
profile. Each part has a process and a limit of its own; what hangs or crashes is reported, and the next one goes on.
Needs no network and no data. OUT/gpu.json has all figures, OUT/gpu.md the tables; both are written after every part."""

EXAMPLES = """\
examples:
  foundation bench gpu --out runs/gpu                       everything
  foundation bench gpu --parts environment vit_large        some parts
  foundation bench gpu --rehearse                           every way of the code on tiny shapes, on a CPU too"""

PARTS = (
    "environment",
    "tests",
    "parity",
    "vit_large",
    "vit_small",
    "attention",
    "waits",
    "augmentation",
    "modalities",
    "timeline",
)
"""Files of ``tools/bench/gpu``, the most wanted first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from typing import Annotated

    from foundation.ranges import Range, Seed, argument

    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder (default: runs/gpu)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    minutes = argument(Annotated[float, Range(0.1, 1440)])
    parser.add_argument("--minutes", type=minutes, default=8.0, help="for all parts together (default: 8)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of weights, views and data (default: 0)")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, on a CPU too: the figures mean nothing")


def run(arguments: argparse.Namespace) -> int:
    import shlex
    from dataclasses import asdict
    from datetime import UTC, datetime

    from foundation.files import replace_file, replace_json, require_writable
    from foundation.measure.parts import run_parts
    from foundation.measure.table import markdown
    from foundation.paths import bundled

    for name in ("gpu.json", "gpu.md"):
        require_writable(arguments.out / name, "choose another folder by --out FOLDER")
    words = [f"--out={arguments.out}", f"--minutes={arguments.minutes:g}", f"--seed={arguments.seed}"]
    words += ["--parts", *arguments.parts] if tuple(arguments.parts) != PARTS else []
    words += ["--rehearse"] if arguments.rehearse else []
    report = {
        "form": 1,
        "command": f"foundation bench gpu {shlex.join(words)}",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": arguments.seed,
        "rehearsal": arguments.rehearse,
        "minutes": arguments.minutes,
        "machine": {},
        "parts": {},
    }

    def write() -> None:
        replace_json(arguments.out / "gpu.json", report)
        replace_file(arguments.out / "gpu.md", markdown(report).encode())

    def begun(name: str, title: str, limit: float) -> None:
        print(f"{name}: {title} (at most {limit:.0f} s)", flush=True)

    def ended(name: str, outcome, machine) -> None:
        report["parts"][name] = asdict(outcome)
        report["machine"] = report["machine"] or dict(machine)
        write()
        lines = [*outcome.notes, *outcome.tail.splitlines()[-5:]]
        print(f"  {outcome.state}, {outcome.seconds:.0f} s, {len(outcome.rows)} rows", flush=True)
        print("".join(f"  {line}\n" for line in lines), end="", flush=True)

    write()
    folder = bundled("tools") / "bench" / "gpu"
    run_parts(
        [folder / f"{name}.py" for name in PARTS if name in arguments.parts],
        arguments.out.absolute(),
        rehearse=arguments.rehearse,
        seed=arguments.seed,
        seconds=60 * arguments.minutes,
        begun=begun,
        ended=ended,
    )
    states = [part["state"] for part in report["parts"].values()]
    print(f"{states.count('done')} of {len(states)} parts done; figures in {arguments.out / 'gpu.json'} and gpu.md")
    return 0 if set(states) == {"done"} else 1


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
