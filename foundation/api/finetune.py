"""``foundation.finetune``: the verb of the command line, and what came of it as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation import schema
from foundation.api.command import command, settings
from foundation.api.run import Run, run_of
from foundation.finetuning.predictor import Predictor, predictor
from foundation.finetuning.scores import TESTED, Tested


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model.

    Attributes:
        run: how it was trained.
        scores: of the test shards, see :class:`foundation.finetuning.scores.Tested`; None where there were none.
    """

    run: Run
    scores: Tested | None

    def load(self, device: str = "cpu") -> Predictor:
        """Encoder and head: ``predict(files)``; ``.model`` is the encoder alone."""
        return predictor(self.run.folder, device)


def finetune(
    model: str | Path,
    *,
    train: str | Sequence[str],
    test: str | Sequence[str] | None,
    out: str | Path,
    mode: str,
    task: str,
    label: str | Sequence[str],
    set: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Tuned:
    """See :func:`foundation.finetune`."""
    folder = Path(out)
    words = ["--train", *_several(train), "--label", *_several(label), "--mode", mode, "--task", task]
    words += ["--test", *_several(test)] if test is not None else []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [] if value in (False, None) else [flag, str(value)]
    command("finetune", str(model), *settings(set, {}), *words, "--run", str(folder))
    return Tuned(run_of(folder), schema.read_json(Tested, folder / TESTED) if test is not None else None)


def _several(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else [str(one) for one in given]
