"""Attention of a tree's rows over a cache; `attention.cpp` says how it is computed."""

import math
from typing import cast

import torch
from torch import Tensor


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float | None = None
) -> Tensor:
    """Attention of (1, heads, rows, size) over a cache: (1, rows, heads, size).

    Keys and values are (1, key heads, length, size); each key head serves as many heads, in order.
    `mask` is additive, (1, 1, rows, length). All arithmetic is in float32. A row's figures do not
    depend on how many rows there are.
    """
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    return cast(Tensor, torch.ops.stagetree.attention(query, keys, values, mask, scaling))


def register() -> None:
    """Tell torch the shapes, by which compilers trace what they do not run."""
    torch.library.register_fake("stagetree::attention", _shape_of_attention)


def _shape_of_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
) -> Tensor:
    _, heads, rows, _ = query.shape
    return query.new_empty(1, rows, heads, values.shape[-1])


def check() -> None:
    """Raise ValueError unless attention is right, at sizes that leave a rest in every loop."""
    generator = torch.Generator().manual_seed(0)
    for rows, length, size in ((1, 9, 8), (7, 130, 20), (33, 70, 64)):
        query = torch.randn(1, rows, 6, size, generator=generator).transpose(1, 2)
        keys, values = torch.randn(2, 1, 2, length + 5, size, generator=generator)[:, :, :, :length]
        mask = torch.randn(1, 1, rows, length, generator=generator)
        mask[..., 1:].masked_fill_(mask[..., 1:] > 1, float("-inf"))
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, enable_gqa=True
        )
        output = attend(query, keys, values, mask)
        if not torch.allclose(output, expected.transpose(1, 2), rtol=1e-4, atol=1e-4):
            raise ValueError(f"attention of {rows} rows over {length} is wrong")
