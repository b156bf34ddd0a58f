"""``foundation compare``: set models side by side, and say which differences are none."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.tasks.results import Result

DESCRIPTION = """\
Set models side by side on the same test samples, by the tasks of foundation evaluate, and say in words which
differences are none: paired bootstrap of the test samples, 95 % intervals. Models are named as for foundation evaluate,
or by the result files that it wrote: those need neither the model nor its shards."""
EXAMPLES = """\
examples:
  foundation compare runs/a runs/b --train "d/train-*.tar" --test "d/test-*.tar" --tasks knn linear --out a-and-b
  foundation compare a/result.json b/result.json --group '^(s[0-9]+)'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import evaluate_command as command
    from foundation.ranges import Count, argument

    parser.add_argument("models", nargs="+", metavar="MODEL", help="models, result.json files or their folders")
    command.add_arguments(parser)
    parser.add_argument(
        "--resamples", type=argument(Count), default=10_000, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write compare.json and compare.html there")


def run(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.files import replace_file, replace_json, require_new
    from foundation.probes.groups import JSON_FIELD, naming
    from foundation.report import side_by_side
    from foundation.tasks.comparison import compare
    from foundation.tasks.table import show_comparison
    from foundation.voice import to_stdout

    if len(arguments.models) < 2:
        raise UserError("name two models or more, or two result files")
    if arguments.out is not None:
        require_new(arguments.out / "compare.json", arguments.overwrite, "choose another place by --out FOLDER")
    results: list[Result] = []
    for model in arguments.models:
        results.append(_result(arguments, model, results[0].modality if results else None))
    results = _told_apart(results, arguments.models)
    groups = None
    if arguments.group is not None and not any(result.groups for result in results):
        if arguments.group.startswith(JSON_FIELD):
            raise UserError(
                "--group json:FIELD needs the shards: give it to foundation evaluate, or name models in place of files"
            )
        name = naming(arguments.group, ())
        groups = {key: name(key, 0) for one in results for measured in one.scores for key in measured.score.keys}
    found = compare(results, resamples=arguments.resamples, seed=arguments.seed, groups=groups)
    show_comparison(found, arguments.resamples)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = side_by_side.as_json(found, arguments.resamples, arguments.seed)
        replace_json(arguments.out / "compare.json", content)
        page = side_by_side.render(found, arguments.resamples)
        replace_file(arguments.out / "compare.html", page.encode())
        to_stdout(f"written: {arguments.out / 'compare.json'}\nwritten: {arguments.out / 'compare.html'}")
    return 0


def _result(arguments: argparse.Namespace, model: str, wanted: str | None) -> Result:
    """Read, or evaluated now."""
    from foundation.evaluate_command import evaluated
    from foundation.redact import redact
    from foundation.tasks.results import RESULT, read, result_of
    from foundation.voice import to_stderr

    path = Path(model)
    if path.suffix == ".json" or (path / RESULT).is_file():
        return read(path)
    to_stderr(f"{redact(model)}:")
    found, _, _ = evaluated(arguments, model, keep=False, wanted=wanted)
    return result_of(found)


def _told_apart(results: Sequence[Result], words: Sequence[str]) -> list[Result]:
    """Under the words that named them, where two have one name (runs of one recipe) or weights are random."""
    from foundation.redact import redact

    names = [result.name for result in results]
    return [
        dataclasses.replace(result, name=redact(word.removesuffix("/result.json")))
        if names.count(result.name) > 1 or word.endswith(",random")
        else result
        for result, word in zip(results, words, strict=True)
    ]


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
