"""``foundation finetune``: train a pretrained encoder further on labelled shards."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundation.finetuning.predictor import Predictor

DESCRIPTION = """\
Train a pretrained encoder and a linear head on labelled shards, and score them on others. What is trained: the head
alone, the last blocks too, all, or low-rank updates (LoRA). A share of the training samples is kept back: by it the
best moment is chosen, and training ends when nothing gets better any more. The test samples are looked at once, at the
end. The run lives in one folder, as those of 'foundation pretrain'; the same command again resumes it."""

EXAMPLES = """\
examples:
  foundation finetune runs/mine --train 'data/train-*.tar' --test 'data/test-*.tar' --mode all
  foundation finetune timm:vit_tiny_patch16_224 --train 'data/train-*.tar' --mode lora --epochs 10 --run runs/tuned
  foundation finetune runs/mine --train 'data/train-*.tar' --task regression --label age
  foundation finetune runs/mine --train 'data/train-*.tar' optimizer.clip=1.0
                                                      with a setting of the recipe that this command writes"""

FILE = "finetune.yaml"
"""The recipe that is run, in the run folder."""
_TASKS, _TOKENS = ("classification", "labels", "regression"), ("cls", "patches", "both")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.probe_options import MODEL_HELP
    from foundation.ranges import Count, Positive, PositiveShare, Processes, Seed, ShareBelowOne, Workers, argument

    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe to change")
    parser.add_argument("--train", nargs="+", required=True, help="labelled shards to train on")
    parser.add_argument("--test", nargs="+", help="labelled shards to score at the end")
    parser.add_argument("--run", type=Path, help="run folder (default: runs/finetune-MODE-MODEL)")
    parser.add_argument("--mode", default="head", help="head, last:N, all or lora (default: %(default)s)")
    parser.add_argument(
        "--task", choices=_TASKS, default="classification", help="'labels': several of a sample (default: %(default)s)"
    )
    parser.add_argument(
        "--label", nargs="+", default=["label"], metavar="FIELD",
        help="field of each sample's json that has the label; of a regression several (default: cls, else 'label')",
    )  # fmt: skip
    parser.add_argument("--tokens", choices=_TOKENS, default="cls", help="what the head sees (default: cls)")
    parser.add_argument("--branch", help="which encoder of a run (default: the one it was measured by)")
    parser.add_argument("--epochs", type=argument(Positive), default=30.0, help="at most so many (default: 30)")
    parser.add_argument("--batch-size", type=argument(Count), default=64, help="samples per step (default: 64)")
    parser.add_argument("--learning-rate", type=argument(Positive), help="highest (default: by the mode)")
    parser.add_argument("--layer-decay", type=argument(PositiveShare), help="per block (default: 0.75 for all, else 1)")
    parser.add_argument("--weight-decay", type=argument(ShareBelowOne), default=0.05, help="(default: 0.05)")
    parser.add_argument("--label-smoothing", type=argument(ShareBelowOne), default=0.0, help="(default: 0)")
    parser.add_argument(
        "--class-weights", choices=("none", "balanced"), default="none", help="balanced: all classes count alike"
    )
    parser.add_argument(
        "--validation", type=argument(ShareBelowOne), default=0.1,
        help="share of the training samples that is kept back to choose by (default: 0.1)",
    )  # fmt: skip
    parser.add_argument("--group", help="regular expression over keys: samples it gives one text stay on one side")
    parser.add_argument(
        "--patience", type=argument(Count), default=10, help="epochs without a better one before the end (default: 10)"
    )
    options.add_pieces(parser)
    parser.add_argument("--rank", type=argument(Count), default=8, help="of LoRA (default: 8)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="(default: 0)")
    parser.add_argument("--workers", type=argument(Workers), help="loader processes")
    parser.add_argument("--processes", type=argument(Processes), default=1, help="that share the batch (default: 1)")
    parser.add_argument("--fresh", action="store_true", help="start anew; refuses a folder that holds a run")
    parser.add_argument("--overwrite", action="store_true", help="with --fresh: remove the run that is in the folder")
    parser.add_argument("--dry-run", action="store_true", help="print steps, parameters and memory, train nothing")


def run(arguments: argparse.Namespace) -> int:
    from foundation import cli, config
    from foundation.data.extras.target import Config
    from foundation.files import replace_file
    from foundation.finetuning.predictor import predictor
    from foundation.finetuning.recipe import Options, recipe_of
    from foundation.finetuning.survey import check_split, survey
    from foundation.modalities.parts import in_pieces
    from foundation.voice import to_stdout
    from foundation.zoo.load import load_encoder

    options = Options(
        mode=arguments.mode, task=arguments.task, fields=tuple(arguments.label), tokens=arguments.tokens,
        epochs=arguments.epochs, batch_size=arguments.batch_size, learning_rate=arguments.learning_rate,
        layer_decay=arguments.layer_decay, weight_decay=arguments.weight_decay,
        label_smoothing=arguments.label_smoothing, class_weights=arguments.class_weights,
        kept_back=arguments.validation, group=arguments.group, patience=arguments.patience, rank=arguments.rank,
        seed=arguments.seed, workers=arguments.workers,
    )  # fmt: skip
    loaded = load_encoder(arguments.model, branch=arguments.branch)
    found = survey(arguments.train, options.task, options.fields)
    folder = arguments.run or Path("runs") / _name(arguments.model, arguments.mode)
    recipe = recipe_of(
        arguments.model, arguments.branch, loaded, tuple(arguments.train), found, options, folder.resolve().name
    )
    (target,) = (one for one in recipe.data.extras.values() if isinstance(one, Config))
    if arguments.pieces > 1:
        in_pieces(*loaded.own, arguments.pieces)
    check_split(arguments.train, target.build("target"))
    del loaded
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    replace_file(file, config.dump(recipe).encode())
    flags = ["--processes", str(arguments.processes)]
    flags += [f"--{name.replace('_', '-')}" for name in ("fresh", "overwrite", "dry_run") if vars(arguments)[name]]
    code = cli.main(["pretrain", str(file), *arguments.overrides, "--run", str(folder), *flags])
    if code or arguments.dry_run:
        return code
    if arguments.test:
        _score(predictor(folder, "cpu"), folder, arguments.test, arguments.workers or 0, arguments.pieces)
    to_stdout(f"the fine-tuned model: {folder / 'export' / 'best.safetensors'} (heads beside it)")
    return 0


def _score(model: Predictor, folder: Path, test: list[str], workers: int, pieces: int) -> None:
    """Score the test shards once, print it, and write ``finetune.json``."""
    from foundation.files import replace_file
    from foundation.finetuning.scores import TESTED, Tested, interval_of
    from foundation.probes.supervised import scores
    from foundation.voice import plural, to_stdout

    answers, target = model.score(test, workers=workers, pieces=pieces)
    found = scores(answers, target)
    interval_of_all = interval_of(found, answers, target)
    # Some figures of few samples are not defined, such as R2 of equal numbers; JSON has no NaN.
    figures = {name: value if math.isfinite(value) else None for name, value in found.figures.items()}
    content: Tested = {
        "metric": found.metric, "value": figures[found.metric], "interval": interval_of_all, "n": found.n,
        "figures": figures, "test": test, "task": target.config.task, "classes": list(model.classes),
        "pieces": pieces, "unlabelled": answers.unlabelled, "unknown": answers.unknown,
        "skipped": dict(answers.skipped),
    }  # fmt: skip
    replace_file(folder / TESTED, json.dumps(content, indent=1, allow_nan=False).encode())
    said = ", ".join(f"{name} {value:.4g}" for name, value in found.figures.items() if name != "loss")
    interval = (
        f" (95 % of {found.metric}: {interval_of_all[0]:.3f} to {interval_of_all[1]:.3f})" if interval_of_all else ""
    )
    to_stdout(f"{plural(found.n, 'test sample')}: {said}{interval}")
    if answers.unknown:
        to_stdout(f"warning: {plural(answers.unknown, 'test sample')} of classes without training samples: all wrong")
    for count, what in ((answers.unlabelled, "without one label"), *_counted(answers.skipped)):
        if count:
            to_stdout(f"warning: {plural(count, 'test sample')} left out: {what}")


def _counted(skipped: Any) -> list[tuple[int, str]]:
    return [(count, reason) for reason, count in skipped.items()]


def _name(model: str, mode: str) -> str:
    import re

    stem = Path(model).stem if model.endswith(".safetensors") else Path(model).name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"finetune-{mode}-{stem}").strip("-.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
