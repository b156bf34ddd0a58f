"""The ``foundation`` command: one door to the scripts in ``launchers/``, ``tools/`` and ``datasets/``.

A verb is a script with ``DESCRIPTION``, ``add_arguments(parser)`` and ``run(arguments) -> exit code``; only the script
that was asked for is imported. ``python tools/knn.py ...`` and ``foundation knn ...`` are the same program.
"""

from __future__ import annotations

import argparse
import ast
import errno
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from foundation import synonyms
from foundation.allocator import keep_freed_memory
from foundation.compatibility import installed
from foundation.ctrl_c import INTERRUPTED, end_now, end_while_importing, speaks
from foundation.errors import FoundationError, RequeueRequest, UserError
from foundation.search_path import leave_working_directory
from foundation.version import VERSION
from foundation.voice import discard_output, to_stderr, warn_in_one_line

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "quickstart": ("tools/quickstart.py", "a demonstration in minutes: shards, pretraining, probes, report"),
        "pretrain": ("launchers/local.py", "pretrain an encoder as a recipe says, or continue where it stopped"),
        "launch": ("launchers/launch.py", "the same as a job: in the background here, or on a SLURM cluster"),
        "jobs": ("tools/jobs.py", "the jobs of launches: state, step, loss, log; stop, requeue"),
        "finetune": ("tools/finetune.py", "train a pretrained encoder further on labelled shards"),
        "plan": ("tools/plan.py", "what a recipe would need and do on many GPUs: memory, step time, days"),
        "recipes": ("tools/recipes.py", "list, show or copy the shipped recipes"),
        "checkpoint": ("tools/checkpoint.py", "list, verify and prune the checkpoints of a run"),
        "runs": ("tools/runs.py", "the state of your runs: running, done, stopped, failed; the best of many"),
        "watch": ("tools/watch.py", "a live page about your runs: curves, probes, samples, comparison"),
    },
    "data": {
        "data": ("tools/data.py", "build shards from a data set, look into shards"),
    },
    "evaluate and use": {
        "evaluate": ("tools/evaluate.py", "put a suite of tasks to a frozen encoder: one page, one result file"),
        "compare": ("tools/compare.py", "set models side by side: which differences are none?"),
        "knn": ("tools/knn.py", "score a frozen encoder by its nearest neighbours"),
        "linear": ("tools/linear.py", "score a frozen encoder by linear classifiers"),
        "svm": ("tools/svm.py", "score a frozen encoder by a support vector machine, linear or RBF"),
        "retrieval": ("tools/retrieval.py", "find one sensor's samples by another's: recall at 1, 5 and 10"),
        "frames": ("tools/frames.py", "score a frozen encoder moment by moment: detection of events"),
        "sizes": ("tools/sizes.py", "score all sub-networks of an encoder: accuracy against size and speed"),
        "report": ("tools/report.py", "one HTML page about a run: curves, attention, neighbours, confusions"),
        "picture": ("tools/picture", "see what an encoder sees: feature maps, attention, embedding map, neighbours"),
        "embed": ("tools/embed.py", "write the features of files or shards as NumPy arrays"),
        "extract": ("tools/extract.py", "write a model's features into shards, for training with a cached teacher"),
        "export": ("tools/export.py", "write an encoder for use elsewhere: safetensors, timm, ONNX, ..."),
        "zoo": ("tools/zoo.py", "models to load by name: list, pull, check, publish; and cut smaller ones out of them"),
        "dense": ("tools/dense.py", "write the features of every point of some samples"),
        "artefacts": (
            "tools/artefacts.py",
            "patch tokens of far too high norm: their share and places, before and after",
        ),
    },
    "measure": {
        "bench": ("tools/bench", "speed of a training step, of the loader, ..."),
    },
}
VERBS = {verb: entry for group in GROUPS.values() for verb, entry in group.items()}

EXAMPLES = """\
examples:
  foundation quickstart                           see everything work, without a download or an accelerator
  foundation data build digits data/digits        make shards from a data set
  foundation pretrain cifar10-dino-ibot-nano --dry-run
                                                  what a recipe would do: steps, parameters, memory
  foundation pretrain my.yaml optimizer.learning_rate=1e-3
                                                  train, with one setting changed
  foundation evaluate runs/my                     how good it is: a suite of tasks on one page
  foundation zoo list                             models by name, each of which any verb takes as MODEL
  foundation finetune runs/my --train TRAIN --test TEST --mode all
                                                  go on with labels

'foundation VERB --help' explains a verb. Exit codes: 0 done, 1 unforeseen (please report a traceback),
2 your mistake (the message says what to change), 3 too many bad samples, 4 numerics or collapse, 5 stalled,
75 saved, please start the same command again, 130 interrupted, 137 killed (kill -9, or out of memory), 141 the reader
of the output has gone, 143 ended by SIGTERM before there was anything to save."""

SETTINGS = "key=value"
"""What the help of a verb calls words that change settings of a recipe."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "webdataset",
    "numpy",
    "safetensors",
    "xformers",
    "submitit",
    "open_clip_torch",
)


EXTRA = "unrecognized arguments: "
"""How argparse begins a message about words that nothing takes."""
_UNKNOWN = re.compile(rf"^{EXTRA}(?:.*?\s)?(--?[^\s=]+)(=\S*)?(?:\s+([^\s-]\S*))?")
_SETTING = re.compile(r"--[a-z_]+(?:\.[a-z0-9_]+)+")
_REQUIRED = re.compile(r"^the following arguments are required: (.*)")
_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the words in one line, as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2.

        Raises:
            UserError: always.
        """
        unknown, required = _UNKNOWN.search(message), _REQUIRED.search(message)
        if unknown and _SETTING.fullmatch(unknown[1]):
            setting = unknown[1].removeprefix("--") + (unknown[2] or "=VALUE")
            raise UserError(f"settings are written without dashes: {setting} ({self.prog} --help)")
        takes_settings = any(action.metavar == SETTINGS for action in self._actions)
        if unknown and takes_settings:
            value = unknown[2].removeprefix("=") if unknown[2] else unknown[3]
            setting = synonyms.written(unknown[1].lstrip("-").replace("-", "_"), value)
            if setting:
                raise UserError(f"no option {unknown[1]}; it is a setting, written {setting} ({self.prog} --help)")
        if unknown:
            file = "--json" if unknown[1] == "--out" and "--json" in self._option_string_actions else ""
            closest = f"; here it is {file}" if file else _near(unknown[1], list(self._option_string_actions))
            message += closest
            if not closest and takes_settings:
                message += "; settings of the recipe are written as key=value, such as train.batch_size=64"
        elif message.startswith(EXTRA):
            words = [str(action.metavar or action.dest) for action in self._actions if not action.option_strings]
            message += f"; without an option it takes {', '.join(words) or 'nothing'}"
        if required:  # argparse counts words of which there may be none
            some = {action.metavar or action.dest for action in self._actions if action.nargs == "*"}
            names = required[1].split(", ")
            needed = [name for name in names if name not in some] or names
            message = f"the following arguments are required: {', '.join(needed)}"
        choice = _CHOICE.search(message)
        if choice:
            there = re.findall(r"[^\s',]+", choice[2])
            message = f"{choice[1]!r} is none of {', '.join(there)}{_near(choice[1], there)}"
        raise UserError(f"{message} ({self.prog} --help)")

    def add_subparsers(self, **settings: Any) -> Any:
        """As in argparse; each command answers for the words that follow it."""
        settings.setdefault("parser_class", Command)
        return super().add_subparsers(**settings)


class Command(Parser):
    """One of a verb's commands: says itself what it does not know, where argparse would hand it to the verb."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As in argparse, but that nothing may be left.

        Raises:
            UserError: for words that the command does not know.
        """
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(EXTRA + " ".join(rest))
        return found, []


def main(arguments: Sequence[str] | None = None, tell: Callable[[FoundationError], None] | None = None) -> int:
    """Run ``foundation`` with the given words (by default those of the command line) and return the exit code.

    Args:
        arguments: the words.
        tell: gets the error that ends the command, besides the line that is printed for a person.
    """
    if arguments is None:
        _begin()
    code = _guarded(list(sys.argv[1:] if arguments is None else arguments), tell=tell)
    return code if arguments is not None else _ended(code)


def main_script(file: str) -> int:
    """Run one script as if its verb had been called; for the last lines of the scripts themselves."""
    _begin()
    path = Path(file).resolve()
    code = _guarded(sys.argv[1:], path, f"python {os.path.relpath(path)}")
    return _ended(code)


def _ended(code: int) -> int:
    """The last thing that a process does: one that was asked to stop is deaf from here on and ends at once."""
    if code in (INTERRUPTED, RequeueRequest.exit_code):
        end_now(code)
    return code


def _begin() -> None:
    """What a process does first, before anything else is imported."""
    leave_working_directory()
    end_while_importing()
    warn_in_one_line()
    # Warnings of torch's C++ code come with a place in its source and mean nothing to a user, such as the one that
    # DistributedDataParallel looked for unused parameters and found none. TORCH_CPP_LOG_LEVEL=WARNING shows them.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def version_text() -> str:
    """Versions of this package, of Python and of the packages that matter when something fails."""
    lines = [f"foundation {VERSION}", f"python {'.'.join(map(str, sys.version_info[:3]))}"]
    lines += [f"{package} {installed(package) or '(not installed)'}" for package in _PACKAGES]
    return "\n".join(lines)


def _guarded(
    words: list[str],
    script: Path | None = None,
    program: str = "",
    tell: Callable[[FoundationError], None] | None = None,
) -> int:
    """Run, and turn the ends that a user may meet into a message and an exit code."""
    try:
        code = _run_script(script, program, words) if script else _dispatch(words)
        sys.stdout.flush()
        return code
    except FoundationError as error:
        if tell is not None:
            tell(error)
        together = isinstance(error, RequeueRequest) and error.__cause__ is None  # in all processes of a run
        if speaks() or not together:
            to_stderr(f"foundation: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        if speaks():
            to_stderr("foundation: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" {error.filename}" if error.filename else ", nor perhaps standard output"
        to_stderr(f"foundation: cannot write{where}: {error.strerror}. Make room (or make it writable) and try again")
        discard_output()
        return UserError.exit_code


def _dispatch(words: list[str]) -> int:
    if words and words[0] == "help":  # as git and others have it: help, help VERB
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(version_text())
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise UserError(f"no verb {verb!r}{_near(verb, list(VERBS))} (verbs: {', '.join(VERBS)}; foundation --help)")
    from foundation.paths import bundled

    folder, _, name = VERBS[verb][0].partition("/")
    script, program = bundled(folder) / name, f"foundation {verb}"
    if script.is_dir():  # one verb for a folder of scripts: the next word names the script
        stems = sorted(file.stem for file in script.glob("*.py") if not file.stem.startswith("_"))
        if not rest or rest[0] in ("-h", "--help"):
            width = max(map(len, stems)) + 2
            lines = [f"  {stem:<{width}}{_purpose(script / f'{stem}.py')}" for stem in stems]
            print("\n".join([f"usage: {program} NAME ...", "", VERBS[verb][1], "", *lines]))
            print(f"\n'{program} NAME --help' explains one.")
            return 0
        if rest[0] not in stems:
            raise UserError(f"no {verb} called {rest[0]!r}{_near(rest[0], stems)} (there are: {', '.join(stems)})")
        script, program, rest = script / f"{rest[0]}.py", f"{program} {rest[0]}", rest[1:]
    return _run_script(script, program, rest)


def _purpose(script: Path) -> str:
    """The first line of a script's text, behind its name; nothing is imported."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rpartition("``: ")[2].rstrip(".")


def _run_script(script: Path, program: str, words: list[str]) -> int:
    module = _load(script)
    parser = Parser(
        prog=program,
        description=module.DESCRIPTION,
        epilog=getattr(module, "EXAMPLES", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    try:  # lets options stand before, between and after `key=value` words
        arguments = parser.parse_intermixed_args(words)
    except TypeError:  # argparse cannot do that for scripts with sub-commands
        arguments = parser.parse_args(words)
    keep_freed_memory()
    return int(module.run(arguments) or 0)


def _load(script: Path) -> ModuleType:
    """Import a script by its path, under a name that no package can have."""
    if not script.is_file():
        raise FoundationError(f"the installation is incomplete: no {script}")
    spec = importlib.util.spec_from_file_location(f"_foundation_script_{script.stem}", script)
    assert spec is not None and spec.loader is not None, script
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up by name
    spec.loader.exec_module(module)
    return module


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    lines = [
        "usage: foundation [--help | --version] VERB ...",
        "",
        "Self-supervised pretraining, from shards to a report.",
    ]
    for group, verbs in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {verb:<{width}}{text}" for verb, (_, text) in verbs.items())]
    return "\n".join([*lines, "", EXAMPLES])


def _near(word: str, words: list[str]) -> str:
    from foundation.plugins import near

    return near(word, words)


if __name__ == "__main__":
    sys.exit(main())
