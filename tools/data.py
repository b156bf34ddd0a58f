"""``foundation data build|inspect|statistics|index|verify``: make shards, look into them, check them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from foundation.data.verify import Findings
    from foundation.modalities.inspect import Facts

DESCRIPTION = "make shards, look into them, check them"
EXAMPLES = """\
examples:
  foundation data build --list                               what can be built
  foundation data build digits data/digits                   no download needed
  foundation data build folder data/mine --root pictures     class folders, a flat folder or a manifest
  foundation data build digits --help                        the options of one data set
  foundation data inspect 'data/digits/train-*.tar' --sheet  a table, and contact-sheet.png
  foundation data statistics 'data/mine/train-*.tar'         mean, deviation, sizes: the words that a recipe takes
  foundation data verify 'data/digits/*.tar' --decode        everything that a run would stumble over, beforehand"""

_COMMON = ("command", "dataset", "name", "out", "list", "samples_per_shard", "max_shard_bytes", "overwrite")
"""Options of ``build`` itself; the rest belongs to the data set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    from foundation.plugins import add_option
    from foundation.ranges import Count, Workers, argument

    commands = parser.add_subparsers(dest="command", required=True, metavar="{build,inspect,statistics,index,verify}")
    _add_build(commands)
    inspect = commands.add_parser("inspect", help="counts, sizes, labels, damage, a contact sheet")
    inspect.add_argument("shards", nargs="+", help="paths, globs, brace patterns or folders")
    inspect.add_argument(
        "--sheet",
        nargs="?",
        const="contact-sheet.png",
        metavar="FILE",
        help="also draw samples: a .png (contact-sheet.png), or a .html, which has labels of any script",
    )
    inspect.add_argument("--recipe", metavar="RECIPE", help="draw what this recipe's views read (rates, columns, ...)")
    inspect.add_argument("--modality", help="whose pictures the sheet shows (default: as index.json says, else image)")
    inspect.add_argument(
        "--limit", type=argument(Count), default=10_000, help="samples to look into (default: %(default)s)"
    )
    inspect.add_argument("--verify", action="store_true", help="compare every shard with the SHA-256 in its index")
    inspect.add_argument("--overwrite", action="store_true", help="replace the contact sheet if it exists")
    add_option(inspect)
    _add_statistics(commands)
    index = commands.add_parser("index", help="write index.json beside shards that came from elsewhere")
    index.add_argument("shards", nargs="+", help="paths, globs, brace patterns or folders")

    verify = commands.add_parser(
        "verify",
        help="find everything that would spoil a run",
        description="Check shards from the first byte to the last. Exit codes: 0 good, 3 problems, 2 your mistake.",
    )
    verify.add_argument("shards", nargs="+", help="paths, globs, brace patterns or folders")
    verify.add_argument("--json", type=Path, metavar="REPORT", help="also write all findings to a JSON file")
    verify.add_argument("--overwrite", action="store_true", help="replace the JSON file if it exists")
    verify.add_argument("--decode", action="store_true", help="also decode every sample, as training would")
    verify.add_argument(
        "--recipe", metavar="RECIPE", help="decode as the views of this recipe say (rates, units, columns, limits, ...)"
    )
    verify.add_argument("--modality", help="with --decode: whose decoder (default: as index.json says, else image)")
    verify.add_argument(
        "--members", default="", metavar="EXT,EXT", help="members of every sample (default: those that most have)"
    )
    verify.add_argument("--workers", type=argument(Workers), help="processes (default: one per processor)")
    add_option(verify)


def _add_statistics(commands: Any) -> None:
    from foundation.plugins import add_option
    from foundation.ranges import Count, argument

    statistics = commands.add_parser(
        "statistics",
        help="mean and deviation per channel, rates, lengths, units: what a recipe wants to know",
        description="Decode samples as training would and say what they are like, in the words that a recipe takes. "
        "Each sample counts alike, as in training.",
    )
    statistics.add_argument("shards", nargs="+", help="paths, globs, brace patterns or folders (take training's only)")
    statistics.add_argument("--limit", type=argument(Count), help="samples to read, spread evenly (default: all)")
    statistics.add_argument("--recipe", metavar="RECIPE", help="read and measure as the views of this recipe say")
    statistics.add_argument("--modality", help="default: as the recipe or index.json says, else image")
    statistics.add_argument("--json", action="store_true", help="print JSON instead")
    add_option(statistics)


def _add_build(commands: Any) -> None:
    from foundation.cli import EXTRA, Command
    from foundation.data.build import load, shown_name
    from foundation.data.write import MAX_BYTES, SAMPLES_PER_SHARD
    from foundation.errors import UserError
    from foundation.ranges import Bytes, Count, argument

    class BuildParser(Command):
        """Adds the options of the data set that is named to its own."""

        files: str | None = None

        def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
            words = list(args or ())
            name = next((word for word in words if not word.startswith("-")), None)
            dataset = None
            if name is not None and "--list" not in words:
                dataset = load(name)
                group = self.add_argument_group(f"options of {shown_name(dataset.name)}")
                dataset.module.add_arguments(group)
                self.files = next((a.option_strings[0] for a in group._group_actions if a.type is Path), None)
            self.set_defaults(dataset=dataset)
            return super().parse_known_args(words, namespace)

        def error(self, message: str) -> NoReturn:
            """Says by which option a data set takes its files, where they stand beside the folder of the shards."""
            _, extra, more = message.partition(EXTRA)
            dataset, files = self.get_default("dataset"), self.files
            extra = extra and not more.startswith("-")
            if dataset is None or not (extra or (files and files in message)):
                super().error(message)
            name = shown_name(dataset.name)
            if extra and files is None:
                raise UserError(f"{more}: {name} takes no files of yours: foundation data build {name} OUT")
            said = f"{more}: one folder stands without an option, that of the shards" if extra else message
            raise UserError(
                f"{said}; {name} takes its files by {files}: foundation data build {name} OUT {files} FILES"
            )

    commands._parser_class = BuildParser
    build = commands.add_parser(
        "build",
        help="write a data set as shards",
        usage="foundation data build [--list] NAME OUT [options of NAME]",
    )
    commands._parser_class = Command
    build.add_argument("name", nargs="?", help="a data set (see --list) or the path of a .py file like those")
    build.add_argument("out", nargs="?", type=Path, help="folder of the shards")
    build.add_argument("--list", action="store_true", help="show what can be built")
    build.add_argument(
        "--samples-per-shard", type=argument(Count), default=SAMPLES_PER_SHARD, help="at most (default: %(default)s)"
    )
    build.add_argument(
        "--max-shard-bytes",
        type=argument(Bytes),
        default=MAX_BYTES,
        help="size of a shard, at most (default: %(default)s)",
    )
    build.add_argument("--overwrite", action="store_true", help="replace splits that exist")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the commands."""
    from foundation.plugins import allow

    modality = vars(arguments).get("modality") or ""
    if "." in modality:  # the user's own word; what an index says is data
        allow(modality)
    commands = {"build": _build, "inspect": _inspect, "statistics": _statistics, "index": _index, "verify": _verify}
    return commands[arguments.command](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from foundation.data.build import build, listing
    from foundation.errors import UserError
    from foundation.printable import printable
    from foundation.voice import plural, to_stderr, to_stdout

    if arguments.list:
        print(f"{listing(get_terminal_size().columns)}\n")
        print("foundation data build NAME --help      what a data set needs and which options it has")
        return 0
    if arguments.name is None or arguments.out is None:
        raise UserError("give a data set and a folder: foundation data build NAME OUT (foundation data build --list)")
    own = {key: value for key, value in vars(arguments).items() if key not in _COMMON}
    built = build(
        arguments.dataset,
        arguments.out,
        argparse.Namespace(**own),
        samples_per_shard=arguments.samples_per_shard,
        max_bytes=arguments.max_shard_bytes,
        overwrite=arguments.overwrite,
        progress=_progress,
    )
    for tally, words in ((built.left_out, "left out"), (built.notes, "worth knowing of files that were taken")):
        if tally.total:
            to_stderr(f"{words}: {plural(tally.total, 'file')}")
        for line in tally.lines():
            to_stderr(f"  {printable(line)}")
    every = sum(entry.samples for entries in built.index.splits.values() for entry in entries)
    for split, entries in built.index.splits.items():
        samples, size = sum(entry.samples for entry in entries), sum(entry.bytes for entry in entries)
        share = f", {100 * samples / every:.1f} % of all" if len(built.index.splits) > 1 else ""
        counted = f"{plural(samples, 'sample')} in {plural(len(entries), 'shard')}, {_bytes(size)}{share}"
        to_stdout(f"{arguments.out / split}-*.tar: {counted}")
    return 0


def _progress(split: str, samples: Iterable[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    total = len(samples) if hasattr(samples, "__len__") else None
    return tqdm(samples, total=total, desc=split, unit=" samples", disable=not sys.stderr.isatty())


def _inspect(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.modalities.contact_sheet import contact_sheet
    from foundation.modalities.inspect import inspect
    from foundation.printable import printable
    from foundation.report.views import reading
    from foundation.voice import plural, to_stderr, to_stdout

    if arguments.limit < 1:
        raise UserError(f"--limit must be at least 1 sample, got {arguments.limit}")
    recipe = _recipe(arguments.recipe) if arguments.recipe else None
    if recipe and not arguments.sheet:
        raise UserError("--recipe says how the pictures of a sheet are read: add --sheet")
    if recipe and arguments.modality not in (None, recipe.views.modality):
        raise UserError(f"--recipe is one for {recipe.views.modality}, not for {arguments.modality}: leave one out")
    facts = inspect(arguments.shards, arguments.limit, arguments.verify)
    _show(facts)
    if arguments.sheet:
        number = contact_sheet(
            facts,
            Path(arguments.sheet),
            overwrite=arguments.overwrite,
            modality=recipe.views.modality if recipe else arguments.modality,
            reading=reading(recipe) if recipe else None,
            say=to_stderr,
        )
        to_stdout(f"{arguments.sheet}: {plural(number, 'picture')}")
    damaged = [shard for shard in facts.shards if shard.problem]
    if damaged:
        print(f"{len(damaged)} of {plural(len(facts.shards), 'shard')} with a problem:", file=sys.stderr)
        for shard in damaged:
            to_stderr(f"  {printable(shard.path)}: {printable(shard.problem)}")
    return 3 if damaged else 0


def _show(facts: Facts) -> None:
    import statistics

    from rich.console import Console
    from rich.table import Table

    from foundation.printable import cell
    from foundation.voice import plural

    console = Console()
    table = Table("shard", show_footer=len(facts.shards) > 1)
    table.columns[0].footer = f"{len(facts.shards)} shards"
    samples, size = sum(s.samples for s in facts.shards), sum(s.bytes for s in facts.shards)
    table.add_column("samples", f"{samples:,}", justify="right")
    table.add_column("size", _bytes(size), justify="right")
    table.add_column("state")
    for shard in facts.shards:
        table.add_row(
            cell(shard.path),
            f"{shard.samples:,}",
            _bytes(shard.bytes),
            f"[red]{cell(shard.problem)}" if shard.problem else "good",
        )
    console.print(table)
    members = Table("member", "samples", "median size")
    for extension, (count, median) in facts.extensions.items():
        members.add_row(cell(f".{extension}"), f"{count:,}", _bytes(median))
    console.print(members)
    if facts.image_sizes:
        widths, heights = zip(*facts.image_sizes, strict=True)
        console.print(
            f"pictures: {min(widths)} to {max(widths)} wide (median {statistics.median(widths):g}), "
            f"{min(heights)} to {max(heights)} high (median {statistics.median(heights):g}), "
            f"from {len(widths)} of them"
        )
    for kind in sorted({kind for kind, _, _ in facts.image_ranges}):
        ranges = [(low, high) for name, low, high in facts.image_ranges if name == kind]
        lows, highs = zip(*ranges, strict=True)
        console.print(
            f"of these {len(ranges)} have more than 8 bits ({kind}): numbers from {min(lows):g} to {max(highs):g} "
            f"(median of the largest {statistics.median(highs):g}); decode.range says what becomes black and white"
        )
    if facts.label_kinds and set(facts.label_kinds) != {"none"}:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in facts.label_kinds.most_common())
        console.print(f"labels: {kinds} of {plural(facts.looked_at, 'sample')}")
    for note in facts.notes[:20]:
        console.print(f"[yellow]note[/]: {cell(note)}")
    if len(facts.notes) > 20:
        console.print(f"{len(facts.notes) - 20} more notes: 'foundation data verify' lists what they are about")
    if facts.labels:
        labels = Table(
            "label", "name", "samples", title=f"labels of {plural(facts.looked_at, 'sample')}", title_justify="left"
        )
        shown = sorted(facts.labels.items(), key=lambda item: (len(item[0]), item[0]))
        for label, count in shown[:30]:
            known = label.isascii() and label.isdigit() and int(label) < len(facts.classes)
            labels.add_row(cell(label), cell(facts.classes[int(label)] if known else ""), f"{count:,}")
        if len(shown) > 30:
            labels.add_row("...", f"{len(shown) - 30} more", f"{sum(count for _, count in shown[30:]):,}")
        console.print(labels)


def _statistics(arguments: argparse.Namespace) -> int:
    import json

    from foundation.data import shown
    from foundation.data.statistics import statistics
    from foundation.printable import printable
    from foundation.voice import plural, to_stdout

    recipe = _recipe(arguments.recipe) if arguments.recipe else None
    found = statistics(
        arguments.shards,
        limit=arguments.limit,
        modality=arguments.modality,
        views=recipe.views if recipe else None,
        decoding=recipe.decode if recipe else None,
        progress=_progress_over_samples,
    )
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
        return 0
    to_stdout(f"# {found.modality}: {found.used:,} of {plural(found.samples, 'sample')}")
    print(_yaml({"views": found.found.views}) if found.found.views else "", end="")
    for line in shown.facts(found.found.facts):
        to_stdout(f"# {line}")
    for tally, words in ((found.left_out, "left out"), (found.notes, "worth knowing")):
        for line in tally.lines():
            to_stdout(f"# {words}: {printable(line)}")
    for warning in (*found.found.warnings, *found.found.misfits):
        to_stdout(f"# look at this: {printable(warning)}")
    return 0


def _yaml(values: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return text


def _progress_over_samples(places: Iterable[int], total: int) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(places, total=total, desc="statistics", unit=" samples", disable=not sys.stderr.isatty())


def _index(arguments: argparse.Namespace) -> int:
    from foundation.data.adopt import index_shards
    from foundation.voice import plural, to_stdout

    for folder, index in index_shards(arguments.shards):
        for split, entries in index.splits.items():
            samples = plural(sum(entry.samples for entry in entries), "sample")
            to_stdout(f"{folder / 'index.json'}: {split}: {samples}, {plural(len(entries), 'shard')}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from foundation.data.verify import verify, write_report
    from foundation.errors import UserError
    from foundation.voice import to_stdout

    if arguments.json and arguments.json.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.json} exists: add --overwrite to replace it, or give another name after --json")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise UserError(f"the folder of {arguments.json} does not exist")
    found = verify(
        arguments.shards,
        members=[name for name in arguments.members.split(",") if name],
        decode=arguments.decode,
        modality=arguments.modality,
        decoding=_recipe(arguments.recipe).decode if arguments.recipe else None,
        workers=arguments.workers,
        progress=_progress_over_shards,
    )
    _show_findings(found)
    if found.decoded and found.errors and not arguments.recipe:
        said = "samples were read as their modality does by default; --recipe RECIPE reads them as a recipe's views say"
        print(f"{said}, --modality NAME as another modality does")
    if arguments.json:
        write_report(found, arguments.json)
        to_stdout(f"report: {arguments.json}")
    return 3 if found.errors else 0


def _recipe(name: str) -> Any:
    """A recipe, shipped or a file."""
    from foundation import config, paths
    from foundation.run.recipe import Recipe

    return config.load(Recipe, paths.recipe(name), own=True)


def _progress_over_shards(checks: Iterable[Any], total: int) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(checks, total=total, desc="verify", unit=" shards", disable=not sys.stderr.isatty())


def _show_findings(found: Findings) -> None:
    from foundation.data import shown
    from foundation.printable import printable
    from foundation.voice import plural, to_stdout

    members = ", ".join(f".{name} {count:,}" for name, count in found.members.items())
    size = _bytes(sum(shard.bytes for shard in found.shards))
    counted = f"{plural(len(found.shards), 'shard')}, {plural(found.samples, 'sample')}"
    to_stdout(f"{counted}, {size} ({printable(members or 'no members')})")
    for line in shown.findings(found):
        to_stdout(line)
    decoded = "" if found.decoded else "; add --decode to try every sample too"
    if not found.errors:
        to_stdout(f"good: nothing that would spoil a run was found{decoded}")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
