"""``foundation embed``: the features of files or shards, as arrays for use elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.data.tally import Tally
    from foundation.probes.features import FeatureSet, Tokens
    from foundation.zoo.load import LoadedEncoder

DESCRIPTION = """\
Write one feature vector for each file, or for each sample of shards, to a NumPy archive:
  features  float32 [n, width]
  keys      [n] paths of the files, or keys of the samples
  labels    int64 [n] class numbers, -1 where a sample has none
  names     [n] labels that are names; only where there are some
  about     JSON: model, preprocessing, what was left out
Read it with numpy.load("features.npz")["features"]."""
EXAMPLES = """\
examples:
  foundation embed runs/mine photos features.npz                  all pictures of a folder
  foundation embed runs/mine a.jpg b.jpg features.npz             some files
  foundation embed runs/mine "data/test-*.tar" features.npz       shards
  foundation embed timm:resnet18 photos features.npz              a published encoder"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.plugins import add_option
    from foundation.ranges import Rate, Side, Workers, argument

    add_option(parser)
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    parser.add_argument("sources", nargs="+", metavar="FILES|SHARDS", help="files, folders of files, or shards")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write, NAME.npz")
    parser.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    options.add_tokens(parser)
    options.add_pieces(parser)
    parser.add_argument("--size", type=argument(Side), metavar="PIXELS", help="side of the view; default: the model's")
    parser.add_argument(
        "--rate", type=argument(Rate), help="samples, readings or frames per second of files that do not say it"
    )
    parser.add_argument("--batch-size", type=argument(Side), default=64, help="samples per pass (default: %(default)s)")
    parser.add_argument(
        "--workers", type=argument(Workers), default=0, help="processes that read shards (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses

    from foundation.data.tally import Tally
    from foundation.errors import UserError
    from foundation.files import require_new
    from foundation.modalities.parts import evaluation_config
    from foundation.probe_command import usable_device
    from foundation.probes.beforehand import pieces_of, unseen
    from foundation.probes.inputs import features_of_files, find_files, pieces_of_files
    from foundation.probes.road import features_of_shards
    from foundation.voice import plural, to_stderr, to_stdout
    from foundation.zoo.load import load_encoder
    from foundation.zoo.preprocess import Preprocess

    out: Path = arguments.out
    if out.suffix != ".npz":
        raise UserError(f"{out}: the last word names the file to write, and it must end with .npz")
    require_new(out, arguments.overwrite)
    device = usable_device(arguments.device)
    loaded = load_encoder(arguments.model, device, arguments.branch)
    evaluation = evaluation_config(loaded.modality, loaded.evaluation, arguments.size)
    loaded = dataclasses.replace(loaded, evaluation=evaluation)
    preprocess, left_out = Preprocess(loaded.modality, evaluation), Tally()
    files = find_files(arguments.sources, preprocess, left_out)
    whole = (
        pieces_of(arguments.sources, loaded.modality, evaluation)
        if files is None
        else pieces_of_files(files, preprocess, arguments.rate)
    )
    if note := unseen(whole, arguments.pieces):
        to_stderr(f"warning: {note}")
    if files is not None:
        found = features_of_files(loaded, files, preprocess, arguments.rate, arguments.batch_size, arguments.pieces)
    else:
        found = features_of_shards(
            loaded.encoder,
            arguments.sources,
            modality=loaded.modality,
            evaluation=evaluation,
            device=device,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            what="embed",
            pieces=arguments.pieces,
        )
    write(out, found, loaded, arguments, left_out)
    width = sum(part.shape[1] for part in found.tokens(arguments.tokens))
    to_stdout(f"wrote {out}: {plural(len(found), 'vector')} of {width:,} numbers, by {loaded.description}")
    report(found, left_out, arguments.tokens)
    return 0


def write(out: Path, found: FeatureSet, loaded: LoadedEncoder, arguments: argparse.Namespace, left_out: Tally) -> None:
    """Write the archive, whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    import json

    import numpy as np
    import torch

    from foundation import __version__
    from foundation.errors import UserError
    from foundation.files import sync_file, temporary_name
    from foundation.probes.digests import plain

    about = {
        "model": loaded.description,
        "model_sha256": loaded.sha256,
        "modality": loaded.modality,
        "tokens": arguments.tokens,
        "evaluation": plain(loaded.evaluation),
        "left_out": {**left_out.counts, **found.skipped},
        "foundation_version": __version__,
    }
    arrays = {
        "features": torch.cat(found.tokens(arguments.tokens), dim=1).numpy(),
        "keys": np.array(found.keys),
        "labels": found.labels.numpy(),
        "about": np.array(json.dumps(about, ensure_ascii=False)),
    }
    if found.names:
        texts = ["" if name is None else name if isinstance(name, str) else json.dumps(name) for name in found.names]
        arrays["names"] = np.array(texts)
    temporary = temporary_name(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            sync_file(temporary)
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error


def report(found: FeatureSet, left_out: Tally, tokens: Tokens) -> None:
    """Say on standard error what was left out, and why, and whether vectors are of no use."""
    from foundation.voice import to_stderr

    bad = sum(~part.isfinite().all(dim=1) for part in found.tokens(tokens)).count_nonzero()
    if bad:
        to_stderr(f"warning: {int(bad):,} of {len(found):,} vectors hold NaN or infinity")
    reasons = {**left_out.counts, **found.skipped}
    if not reasons:
        return
    to_stderr("left out: " + ", ".join(f"{number:,} {reason}" for reason, number in reasons.items()))
    for line in (*found.messages[:3], *(names[0] for names in left_out.first.values())):
        to_stderr(f"  {line}")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
