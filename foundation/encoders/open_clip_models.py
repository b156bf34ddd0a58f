"""Image towers of open_clip by name: made with random, published or given weights, which are safetensors only."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foundation.compatibility import installed
from foundation.encoders.pictures import weights_file
from foundation.errors import UserError
from foundation.hub_access import is_of_network, one_attempt
from foundation.weights import header

_TOWER = "visual."
_NAMES = 8  # in a message


def import_open_clip() -> Any:
    """The open_clip library.

    Raises:
        UserError: it cannot be imported; names the extra that brings it.
    """
    try:
        return importlib.import_module("open_clip")
    except Exception as error:  # with a torchvision for another torch build it raises RuntimeError, OSError, ...
        found = installed("open_clip_torch")
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if found is None:
            said = "open_clip is not installed: pip install 'foundation-pretrain[clip]'"
        else:
            said = f"open_clip_torch {found} cannot be imported ({reason}): pip install -U 'foundation-pretrain[clip]'"
        raise UserError(said) from error


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is known of a model's image tower without building it.

    Attributes:
        name: of the model in open_clip.
        vision: open_clip's own settings of the tower, ``CLIPVisionCfg``.
        embed: numbers of the embedding that images share with texts.
        quick_gelu: which GELU its weights were trained with.
    """

    name: str
    vision: Any
    embed: int
    quick_gelu: bool

    @property
    def side(self) -> int:
        """Side of a patch in pixels."""
        return int(self.vision.patch_size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        given = self.vision.image_size
        height, width = (given, given) if isinstance(given, int) else given
        return int(height), int(width)


@functools.cache
def shape_of(model: str) -> Shape:
    """The image tower of a model.

    Raises:
        UserError: open_clip has no such model, or its tower is no vision transformer of open_clip's own.
    """
    library = import_open_clip()
    settings = library.get_model_config(model) if ":" not in model else None
    if settings is None:
        near = difflib.get_close_matches(model, library.list_models(), n=5, cutoff=0.4)
        raise UserError(f"open_clip has no model {model!r}" + (f"; similar: {', '.join(near)}" if near else ""))
    vision = importlib.import_module("open_clip.model").CLIPVisionCfg(**settings["vision_cfg"])
    if vision.timm_model_name:
        raise UserError(
            f"the image tower of open_clip's {model!r} is timm's {vision.timm_model_name!r}: take it from there, as "
            f"timm:{vision.timm_model_name} (timm publishes the weights of such towers under tags of their own)"
        )
    for wrong, why in (
        (not isinstance(vision.layers, int), "is a ResNet"),
        (bool(vision.attentional_pool), "ends in an attention over all tokens, behind which there are no patches"),
        (not isinstance(vision.patch_size, int), "has patches that are no squares"),
    ):
        if wrong:
            raise UserError(f"the image tower of open_clip's {model!r} {why}: take one such as ViT-B-32")
    vision = dataclasses.replace(vision, patch_dropout=0.0)
    return Shape(model, vision, int(settings["embed_dim"]), bool(settings.get("quick_gelu", False)))


def create(model: str, *, size: tuple[int, int] | None, pretrained: str | None, weights: str | None) -> nn.Module:
    """An image tower without its projection to the embedding. See :class:`foundation.encoders.open_clip.Config`.

    Raises:
        UserError: no such model or tag; weights that cannot be had or do not fit.
    """
    shape = shape_of(model)
    published = None if pretrained is None else tag_of(shape, pretrained)
    vision = shape.vision if size is None else dataclasses.replace(shape.vision, image_size=size)
    build = importlib.import_module("open_clip.model")._build_vision_tower
    made: Any = build(shape.embed, vision, shape.quick_gelu)
    made.proj = None
    tower: nn.Module = made
    if torch.get_default_device().type == "meta":  # a plan needs no weights
        return tower
    if weights is not None:
        _fill(tower, weights_file(weights, "open_clip", model), model)
    elif published is not None:
        _fill(tower, _fetched(model, str(pretrained), published), model)
    return tower


def tag_of(shape: Shape, tag: str) -> dict[str, Any]:
    """What open_clip says of published weights: where they are, mean and deviation of their images.

    Raises:
        UserError: there are none under this tag (with those there are), or they want another activation.
    """
    library = import_open_clip()
    published: dict[str, Any] = dict(library.get_pretrained_cfg(shape.name, tag))
    if not published:
        raise UserError(f"open_clip publishes no weights {tag!r} of {shape.name!r}; {tags_of(shape.name)}")
    if published.get("quick_gelu") and not shape.quick_gelu:
        other = f"{shape.name}-quickgelu"
        there = f": take {other}" if other in library.list_models() else ""
        raise UserError(f"the weights {tag!r} of open_clip's {shape.name!r} were trained with QuickGELU{there}")
    return published


def tags_of(model: str) -> str:
    """Published weights of a model, for a message."""
    tags = import_open_clip().list_pretrained_tags_by_model(model)
    more = f" and {len(tags) - _NAMES} more" if len(tags) > _NAMES else ""
    return f"there are: {', '.join(tags[:_NAMES]) or 'none'}{more}"


def _fetched(model: str, tag: str, published: dict[str, Any]) -> Path:
    """The file of published weights, fetched once from the hub; one attempt, and what goes wrong in one sentence."""
    folder, _, name = str(published.get("hf_hub") or "").rpartition("/")
    otherwise = (
        f"download a .safetensors of it elsewhere and name it, open_clip:{model},weights=FILE.safetensors (in a recipe "
        f"encoder.weights=FILE.safetensors), or take random weights, open_clip:{model},random"
    )
    library = importlib.import_module("open_clip.pretrained")
    names = [str(library.HF_SAFE_WEIGHTS_NAME)] if not name else [f"{name.rpartition('.')[0]}.safetensors"]
    if not folder:
        raise UserError(
            f"open_clip publishes the weights {tag!r} of {model!r} only in a form that may run code when it is opened: "
            f"{otherwise}"
        )
    hub = importlib.import_module("huggingface_hub")
    with one_attempt() as silence:
        try:
            return Path(hub.hf_hub_download(repo_id=folder, filename=names[0]))
        except Exception as error:
            if not is_of_network(error):
                raise
            reason = silence or (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the published weights {tag!r} of open_clip's {model!r} are not on this machine and {names[0]} cannot "
                f"be fetched from {folder} ({reason}): {otherwise}"
            ) from error


def _fill(tower: nn.Module, file: Path, model: str) -> None:
    """Load a file of a whole model or of its image tower; all else is left aside.

    Raises:
        UserError: it does not fit.
    """
    from safetensors.torch import load_file

    header(file)
    found = load_file(str(file))
    whole = any(name.startswith(_TOWER) for name in found)
    own = {n.removeprefix(_TOWER): t for n, t in found.items() if n.startswith(_TOWER) or not whole}
    own.pop("proj", None)
    wanted = tower.state_dict()
    wrong = sorted(own.keys() ^ wanted.keys()) + [n for n in wanted if n in own and own[n].shape != wanted[n].shape]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(f"{file} does not fit the image tower of open_clip's {model!r}: {', '.join(wrong[:5])}{more}")
    tower.load_state_dict(own)
