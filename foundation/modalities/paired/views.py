"""Views of several modalities of one sample: the same stretch of time, cut out of each.

Spans are drawn once for all modalities, on the clock that they share; each modality's own views then cut them, at their
own rate, with augmentations of their own. Modalities without a time (a picture, points) make their views as ever. The
views are called ``MEMBER.ROLE``, such as ``imu.global``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation import config
from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.paired.clock import common
from foundation.modalities.paired.decode import Config as DecodeConfig
from foundation.modalities.paired.evaluation import EvaluationConfig
from foundation.modalities.parts import decode_config, views_for_probe
from foundation.modalities.shapes import view_shapes
from foundation.plugins import Plugin
from foundation.ranges import Factors, ShareBelowOne, check
from foundation.types import Sample, View, ViewShape

__all__ = ["Config", "EvaluationConfig", "PairedViews"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Views of each modality, and the stretches of time that they have in common."""

    members: dict[str, Annotated[Any, Plugin("foundation.modalities.{name}.views")]]
    """Views of each modality, by a name of your own without a dot. Those of modalities with a time show the spans below
    in place of their own."""
    spans: dict[str, Factors] = field(default_factory=lambda: {"global": (0.5, 1.0), "local": (0.2, 0.5)})
    """By role: shortest and longest span of a view, uniform between."""
    unit: Literal["share", "seconds"] = "share"
    """Whether spans are shares of what the recordings of a sample have in common, or seconds (at most all of it)."""
    align: Literal["clock", "ends"] = "clock"
    """``clock``: the time stamps of all modalities are of one clock. ``ends``: they are not, but all recordings begin
    and end together; moments are paired by their relative place."""
    tolerance: ShareBelowOne = 0.1
    """With ``clock``: largest share of the shortest recording for which another one may have nothing."""
    evaluate: str | None = None
    """Member whose evaluation view a probe feeds the encoder; None: the first one."""

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise UserError(f"views.members is {list(self.members)}; name the views of at least two modalities")
        for name in self.members:
            if "." in name or not name:
                raise UserError(f"views.members: {name!r} is no name of a member; leave out the dot")
        modalities = [views.modality for views in self.members.values()]
        if len(set(modalities)) < len(modalities):
            raise UserError(f"views.members has modalities {modalities}; each can be there once")
        if self.unit not in ("share", "seconds"):
            raise UserError(f"views.unit is {self.unit!r}; choose share or seconds")
        check(self, "views")
        for role, (low, high) in self.spans.items():
            if self.unit == "share" and high > 1:
                raise UserError(f"views.spans.{role} is {(low, high)}; give 0 < shortest <= longest, shares up to 1")
        if self.evaluate is not None and self.evaluate not in self.members:
            raise UserError(f"views.evaluate is {self.evaluate!r}; the members are {', '.join(self.members)}")
        self.decode  # noqa: B018  its own checks
        self.build()

    @property
    def modality(self) -> str:
        """Folder name in ``foundation/modalities``."""
        return PairedViews.modality

    @property
    def decode(self) -> DecodeConfig:
        """How the members of a sample are read: each as its views say, else with its modality's defaults."""
        decoders = [decode_config(views.modality, views) for views in self.members.values()]
        return DecodeConfig(decoders=tuple(decoders), align=self.align, tolerance=self.tolerance)

    @property
    def roles(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """By name of the view: views per sample, and the shape of one view's data."""
        return self.build().describe()

    def shapes(self) -> dict[str, ViewShape]:
        """Those of each member, as they are named here; those with a time last as long as the spans below."""
        return {
            f"{name}.{role}": replace(shape, evaluation=self._lasting(role, shape.evaluation))
            for name, views in self.members.items()
            for role, shape in view_shapes(views).items()
        }

    def _lasting(self, role: str, evaluation: Any) -> Any:
        """What goes with a view that shows a span, whose seconds are those of its own views no more."""
        if "seconds" not in {item.name for item in fields(evaluation)} or role not in self.spans:
            return evaluation
        low, high = self.spans[role]
        return replace(evaluation, seconds=low if self.unit == "seconds" and low == high else None)

    def evaluation(self) -> EvaluationConfig:
        """What a probe feeds an encoder trained with these views: the evaluation view of one member."""

        member = self.members[self.evaluate or next(iter(self.members))]
        return EvaluationConfig(modality=member.modality, settings=dict(config.to_plain(member.evaluation())))

    def build(self, device_is_accelerator: bool = False) -> PairedViews:
        """The view maker.

        Args:
            device_is_accelerator: whether training runs on a GPU.

        Raises:
            UserError: modalities with a time differ in the number of views of a role, or no span is given for it.
        """
        return PairedViews(self, device_is_accelerator)


def for_probe(evaluation: EvaluationConfig) -> Any:
    """Training views of a linear probe: those of the modality that it looks at."""
    return views_for_probe(evaluation.modality, evaluation.own)


@dataclass(frozen=True)
class Prepared:
    """A batch between the two halves, by member; each part is what that member's ``prepare`` gives."""

    parts: Mapping[str, Any]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Prepared:
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Prepared:
        return self._each(lambda part: part.pin_memory())

    def _each(self, function: Callable[[Any], Any]) -> Prepared:
        return Prepared({name: function(part) for name, part in self.parts.items()})


class PairedViews:
    """Makes the views of a batch of samples with several modalities; see the module's text.

    Attributes:
        makers: views of each member.
        timed: members that show a span of time.
    """

    modality = "paired"

    def __init__(self, config: Config, device_is_accelerator: bool = False) -> None:
        self.config, self._accelerator = config, device_is_accelerator
        self.makers = {
            name: views.build(device_is_accelerator=device_is_accelerator) for name, views in config.members.items()
        }
        self.timed = [name for name, maker in self.makers.items() if getattr(maker, "takes_spans", False)]
        self.counts: dict[str, int] = {}
        for name in self.timed:
            for role, (count, _) in self.makers[name].describe().items():
                if self.counts.setdefault(role, count) != count:
                    raise UserError(
                        f"views.members.{name} has {count} {role} views, another member {self.counts[role]}: each "
                        "shows one span, so they must be as many"
                    )
                if role not in config.spans:
                    raise UserError(f"views.spans has no {role!r}: say how long the {role} views of {name} are")

    def __reduce__(self) -> tuple[Any, ...]:
        return PairedViews, (self.config, self._accelerator)

    def describe(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """By name of the view (``imu.global``): views per sample, and the shape of one view's data."""
        return {
            f"{name}.{role}": facts for name, maker in self.makers.items() for role, facts in maker.describe().items()
        }

    def inputs(self, prepared: Prepared, view: str) -> Tensor:
        """Data of a view, for masks that depend on where its tokens lie."""
        name, _, role = view.partition(".")
        found: Tensor = self.makers[name].inputs(prepared.parts[name], role)
        return found

    def prepare(self, samples: Sequence[Sample], draws: Draws) -> Prepared:
        """Draws the spans and has each modality cut them.

        Args:
            samples: B samples with an entry of each modality.
            draws: random numbers of these samples, in the same order.

        Returns:
            What :meth:`finish` needs.
        """

        entries = {name: self.makers[name].modality.rpartition(".")[2] for name in self.timed}
        parts = {}
        if entries:
            clock = common(samples, list(entries.values()), self.config.align == "ends")
            placed = {role: self._spans(role, draws, clock.begins, clock.ends) for role in self.counts}
        for name, maker in self.makers.items():
            if name not in entries:
                parts[name] = maker.prepare(samples, draws)
                continue
            own = {role: clock.own(entries[name], placed[role]) for role in maker.describe()}
            parts[name] = maker.prepare(samples, draws, own)
        return Prepared(parts)

    def join(self, parts: Sequence[Prepared], draws: Draws) -> Prepared:
        """What ``prepare`` gives for all samples, from what it gave for some at a time; ``draws`` are of them all."""
        return Prepared(
            {name: maker.join([part.parts[name] for part in parts], draws) for name, maker in self.makers.items()}
        )

    def finish(self, prepared: Prepared) -> dict[str, View]:
        """Does the device half of every member.

        Returns:
            By name a View as the member makes it; its geometry is on the clock of that member.
        """
        views = {}
        for name, maker in self.makers.items():
            for role, view in maker.finish(prepared.parts[name]).items():
                views[f"{name}.{role}"] = replace(view, role=f"{name}.{role}")
        return views

    def _spans(
        self, role: str, draws: Draws, begins: NDArray[np.float64], ends: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """[R, 2] begin and seconds of each view on the common clock."""

        low, high = self.config.spans[role]
        placed = []
        for view in range(self.counts[role]):
            uniforms = draws.uniform(f"{self.modality}.{role}.{view}.span", 2)
            length = low + (high - low) * uniforms[:, 0]
            seconds = np.minimum(length if self.config.unit == "seconds" else length * (ends - begins), ends - begins)
            placed.append(np.stack([begins + uniforms[:, 1] * (ends - begins - seconds), seconds], axis=1))
        return np.concatenate(placed)
