"""What is known of the views of a recipe before there is any batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from foundation.types import ViewShape


@runtime_checkable
class Shaped(Protocol):
    """Views that are not all of one modality, and say what each is."""

    def shapes(self) -> Mapping[str, ViewShape]: ...


def view_shapes(views: Any) -> dict[str, ViewShape]:
    """Shapes by the name of the view.

    Args:
        views: Config of a modality's views, with ``roles``, ``modality`` and ``evaluation()``.
    """
    if isinstance(views, Shaped):
        return dict(views.shapes())
    evaluation = views.evaluation()
    return {name: ViewShape(n, tuple(shape), views.modality, evaluation) for name, (n, shape) in views.roles.items()}
