"""A fine-tuned model for use: the exported encoder, its heads beside it, and what their answers mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundation import config
from foundation.branches.base import EncoderBranch
from foundation.data.extras.target import Config as TargetConfig
from foundation.data.extras.target import Target
from foundation.errors import UserError
from foundation.modalities.parts import decoder, in_pieces
from foundation.objectives.supervised import Config as SupervisedConfig
from foundation.objectives.supervised import Tokens, answers_of
from foundation.probes.road import open_limited
from foundation.probes.supervised import Answers, answers
from foundation.run.recipe import Recipe
from foundation.zoo.load import LoadedEncoder, load_encoder
from foundation.zoo.model import Model
from foundation.zoo.preprocess import Item

BEST = "best"
"""Branch that fine-tuning keeps."""


class Predictor(nn.Module):
    """A fine-tuned model: from files, arrays or batches to classes, labels or numbers.

    Attributes:
        model: the encoder, as :func:`foundation.load` gives it.
        target: what the answers mean.
        classes: names of the classes or labels, in the order of the outputs; empty for a regression.
    """

    def __init__(
        self, model: Model, branch: EncoderBranch, target: TargetConfig, tokens: Tokens, loaded: LoadedEncoder
    ) -> None:
        super().__init__()
        self.model, self.branch = model, branch
        self.target, self.tokens, self._loaded = target, tokens, loaded
        self.classes = target.names or target.classes

    def forward(
        self,
        x: Item | Sequence[Item] | Tensor,
        *,
        rate: float | None = None,
        batch_size: int = 64,
        pieces: int = 1,
    ) -> Tensor:
        """What the model says of samples: [batch, outputs] float32. Shares of the classes that add up to 1, shares of
        each label by itself, or numbers in their own unit.

        Args:
            x: as of :meth:`foundation.zoo.model.Model.forward`, as ``rate``, ``batch_size`` and ``pieces``; of several
                pieces what the head says before softmax, sigmoid or units is averaged.

        Raises:
            UserError: as there.
            SampleError: likewise.
        """
        if isinstance(x, Tensor):
            return self._meant(self._answers(x))
        views = self.model.views(x, rate, batch_size, pieces)
        if pieces == 1:
            return torch.cat([self._meant(self._answers(one)) for one in views])
        said = (torch.stack([self._answers(piece) for piece in one.unbind(dim=1)]).mean(dim=0) for one in views)
        return torch.cat([self._meant(one) for one in said])

    def predict(
        self,
        x: Item | Sequence[Item] | Tensor,
        *,
        rate: float | None = None,
        batch_size: int = 64,
        pieces: int = 1,
    ) -> list[Any]:
        """The answer for each sample: the name of its class, a tuple of the labels that are likelier than not, or its
        numbers (one number where there is one). Arguments as of :meth:`forward`."""
        found = self(x, rate=rate, batch_size=batch_size, pieces=pieces)
        if self.target.task == "classification":
            return [self.classes[place] for place in found.argmax(dim=1).tolist()]
        if self.target.task == "labels":
            return [
                tuple(name for name, one in zip(self.classes, row, strict=True) if one > 0.5) for row in found.tolist()
            ]
        return [row[0] if len(row) == 1 else tuple(row) for row in found.tolist()]

    def score(
        self,
        shards: Sequence[str],
        batch_size: int = 256,
        workers: int = 0,
        limit: int | None = None,
        pieces: int = 1,
    ) -> tuple[Answers, Target]:
        """Answers of labelled shards, to be scored by :func:`foundation.probes.supervised.scores`.

        Args:
            shards: paths, globs or brace patterns.
            batch_size: samples per forward pass.
            workers: loader processes.
            limit: at most so many samples, spread evenly; None: all.
            pieces: views of a recording that is longer than one, over which answers are averaged.

        Raises:
            UserError: several pieces of what has no time.
        """
        target = Target(self.target)
        weight = next(self.branch.parameters())
        modality, evaluation = self._loaded.own
        views = None if pieces == 1 else in_pieces(modality, evaluation, pieces)
        found = answers(
            self.branch, open_limited(shards, limit), decode=decoder(modality, evaluation), evaluation=evaluation,
            target=target, tokens=self.tokens, batch_size=batch_size, workers=workers, device=weight.device,
            views=views,
        )  # fmt: skip
        return found, target

    @torch.no_grad()
    def _answers(self, batch: Tensor) -> Tensor:
        weight = next(self.branch.parameters())
        return answers_of(self.branch, batch.to(weight.device, weight.dtype), self.tokens)

    def _meant(self, found: Tensor) -> Tensor:
        if self.target.task == "classification":
            return found.softmax(dim=1)
        if self.target.task == "labels":
            return found.sigmoid()
        return found * found.new_tensor(self.target.std) + found.new_tensor(self.target.mean)


def predictor(source: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """Load a fine-tuned model.

    Args:
        source: the folder of a fine-tuning run, its export ``export/best.safetensors``, or what else
            :func:`foundation.zoo.load.load_encoder` takes, where it was fine-tuned.
        device: where it computes.

    Raises:
        UserError: it is no fine-tuned model, or its heads are missing or damaged.
    """
    export = Path(source) / "export" / f"{BEST}.safetensors"
    loaded = load_encoder(export if export.is_file() else source, device)
    none = f"{source} is no fine-tuned model: give the folder of a run of foundation finetune, or its {export.name}"
    if not loaded.recipe or loaded.heads is None:
        raise UserError(none)
    recipe = config.load(Recipe, loaded.recipe, name=f"the recipe of {source}").stage(loaded.stage)
    targets = [one for one in recipe.data.extras.values() if isinstance(one, TargetConfig)]
    losses = [one for one in recipe.objectives if isinstance(one, SupervisedConfig)]
    if len(targets) != 1 or len(losses) != 1:
        raise UserError(none)
    encoder: Any = loaded.encoder
    modules = {name: head.build(int(encoder.width)) for name, head in recipe.heads.items()}
    branch = EncoderBranch(encoder, modules, recipe.heads)
    branch.heads.load_state_dict(loaded.heads())
    branch.to(device).eval().requires_grad_(False)
    return Predictor(Model(loaded), branch, targets[0], losses[0].tokens, loaded)
