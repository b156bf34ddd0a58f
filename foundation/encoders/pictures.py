"""What encoders of other libraries share: square tokens of an image, and weights that are read from files alone."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from foundation.encoders.protocol import EncoderModule
from foundation.errors import UserError
from foundation.modalities.grids import cut, spread
from foundation.modalities.image.tokenizer import Config as Patches
from foundation.weights import header


class PictureEncoder(EncoderModule):
    """Base of encoders of images whose tokens stand for equal squares.

    Attributes:
        stride: pixels between neighbouring tokens of the output.
    """

    stride: int

    def cells(self, view: Tensor) -> Tensor:
        """Pixels under each token of the output, [R, N, channels, stride, stride]; a token may have seen more."""
        Patches(patch_size=self.stride).grid((view.shape[2], view.shape[3]))
        return cut(view, (self.stride, self.stride))

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """Which pixels of a view lie under tokens [R, N] bool, [R, 1, H, W]."""
        Patches(patch_size=self.stride).grid((view.shape[2], view.shape[3]))
        return spread(hidden, (view.shape[2], view.shape[3]), (self.stride, self.stride))


def weights_file(path: str, library: str, model: str) -> Path:
    """A file with weights of a library's model, looked at and not opened.

    Args:
        path: of the file.
        library: such as ``timm``.
        model: its name there.

    Raises:
        UserError: it is no readable safetensors file.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        raise UserError(
            f"{path} is not read: weights of {library} models are taken from .safetensors files (others may run code "
            "when they are opened)"
        )
    if not file.is_file():
        raise UserError(f"{path} does not exist: weights of {library}'s {model!r} were to be read from it")
    header(file)
    return file
