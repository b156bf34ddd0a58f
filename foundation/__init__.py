"""Self-supervised pretraining of encoders, from files to a model and its figures.

::

    import foundation as fm

    run = fm.pretrain(data="photographs", out="runs/mine")
    model = fm.load("runs/mine")
    features = model(["a.jpg", "b.jpg"])

The same from a shell: ``foundation --help``. Nothing here is imported before it is used.
"""

from foundation.version import VERSION

# Here nothing of Python's library is imported, ``typing`` neither: ``python -m foundation`` runs this file while the
# working directory is still on the path, where a ``re.py`` among someone's data would stand in for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any, Literal

    import torch

    from foundation.api.evaluate import Report
    from foundation.api.features import FeatureExtractor
    from foundation.api.finetune import Tuned
    from foundation.api.run import Run
    from foundation.finetuning.predictor import Predictor
    from foundation.zoo.entry import Entry
    from foundation.zoo.model import Model, Tokens

__version__ = VERSION
__all__ = [
    "FeatureExtractor",
    "__version__",
    "evaluate",
    "finetune",
    "list_models",
    "load",
    "predictor",
    "pretrain",
]


def load(
    source: "str | Path",
    *,
    branch: str | None = None,
    device: "torch.device | str" = "cpu",
    tokens: "Tokens" = "cls",
    width: int | None = None,
    depth: "int | Sequence[int] | None" = None,
) -> "Model":
    """Load a pretrained encoder as a module of PyTorch.

    ::

        model = foundation.load("runs/mine")
        features = model("photo.jpg")                  # [1, width]; also a PIL image or a uint8 array [H, W, 3]
        features = model(["a.jpg", "b.jpg"])           # [2, width]
        features = model(model.preprocess(["a.jpg"]))  # a batch that is ready: float [1, 3, H, W], normalised

    Args:
        source: a run folder, a checkpoint folder, an exported ``.safetensors`` file, the name of a model of the zoo
            (``foundation zoo list``; pulled when it is not on this machine), a model of timm: ``timm:NAME`` (its
            published weights), ``timm:NAME,weights=FILE.safetensors`` or ``timm:NAME,random``; or the image tower
            of one of open_clip: ``open_clip:NAME,pretrained=TAG``, likewise ``weights=FILE.safetensors`` or
            ``random``. Loading runs no code from any of these files.
        branch: which encoder of a run, such as ``student``; None: the one that it was measured by, usually its EMA
            teacher.
        device: where it computes.
        tokens: what stands for a sample: ``cls``, its class token; ``patches``, the mean of its patch tokens (better
            where training had no loss on the class token, as with masked autoencoders); ``both``, side by side.
        width: of a smaller encoder within one that was pretrained for all sizes (POA); of an export or a model of the
            zoo only its slices are read. See ``foundation zoo extract``, which gives the same numbers.
        depth: blocks of it; one number, or one for each stage.

    Returns:
        A module in evaluation mode; what it takes for each modality is said by
        :meth:`foundation.zoo.model.Model.forward`.

    Raises:
        foundation.errors.UserError: naming what was looked for and what is there.
    """
    from foundation.zoo.model import load as load_model  # torch is imported when a model is wanted

    return load_model(source, branch=branch, device=device, tokens=tokens, width=width, depth=depth)


def pretrain(
    *,
    out: "str | Path",
    data: "str | Path | Sequence[str | Path] | None" = None,
    recipe: "str | Path | None" = None,
    set: "Mapping[str, Any] | None" = None,
    modality: "str | None" = None,
    fresh: bool = False,
    processes: int = 1,
    **overrides: "Any",
) -> "Run":
    """Pretrain an encoder without labels, or go on where it stopped: the same call again resumes.

    ::

        run = foundation.pretrain(data="photographs", out="runs/mine")
        run = foundation.pretrain(data="data/mine/train-*.tar", recipe="dino-vits16", out="runs/dino",
                                  train__batch_size=128, optimizer__learning_rate__start=1e-3)
        features = run.load()("photo.jpg")

    A folder of plain files becomes shards in the user's cache (``~/.cache/foundation/folders``) first; they are built
    anew when a file has come, gone or changed.

    Args:
        out: run folder.
        data: a folder of files (class folders or flat, see ``foundation data build``), a folder of shards, or patterns
            of shards; None: those that the recipe names.
        recipe: name of a shipped recipe, a YAML file, or a run folder. None: a small one of the modality, which
            ``foundation recipes show`` prints: ``photos-cpu`` for pictures (``photos-gpu`` where there is a GPU),
            ``quickstart-audio``, ``-points``, ``-video`` or ``-imu`` for the others. Without ``data`` the run in
            ``out`` goes on.
        set: settings of the recipe to change, ``{"train.length": "1000 steps"}``.
        modality: of the files, where their extensions do not say it.
        fresh: begin anew, and remove a run that is in the folder.
        processes: on this machine that share the batch.
        overrides: settings to change by name, two underscores for each dot: ``train__length="1000 steps"``.

    Returns:
        The run: ``folder``, ``state``, ``step``, ``metrics`` and ``load()``.

    Raises:
        foundation.errors.FoundationError: what the command ``foundation pretrain`` would end with.
        KeyboardInterrupt: Ctrl-C, or the stop button of a notebook; the state is saved, and the same call goes on.
    """
    from foundation.api.pretrain import pretrain as call

    return call(
        out=out, data=data, recipe=recipe, set=set, modality=modality, fresh=fresh, processes=processes,
        overrides=overrides,
    )  # fmt: skip


def finetune(
    model: "str | Path",
    *,
    train: "str | Sequence[str]",
    out: "str | Path",
    test: "str | Sequence[str] | None" = None,
    mode: str = "head",
    task: 'Literal["classification", "labels", "regression"]' = "classification",
    label: "str | Sequence[str]" = "label",
    set: "Mapping[str, Any] | None" = None,
    **options: "Any",
) -> "Tuned":
    """Train a pretrained encoder further on labelled shards, or go on where it stopped: the same call again resumes.

    ::

        tuned = foundation.finetune("runs/mine", train="data/train-*.tar", test="data/test-*.tar", mode="lora",
                                    out="runs/tuned", epochs=20)
        tuned.scores["value"], tuned.load().predict(["a.jpg", "b.jpg"])

    Args:
        model: what :func:`load` takes, by name.
        train: patterns of the shards to train on; a share of their samples is kept back to choose by.
        out: run folder.
        test: patterns of the shards to score once, at the end.
        mode: ``head``, ``last:N`` (blocks), ``all`` or ``lora``.
        task: one class, several labels, or numbers.
        label: field of each sample's ``json`` that has the label; of a regression several.
        set: settings of the recipe to change, ``{"optimizer.clip": 1.0}``.
        options: as of ``foundation finetune --help``: ``epochs=20``, ``learning_rate=1e-3``, ``patience=5``, ...

    Returns:
        ``run``, ``scores`` and ``load()``, which gives encoder and head with ``predict``.

    Raises:
        foundation.errors.FoundationError: what the command ``foundation finetune`` would end with.
        KeyboardInterrupt: as of :func:`pretrain`.
    """
    from foundation.api.finetune import finetune as call

    return call(
        model, train=train, test=test, out=out, mode=mode, task=task, label=label, set=set, options=options
    )  # fmt: skip


def evaluate(
    model: "str | Path | Model",
    *,
    train: "str | Sequence[str]",
    test: "str | Sequence[str]" = (),
    tasks: "str | Sequence[str]" = (),
    suite: "str | None" = None,
    outside: "str | Sequence[str]" = (),
    baselines: bool = False,
    device: str = "auto",
    out: "str | Path | None" = None,
    overwrite: bool = False,
    set: "Mapping[str, Any] | None" = None,
    **settings: "Any",
) -> "Report":
    """Say how good a frozen model is on labelled shards: nearest neighbours, linear probes, retrieval, rank, ...

    ::

        report = foundation.evaluate("runs/mine", train="data/train-*.tar", test="data/test-*.tar")
        report.scores["knn"].value, report.scores["knn"].interval, report.warnings

    Args:
        model: what :func:`load` takes or has given.
        train: patterns of the shards to learn from.
        test: patterns of the shards to score; none: a task leaves one out of ``train``, or splits it, and says so.
        tasks: names (``foundation evaluate --list``); none: those of the suite.
        suite: such as ``image``; None: that of the model's modality.
        outside: patterns of shards of another kind, which a model should find strange.
        baselines: score the untrained encoder, the raw input and simple features too.
        device: where to compute; ``auto``: the GPU if there is one.
        out: folder for the result file and its page; None: nothing is written.
        overwrite: replace those that are there.
        set: settings of tasks to change, ``{"knn.k": [5]}``.
        settings: of :class:`foundation.tasks.base.Settings`: ``limit=1000``, ``batch_size=64``, ``workers=2``, ...

    Returns:
        ``scores`` (the headline of each task), ``left_out``, ``warnings`` and the whole ``evaluation``.

    Raises:
        foundation.errors.UserError: a word that means nothing, or shards that cannot be used.
    """
    from foundation.api.evaluate import evaluate as call

    return call(
        model, train=train, test=test, tasks=tasks, suite=suite, outside=outside, baselines=baselines, device=device,
        out=out, overwrite=overwrite, set=set, settings=settings,
    )  # fmt: skip


def list_models(filter: "str | Callable[[Entry], bool]" = "", *, modality: str = "") -> "list[Entry]":
    """Cards of the models of the zoo: their ``name`` is what :func:`load` takes.

    ::

        [card.name for card in foundation.list_models("poa", modality="image")]
        foundation.list_models(lambda card: card.architecture.parameters < 1e6)

    Args:
        filter: words that name, summary, recipe, data or licence of a card contain; or a function of a card.
        modality: such as ``image``; empty: all.

    Raises:
        foundation.errors.UserError: a zoo that ``FOUNDATION_ZOO`` names cannot be read.
    """
    from foundation.api.models import list_models as call

    return call(filter, modality)


def predictor(source: "str | Path", *, device: "torch.device | str" = "cpu") -> "Predictor":
    """Load a fine-tuned model: ``predictor("runs/tuned").predict(["a.jpg", "b.jpg"])``.

    Args:
        source: the folder of a fine-tuning run, or its export ``export/best.safetensors``.
        device: where it computes.

    Raises:
        foundation.errors.UserError: it is no fine-tuned model, or its heads are missing or of other weights.
    """
    from foundation.finetuning.predictor import predictor as call

    return call(source, device)


def __getattr__(name: str) -> "Any":
    if name == "FeatureExtractor":
        from foundation.api.features import FeatureExtractor

        return FeatureExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
