"""What ``foundation evaluate`` and ``foundation compare`` share: from words of a command line to an evaluation."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from foundation import probe_command as command
from foundation.data.expand import expand
from foundation.errors import UserError
from foundation.files import require_writable
from foundation.parallel.threads import default_workers, leave_one_processor
from foundation.probes.digests import plain
from foundation.redact import redact
from foundation.tasks import suites
from foundation.tasks.base import Settings, Subject
from foundation.tasks.evaluation import Evaluation, evaluate
from foundation.tasks.results import RESULT


def evaluated(
    arguments: argparse.Namespace,
    model: str,
    tasks: Sequence[str],
    overrides: Sequence[str],
    out: Path | None,
    *,
    keep: bool = True,
) -> tuple[Evaluation, str, Path]:
    """Evaluate a model.

    Args:
        arguments: of ``tools/evaluate.py``'s ``add_shared``.
        model: what :func:`foundation.zoo.load.load_encoder` takes.
        tasks: names; empty: all of the suite.
        overrides: ``TASK.key=value``.
        out: folder of the results; None: one beside the model.
        keep: the results will be written.

    Returns:
        The evaluation, the suite's name and the folder.

    Raises:
        UserError: a word that means nothing, a model that cannot be loaded, shards that cannot be used, a model without
            a folder and no ``out``.
    """
    for name in [*([arguments.suite] if arguments.suite else suites.SUITES)]:  # before the model is loaded
        chosen = suites.tasks_of(name, tasks, overrides)
    job = command.prepare(argparse.Namespace(**{**vars(arguments), "model": model}), needs_test=False, labels=False)
    expand(list(arguments.outside))
    modality, _ = job.loaded.own
    suite = arguments.suite or suites.suite_of(modality)
    chosen = suites.tasks_of(suite, tasks, overrides)
    folder = out
    if folder is None and keep:
        if job.loaded.folder is None:
            raise UserError("this model has no folder of its own: give --out FOLDER")
        stable = [arguments.tokens, arguments.limit, arguments.seed, arguments.group, plain(job.evaluation),
                  list(map(redact, (*job.train, "", *job.test, "", *arguments.outside))),
                  {name: plain(task) for name, task in chosen.items()}]  # fmt: skip
        digest = hashlib.sha256(json.dumps(stable).encode()).hexdigest()[:8]
        folder = job.loaded.folder / "evaluations" / f"{suite}-{digest}"
    if folder is not None:
        require_writable(folder / RESULT, "choose another place by --out FOLDER")
    if str(job.device) == "cpu":
        leave_one_processor()
    settings = Settings(
        device=job.device,
        autocast=arguments.bfloat16,
        batch_size=arguments.batch_size,
        workers=default_workers() if arguments.workers is None else arguments.workers,
        limit=arguments.limit,
        seed=arguments.seed,
        tokens=arguments.tokens,
        group=arguments.group,
        cached=not arguments.no_cache,
    )
    subject = Subject(job.loaded, job.evaluation, job.train, job.test, settings, outside=tuple(arguments.outside))
    found = evaluate(subject, chosen, baselines=arguments.baselines)
    warnings = tuple(dict.fromkeys((*job.told, *found.warnings)))
    return dataclasses.replace(found, warnings=warnings), suite, folder or Path()


def listing() -> str:
    """All suites with their tasks, and tasks of no suite, as lines."""
    lines = [f"{name}: {' '.join(str(entry['name']) for entry in entries)}" for name, entries in suites.SUITES.items()]
    named = {entry["name"] for entries in suites.SUITES.values() for entry in entries}
    more = [name for name in suites.names() if name not in named]
    return "\n".join([*lines, *([f"in no suite: {' '.join(more)}"] if more else [])])
