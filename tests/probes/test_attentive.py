"""The attentive probe is cross-attention of one query, and finds what a mean of tokens hides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.probes import attentive


def test_one_query_gathers_as_multi_head_attention_does():
    torch.manual_seed(0)
    width, heads = 64, 2
    whole = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    head = attentive.AttentiveHead(width, 3, torch.zeros(width), torch.ones(width))
    assert head.heads == heads
    query, tokens = torch.randn(1, 1, width), torch.randn(5, 9, width)
    valid = torch.rand(5, 9) < 0.7
    valid[:, 0] = True
    of_query, of_key, of_value = whole.in_proj_weight.chunk(3)
    parts = (of_query @ query[0, 0]).view(heads, -1)
    with torch.no_grad():
        head.query.copy_(torch.einsum("hk,hkd->hd", parts, of_key.view(heads, -1, width)) / (width // heads) ** 0.5)
        head.value.copy_(of_value.view(heads, -1, width).transpose(1, 2))
        gathered, _ = whole(query.expand(5, -1, -1), tokens, tokens, key_padding_mask=~valid)
        # Of the reference the product with the output's weights belongs to the classifier.
        reference = torch.linalg.solve(whole.out_proj.weight, gathered[:, 0].T).T
        assert torch.allclose(head(tokens, valid), head.classify(reference), atol=1e-4)


def needle(samples, seed):
    """Sixteen tokens, one of which is marked and says the class; the others say classes at random."""
    generator = torch.Generator().manual_seed(seed)
    said = torch.randint(0, 3, (samples, 16), generator=generator)
    marked = torch.randint(0, 16, (samples,), generator=generator)
    tokens = nn.functional.one_hot(said, 3).float() + 0.1 * torch.randn(samples, 16, 3, generator=generator)
    mark = nn.functional.one_hot(marked, 16).float()[..., None]
    return torch.cat([tokens, mark, torch.ones(samples, 16, 1)], dim=-1), said[torch.arange(samples), marked]


def test_it_finds_the_token_that_counts():
    (tokens, labels), (queries, truth) = needle(300, 0), needle(100, 1)
    settings = {"rows": torch.arange(260), "kept": torch.arange(260, 300), "learning_rates": (1e-4, 3e-2)}
    found = attentive.fit(tokens, labels, queries, 3, **settings, epochs=25)
    assert float((found.predictions == truth).float().mean()) > 0.85
    assert found.learning_rate == 3e-2 and found.validation[1] > found.validation[0]
    again = attentive.fit(tokens, labels, queries, 3, **settings, epochs=25)
    assert torch.equal(again.predictions, found.predictions)


def test_tokens_that_do_not_count_have_no_influence():
    (tokens, labels), (queries, _) = needle(60, 0), needle(20, 1)
    tokens[:, -3:, -1] = queries[:, -3:, -1] = 0
    settings = {"rows": torch.arange(50), "kept": torch.arange(50, 60), "learning_rates": (1e-2,), "epochs": 2}
    first = attentive.fit(tokens, labels, queries, 3, **settings)
    for part in (tokens, queries):
        part[:, -3:, :-1] = 1e3
    assert torch.equal(attentive.fit(tokens, labels, queries, 3, **settings).predictions, first.predictions)
    tokens[0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        attentive.fit(tokens, labels, queries, 3, **settings)
