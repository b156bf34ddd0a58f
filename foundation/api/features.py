"""A pretrained encoder as a transformer of scikit-learn: files or arrays in, one vector of numbers for each out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from foundation.errors import UserError
from foundation.zoo.model import Model, Tokens, load

_HELD = 2
"""Models that a process holds for its extractors: clones of one, as a grid search makes them, share its weights."""


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Features of a pretrained encoder, in scikit-learn's manner.

    ::

        extractor = foundation.FeatureExtractor("runs/mine")
        features = extractor.transform(["a.jpg", "b.jpg"])                      # [2, width] float32
        classifier = make_pipeline(extractor, LogisticRegression()).fit(files, labels)

    There is nothing to fit. The model is loaded at the first transform, once in a process for all clones, and is not
    part of a pickle: that holds the name alone, and the model must be there where it is read.

    Args:
        model: what :func:`foundation.load` takes; or a model that it gave, which clones and pickles carry along.
        branch: which encoder of a run; None: the one that it was measured by.
        tokens: what stands for a sample: ``cls``, ``patches`` (the mean of the patch tokens) or ``both``.
        batch_size: samples that are encoded together.
        device: where it computes; ``auto``: the GPU if there is one.
        rate: samples, readings or frames per second of arrays, see :meth:`foundation.zoo.model.Model.forward`.
        pieces: views of a recording that is longer than one, whose features are averaged, see there.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        *,
        branch: str | None = None,
        tokens: Tokens = "cls",
        batch_size: int = 64,
        device: str = "auto",
        rate: float | None = None,
        pieces: int = 1,
    ) -> None:
        self.model = model
        self.branch = branch
        self.tokens = tokens
        self.batch_size = batch_size
        self.device = device
        self.rate = rate
        self.pieces = pieces

    def fit(self, X: Any = None, y: Any = None) -> FeatureExtractor:
        """Nothing is learnt."""
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Features [samples, width] float32.

        Args:
            X: a list, array or column of paths, [samples] or [samples, 1]; a list of arrays, or one array whose first
                axis is the samples, each as :meth:`foundation.zoo.model.Model.forward` takes it.

        Raises:
            UserError: something is no file, or of another kind than the model takes.
            SampleError: a file that cannot be used; names it.
        """
        items = items_of(X)
        model = self._loaded()
        if not items:
            return np.empty((0, model.width), dtype=np.float32)
        found = model(items, rate=self.rate, batch_size=self.batch_size, pieces=self.pieces)
        vectors: NDArray[np.float32] = found.cpu().numpy()
        return vectors

    @property
    def _n_features_out(self) -> int:
        """Width of the features, which their names are counted by."""
        return self._loaded().width

    def _loaded(self) -> Model:
        if isinstance(self.model, Model):
            if self.model.tokens != self.tokens:
                raise UserError(
                    f"FeatureExtractor: the model was loaded with tokens={self.model.tokens!r}, and {self.tokens!r} "
                    "are asked for: give its name, or load it so"
                )
            return self.model
        device = self.device
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        return _shared(os.fspath(self.model), self.branch, self.tokens, device)

    def __sklearn_is_fitted__(self) -> bool:
        """Always: there is nothing to fit."""
        return True

    def __sklearn_tags__(self) -> Any:
        """It takes text (paths) and arrays of any shape, and needs no fit."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags


@lru_cache(maxsize=_HELD)
def _shared(name: str, branch: str | None, tokens: Tokens, device: str) -> Model:
    return load(name, branch=branch, device=device, tokens=tokens)


def items_of(samples: Any) -> list[Any]:
    """Samples one by one: of a list, of a column of paths, of an array whose first axis they are."""
    if isinstance(samples, str | bytes | Path):
        raise UserError(f"FeatureExtractor takes several samples: give a list, [{str(samples)!r}]")
    if not isinstance(samples, list | tuple | np.ndarray) and hasattr(samples, "to_numpy"):
        samples = samples.to_numpy()
    if isinstance(samples, np.ndarray):
        if samples.dtype.kind in "OUS" and samples.ndim == 2 and samples.shape[1] == 1:
            samples = samples[:, 0]
        return [str(one) if isinstance(one, str) else one for one in samples]
    if not isinstance(samples, Iterable):
        raise UserError(f"FeatureExtractor takes a list of samples, not {type(samples).__name__}")
    return list(samples)
