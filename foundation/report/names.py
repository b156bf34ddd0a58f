"""What a person calls the figures, features and sets of a run: no keys, no paths, no patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from foundation.data.index import read_index
from foundation.errors import UserError
from foundation.printable import isolated
from foundation.redact import redact


@dataclass(frozen=True)
class Figure:
    """How a figure of the metrics is shown.

    Attributes:
        title: of a chart of its own.
        axis: what its numbers are, with their unit.
        percent: it is a share, shown times 100.
        zero: its axis begins at 0.
    """

    title: str
    axis: str
    percent: bool = False
    zero: bool = False


OBJECTIVES = {
    "dino": "DINO", "ibot": "iBOT", "koleo": "KoLeo", "byol": "BYOL", "masked_dino": "masked DINO",
    "contrast": "contrast", "cluster": "cluster codes", "reconstruction": "reconstruction",
}  # fmt: skip
_WHOLE = {
    "loss": Figure("Loss", "loss (weighted sum)"),
    "gradient/norm": Figure("Gradient norm", "norm before clipping", zero=True),
    "throughput/samples_per_second": Figure("Throughput", "samples per second", zero=True),
    "data/wait_fraction": Figure("Waiting for data", "share of the time (%)", percent=True, zero=True),
    "data/bad_samples": Figure("Unreadable samples", "samples"),
    "data/skipped": Figure("Reads of unreadable samples", "reads"),
    "guard/not_finite": Figure("Steps with a loss that is not finite", "steps"),
    "guard/spikes": Figure("Spikes of the loss", "steps"),
    "guard/skipped": Figure("Steps that the guard left out", "steps"),
    "guard/rewound": Figure("Returns to a checkpoint", "times"),
    "features/std": Figure("Spread of the features", "standard deviation per dimension", zero=True),
    "features/rank": Figure("Effective rank of the features", "rank (RankMe)", zero=True),
    "features/rank_share": Figure("Effective rank, of what is possible", "share (%)", percent=True, zero=True),
    "collapse/alarms": Figure("Signs of collapse", "signs that last"),
    "schedule/learning_rate": Figure("Learning rate", "learning rate"),
    "schedule/last_layer_learning_rate": Figure("Learning rate of the last layer", "learning rate"),
    "schedule/weight_decay": Figure("Weight decay", "weight decay"),
    "probe/knn_top1": Figure("kNN", "top-1 accuracy (%)", percent=True),
    "probe/knn_top5": Figure("kNN, top-5", "top-5 accuracy (%)", percent=True),
    "probe/knn_balanced": Figure("kNN, mean over classes", "balanced accuracy (%)", percent=True),
    "probe/svm_top1": Figure("Linear SVM", "top-1 accuracy (%)", percent=True),
    "probe/frame_f1": Figure("Frames", "F1 (%)", percent=True),
    "probe/event_f1": Figure("Events", "F1 (%)", percent=True),
}
_ENDS = {
    "entropy": Figure("entropy of the teacher's assignments", "entropy (nats)"),
    "kl": Figure("divergence of the student from the teacher", "KL divergence (nats)"),
    "prototypes": Figure("prototypes in use", "share of those possible (%)", percent=True, zero=True),
    "loss_global": Figure("loss on global views", "loss (nats)"),
    "loss_local": Figure("loss on local views", "loss (nats)"),
    "masked": Figure("masked tokens", "share of the tokens (%)", percent=True, zero=True),
    "distance": Figure("distance to the nearest neighbour", "mean distance", zero=True),
    "top1": Figure("positive found first", "share (%)", percent=True),
    "similarity": Figure("similarity of positives", "cosine"),
    "agreement": Figure("student and teacher agree", "share (%)", percent=True),
    "explained": Figure("explained variance", "share (%)", percent=True),
    "std_student": Figure("spread of the student's outputs", "standard deviation", zero=True),
    "std_teacher": Figure("spread of the teacher's outputs", "standard deviation", zero=True),
}
HIDDEN = ("time/seconds",)
"""Figures that are no curve: what they say stands elsewhere on the page."""


def objective(name: str) -> str:
    """An objective by its usual name: ``ibot-2`` is ``iBOT 2``."""
    base, _, number = name.partition("-")
    return f"{OBJECTIVES.get(base, words(base))} {number}".strip()


def figure(key: str) -> Figure:
    """How a figure of the metrics is shown, by its key; one that is not known by its words."""
    if key in _WHOLE:
        return _WHOLE[key]
    first, _, rest = key.partition("/")
    if first == "loss":
        return Figure(f"Loss of {objective(rest)}", "loss")
    if first == "schedule":
        return Figure(_sentence(words(rest)), words(rest))
    if key.startswith("data/skipped/"):
        return Figure(f"Unreadable samples: {words(rest.partition('/')[2])}", "reads")
    if key.startswith("data/epoch/"):
        return Figure(f"Passes over {rest.partition('/')[2]}", "passes", zero=True)
    if first == "probe":
        return Figure(_sentence(words(rest)), words(rest))
    if rest in _ENDS:
        known = _ENDS[rest]
        return Figure(f"{objective(first)}: {known.title}", known.axis, known.percent, known.zero)
    return Figure(_sentence(f"{words(first)}: {words(rest)}" if rest else words(first)), words(rest or first))


def series(key: str) -> str:
    """What a curve is called in the legend of a chart that shows several of one kind."""
    first, _, rest = key.partition("/")
    return figure(key).title if first == "probe" else objective(rest if first == "loss" else first)


def words(key: str) -> str:
    """A key as words."""
    return key.replace("_", " ").replace("/", ": ").strip()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def value(key: str, number: float) -> str:
    """A value of a figure with its name: ``weight decay 0.05``."""
    kind = figure(key)
    shown = f"{100 * number:.4g} %" if kind.percent else f"{number:.4g}"
    title = kind.title
    first = title.split()[0]
    named = first[1:] != first[1:].lower()  # DINO, KoLeo
    return f"{title if named else title[:1].lower() + title[1:]} {shown}"


def set_name(patterns: Sequence[str]) -> str:
    """What a person calls the set that shards belong to: ``Photo tiles (test)``, or by their folder and file name."""
    found = dict.fromkeys(_set_name(redact(str(pattern))) for pattern in patterns)
    names = list(found)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _set_name(pattern: str) -> str:
    if pattern.startswith("pipe:"):
        return "the output of a program"
    path = PurePosixPath(pattern.partition("?")[0] if "://" in pattern else pattern)
    shard = ".tar" in path.name or any(sign in path.name for sign in "*{[")
    folder = path.parent if shard else path
    split = re.split(r"[-_.]*[*?\[{\d]|\.tar", path.name)[0] if shard else ""
    generic = ("shards", "data", "train", "test", "")
    parts = [part for part in folder.parts if part not in ("/", ".", "..") and not part.endswith(":")]
    named = next((part for part in reversed(parts) if part not in generic), parts[-1] if parts else "shards")
    title = _title(folder) or (named if parts or not split else split)
    return f"{isolated(title)} ({split})" if split and split != title else isolated(title)


def _title(folder: PurePosixPath) -> str:
    """As the card in the folder's index says, where it can be read."""

    if "://" in str(folder) or ":/" in str(folder):
        return ""
    try:
        index = read_index(Path(folder))
    except (UserError, OSError):
        return ""
    card = index.about.get("card") if index else None
    title = card.get("title") if isinstance(card, Mapping) else None
    return title[:60] if isinstance(title, str) else ""


def split_of(result: Mapping[str, Any], split: str) -> str:
    """A split of a probe's result: its name and how many samples; empty where the result does not say."""
    data = (result.get("data") or {}).get(split)
    if not isinstance(data, Mapping):
        return str(data or "")
    count = data.get("samples")
    name = set_name(data.get("shards") or ())
    if not isinstance(count, int):
        return name
    return f"{name}, {count:,} sample{'' if count == 1 else 's'}"


def model_name(text: str) -> str:
    """A model without the path behind it: ``quickstart teacher at step 1,000``."""
    return re.sub(r" \([^()]*[/\\][^()]*\)$", "", text)


def duration(seconds: float) -> str:
    """``8.4 s``, ``75 s``, ``3.3 min``, ``15 min``, ``2 h 5 min``, ``3 days 4 h``."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 6000:
        minutes = seconds / 60
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    hours, left = divmod(round(seconds / 60), 60)
    return f"{hours // 24} days {hours % 24} h" if hours >= 48 else f"{hours} h {left} min"
