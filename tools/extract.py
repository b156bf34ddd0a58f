"""``foundation extract``: a model's features, written into shards beside the samples."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundation.probes.feature_shards import Source
    from foundation.zoo.load import LoadedEncoder

DESCRIPTION = """\
Run a model once over shards and write new shards that have its features beside each sample, as a member that the
branch 'cached' of a recipe reads: training with them gives what training with the model would, without its cost.

The model sees the evaluation view of each sample, as probes do; with --views N, N random views; with --recipe and
--view, the view that this recipe makes: where that view is not random, its losses are those of the live teacher.
The index of the new shards says which weights made the features (SHA-256), and of what. Shards that are finished stay
when the command is cut short: the same command goes on behind them."""
EXAMPLES = """\
examples:
  foundation extract runs/video "data/pairs/train-*.tar" data/taught
  foundation extract runs/video "data/pairs/train-*.tar" data/taught --leave-out mp4      without the videos
  foundation extract timm:vit_base_patch16_224 "data/pairs/train-*.tar" data/taught --frames mean \\
      --recipe comodo --view video.global   frame by frame

in the recipe:
  data:
    shards: ["data/taught/train-*.tar"]
    extras: {teacher: {kind: array, member: teacher.npy, shape: [768]}}
  branches:
    teacher: {name: cached, extra: teacher, width: 768, weights: runs/video}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.plugins import add_option
    from foundation.ranges import Seed, Side, Workers, argument

    add_option(parser)
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="paths, globs or brace patterns of shards")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the new shards")
    parser.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    parser.add_argument(
        "--member", default="teacher.npy", metavar="NAME.npy", help="name of the new member (default: %(default)s)"
    )
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="MEMBER", help="members that the new shards do not have, as mp4"
    )
    parser.add_argument(
        "--views",
        type=argument(Side),
        metavar="N",
        help="features of N random views of each sample, as probes draw them",
    )
    parser.add_argument(
        "--recipe", help="name, file or run folder: the model sees what this recipe shows it; needs --view"
    )
    parser.add_argument("--view", help="view of that recipe, such as video.global")
    parser.add_argument(
        "--frames", choices=["mean"], help="a model of images sees clips frame by frame; needs --recipe"
    )
    parser.add_argument(
        "--frames-every", type=argument(Side), default=1, metavar="N", help="with --frames: every N-th frame"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of random views (default: %(default)s)")
    parser.add_argument("--batch-size", type=argument(Side), default=64, help="samples per pass (default: %(default)s)")
    parser.add_argument(
        "--workers", type=argument(Workers), default=0, help="processes that read shards (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace splits that OUT holds")


def run(arguments: argparse.Namespace) -> int:
    from foundation.branches.frozen import digest_of
    from foundation.errors import UserError
    from foundation.printable import printable
    from foundation.probe_command import usable_device
    from foundation.probes.feature_shards import write_features
    from foundation.voice import plural, to_stderr, to_stdout
    from foundation.zoo.load import load_encoder

    a = arguments
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*\.npy", a.member):
        raise UserError(
            f"--member {printable(a.member)}: the features are an array, so its name must end with .npy, and begin with "
            "a small letter or digit, with none but these, '_', '-' and single dots between, as teacher.npy"
        )
    if (a.recipe is None) != (a.view is None):
        raise UserError("--recipe and --view go together: which view of which recipe the model sees")
    if a.recipe is not None and a.views is not None:
        raise UserError("--views and --recipe are two ways to say what the model sees: give one")
    if a.frames is not None and a.recipe is None:
        raise UserError("--frames needs --recipe and --view, which say what clips are cut out")
    device = usable_device(a.device)
    loaded = load_encoder(a.model, device, a.branch)
    facts = {"model": loaded.description, "sha256": digest_of(loaded).hex(), "tokens": "cls"}
    source_of = (_of_recipe if a.recipe is not None else _of_probes)(a, loaded, facts, device)
    written = write_features(
        a.shards,
        a.out,
        source_of,
        member=a.member,
        leave_out=a.leave_out,
        batch_size=a.batch_size,
        workers=a.workers,
        overwrite=a.overwrite,
    )
    shape = "[" + ", ".join(map(str, written.shape)) + "]"
    kept = f" ({written.kept} of them kept from before)" if written.kept else ""
    to_stdout(
        f"wrote {a.out}: {plural(written.shards, 'shard')}{kept}, {plural(written.samples, 'sample')} with "
        f"{a.member} {shape}, by {loaded.description}"
    )
    if written.skipped:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in written.skipped.items())
        to_stderr(f"left out, and in no new shard: {reasons}")
        for line in written.messages:
            to_stderr(f"  {printable(line)}")
    return 0


def _of_probes(
    arguments: argparse.Namespace, loaded: LoadedEncoder, facts: dict[str, Any], device: Any
) -> Callable[[int], Source]:
    """What probes see: the evaluation view, or so many random ones."""
    import torch
    from torch import nn

    from foundation.modalities.parts import decoder, views_for_probe
    from foundation.probes.digests import plain
    from foundation.probes.feature_shards import Source, TrainingView

    evaluation, number = loaded.evaluation, arguments.views
    facts |= {"fed": plain(evaluation), "views": number, "seed": None if number is None else arguments.seed}
    decode = decoder(loaded.modality, evaluation)
    if number is None:
        one = evaluation.build()
        return lambda first: Source(
            decode=decode, views=one, fit=nn.Identity(), encoder=loaded.encoder, device=device, facts=facts
        )
    views = views_for_probe(loaded.modality, evaluation).build()
    (role,) = (name for name, (count, _) in views.describe().items() if count)

    def source_of(first: int) -> Source:
        each = [TrainingView(views, role, 1, arguments.seed, first, epoch) for epoch in range(number)]

        def several(samples: Any) -> torch.Tensor:
            return torch.stack([view(samples) for view in each], dim=1)

        return Source(
            decode=decode, views=several, fit=nn.Identity(), encoder=loaded.encoder, several=True, device=device,
            facts=facts,
        )  # fmt: skip

    return source_of


def _of_recipe(
    arguments: argparse.Namespace, loaded: LoadedEncoder, facts: dict[str, Any], device: Any
) -> Callable[[int], Source]:
    """What a frozen branch of a recipe would see of one of its views."""
    from foundation import config, paths
    from foundation.branches import frozen
    from foundation.data.shards import open_shards
    from foundation.encoders.frame_by_frame import FrameByFrame
    from foundation.errors import UserError
    from foundation.modalities.shapes import view_shapes
    from foundation.plugins import near
    from foundation.probes.digests import plain
    from foundation.probes.feature_shards import Source, TrainingView, first_sample
    from foundation.run.recipe import Recipe
    from foundation.voice import to_stderr

    run = Path(arguments.recipe) / "recipe.yaml"
    recipe = config.load(Recipe, run if run.is_file() else paths.recipe(arguments.recipe), [])
    shapes = view_shapes(recipe.views)
    if arguments.view not in shapes:
        there = ", ".join(shapes)
        raise UserError(
            f"--view {arguments.view}: {recipe.name} has no such view{near(arguments.view, shapes)}; it has: {there}"
        )
    shape = shapes[arguments.view]
    how = frozen.Config(weights=arguments.model, frames=arguments.frames, frames_every=arguments.frames_every)
    try:
        fit = frozen.fit_of(loaded, shape, how).to(device)
    except UserError as error:
        raise UserError(f"{loaded.description} cannot see view {arguments.view!r} of {recipe.name}: {error}") from None
    encoder = loaded.encoder if arguments.frames is None else FrameByFrame(loaded.encoder).eval()
    facts |= {
        "fed": plain(recipe.views), "view": arguments.view, "views": shape.count if shape.count > 1 else None,
        "seed": recipe.seed, "frames": arguments.frames, "frames_every": arguments.frames_every,
    }  # fmt: skip
    views, decode = recipe.views.build(), recipe.decode.build()
    looked_at = TrainingView(views, arguments.view, shape.count, recipe.seed)
    sample = first_sample(open_shards(arguments.shards), decode)
    if sample is not None and looked_at.is_random(sample):
        to_stderr(
            f"view {arguments.view!r} of {recipe.name} is random: features are those of its first epoch, and training "
            "with them equals training with the live teacher in that epoch only"
        )

    def source_of(first: int) -> Source:
        return Source(
            decode=decode, views=TrainingView(views, arguments.view, shape.count, recipe.seed, first), fit=fit,
            encoder=encoder, several=shape.count > 1, device=device, facts=facts,
        )  # fmt: skip

    return source_of


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
