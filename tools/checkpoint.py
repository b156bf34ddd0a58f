"""``foundation checkpoint list|verify|prune``: the checkpoints of a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.checkpoints.retention import Figures, Policy

DESCRIPTION = "Look at the checkpoints of a run, verify every byte of them, remove those that are not needed."
EXAMPLES = """\
examples:
  foundation checkpoint list runs/mine                       steps, sizes, and why each one is kept
  foundation checkpoint verify runs/mine                     read all and compare with their SHA-256; exit 3 for damage
  foundation checkpoint verify runs/mine/checkpoints/step-00000500
  foundation checkpoint prune runs/mine --keep-last 2        what would go
  foundation checkpoint prune runs/mine --keep-last 2 --yes  remove it; refused while the run is training

Without flags, prune goes by the recipe of the run (its section `checkpoints`)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three commands."""
    from foundation.ranges import Count, CountOrNone, argument

    what = parser.add_subparsers(dest="what", metavar="{list,verify,prune}", required=True)
    listing = what.add_parser("list", help="a line for each checkpoint; looks at names and sizes only")
    verify = what.add_parser("verify", help="compare every byte with the manifests; exit code 3 when one is damaged")
    prune = what.add_parser("prune", help="remove what no rule keeps; only shows it without --yes")
    for command in (listing, verify, prune):
        command.add_argument("run", type=Path, help="run folder" + (" or one checkpoint" if command is verify else ""))
    prune.add_argument(
        "--keep-last", type=argument(Count), metavar="N", help="newest valid ones that stay (default: the recipe's)"
    )
    prune.add_argument(
        "--keep-every", type=argument(CountOrNone), metavar="STEPS", help="those at multiples of STEPS stay; 0: none"
    )
    prune.add_argument("--keep-best", metavar="FIGURE", help="the best by a probe stays, e.g. probe/knn_top1; '': none")
    prune.add_argument("--yes", action="store_true", help="remove them")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the commands."""
    return {"list": _list, "verify": _verify, "prune": _prune}[arguments.what](arguments)


def _root(run: Path) -> Path:
    """The folder of the checkpoints of a run."""
    from foundation.checkpoints import checkpoint
    from foundation.errors import UserError

    for root in (run / "checkpoints", run):
        if root.is_dir() and checkpoint.steps(root):
            return root
    raise UserError(f"no checkpoints in {run}: give a run folder")


def _list(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from foundation import schema
    from foundation.checkpoints import checkpoint, retention
    from foundation.printable import cell, moment, printable
    from foundation.voice import to_stderr, to_stdout

    root = _root(arguments.run)
    try:
        policy, figures = retention.read(root)
    except schema.FormError as error:
        to_stderr(f"warning: {error}: what it kept is not known")
        policy, figures = retention.Policy(), {}
    problems = {folder: checkpoint.problem(folder, hashes=False) for folder in checkpoint.steps(root)}
    reasons = policy.reasons([checkpoint.step_of(f) for f, problem in problems.items() if problem is None], figures)
    table = Table("step", "written", "size", "took", "state", "kept because", box=None, pad_edge=False)
    for folder, problem in problems.items():
        step, size = checkpoint.step_of(folder), sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
        manifest = checkpoint.manifest_of(folder) if problem is None else None
        figure = ", ".join(f"{name} {value:.4g}" for name, value in figures.get(step, {}).items())
        why = "; ".join(reasons.get(step, [])) or ("no rule: the next save removes it" if manifest else "")
        table.add_row(
            f"{step:,}",
            moment(manifest["time"]) if manifest else "",
            f"{size / 1e6:,.1f} MB",
            f"{manifest['seconds']:.1f} s" if manifest else "",
            f"[red]{cell(problem)}[/]" if problem else "sizes right",
            cell(why + (f" ({figure})" if figure and "best" not in why else "")),
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for path in sorted(root.glob(f"step-*{checkpoint.TEMPORARY}*")):
        to_stdout(
            f"{printable(path.name)}: being written, or left over from a process that was killed "
            "(the next start removes it)"
        )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from foundation.checkpoints import checkpoint
    from foundation.printable import printable
    from foundation.voice import to_stdout

    one = (arguments.run / checkpoint.MANIFEST).exists()
    damaged = 0
    for folder in [arguments.run] if one else checkpoint.steps(_root(arguments.run)):
        reason = checkpoint.problem(folder)
        to_stdout(f"{printable(folder)}: {'good' if reason is None else reason}")
        damaged += reason is not None
    if damaged:
        print(f"{damaged} damaged: a run resumes from the newest good one", file=sys.stderr)
    return 3 if damaged else 0


def _prune(arguments: argparse.Namespace) -> int:
    from foundation import schema
    from foundation.checkpoints import checkpoint, retention
    from foundation.errors import UserError
    from foundation.run.run_folder import RunFolder
    from foundation.voice import to_stdout

    root = _root(arguments.run)
    try:
        policy, figures = retention.read(root)
    except schema.FormError as error:
        raise UserError(
            f"{error}: what the run wants to keep is not known, so nothing is removed. The run writes the file anew "
            "when it goes on; or remove it, and say what to keep (--keep-last, --keep-every)"
        ) from None
    policy = _policy(arguments, policy)
    if not arguments.yes:
        going = _doomed(root, policy, figures)
        print(f"{len(going)} would be removed; --yes removes them" if going else "nothing to remove")
        return 0
    with RunFolder(root.parent):  # refuses while the run is training
        going = _doomed(root, policy, figures)
        for folder in going:
            checkpoint.remove(folder)
        leftovers = checkpoint.clean(root)
    for name in leftovers:
        to_stdout(f"{name}: left over from a process that was killed")
    print(f"removed {len(going) + len(leftovers)}")
    return 0


def _policy(arguments: argparse.Namespace, policy: Policy) -> Policy:
    from dataclasses import replace

    from foundation.errors import UserError

    if arguments.keep_last is not None:
        if arguments.keep_last < 1:
            raise UserError(f"--keep-last must be at least 1, got {arguments.keep_last}")
        policy = replace(policy, keep_last=arguments.keep_last)
    if arguments.keep_every is not None:
        policy = replace(policy, keep_every=max(0, arguments.keep_every) or None)
    if arguments.keep_best is not None:
        policy = replace(policy, keep_best=arguments.keep_best or None)
    return policy


def _doomed(root: Path, policy: Policy, figures: Figures) -> list[Path]:
    """Checkpoints that no rule keeps, named on the way; the newest one that is kept has been read to its last byte.

    Damaged ones go only when a good one is newer.
    """
    from foundation.checkpoints import checkpoint
    from foundation.voice import to_stdout

    newest, skipped = checkpoint.newest(root)
    problems = dict(skipped)
    good: dict[int, Path] = {}
    for folder in checkpoint.steps(root):
        if folder not in problems:
            reason = checkpoint.problem(folder, hashes=False)
            if reason is None:
                good[checkpoint.step_of(folder)] = folder
            else:
                problems[folder] = reason
    reasons = policy.reasons(good, figures)
    doomed = []
    for folder in checkpoint.steps(root):
        step = checkpoint.step_of(folder)
        if reasons.get(step):
            to_stdout(f"{folder.name}: stays: {'; '.join(reasons[step])}")
        elif step in reasons:
            to_stdout(f"{folder.name}: not needed")
            doomed.append(folder)
        elif newest is not None and step < checkpoint.step_of(newest):
            to_stdout(f"{folder.name}: damaged: {problems[folder]}")
            doomed.append(folder)
        else:
            to_stdout(f"{folder.name}: stays, although damaged: {problems[folder]}: no good one is newer")
    return doomed


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
