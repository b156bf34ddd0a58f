"""Self-supervised pretraining of encoders, from shards to a report. Start with ``foundation --help``."""

from foundation.version import VERSION

# Here nothing of Python's library is imported, ``typing`` neither: ``python -m foundation`` runs this file while the
# working directory is still on the path, where a ``re.py`` among someone's data would stand in for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from foundation.zoo.model import Model, Tokens

__version__ = VERSION
__all__ = ["__version__", "load"]


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
