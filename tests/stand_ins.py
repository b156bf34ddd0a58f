"""Settings that stand in for what a shipped recipe leaves to its user: the weights of experts."""

from __future__ import annotations

EXPERT = "'timm:test_vit,random'"
"""timm's smallest ViT: 64 wide, 160 pixels, patches of 16."""

OF_FRAMES = (f"branches.teacher.weights={EXPERT}", "branches.teacher.frames=mean")
"""A teacher of clips that sees them frame by frame."""

STAND_INS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("audio-visual-nano", "utd-comodo-nano", "utd-comodo-l2-nano", "utd-comodo-infonce-nano"), OF_FRAMES
    ),
    "cifar10-gpfm-nano": (f"branches.dino.weights={EXPERT}", f"branches.mae.weights={EXPERT}"),
    "gpfm": tuple(
        setting
        for name in ("uni", "conch", "phikon")
        for setting in (f"branches.{name}.weights={EXPERT}", f"heads.{name}.prototypes=64")
    ),
}
"""By recipe."""
