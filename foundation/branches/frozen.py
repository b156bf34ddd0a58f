"""A frozen branch: a model that was trained elsewhere, with its own size, statistics and rate (experts, teachers)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from foundation.branches.base import Branch, BranchContext, EncoderBranch, Offer
from foundation.branches.fixed import fixed_heads
from foundation.branches.request import Request
from foundation.encoders.frame_by_frame import FrameByFrame
from foundation.errors import UserError
from foundation.modalities.fits import fit, fit_frames
from foundation.parallel.first_weights import is_plan
from foundation.plugins import Plugin
from foundation.ranges import Side, check
from foundation.types import Batch, ViewShape
from foundation.zoo.load import LoadedEncoder, load_encoder


@dataclass(frozen=True, kw_only=True)
class Config:
    """An encoder that never changes. Its weights are not in the checkpoints: only their checksum is, and a run goes on
    with no others."""

    weights: str
    """A run folder, a checkpoint folder, an exported ``.safetensors``, or ``timm:NAME`` for the published weights of a
    timm model (``timm:NAME,weights=FILE.safetensors`` from a file, ``timm:NAME,random``), or the image tower of an
    open_clip model (``open_clip:NAME,pretrained=TAG``, likewise ``weights=FILE.safetensors`` or ``random``)."""
    branch: str | None = None
    """Which encoder of a run folder or checkpoint; None: the one that it was measured by."""
    heads: dict[str, Annotated[Any, Plugin("foundation.heads.{name}", usual="prototypes")]] = field(
        default_factory=dict
    )
    """Heads by name, drawn at random from the seed and never trained: a fixed random projection (COMODO). They are in
    the checkpoints."""
    frames: Literal["mean"] | None = None
    """``mean``: an encoder of single pictures sees clips frame by frame, and the mean of its class tokens is taken;
    None: it sees views of its own modality."""
    frames_every: Side = 1
    """With ``frames``: it sees every n-th frame, from the first on."""

    def __post_init__(self) -> None:
        if self.frames not in (None, "mean"):
            raise UserError(f"frozen: frames is {self.frames!r}; choose mean, or leave it out")
        if self.frames is None and self.frames_every != 1:
            raise UserError("frozen: frames_every means something only beside frames: mean")
        check(self, "frozen")

    def build(self, context: BranchContext) -> FrozenBranch:
        """The branch.

        Raises:
            UserError: the weights cannot be read.
        """
        planned = is_plan()  # by a dry run: what can be read is, and nothing fetched
        with torch.device("cpu"):
            loaded = load_teacher(self.weights, self.branch, fetch=not planned)
            heads = fixed_heads(self.heads, _width(loaded), context)
            return FrozenBranch(loaded, context.views, heads, self, context.name)


class FrozenBranch(Branch):
    """See :class:`Config`.

    Args:
        loaded: the encoder and what it wants to be fed.
        views: of the recipe.
        heads: by name, see :func:`foundation.branches.fixed.fixed_heads`.
        config: how clips are seen, and the Configs of the heads.
        name: of the branch.

    Attributes:
        heads: by name.
        published: source of its weights, where they are published ones; see
            :class:`foundation.encoders.protocol.EncoderConfig`.
        checksum: [32] uint8, SHA-256 of the weights.
    """

    checksum: Tensor

    def __init__(
        self, loaded: LoadedEncoder, views: Mapping[str, ViewShape], heads: nn.ModuleDict, config: Config, name: str
    ) -> None:
        super().__init__()
        self.name = name
        self.description, self.by_frame = loaded.description, config.frames is not None
        self.published = loaded.published
        self.heads = heads
        # Not registered: neither checkpoints nor data parallel training must carry weights that never change.
        encoder = FrameByFrame(loaded.encoder) if self.by_frame else loaded.encoder
        held = EncoderBranch(encoder, {}, config.heads).requires_grad_(False).eval()
        held.heads = self.heads  # the same modules, which are small and in the checkpoints
        self._held = [held]
        digest = torch.frombuffer(bytearray(digest_of(loaded)), dtype=torch.uint8)
        self.register_buffer("checksum", digest.clone())
        self.register_load_state_dict_pre_hook(_refuse_others)
        self._fits: dict[str, nn.Module] = {}
        self._refusals: dict[str, str] = {}
        for name, view in views.items():
            try:
                self._fits[name] = fit_of(loaded, view, config)
            except UserError as error:
                self._refusals[name] = str(error)

    @property
    def model(self) -> EncoderBranch:
        """The encoder."""
        return self._held[0]

    @property
    def beside(self) -> tuple[nn.Module, ...]:
        """Modules that are not registered: the encoder, and what makes views what it was trained on."""
        return (*self._held, *self._fits.values())

    @property
    def encoding(self) -> EncoderBranch:
        return self.model

    def fed(self, batch: Batch, views: Collection[str]) -> Batch:
        made = {name: replace(batch.views[name], data=self._fits[name](batch.views[name].data)) for name in views}
        return replace(batch, views={**batch.views, **made})

    @property
    def offer(self) -> Offer:
        return self.model.offer

    def input_shape(self, view: ViewShape, name: str) -> tuple[int, ...]:
        if name not in self._fits:
            return view.shape
        with torch.no_grad():
            return tuple(self._fits[name](torch.zeros(1, *view.shape, device="cpu")).shape[1:])

    def num_patches(self, view: ViewShape, name: str) -> int | None:
        if name not in self._fits:
            return None
        if self.by_frame:
            return 0
        return self.model.num_patches(replace(view, shape=self.input_shape(view, name)), name)

    def grid(self, view: ViewShape, name: str) -> tuple[int, ...] | None:
        if name not in self._fits or self.by_frame:
            return None
        return self.model.grid(replace(view, shape=self.input_shape(view, name)), name)

    def refusal(self, request: Request) -> str | None:
        text = self._refusals.get(request.view)
        if text is not None:
            return f"cannot be asked about view {request.view!r}: {text}"
        if self.by_frame and request.token not in ("cls", "registers"):
            return f"sees clips frame by frame and has class tokens only, and not {request.token}"
        return None

    def train(self, mode: bool = True) -> FrozenBranch:
        """Stays in evaluation mode."""
        super().train(False)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenBranch:
        super()._apply(fn, recurse)
        for module in self.beside:
            module._apply(fn)
        return self

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor]
    ) -> dict[Request, Tensor]:
        """Answers by request, of views that are made what the encoder was trained on."""
        requests = tuple(requests)
        return self.model(self.fed(batch, {request.view for request in requests}), requests)


def fit_of(loaded: LoadedEncoder, view: ViewShape, config: Config) -> nn.Module:
    """Module that makes a view what an encoder was trained on.

    Args:
        loaded: the encoder.
        view: of the recipe.
        config: says whether clips are seen frame by frame.

    Raises:
        UserError: it cannot be done.
    """
    wanted, target = loaded.own
    facts = (view.modality, wanted, view.shape, view.evaluation, target)
    return fit(*facts) if config.frames is None else fit_frames(*facts, config.frames_every)


def load_teacher(weights: str, branch: str | None, fetch: bool) -> LoadedEncoder:
    """The encoder that a recipe names; see :func:`foundation.zoo.load.load_encoder`.

    Raises:
        UserError: it cannot be read; where there is nothing of this name yet, that it is made first.
    """
    try:
        return load_encoder(weights, branch=branch, fetch=fetch)
    except UserError as error:
        if weights.startswith(("timm:", "open_clip:")) or Path(weights).exists():
            raise
        raise UserError(
            f"{error}. A teacher is trained, or copied there, before the run; how, the first lines of its recipe say"
        ) from None


def _width(loaded: LoadedEncoder) -> int:
    encoder: Any = loaded.encoder
    return int(encoder.width)


def digest_of(loaded: LoadedEncoder) -> bytes:
    """SHA-256 of an encoder's weights: of its file where there is one, else of the tensors; zeros for
    a plan, which has none."""
    if loaded.sha256 is not None:
        return bytes.fromhex(loaded.sha256)
    if any(tensor.is_meta for tensor in loaded.encoder.state_dict().values()):
        return bytes(32)
    total = hashlib.sha256()
    for name, tensor in sorted(loaded.encoder.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.digest()


def _refuse_others(module: nn.Module, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    assert isinstance(module, FrozenBranch)
    saved = state.get(f"{prefix}checksum")
    if saved is not None and not torch.equal(saved.cpu(), module.checksum.cpu()):
        raise UserError(
            f"the frozen branch {module.name!r} of this run had other weights than {module.description} has now: put "
            "back the file that it was trained with, or begin a new run"
        )
