"""Support vector machine on frozen features: linear, as point clouds are compared, or RBF, as time series are.

The linear protocol, of ModelNet40 (Achlioptas et al. 2018; Huang et al. 2021): features of the whole training split,
one linear classifier for each class against the rest (squared hinge loss, liblinear), its accuracy on the test split.
With several costs, the one to report is chosen on training samples kept back, never on the test split, and the
classifier is fitted again on all.

The RBF protocol, of time series (Franceschi et al. 2019; COMODO, Chen et al. 2025): features of length 1, standardised;
one against one, gamma 1 / (numbers x variance); the cost that is best by five-fold cross-validation on the training
split; at most 10,000 training samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.probes.features import TOKENS, FeatureSet, Tokens, check_finite
from foundation.probes.linear import split
from foundation.probes.scores import score
from foundation.probes.treatments import TREATMENTS, Treatment, treated
from foundation.ranges import LARGEST, Range, Side, Workers, check
from foundation.schedules import Duration

Kernel: TypeAlias = Literal["linear", "rbf"]
"""Of the classifier."""

RBF_COSTS = tuple(10.0**power for power in range(-4, 5))
"""Costs that an RBF classifier is chosen from."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the classifier is given and how."""

    kernel: Kernel = "linear"
    """``linear``, or ``rbf`` on features that are brought to length 1 before the treatment."""
    costs: tuple[float, ...] | None = None
    """Cost C of a sample on the wrong side; several: the best on samples kept back (``linear``) or by cross-validation
    (``rbf``). None: 1 (``linear``), or powers of ten from 1e-4 to 1e4 (``rbf``)."""
    tokens: Tokens = "cls"
    """``cls``: class token; ``patches``: mean of the patch tokens; ``both``: side by side."""
    treatment: Treatment = "as is"
    """What is done to the features first, fitted on the training split: nothing, ``standardised``, PCA-``whitened``."""
    validation_share: float = 0.1
    """Share of the training split kept back to choose the cost of a linear classifier."""
    folds: int = 5
    """Parts of the cross-validation of an RBF classifier; fewer where a class has fewer samples."""
    most: int = 10_000
    """Training samples of an RBF classifier, drawn evenly from the classes; its cost grows with their square."""
    seed: int = 0
    """Of the split and the solver's order."""

    def __post_init__(self) -> None:
        if self.kernel not in get_args(Kernel):
            raise UserError(f"svm: kernel must be one of {', '.join(get_args(Kernel))}, got {self.kernel!r}")
        if self.folds < 2 or self.most < 2:
            raise UserError(f"svm: folds and most must be at least 2, got {self.folds} and {self.most}")
        if not self.chosen or not all(cost > 0 for cost in self.chosen):
            raise UserError(f"svm: costs must be positive numbers (usual: 1), got {list(self.chosen)}")
        if self.tokens not in TOKENS:
            raise UserError(f"svm: tokens must be one of {', '.join(TOKENS)}, got {self.tokens!r}")
        if self.treatment not in TREATMENTS:
            raise UserError(f"svm: treatment must be one of {', '.join(TREATMENTS)}, got {self.treatment!r}")
        if not 0 < self.validation_share < 1:
            raise UserError(f"svm: validation_share must lie between 0 and 1, got {self.validation_share}")

    @property
    def chosen(self) -> tuple[float, ...]:
        """Costs to choose from."""
        if self.costs is not None:
            return self.costs
        return (1.0,) if self.kernel == "linear" else RBF_COSTS


@dataclass(frozen=True, kw_only=True)
class Config:
    """Accuracy of a support vector machine on the teacher's features while it trains."""

    every: Annotated[Duration, Range(0, 1e9, above=True)] = Duration(10, "epochs")
    """Distance between two measurements; one more is made at the end of the run."""
    train: tuple[str, ...]
    """Labelled shards to learn from."""
    test: tuple[str, ...]
    """Labelled shards to classify."""
    kernel: Kernel = "linear"
    """``linear``, or ``rbf`` on features of length 1 (COMODO's protocol, with ``treatment: standardised``)."""
    cost: Annotated[float, Range(1e-9, 1e9)] | None = None
    """Cost C of a sample on the wrong side; None: 1 (``linear``), or the best by cross-validation (``rbf``)."""
    tokens: Tokens = "cls"
    """``cls``: class token; ``patches``: mean of the patch tokens; ``both``: side by side."""
    treatment: Treatment = "as is"
    """What is done to the features first, fitted on the training split: nothing, ``standardised``, PCA-``whitened``."""
    limit: Annotated[int, Range(2, LARGEST)] | None = None
    """At most so many samples of each split, spread evenly over its shards; None: all."""
    batch_size: Side = 256
    """Samples per forward pass."""
    workers: Workers = 0
    """Loader processes; 0 reads in the training process, which leaves the training loader's processes alone."""

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if not getattr(self, name):
                raise UserError(f"probes: svm.{name} is empty: name labelled shards")
        check(self, "svm")
        self.settings()

    def settings(self) -> Settings:
        """What the classifier is given."""
        costs = None if self.cost is None else (self.cost,)
        return Settings(kernel=self.kernel, costs=costs, tokens=self.tokens, treatment=self.treatment)

    def build(self) -> Config:
        """The probe is its settings: nothing has to be made."""
        return self

    def look_ahead(self, *, modality: str, evaluation: Any) -> list[str]:
        """See :class:`foundation.run.probing.LooksAhead`."""
        from foundation.probes.beforehand import check_labels

        splits = (("svm: training", self.train), ("svm: test", self.test))
        return check_labels(splits, modality=modality, evaluation=evaluation, limit=self.limit, least=2)

    def measure(
        self,
        encoder: nn.Module,
        *,
        modality: str,
        evaluation: Any,
        device: torch.device | str = "cpu",
        autocast: bool = False,
    ) -> dict[str, float]:
        """Measure an encoder in the middle of training; arguments as for :meth:`foundation.probes.knn.Config.measure`.

        Returns:
            ``probe/svm_top1`` (``probe/svm_rbf_top1`` of an RBF classifier) in [0, 1].

        Raises:
            UserError: when shards are missing or hold no labels.
        """
        from foundation.probes.labels import number_classes
        from foundation.probes.road import labelled_features

        where = {"modality": modality, "evaluation": evaluation, "device": device, "autocast": autocast}
        train = labelled_features(self, encoder, self.train, "svm: train", **where)
        test = labelled_features(self, encoder, self.test, "svm: test", **where)
        train, test = number_classes(train, test)
        name = "svm" if self.kernel == "linear" else f"svm_{self.kernel}"
        return {f"probe/{name}_top1": fit(train, test, self.settings()).top1}


@dataclass(frozen=True)
class SvmResult:
    """What the classifier gets right.

    Attributes:
        cost: that was used.
        top1: accuracy on the test split, in [0, 1].
        balanced: mean over the classes of the test split of the share of their samples that is right.
        interval: 95 % interval of ``top1``; None where all test samples belong together.
        predictions: [Q] int64.
        validation: accuracy of each cost on the samples kept back, or the mean over the folds; None where there was
            nothing to choose.
        top3: share of test samples whose class is among the three of the highest scores; None for a linear classifier
            and where there are no more classes.
        top5: likewise.
    """

    cost: float
    top1: float
    balanced: float
    interval: tuple[float, float] | None
    predictions: Tensor
    validation: tuple[float, ...] | None
    top3: float | None = None
    top5: float | None = None


def fit(train: FeatureSet, test: FeatureSet, settings: Settings | None = None) -> SvmResult:
    """Learn from one split, classify the other.

    Args:
        train: labelled.
        test: labelled.
        settings: the defaults when absent.

    Raises:
        UserError: fewer than two classes, classes with too few samples to keep one back, or features not finite.
    """
    settings = settings or Settings()
    for part, what in ((train, "training"), (test, "test")):
        check_finite(torch.cat(part.tokens(settings.tokens), dim=1), what)
    if settings.kernel == "rbf":
        train, test = (_of_length_one(part) for part in (train, test))
    both = treated(settings.treatment, train, test, blocks=1, patches=settings.tokens != "cls")
    x, queries = (torch.cat(part.tokens(settings.tokens), dim=1) for part in both)
    known, targets = x.numpy(), train.labels.numpy()
    if len(np.unique(targets)) < 2:
        raise UserError("svm: the training split holds one class only: there is nothing to tell apart")
    if settings.kernel == "rbf":
        return _rbf(known, train, queries.numpy(), test, settings)
    validation = None
    cost = settings.chosen[0]
    if len(settings.chosen) > 1:
        rest, kept = _keep_back(train, settings)
        validation = tuple(
            float(np.mean(_machine(known[rest], targets[rest], c, settings.seed).predict(known[kept]) == targets[kept]))
            for c in settings.chosen
        )
        cost = settings.chosen[int(np.argmax(validation))]
    predictions = torch.from_numpy(_machine(known, targets, cost, settings.seed).predict(queries.numpy()))
    scored = score(predictions, test.labels, test.groups)
    return SvmResult(cost, scored.top1, scored.balanced, scored.interval, predictions, validation)


def _of_length_one(features: FeatureSet) -> FeatureSet:
    return replace(
        features,
        cls=tuple(nn.functional.normalize(layer.float(), dim=1) for layer in features.cls),
        patches=nn.functional.normalize(features.patches.float(), dim=1),
    )


@contextmanager
def _few_labels() -> Iterator[None]:
    """Around scikit-learn, which takes many classes of few samples for numbers to regress and warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield


@_few_labels()
def _rbf(x: Any, train: FeatureSet, queries: Any, test: FeatureSet, settings: Settings) -> SvmResult:
    """Of features after their treatment; see the module's text."""
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold, train_test_split
    from sklearn.svm import SVC

    targets, groups = train.labels.numpy(), train.groups.numpy() if len(train.groups) else None
    if len(x) > settings.most:
        rows, _ = train_test_split(
            np.arange(len(x)), train_size=settings.most, stratify=targets, random_state=settings.seed
        )
        x, targets, groups = x[rows], targets[rows], None if groups is None else groups[rows]
    costs, validation, cost = settings.chosen, None, settings.chosen[0]
    if len(costs) > 1:
        fewest = int(np.unique(targets, return_counts=True)[1].min())
        if min(fewest, settings.folds) < 2:
            raise UserError(
                f"svm: too few training samples to choose among {len(costs)} costs: each class needs two, and the "
                f"smallest has {fewest}. Give one --cost"
            )
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        folds = kind(min(fewest, settings.folds), shuffle=True, random_state=settings.seed)
        search = GridSearchCV(SVC(kernel="rbf", gamma="scale"), {"C": list(costs)}, cv=folds, refit=False)
        search.fit(x, targets, groups=groups)
        validation = tuple(map(float, search.cv_results_["mean_test_score"]))
        cost = costs[int(np.argmax(validation))]
    machine = SVC(kernel="rbf", gamma="scale", C=cost, decision_function_shape="ovr").fit(x, targets)
    predictions = torch.from_numpy(machine.predict(queries))
    scored = score(predictions, test.labels, test.groups)
    top3, top5 = (_among(machine, queries, test.labels, k) for k in (3, 5))
    return SvmResult(cost, scored.top1, scored.balanced, scored.interval, predictions, validation, top3, top5)


def _among(machine: Any, queries: Any, labels: Tensor, k: int) -> float | None:
    """Share of samples whose class has one of the k highest scores; None for so few classes."""
    if len(machine.classes_) <= k:
        return None
    best = machine.classes_[np.argsort(-machine.decision_function(queries), axis=1)[:, :k]]
    return float((best == labels.numpy()[:, None]).any(axis=1).mean())


def _keep_back(train: FeatureSet, settings: Settings) -> tuple[Any, Any]:
    """Rows to learn from and rows to choose the cost on, of which every class has at least one."""
    from sklearn.model_selection import train_test_split

    targets = train.labels.numpy()
    if len(train.groups):
        rest, kept = split(len(targets), settings.validation_share, settings.seed, train.groups)
        if len(train.labels[rest].unique()) < 2:
            raise UserError(
                "svm: without the groups that are kept back one class is left to learn from. Give one --cost"
            )
        return rest.numpy(), kept.numpy()
    _, sizes = np.unique(targets, return_counts=True)
    number = max(math.ceil(settings.validation_share * len(targets)), len(sizes))
    if sizes.min() < 2 or len(targets) - number < len(sizes):
        raise UserError(
            f"svm: too few training samples to choose among {len(settings.chosen)} costs: each class needs one to "
            f"learn from and one that is kept back, and the smallest of {len(sizes)} has {sizes.min()}. Give one --cost"
        )
    rows = np.arange(len(targets))
    rest, kept = train_test_split(rows, test_size=number, stratify=targets, random_state=settings.seed)
    return rest, kept


@_few_labels()
def _machine(x: Any, labels: Any, cost: float, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with warnings.catch_warnings():
        # Far from converged on raw features of large norm; the accuracy no longer changes by then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(C=cost, dual="auto", random_state=seed, max_iter=5000).fit(x, labels)
