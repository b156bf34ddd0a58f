"""Retrieval by class: are the samples most like a query of its class? Mean average precision and recall at k.

Average precision is that of the whole ranking (Buckley and Voorhees 2000), recall at k that of metric learning (Jégou
et al. 2011; Song et al. 2016): whether one of the k most alike is of the query's class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundation.probes.features import check_finite

_NUMBERS = 1 << 24
"""Similarities that are held and sorted at once."""


@dataclass(frozen=True)
class Ranked:
    """Of Q queries.

    Attributes:
        precision: [Q] float32, average precision; 0 where nothing in the gallery is of the query's class.
        hits: for each k [Q] bool, whether one of the k most alike is of its class.
        known: [Q] bool, whether the gallery has samples of its class.
    """

    precision: Tensor
    hits: dict[int, Tensor]
    known: Tensor


def ranked(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    leave_one_out: bool = False,
    groups: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Ranked:
    """Rank a gallery by cosine for each query.

    Args:
        gallery: [S, D]; normalised here.
        gallery_labels: [S] int64.
        queries: [Q, D]; normalised here.
        labels: [Q] int64.
        ks: of recall.
        leave_one_out: the queries are the gallery itself, and a sample does not find itself.
        groups: [S] int64; leaving one out, samples of the query's group are not looked at either.
        device: where the products run.

    Raises:
        UserError: features are not finite.
    """
    check_finite(gallery, "gallery")
    check_finite(queries, "query")
    one = nn.functional.normalize(gallery.float(), dim=1).to(device)
    two = nn.functional.normalize(queries.float(), dim=1)
    theirs = gallery_labels.to(device)
    precision, known = [], []
    hits: dict[int, list[Tensor]] = {k: [] for k in ks}
    place = torch.arange(1, len(gallery) + 1, device=device, dtype=torch.float32)
    for start in range(0, len(queries), block := max(1, _NUMBERS // max(1, len(gallery)))):
        rows = slice(start, start + block)
        cosine = two[rows].to(device) @ one.T
        same = theirs == labels[rows, None].to(device)
        if leave_one_out:
            out = torch.zeros_like(same)
            out[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = True
            if groups is not None and len(groups):
                out |= groups[rows, None].to(device) == groups.to(device)
            cosine[out], same[out] = -torch.inf, False
        order = cosine.argsort(dim=1, descending=True, stable=True)
        relevant = same.gather(1, order)
        count = relevant.sum(dim=1)
        share = relevant.cumsum(dim=1) / place
        precision.append(((share * relevant).sum(dim=1) / count.clamp(min=1)).cpu())
        known.append((count > 0).cpu())
        for k in ks:
            hits[k].append(relevant[:, :k].any(dim=1).cpu())
    return Ranked(torch.cat(precision), {k: torch.cat(found) for k, found in hits.items()}, torch.cat(known))
