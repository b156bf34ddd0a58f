"""What the probe commands share: the model and data they name, and the file they leave behind.

Imported for ``--help``, so nothing heavy stands at the top.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.printable import printable
from foundation.probes.candidates import Candidate, candidates, describe_data
from foundation.redact import redact
from foundation.voice import to_stderr

if TYPE_CHECKING:
    from foundation.probes.features import FeatureSet, Tokens
    from foundation.zoo.load import LoadedEncoder


WRITTEN = "written: "
"""In front of the path, in the line of :func:`save`."""


@dataclass(frozen=True)
class Job:
    """A probe command made definite.

    Attributes:
        arguments: of the command line.
        loaded: the model.
        evaluation: the modality's ``EvaluationConfig``, with ``--size`` applied.
        train: patterns of the training shards.
        test: patterns of the test shards; empty to leave one out of ``train``.
        device: where to compute.
        told: warnings that were given before the first forward pass.
    """

    arguments: argparse.Namespace
    loaded: LoadedEncoder
    evaluation: Any
    train: tuple[str, ...]
    test: tuple[str, ...]
    device: Any
    told: tuple[str, ...] = ()

    def candidates(self, simple: bool = False) -> Iterator[Candidate]:
        """The model, then the baselines when asked for.

        Args:
            simple: also those that the modality's room ``simple`` names: one feature for a whole sample.
        """
        return candidates(
            self.loaded,
            self.evaluation,
            device=self.device,
            seed=self.arguments.seed,
            baselines=self.arguments.baselines,
            simple=simple,
        )

    def splits(self, candidate: Candidate, blocks: int = 1) -> tuple[FeatureSet, FeatureSet]:
        """Labelled features of the training and of the test shards (without those, the training ones twice).

        Their classes have one numbering, and the samples their groups where ``--group`` asks for them: those of test
        shards, of which it need not know, are for the intervals alone.
        """
        import dataclasses

        from foundation.probes.groups import grouped
        from foundation.probes.labels import number_classes

        train = self.features(candidate, self.train, blocks, "train")
        rule = self.arguments.group
        if rule is not None:
            train = dataclasses.replace(train, groups=grouped(train, rule, self.train)[0])
        if not self.test:
            (train,) = number_classes(train)
            return train, train
        test = self.features(candidate, self.test, blocks, "test")
        with contextlib.suppress(UserError):
            if rule is not None:
                test = dataclasses.replace(test, groups=grouped(test, rule, self.test)[0])
        train, test = number_classes(train, test)
        return train, test

    def look(self, train: FeatureSet, test: FeatureSet, tokens: Tokens | None) -> dict[str, Any]:
        """Say what a person should know of the model's splits, and give what the result file says of them.

        Args:
            train: features of the model.
            test: likewise; ``train`` itself to leave one out.
            tokens: that are scored; None for a probe that has no choice.

        Returns:
            ``data`` and ``warnings`` of the result file.
        """
        from foundation.probes import cautions
        from foundation.run.class_token import untrained_class_token

        report_skipped(train, "train")
        data: dict[str, Any] = {"train": describe_data(self.train, train), "test": "leave one out"}
        if self.test:
            report_skipped(test, "test")
            data["test"] = describe_data(self.test, test)
        if len(train.groups):
            data["groups"] = {"rule": self.arguments.group, "count": int(train.groups.max()) + 1}
            data["groups"] |= {"test": int(test.groups.max()) + 1} if len(test.groups) else {}
        warnings = [*cautions.of_splits(train, test), *self._in_both(train, test)]
        warnings += untrained_class_token(self.loaded, tokens)
        for warning in warnings:
            if warning not in self.told:
                to_stderr(f"warning: {warning}")
        return {"data": data, "warnings": warnings}

    def _in_both(self, train: FeatureSet, test: FeatureSet) -> list[str]:
        """What to say of groups of ``--group`` that are in both splits; the rule need not know the test samples."""
        from foundation.probes.cautions import of_groups
        from foundation.probes.groups import names_of_groups

        rule = self.arguments.group
        if rule is None or not self.test:
            return []
        try:
            names = names_of_groups(train, rule, self.train), names_of_groups(test, rule, self.test)
        except UserError as error:
            return [f"{error}: the interval counts each test sample by itself"]
        return of_groups(*names)

    def features(self, candidate: Candidate, patterns: Sequence[str], blocks: int, what: str) -> FeatureSet:
        """Labelled features of some shards, from the cache where possible."""
        from foundation.parallel.threads import default_workers, leave_one_processor
        from foundation.probes.feature_cache import default_cache
        from foundation.probes.road import features_of_shards

        a = self.arguments
        workers = default_workers() if a.workers is None else a.workers
        if str(self.device) == "cpu":
            leave_one_processor()
        own = self.loaded.folder
        folder = own / "probes" / "cache" if own is not None and own.is_dir() else default_cache()
        return features_of_shards(
            candidate.encoder,
            patterns,
            modality=self.loaded.modality,
            evaluation=self.evaluation,
            device=self.device,
            blocks=blocks,
            autocast=a.bfloat16,
            batch_size=a.batch_size,
            workers=workers,
            limit=a.limit,
            cache=None if a.no_cache else folder,
            weights=candidate.sha256,
            what=f"{candidate.name}: {what}",
            pieces=a.pieces,
        ).labelled()


def usable_device(wanted: str) -> Any:
    """The ``torch.device`` that a command line names; ``auto``: a GPU where there is one.

    Raises:
        UserError: this machine has no such device.
    """
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("nothing can be computed there")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise UserError(f"--device {wanted}: not here; on this machine there is {', '.join(there)}") from error
    return device


def prepare(arguments: argparse.Namespace, *, needs_test: bool, labels: bool = True, least: int = 1) -> Job:
    """Load the model, settle which data to use, and look whether they will do before the first forward pass.

    Args:
        arguments: of the command line.
        needs_test: leaving one out is no way for this probe.
        labels: the probe needs one label for a sample.
        least: classes that it needs.

    Raises:
        UserError: for a model that cannot be loaded, data that nobody named or that the probe cannot use, a result
            file that cannot be written.
    """
    from foundation.files import require_writable
    from foundation.modalities.parts import evaluation_config, in_pieces
    from foundation.probes import beforehand
    from foundation.zoo.load import load_encoder

    for name, lowest in (("batch_size", 1), ("workers", 0), ("limit", 2), ("size", 1)):
        value = getattr(arguments, name)
        if value is not None and value < lowest:
            raise UserError(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")
    if arguments.json is not None:
        require_writable(arguments.json, "choose another place by --json FILE")
    device = usable_device(arguments.device)
    loaded = load_encoder(arguments.model, device, arguments.branch)
    train, test = _data(arguments, loaded)
    if needs_test and not test:
        raise UserError("no test shards: give --test SHARDS")
    evaluation = evaluation_config(loaded.modality, loaded.evaluation, arguments.size)
    if arguments.pieces is not None and arguments.pieces > 1:
        in_pieces(loaded.modality, evaluation, arguments.pieces)
    told: list[str] = []
    if labels:  # where none are needed, many tasks are asked, and what they have seen is said of all of them
        whole = beforehand.pieces_of(train, loaded.modality, evaluation)
        told += filter(None, [beforehand.unseen(whole, arguments.pieces)])
        told += beforehand.check_labels(
            (("training", train), ("test", test)),
            modality=loaded.modality,
            evaluation=evaluation,
            limit=arguments.limit,
            least=least,
        )
        if arguments.group is not None:
            beforehand.check_group(train, arguments.group, arguments.limit)
    for warning in told:
        to_stderr(f"warning: {warning}")
    return Job(arguments, loaded, evaluation, train, test, device, tuple(told))


def _data(arguments: argparse.Namespace, loaded: LoadedEncoder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if arguments.train:
        return tuple(arguments.train), tuple(arguments.test or ())
    from foundation.run.model_recipe import recipe_of

    recipe = recipe_of(loaded)
    if recipe is not None:
        for probe in recipe.probes:
            if getattr(probe, "train", ()):
                return tuple(probe.train), tuple(arguments.test or probe.test)
        if recipe.data.patterns:
            return tuple(recipe.data.patterns), tuple(arguments.test or ())
    raise UserError("no training shards: give --train SHARDS (this model does not say what it was trained on)")


def report_skipped(features: FeatureSet, name: str) -> None:
    """Say which samples could not be used."""
    import sys

    count = sum(features.skipped.values())
    if count:
        verb = "sample was" if count == 1 else "samples were"
        to_stderr(f"{name}: {count:,} {verb} left out of {count + len(features):,}")
        for message in features.messages[:3]:
            print(f"  {printable(message)}", file=sys.stderr)


def save(job: Job, probe: str, content: dict[str, Any], begun: float) -> str:
    """Write the result file where ``--json`` says, else beside the model, whole or not at all.

    Returns:
        A line for a person: where it is, or that a model without a folder leaves none.
    """
    from foundation.files import replace_json
    from foundation.probes.digests import plain, weights_digest
    from foundation.probes.results import FORMAT, versions

    whole = {
        "format": FORMAT,
        "probe": probe,
        "model": job.loaded.description,
        "model_sha256": job.loaded.sha256 or weights_digest(job.loaded.encoder),
        "modality": job.loaded.modality,
        "evaluation": plain(job.evaluation),
        "seed": job.arguments.seed,
        **content,
        "device": str(job.device),
        "versions": versions(),
        "seconds": round(time.time() - begun, 1),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    stable = {key: whole[key] for key in ("model_sha256", "evaluation", "seed", "data", "settings")}
    digest = hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:10]
    name = Path(redact((job.test or job.train)[0])).parent.name or "data"
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    path, own = job.arguments.json, job.loaded.folder
    if path is None:
        if own is None:
            return "not written: this model has no folder; give --json FILE to keep the figures"
        path = own / "probes" / f"{probe}-{safe}-{digest}.json"
    try:
        replace_json(path, whole)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}; choose another place by --json FILE") from error
    return f"{WRITTEN}{path}"
