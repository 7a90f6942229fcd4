"""Attention of a tree's rows over a cache; `attention.cpp` says how it is computed."""

import math
from typing import cast

import torch
from torch import Tensor

from engine.kernels.sight import Sight


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sight: Sight,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of (1, heads, rows, size) over a cache: (1, rows, heads, size).

    Keys and values are (1, key heads, length, size); each key head serves as many heads, in order.
    `sinks` are scores (heads,) whose weight goes to nothing. All arithmetic is in float32. A row's
    figures depend on no other row, nor on where in the cache its text begins.
    """
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    output = torch.ops.stagetree.attention(
        query, keys, values, *sight, scaling, softcap or 0.0, sinks
    )
    return cast(Tensor, output)


def register() -> None:
    """Tell torch the shapes, by which compilers trace what they do not run."""
    torch.library.register_fake("stagetree::attention", _shape_of_attention)


def _shape_of_attention(query: Tensor, keys: Tensor, values: Tensor, *masks: object) -> Tensor:
    _, heads, rows, _ = query.shape
    return query.new_empty(1, rows, heads, values.shape[-1])


def check() -> None:
    """Raise ValueError unless attention is right, at sizes that leave a rest in every loop."""
    generator = torch.Generator().manual_seed(0)
    for rows, prefix, size in ((1, 8, 8), (7, 123, 20), (33, 37, 64)):
        length = prefix + rows
        query = torch.randn(1, rows, 6, size, generator=generator).transpose(1, 2)
        keys, values = torch.randn(2, 1, 2, length + 5, size, generator=generator)
        # Every row sees itself and every third row before it.
        seen = torch.eye(rows).bool() | (torch.arange(rows) % 3 == 0).expand(rows, rows).tril()
        columns = torch.nn.functional.pad(seen, (0, 40 - rows)).view(rows, 5, 8)
        visible = (columns << torch.arange(8)).sum(2).to(torch.uint8)
        mask = torch.cat([torch.ones(rows, prefix).bool(), seen], dim=1)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, keys[:, :, :length], values[:, :, :length], attn_mask=mask, enable_gqa=True
        )
        first = torch.full((rows,), 2)
        places = torch.stack([torch.arange(prefix, length), first, first + prefix])
        output = attend(query, keys.roll(2, 2), values.roll(2, 2), Sight(places, visible))
        if not torch.allclose(output, expected.transpose(1, 2), rtol=1e-4, atol=1e-4):
            raise ValueError(f"attention of {rows} rows over {length} is wrong")
        sight = Sight(places, visible)
        near_keys, near_values = (each.roll(2, 2).bfloat16() for each in (keys, values))
        narrow = attend(query, near_keys, near_values, sight)
        if not torch.equal(narrow, attend(query, near_keys.float(), near_values.float(), sight)):
            raise ValueError(f"attention of {rows} rows over {length} in bfloat16 is wrong")
        low = query.bfloat16()
        whole = attend(low.float(), near_keys, near_values, sight).bfloat16()
        if not torch.equal(attend(low, near_keys, near_values, sight), whole):
            raise ValueError(f"attention of {rows} rows of bfloat16 over {length} is wrong")
