"""What other training programs call the settings of a recipe, and how each is written here."""

from __future__ import annotations

import re

_WRITTEN = {
    "train.length='{} epochs'": "epochs num_epochs max_epochs num_train_epochs total_epochs",
    "train.length='{} steps'": "steps num_steps max_steps total_steps train_steps iterations max_iters num_iterations",
    "train.batch_size={}": "batch_size train_batch_size global_batch_size batch bs",
    "train.accumulate={}": "accum_iter grad_accum gradient_accumulation_steps accumulate_grad_batches",
    "train.log_every={}": "log_interval log_every_n_steps logging_steps print_freq",
    "train.device={}": "device",
    "data.workers={}": "num_workers workers dataloader_num_workers",
    "data.shards=[{}]": "data_path data_dir train_dir train_data",
    "optimizer.learning_rate.start={}": "lr learning_rate base_lr peak_lr max_lr blr",
    "optimizer.learning_rate.end={}": "min_lr lr_min final_lr",
    "optimizer.learning_rate.warmup='{} epochs'": "warmup_epochs",
    "optimizer.learning_rate.warmup='{} steps'": "warmup_steps warmup_iters num_warmup_steps",
    "optimizer.weight_decay={}": "weight_decay wd",
    "optimizer.clip={}": "clip_grad grad_clip max_grad_norm clip_grad_norm gradient_clip_val",
    "seed={}": "seed",
}
"""Settings as they are written on the command line, each with the names that mean it elsewhere."""
_NAMES = {name: setting for setting, names in _WRITTEN.items() for name in names.split()}
_PLAIN = re.compile(r"[\w.+/-]+")


def names() -> tuple[str, ...]:
    """All names that :func:`written` knows."""
    return tuple(_NAMES)


def section_of(name: str) -> str:
    """The first part of the setting's key: ``optimizer`` for ``lr``; empty for a name that is no synonym."""
    return re.split(r"[.=]", _NAMES.get(name, ""))[0]


def written(name: str, value: str | None = None) -> str:
    """How a setting is written here.

    Args:
        name: what the user called it: ``epochs``, ``lr``; underscores, no dashes, no section.
        value: what it was given; one that is no plain word is left for the user to fill in.

    Returns:
        ``train.length='4 epochs'``; empty for a name that is no synonym.
    """
    plain = value if value and _PLAIN.fullmatch(value) else "VALUE"
    return _NAMES[name].format(plain) if name in _NAMES else ""
