"""The recipe of a fine-tuning run: the model's encoder and evaluation view, heads, labels, and what is trained."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from foundation import config
from foundation.data.extras.target import TASKS, Task
from foundation.errors import UserError
from foundation.finetuning.survey import Survey
from foundation.modalities.parts import views_for_probe
from foundation.objectives.supervised import HEADS, Tokens
from foundation.plugins import Plugin
from foundation.run.recipe import Recipe
from foundation.zoo.export import without_download
from foundation.zoo.load import LoadedEncoder

_LAST = re.compile(r"last:([1-9][0-9]{0,3})")
_RATES = {"head": 1e-2, "last": 5e-4, "all": 3e-4, "lora": 2e-3}
"""Learning rates by mode, for AdamW with 64 samples per step."""
_DECAYS = {"head": 1.0, "last": 1.0, "all": 0.75, "lora": 1.0}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person may choose; see ``foundation finetune --help``.

    Attributes:
        mode: ``head``, ``last:N``, ``all`` or ``lora``.
        task: what the labels are.
        fields: of the ``json`` member that have them.
        tokens: what stands for a sample.
        epochs: longest training.
        batch_size: samples per step.
        learning_rate: highest; None: by the mode.
        layer_decay: the learning rate of layer i is multiplied by this to the power depth + 1 - i; None: by the mode.
        weight_decay: of weights that are trained.
        label_smoothing: see :mod:`foundation.objectives.supervised`.
        class_weights: ``balanced`` makes all classes count alike.
        kept_back: share of the training samples that is kept back to choose by.
        group: samples that stay on one side of that split, see :mod:`foundation.data.extras.target`.
        patience: validations without a better one before the end; None: none.
        rank: of LoRA.
        seed: of all.
        workers: loader processes; None: as many as there are processors to spare.
    """

    mode: str = "head"
    task: Task = "classification"
    fields: tuple[str, ...] = ("label",)
    tokens: Tokens = "cls"
    epochs: float = 30
    batch_size: int = 64
    learning_rate: float | None = None
    layer_decay: float | None = None
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    kept_back: float = 0.1
    group: str | None = None
    patience: int | None = 10
    rank: int = 8
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _RATES:
            raise UserError(f"mode {self.mode!r} is none of head, last:N (such as last:2), all, lora")
        for name, words in (("task", TASKS), ("tokens", tuple(HEADS)), ("class_weights", ("none", "balanced"))):
            if (value := vars(self)[name]) not in words:
                raise UserError(f"{name} {value!r} is none of {', '.join(words)}")
        if self.class_weights == "balanced" and self.task == "regression":
            raise UserError("class_weights: a regression has no classes")
        if not self.fields:
            raise UserError("name at least one field that has the label")

    @property
    def kind(self) -> str:
        """The mode without its number."""
        return "last" if _LAST.fullmatch(self.mode) else self.mode

    @property
    def last(self) -> int:
        """Blocks that are trained, of the mode ``last:N``."""
        found = _LAST.fullmatch(self.mode)
        assert found is not None
        return int(found[1])


def recipe_of(
    source: str, branch: str | None, loaded: LoadedEncoder, shards: tuple[str, ...], found: Survey, options: Options,
    name: str,
) -> Recipe:  # fmt: skip
    """The recipe, whole.

    Args:
        source: the model as the person has named it.
        branch: of a run; None: the one that it was measured by.
        loaded: that model.
        shards: to train on.
        found: their labels.
        options: see there.
        name: of the run.

    Raises:
        UserError: the modality has no training views for this, or the model has fewer blocks.
    """
    modality, evaluation = loaded.own
    if modality != loaded.modality:
        raise UserError(
            f"{source} takes samples of several sensors at once ({loaded.modality}), which cannot be fine-tuned: "
            "export a model of one of them"
        )
    views = views_for_probe(modality, evaluation)
    outputs = len(found.mean) or len(found.classes)
    regression = options.task == "regression"
    target = {
        "kind": "target", "task": options.task, "fields": list(options.fields), "classes": list(found.classes),
        "names": list(found.names) if found.names != found.classes else [],
        "mean": list(found.mean), "std": list(found.std), "kept_back": options.kept_back, "group": options.group,
        "seed": options.seed,
    }  # fmt: skip
    weights = list(found.balanced_weights) if options.class_weights == "balanced" else []
    patience = options.patience if options.kept_back else None
    rate = options.learning_rate or _RATES[options.kind]
    return config.from_plain(
        Recipe,
        {
            "name": name,
            "about": {"summary": f"{Path(source).name} fine-tuned ({options.mode}, {options.task})."},
            "seed": options.seed,
            "data": {"shards": list(shards), "workers": options.workers, "extras": {"target": target}},
            "views": {"name": modality, **config.to_plain(views)},
            "encoder": _encoder(loaded, options),
            "initial": {"weights": source, "branch": branch},
            "heads": {head: {"name": "linear", "outputs": outputs} for head in HEADS[options.tokens]},
            "objectives": [
                {"name": "supervised", "task": options.task, "tokens": options.tokens, "class_weights": weights,
                 "label_smoothing": 0.0 if regression else options.label_smoothing}
            ],
            "branches": {
                **({"student": {"name": "lora", "rank": options.rank, "alpha": 2.0 * options.rank}}
                   if options.kind == "lora" else {}),
                "best": {"name": "best"},
            },
            "measured": "best",
            "optimizer": {
                "learning_rate": {"start": rate, "end": rate / 100, "warmup": "5%"},
                "scaling": "none",
                "weight_decay": options.weight_decay,
                "layer_decay": _DECAYS[options.kind] if options.layer_decay is None else options.layer_decay,
                "freeze_last_layer": "0 steps",
            },
            "train": {
                "length": f"{options.epochs:g} epochs", "batch_size": options.batch_size,
                "only": _trained(loaded, options),
            },
            "jobs": [
                {"name": "validate", "every": "1 epochs", "tokens": options.tokens, "patience": patience}
            ],
            "checkpoints": {"every": "1 epochs"},
        },
        name="the recipe of the fine-tuning",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Named:
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]


def _encoder(loaded: LoadedEncoder, options: Options) -> dict[str, Any]:
    """The model's encoder; layers that stand still drop no paths."""
    own = without_download(loaded.config)
    fields = {item.name for item in dataclasses.fields(own)}
    if options.kind in ("head", "last", "lora") and "drop_path" in fields:
        own = dataclasses.replace(own, drop_path=0.0)
    plain: dict[str, Any] = config.to_plain(_Named(encoder=own))["encoder"]
    return plain


def _trained(loaded: LoadedEncoder, options: Options) -> list[str] | None:
    """Patterns of ``train.only``; None: all."""
    if options.kind == "head":
        return ["heads"]
    if options.kind != "last":
        return None
    encoder: Any = loaded.encoder
    depth = int(encoder.depth)
    if options.last > depth:
        raise UserError(f"mode {options.mode}: the encoder has {depth} blocks")
    blocks = [f"blocks.{place}" for place in range(-options.last, 0)]
    behind = [f"student.encoder.{name}" for name, _ in encoder.named_parameters() if encoder.layer_of(name) > depth]
    return ["heads", *blocks, *behind]
