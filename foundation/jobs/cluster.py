"""Clusters of the training data as a job: k-means of a branch's features, written to a store that an objective reads.

Letters: S samples of the data, D width, K clusters, n samples that could be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from foundation import counter
from foundation.errors import UserError
from foundation.jobs.base import Job, JobContext
from foundation.objectives.store import Store
from foundation.parallel.collective import gather_to_first, on_first_rank, sum_over_ranks
from foundation.parallel.parallelize import gathered
from foundation.plugins import near
from foundation.probes.features import check_finite, extract
from foundation.ranges import Count, Range, Workers, check
from foundation.schedules import Duration


@dataclass(frozen=True, kw_only=True)
class Config:
    """k-means over the evaluation view of every training sample, every so often.

    A clustering begins where the one before has ended: at the mean features of its clusters, as they are now. So a
    cluster keeps its number, and what a head has learnt of it counts on.
    """

    every: Annotated[Duration, Range(0, 1e9, above=True)]
    """Distance between two clusterings."""
    at_start: bool = False
    """Also cluster before the first step of the stage, such as the features of the stage before."""
    branch: str | None = None
    """Branch whose encoder gives the features; None: the measured one."""
    store: str = "clusters"
    """Store that is written, of an objective such as ``pseudo_label``."""
    clusters: Annotated[int, Range(2, 2**24)] | None = None
    """Number of clusters K; None: as many as the store's reader tells apart."""
    tokens: Literal["cls", "patches"] = "cls"
    """What stands for a sample: its class token, or the mean of its patch tokens."""
    normalise: bool = True
    """Bring the features to length 1 first, so that angles count."""
    minibatch: Annotated[int, Range(1, 2**24)] | None = None
    """Samples of a step of mini-batch k-means (Sculley 2010), for large data; None: all in each (Lloyd 1982)."""
    iterations: Count = 100
    """Most passes of k-means over the data."""
    batch_size: Count = 256
    """Samples that the encoder sees at once."""
    workers: Workers = 0
    """Loader processes."""

    def __post_init__(self) -> None:
        check(self, "cluster")

    def build(self, context: JobContext) -> ClusterJob:
        """The job.

        Raises:
            UserError: no branch with an encoder, no objective's store, or no head for so many clusters.
        """
        context.branch(self.branch)
        stores = context.learner.stores
        classes = {name: cast(Store, store).classes for name, store in stores.items()}
        able = {name: count for name, count in classes.items() if count is not None}
        if self.store not in able:
            there = ", ".join(able) or "none"
            raise UserError(
                f"no objective reads clusters from a store {self.store!r}{near(self.store, able)}; there are: {there}"
            )
        clusters = self.clusters or able[self.store]
        if clusters > able[self.store]:
            raise UserError(
                f"the reader of the store {self.store!r} tells {able[self.store]} clusters apart, not {clusters}: give "
                "its head as many prototypes"
            )
        if context.sources and context.num_samples < clusters:
            raise UserError(f"{context.num_samples:,} samples make no {clusters:,} clusters: choose fewer")
        return ClusterJob(self, clusters)


class ClusterJob(Job):
    """See :class:`Config`. Its whole state is the store: features are not kept."""

    doing = "clustering"

    def __init__(self, config: Config, clusters: int) -> None:
        super().__init__()
        self.config, self.clusters, self.at_start = config, clusters, config.at_start

    def run(self, context: JobContext) -> Mapping[str, float]:
        """Every process computes the features of its share; process 0 clusters those of all; all get its answer.

        Returns:
            ``STORE/changed``, share of the samples whose cluster is another than before; ``/nmi``, normalised mutual
            information with the labels, where there are any; ``/inertia``, mean squared distance to the centre of the
            cluster; ``/used``, clusters with a sample.

        Raises:
            UserError: features that are not finite, or fewer samples than clusters.
        """
        store = cast(Store, context.learner.stores[self.config.store])
        with gathered(context.branch(self.config.branch).encoder):
            own = self._features(context)
        parts = gather_to_first(own)
        found = torch.zeros(len(store.values), dtype=torch.int64)

        def cluster() -> dict[str, float]:
            features, numbers, labels = (torch.cat([part[name] for part in parts]) for name in parts[0])
            before = store.values.cpu()
            assigned, inertia = self._cluster(features, before[numbers], self._seed(context))
            found.fill_(-1)[numbers] = assigned
            return self._figures(before[numbers], assigned, labels, inertia)

        figures = on_first_rank(cluster)
        store.values.copy_(sum_over_ranks(found))  # zeros elsewhere
        return figures

    def _features(self, context: JobContext) -> dict[str, Tensor]:
        """Features [n, D] of this process's share, numbers [n] and labels [n] of the samples."""
        encoder = context.branch(self.config.branch).encoder
        modes = {module: module.training for module in encoder.modules()}
        batches = context.samples(self.config.batch_size, self.config.workers)
        try:
            own = extract(
                encoder.eval(), batches, device=context.placement.device,
                autocast=context.placement.autocast is not None, what="clustering",
            )  # fmt: skip
        except UserError:  # not one of the share can be read; the other processes wait for an answer
            nothing = torch.empty(0, dtype=torch.int64)
            return {"features": torch.empty(0, int(encoder.width)), "numbers": nothing, "labels": nothing}
        finally:
            for module, mode in modes.items():
                module.training = mode
        return {"features": own.tokens(self.config.tokens)[0], "numbers": own.ids, "labels": own.labels}

    def _seed(self, context: JobContext) -> int:
        return int(counter.bits(context.seed, 0, context.step, "job.cluster", 1)[0, 0] >> np.uint64(33))

    def _cluster(self, features: Tensor, before: Tensor, seed: int) -> tuple[Tensor, float]:
        """Clusters [n] of features [n, D] and their inertia.

        Args:
            features: float32.
            before: [n] clusters of the time before, -1 for none.
            seed: of the choice of the first centres.
        """
        if len(features) < self.clusters:
            raise UserError(
                f"cluster: {len(features):,} samples that can be read make no {self.clusters:,} clusters: choose fewer"
            )
        check_finite(features, "clustering")
        if self.config.normalise:
            features = F.normalize(features, dim=1)
        first = self._first_centres(features, before, seed)
        settings = {
            "n_clusters": self.clusters, "init": "k-means++" if first is None else first, "n_init": 1,
            "max_iter": self.config.iterations, "random_state": seed,
        }  # fmt: skip
        size = self.config.minibatch
        means = KMeans(**settings) if size is None else MiniBatchKMeans(**settings, batch_size=size)
        # scikit-learn's threads add their parts of a centre in the order in which they are done: one thread gives the
        # same bits every time, so that a run that goes on is the run that was never stopped.
        with threadpool_limits(limits=1):
            means.fit(features.numpy())
            assigned = torch.from_numpy(means.predict(features.numpy())).long()
        distances = (
            (features - torch.from_numpy(means.cluster_centers_).to(features.dtype)[assigned]).square().sum(dim=1)
        )
        return assigned, float(distances.mean())

    def _first_centres(self, features: Tensor, before: Tensor, seed: int) -> NDArray[np.float32] | None:
        """[K, D] means of the clusters of the time before, a sample in the place of one that is empty; None: there was
        no time before."""
        kept = (before >= 0) & (before < self.clusters)  # another job may write more clusters to the store
        if not kept.any():
            return None
        counts = torch.bincount(before[kept], minlength=self.clusters)[: self.clusters]
        sums = features.new_zeros(self.clusters, features.shape[1]).index_add_(0, before[kept], features[kept])
        centres = sums / counts[:, None].clamp(min=1)
        empty = (counts == 0).nonzero().flatten()
        order = counter.bits(seed, 0, np.arange(len(features)), "job.cluster.empty", 1)[:, 0].argsort(kind="stable")
        centres[empty] = features[torch.from_numpy(order[: len(empty)])]
        return cast("NDArray[np.float32]", centres.numpy())

    def _figures(self, before: Tensor, assigned: Tensor, labels: Tensor, inertia: float) -> dict[str, float]:
        name, there, labelled = self.config.store, before >= 0, labels >= 0
        figures = {f"{name}/inertia": inertia, f"{name}/used": float(len(assigned.unique()))}
        if there.any():
            figures[f"{name}/changed"] = float((before != assigned)[there].float().mean())
        if labelled.any():
            same = normalized_mutual_info_score(labels[labelled].numpy(), assigned[labelled].numpy())
            figures[f"{name}/nmi"] = float(same)
        return figures
