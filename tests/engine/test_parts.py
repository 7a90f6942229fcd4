"""Several texts in one pass: each is scored as if it were alone."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.acceleration.on_cpu import lay_out_for_kernels
from engine.kernels import is_loaded
from engine.kernels.sight import Sight
from engine.masks import PackedMasks
from engine.model import Model
from engine.parts import Part, join, split
from engine.rows import Rows
from engine.tree import TokenTree
from tests.checkpoints import VOCAB_SIZE, make_model
from tests.engine.setups import ROUNDING
from tests.strategies import token_trees

STRIP = 150


def random_tree(rng: random.Random, num_nodes: int) -> TokenTree:
    tree = TokenTree(rng.randrange(VOCAB_SIZE))
    while len(tree) < num_nodes:
        tree.add(rng.randrange(len(tree)), rng.randrange(VOCAB_SIZE))
    return tree


def texts_of(model: Model, seed: int) -> list[Part]:
    """Parts of three texts, in strips of their own, each with rows there that earlier passes wrote.

    The first has committed tokens to feed, the second earlier nodes, the third neither.
    """
    rng, parts = random.Random(seed), []
    for number, (num_known, num_pending, num_earlier) in enumerate(
        [(40, 5, 0), (23, 0, 3), (61, 0, 0)]
    ):
        rows = Rows(STRIP * number, STRIP)
        tree = random_tree(rng, 9)
        score(model, [Part.of_text(rows, tokens(rng, num_known), TokenTree(0), ())])
        score(model, [Part.of_text(rows, [], tree, range(num_earlier))])
        nodes = range(num_earlier, len(tree))
        parts.append(Part.of_text(rows, tokens(rng, num_pending), tree, nodes))
    return parts


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCAB_SIZE) for _ in range(count)]


@torch.inference_mode()
def score(model: Model, parts: Sequence[Part]) -> Tensor:
    """Logits of the nodes of a pass whose rows are counted in, unless it has several texts."""
    if not any(part.ids for part in parts):
        return torch.empty(0)
    logits = model._forward(parts, join(parts, model.limits.window))
    if len(parts) == 1:
        (part,) = parts
        num_pending = len(part.ids) - len(part.nodes)
        part.rows.add(part.ids[:num_pending], part.nodes)
    return logits


def assert_as_alone(model: Model, is_exact: bool) -> None:
    for seed in range(3):
        parts = texts_of(model, seed)
        spare = Part.padding(model.strips.spare, 2, 0)
        together = score(model, [spare, *parts]).split([len(part.nodes) for part in parts])
        written = [rows[:, :, : 3 * STRIP].clone() for rows in model.strips.cache.rows]
        for part, logits in zip(parts, together, strict=True):
            alone = score(model, [part])
            error = (logits - alone).abs().max() / alone.abs().max()
            assert torch.equal(logits, alone) if is_exact else error < ROUNDING[model.dtype]
        for rows, before in zip(model.strips.cache.rows, written, strict=True):
            assert torch.allclose(rows[:, :, : 3 * STRIP], before, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "gemma2"])
def test_texts_in_one_eager_pass_are_what_each_is_alone(architecture: str) -> None:
    """Red when a row sees a neighbour's strip, or a window counts rows of the cache."""
    assert_as_alone(make_model(architecture), is_exact=False)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_masks_of_several_texts_over_a_whole_cache_say_the_same(architecture: str) -> None:
    """Red when passes that cannot know their texts, as captured ones, show a row another's."""
    model = make_model(architecture)
    parts = texts_of(model, 0)
    rows, visible, windowed, _ = join(parts, model.limits.window)
    extents = [part.extent for part in parts]
    for window in (None, model.limits.window or None):
        given = (rows[2:], visible, windowed, model.limits.window)
        by_text = PackedMasks(*given, extents).shares(window, 3 * STRIP, torch.float32)
        (whole,) = PackedMasks(*given).shares(window, 3 * STRIP, torch.float32)
        end = 0
        for extent, mask in by_text:
            own = whole.mask[:, :, end : end + extent.num_rows]
            end += extent.num_rows
            assert torch.equal(own[..., extent.first : extent.end], mask)
            assert (own == 0).sum() == (mask == 0).sum()


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_texts_in_one_pass_of_our_kernels_are_what_each_is_alone_bit_for_bit(
    architecture: str, cache: Path
) -> None:
    """Red when a block of the kernel holds rows of two texts, or sums are cut by where one lies."""
    assert is_loaded()
    model = make_model(architecture, hidden_size=64)
    lay_out_for_kernels({"target": model})
    assert_as_alone(model, is_exact=True)


@given(token_trees(vocab_size=VOCAB_SIZE), st.integers(0, 5), st.integers(0, 40))
def test_a_row_sees_what_was_committed_before_it_and_its_ancestors(
    tree: TokenTree, num_pending: int, first: int
) -> None:
    """Red when a bit stands for another row, or the rows of a text say where another one lies."""
    rows = Rows(first, 300)
    rows.add([1, 2, 3], ())
    part = Part.of_text(rows, [9] * num_pending, tree, range(len(tree)))
    sight = Sight(join([part]).rows[2:], join([part]).visible)
    for row, bits in enumerate(part.sight):
        node = row - num_pending
        seen = [*range(min(row + 1, num_pending))]
        if node >= 0:
            seen += [num_pending + each for each in sorted({0, *tree.path(node)})]
        assert bits == sum(1 << each for each in seen)
        assert sight.places[:, row].tolist() == [part.positions[row], first, first + 3]
    assert part.positions[:num_pending] == [*range(3, 3 + num_pending)]
    assert part.positions[num_pending:] == [3 + num_pending + depth for depth in tree.depths]


def test_outputs_are_told_apart_by_part_and_nodes_alone_are_scored() -> None:
    """Red when padding or a prompt gets logits, or a node gets another row's."""
    first, second, third = Rows(0, 90), Rows(90, 90), Rows(180, 90)
    tree = TokenTree.from_parents([1, 2, 3], [-1, 0, 0])
    parts = [
        Part.padding(third, 2, 0),
        Part.of_text(first, [5, 6], tree, [0, 1]),
        Part.of_text(second, [7], tree, [0, 1, 2]),
    ]
    rows = torch.arange(10)
    assert [each.tolist() for each in split(parts, rows)] == [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]
    assert join(parts).scored.tolist() == [4, 5, 7, 8, 9]
    assert join(parts[:1]).scored.tolist() == []
