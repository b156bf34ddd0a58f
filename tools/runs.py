"""``foundation runs``: the state of runs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundation.run.runs import RunSummary

DESCRIPTION = "Show the state of runs, from the files in their folders: running, done, stopped, failed or silent."
EXAMPLES = """\
examples:
  foundation runs list                            all runs below runs/
  foundation runs list sweeps --json              for a script
  foundation runs show runs/mine                  one run: figures, checkpoints, why it failed
  foundation runs best sweeps --metric probe/knn_top1
  foundation runs best sweeps --metric loss

stopped: by a signal, or by train.stop_after; the same command goes on.
silent: the run says it is running, but its lock is free or its heartbeat is old: it was killed. The command that
started it goes on from the newest checkpoint."""

_COLOURS = {"running": "green", "done": "blue", "failed": "red", "silent": "red", "stopped": "yellow", "new": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.ranges import Count, CountOrNone, SecondsOrNever, argument

    what = parser.add_subparsers(dest="what", metavar="{list,show,best}", required=True)
    listing = what.add_parser("list", help="one line for each run below a folder")
    show = what.add_parser("show", help="one run in detail")
    best = what.add_parser("best", help="runs in the order of a figure")
    for command in (listing, best):
        command.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default: %(default)s")
    show.add_argument("folder", type=Path, help="a run folder")
    show.add_argument(
        "--lines", type=argument(CountOrNone), default=5, help="last lines of the metrics (default: %(default)s)"
    )
    best.add_argument("--metric", required=True, help="name of a figure, such as probe/knn_top1, knn/top1 or loss")
    best.add_argument(
        "--lowest",
        action=argparse.BooleanOptionalAction,
        help="whether the lowest value is the best (default: of losses, yes)",
    )
    best.add_argument("--limit", type=argument(Count), default=20, help="runs to show (default: %(default)s)")
    for command in (listing, show, best):
        command.add_argument("--json", action="store_true", help="print JSON")
    for command in (listing, show):
        command.add_argument(
            "--silent-after", type=argument(SecondsOrNever), default=600.0, metavar="SECONDS",
            help="without a sign of life for so long, a running run is silent (default: %(default)s)",
        )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    return {"list": _list, "show": _show, "best": _best}[arguments.what](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from foundation.errors import FoundationError
    from foundation.run import runs
    from foundation.voice import to_stdout

    found = []
    for folder in runs.find(arguments.folder):
        try:
            found.append(runs.summary(folder, silent_after=arguments.silent_after))
        except (FoundationError, OSError) as error:  # one run never hides the others
            _warn(f"{folder} cannot be read: {error}")
    if arguments.json:
        print(json.dumps([item.plain() for item in found], indent=1))
        return 0
    if not found:
        to_stdout(f"no runs below {arguments.folder}")
        return 0
    _print_table(found, arguments.folder)
    for item in found:
        for problem in item.unreadable:
            _warn(problem)
    return 0


def _warn(text: str) -> None:
    from foundation.printable import printable
    from foundation.voice import to_stderr

    to_stderr(f"warning: {printable(text)}")


def _print_table(found: list[RunSummary], root: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from foundation.printable import cell

    table = Table("run", "state", box=None, pad_edge=False)
    for title in ("step", "loss", "probe", "checkpoint", "samples/s", "left", "last sign"):
        table.add_column(title, justify="right")
    for item in found:
        place = item.path.name if item.path == root else str(item.path.relative_to(root))
        colour = _COLOURS[item.state]
        alarm = " [red]collapse?[/]" if item.alarms and item.state == "running" else ""
        table.add_row(
            cell(place), f"[{colour}]{item.state}[/]{alarm}", _of(item), _number(item.loss), cell(_probe(item)),
            (item.checkpoint or "none").removeprefix("step-").lstrip("0") or "0",
            _number(item.samples_per_second, ".0f"), _duration(item.seconds_left),
            _since(item.updated),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _show(arguments: argparse.Namespace) -> int:
    from foundation.printable import moment, padded, printable
    from foundation.run import runs
    from foundation.run.lines import number_or_none

    item = runs.summary(arguments.folder, silent_after=arguments.silent_after)
    last = runs.tail(arguments.folder)
    if arguments.json:
        print(json.dumps(item.plain() | {"lines": last[-arguments.lines :] if arguments.lines > 0 else []}, indent=1))
        return 0
    facts: dict[str, Any] = {
        "run": f"{item.name} ({item.path})",
        "state": item.state + (f", {item.doing}" if item.state == "running" and item.doing else ""),
        "reason": item.reason,
        "step": _of(item),
        "started": moment(item.started) if item.started else None,
        "last sign of life": f"{_since(item.updated)} ago" if item.updated else None,
        "process": f"{item.pid} on {item.host}" if item.pid and item.host else item.pid,
        "speed": f"{item.seconds_per_step:.3g} s a step" if item.seconds_per_step else None,
        "left": _duration(item.seconds_left) or None,
        "newest checkpoint": item.checkpoint or "none",
        **{f"damaged {name}": reason for name, reason in item.damaged.items()},
        "refused or odd steps": f"{item.bad_steps} (bad-steps.jsonl)" if item.bad_steps else None,
        "signs of collapse": item.alarms or None,
        "stacks of stalls": ", ".join(item.stalls) or None,
        **{f"damaged part {index}": problem for index, problem in enumerate(item.unreadable, 1)},
        **item.probes,
    }
    training = [line for line in last if not isinstance(line.get("loss", ""), str)]
    facts |= {name: value for name, value in (training[-1] if training else {}).items() if name != "step"}
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        if value is not None:
            print(f"{padded(name, width)}{_number(value) if isinstance(value, float) else printable(value)}")
    for line in training[-arguments.lines :] if arguments.lines > 0 else []:
        rate = _number(number_or_none(line.get("throughput/samples_per_second")), ".0f")
        print(f"step {line['step']:,}: loss {_number(line['loss'])}, {rate} samples/s")
    return 0


def _best(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.plugins import near
    from foundation.printable import padded, printable
    from foundation.run import runs

    lowest = "loss" in arguments.metric.split("/")[0] if arguments.lowest is None else arguments.lowest
    folders = list(runs.find(arguments.folder))
    found = [(runs.best(folder, arguments.metric, lowest, _warn), folder) for folder in folders]
    rows = [(value, step, folder) for (value, step), folder in ((f, p) for f, p in found if f is not None)]
    if not rows:
        there = sorted({name for folder in folders for name in runs.names(folder)})
        if not there:
            raise UserError(f"no run below {arguments.folder} has any figures yet")
        shown = ", ".join([name for name in there if not name.startswith("schedule/")][:30])
        raise UserError(
            f"no run has the figure {arguments.metric!r}{near(arguments.metric, there)} (some are: {shown})"
        )
    rows.sort(key=lambda row: row[0], reverse=not lowest)
    if arguments.json:
        plain = [{"path": str(folder), arguments.metric: value, "step": step} for value, step, folder in rows]
        print(json.dumps(plain[: arguments.limit], indent=1))
        return 0
    groups: dict[str, list[tuple[float, int | None, Path]]] = {}
    compares = not arguments.metric.startswith("loss")  # losses of different objectives are different things
    for row in rows:
        groups.setdefault("" if compares else runs.objectives(row[2]), []).append(row)
    width = max(3, *(len(printable(folder)) for _, _, folder in rows)) + 2
    number = max(len(printable(arguments.metric)), 10) + 2
    for objectives, members in groups.items():
        if len(groups) > 1:
            print(f"objectives {printable(objectives)}:")
        print(
            f"{'run':<{width}}{printable(arguments.metric):<{number}}where ({'lowest' if lowest else 'highest'} first)"
        )
        for value, step, folder in members[: arguments.limit]:
            where = f"step {step:,}" if step is not None else "probe result"
            print(f"{padded(folder, width)}{value:<{number}.5g}{where}")
    if len(groups) > 1:
        _warn("losses of different objectives do not compare: the best of each kind is listed by itself")
    return 0


def _of(item: RunSummary) -> str:
    from foundation.printable import cell

    stage = "" if item.stage is None else f" ({cell(item.stage)})"
    return f"{item.step:,}" + (f" / {item.total:,}" if item.total else "") + stage


def _probe(item: RunSummary) -> str:
    if not item.probes:
        return ""
    name, value = next(iter(item.probes.items()))
    return f"{name.removeprefix('probe/')} {value:.4g}"


def _number(value: float | None, form: str = ".5g") -> str:
    return "" if value is None else format(value, form)


def _since(moment: float | None) -> str:
    return _duration(time.time() - moment) if moment else ""


def _duration(seconds: float | None) -> str:
    from foundation.voice import duration

    return "" if seconds is None else duration(seconds)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
