"""What ``foundation evaluate`` and ``foundation compare`` share: from words of a command line to an evaluation.

Imported for ``--help``, so nothing heavy stands at the top.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.errors import UserError
from foundation.files import require_new
from foundation.redact import redact

if TYPE_CHECKING:
    from foundation.tasks.evaluation import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    from foundation import probe_options as options

    options.add_arguments(parser, result=False)
    parser.add_argument("--suite", metavar="NAME", help="image, audio, points, video, imu (default: of the modality)")
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="only these tasks (default: all of the suite)"
    )
    parser.add_argument(
        "--out-of-distribution", "--ood", dest="outside", nargs="+", default=[], metavar="SHARDS",
        help="shards of another distribution, which need no labels",
    )  # fmt: skip
    options.add_tokens(parser)
    options.add_pieces(parser, cover=True)
    parser.add_argument("--group", metavar="RULE", help=options.GROUP_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier command wrote to --out")


def evaluated(
    arguments: argparse.Namespace,
    model: str,
    settings: Sequence[str] = (),
    out: Path | None = None,
    *,
    baselines: bool = False,
    keep: bool = True,
    wanted: str | None = None,
) -> tuple[Evaluation, str, Path]:
    """Evaluate a model.

    Args:
        arguments: of :func:`add_arguments`; ``TASK.key=value`` may stand among its tasks.
        model: what :func:`foundation.zoo.load.load_encoder` takes.
        settings: ``TASK.key=value``.
        out: folder of the results; None: one beside the model.
        baselines: score them too.
        keep: the results will be written.
        wanted: modality that the model must have; None: any.

    Returns:
        The evaluation, the suite's name and the folder.

    Raises:
        UserError: a word that means nothing, a model that cannot be loaded, shards that cannot be used, a model without
            a folder and no ``out``.
    """
    from foundation import probe_command as command
    from foundation.parallel.threads import default_workers, leave_one_processor
    from foundation.probes.beforehand import check_group
    from foundation.probes.digests import plain
    from foundation.probes.road import find_shards
    from foundation.tasks import suites
    from foundation.tasks.base import Settings, Subject
    from foundation.tasks.evaluation import evaluate
    from foundation.tasks.results import RESULT

    tasks = [word for word in arguments.tasks if "=" not in word]
    overrides = [*settings, *(word for word in arguments.tasks if "=" in word)]
    # Mistakes in words cost no loading of a model.
    suites.tasks_of(arguments.suite or "image", tasks, overrides)
    if out is not None:
        require_new(out / RESULT, arguments.overwrite, "choose another place by --out FOLDER")
    job = command.prepare(argparse.Namespace(**{**vars(arguments), "model": model}), needs_test=False, labels=False)
    if arguments.outside:
        find_shards(arguments.outside)
    modality, _ = job.loaded.own
    if wanted not in (None, modality):
        raise UserError(
            f"{redact(model)} is a model of {modality}, the first is one of {wanted}: they share no samples"
        )
    if arguments.group is not None:
        check_group(job.train, arguments.group, arguments.limit)
    suite = arguments.suite or suites.suite_of(modality)
    chosen = suites.tasks_of(suite, tasks, overrides)
    folder = out
    if folder is None and keep:
        if job.loaded.folder is None:
            raise UserError("this model has no folder of its own: give --out FOLDER")
        stable = [
            job.loaded.sha256, arguments.tokens, arguments.pieces, arguments.limit, arguments.seed, arguments.group,
            plain(job.evaluation), list(map(redact, (*job.train, "", *job.test, "", *arguments.outside))),
            {name: plain(task) for name, task in chosen.items()},
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(stable).encode()).hexdigest()[:8]
        folder = job.loaded.folder / "evaluations" / f"{suite}-{digest}"
    if folder is not None and out is None:  # the same evaluation of the same weights is made anew
        require_new(folder / RESULT, True, "choose another place by --out FOLDER")
    if str(job.device) == "cpu":
        leave_one_processor()
    how = Settings(
        device=job.device,
        autocast=arguments.bfloat16,
        batch_size=arguments.batch_size,
        workers=default_workers() if arguments.workers is None else arguments.workers,
        limit=arguments.limit,
        seed=arguments.seed,
        tokens=arguments.tokens,
        group=arguments.group,
        cached=not arguments.no_cache,
        pieces=arguments.pieces,
    )
    subject = Subject(job.loaded, job.evaluation, job.train, job.test, how, outside=tuple(arguments.outside))
    found = evaluate(subject, chosen, baselines=baselines)
    warnings = tuple(dict.fromkeys((*job.told, *found.warnings)))
    return dataclasses.replace(found, warnings=warnings), suite, folder or Path()


def listing() -> str:
    """All suites with their tasks, and tasks of no suite, as lines."""
    from foundation.tasks import suites

    lines = ["suites:"]
    lines += [f"  {name:<7} {' '.join(str(entry['name']) for entry in own)}" for name, own in suites.SUITES.items()]
    return "\n".join([*lines, "tasks:", *(f"  {name:<15} {suites.about(name)}" for name in suites.names())])
