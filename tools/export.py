"""``foundation export``: encoders for use elsewhere: safetensors with a card, timm, ONNX and others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Write an encoder for use elsewhere. Of a run, without --to: the student's and the teacher's encoder as safetensors, each
with a card (JSON). With --to: one encoder in another form, checked against it before it is there:
  timm           a folder for timm.create_model("local-dir:FOLDER", pretrained=True)
  torch-export   one file that torch runs without this package (.pt2)
  onnx           one file for onnxruntime and others (.onnx)
  transformers   a folder for AutoModel.from_pretrained("FOLDER") of Hugging Face transformers
  safetensors    weights and card, as without --to"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option
    from foundation.ranges import Rate, argument

    add_option(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="run folder or checkpoint folder; with --to also whatever else names a model: a name of 'foundation zoo "
        "list', an exported .safetensors, weights that others published, timm:NAME, open_clip:NAME,pretrained=TAG",
    )
    parser.add_argument("--to", metavar="TARGET", help="form: timm, torch-export, onnx, transformers or safetensors")
    parser.add_argument(
        "--out", type=Path, help="file or folder to write with --to; without it folder for the exports (default: "
        "RUN/export)",
    )  # fmt: skip
    parser.add_argument(
        "--branch", help="with --to: which of a run's encoders (default: the one that it is measured by)"
    )
    parser.add_argument(
        "--samples", nargs="+", default=[], metavar="FILE",
        help="with --to: files that the check is made with (default: random numbers)",
    )  # fmt: skip
    parser.add_argument(
        "--rate",
        type=argument(Rate),
        help="with --samples: samples, readings or frames per second of files that do not say it",
    )
    parser.add_argument("--overwrite", action="store_true", help="with --to: replace an earlier export")


def run(arguments: argparse.Namespace) -> int:
    from foundation.checkpoints import checkpoint
    from foundation.errors import UserError
    from foundation.voice import to_stdout
    from foundation.zoo.export import export_checkpoint

    folder, to = Path(arguments.model), arguments.to
    is_run = (folder / checkpoint.MANIFEST).exists() or (folder / "checkpoints").is_dir()
    if to is not None or not is_run:
        return _target(arguments, to or "safetensors")
    if arguments.branch or arguments.samples or arguments.overwrite:
        raise UserError("--branch, --samples and --overwrite are for one encoder: add --to safetensors and --out FILE")
    if (folder / checkpoint.MANIFEST).exists():
        source, out = folder, arguments.out or folder.parent.parent / "export"
    else:
        newest, skipped = checkpoint.newest(folder / "checkpoints")
        for path, reason in skipped:
            to_stdout(f"{path.name} is not used: {reason}")
        if newest is None:
            raise UserError(f"no usable checkpoint in {folder}: give a run folder or a checkpoint folder")
        source, out = newest, arguments.out or folder / "export"
    for path in export_checkpoint(source, out):
        to_stdout(f"wrote {path} and {path.with_suffix('.json').name}")
    return 0


def _target(arguments: argparse.Namespace, to: str) -> int:
    """Write one encoder in one form."""
    from foundation.errors import UserError
    from foundation.voice import to_stdout
    from foundation.zoo.load import load_encoder
    from foundation.zoo.targets import export
    from foundation.zoo.targets.base import find

    target = find(to)
    if arguments.out is None:
        what = f"FILE{target.ending}" if target.ending else "FOLDER"
        if arguments.to is None:
            load_encoder(arguments.model, branch=arguments.branch)  # what is no model at all says so first
        raise UserError(f"{arguments.model} as {to}: say where to write it, --out {what}")
    written = export(
        arguments.model,
        to=to,
        out=arguments.out,
        samples=arguments.samples,
        rate=arguments.rate,
        branch=arguments.branch,
        overwrite=arguments.overwrite,
    )
    to_stdout(f"wrote {written.path}" + "".join(f"; {note}" for note in written.notes))
    to_stdout(written.checked)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
