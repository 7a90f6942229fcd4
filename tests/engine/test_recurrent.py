"""Layers that keep a state: every node of a tree has its own, as in stock transformers."""

import random
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.kimi_linear import modeling_kimi_linear

from engine.errors import ModelLoadError
from engine.geometry import strip_rows
from engine.kv_cache import kept_by
from engine.loading import load_model
from engine.model import Model
from engine.recurrent import SeatState, States, binding, check_layers, forest, recurrence
from engine.recurrent.layer import KeptByLayer, LinearLayers
from engine.recurrent.seat import num_points, seat_bytes, spare_bytes
from engine.seam import without_cache
from engine.strips import plan_seats
from engine.tree import TokenTree
from tests.alone import Alone
from tests.checkpoints import HYBRIDS, VOCAB_SIZE, make_model, make_network, save_checkpoint
from tests.strategies import token_trees

TEXT = [3 + (7 * i * i + 3 * i) % 57 for i in range(40)]
BRANCHED = TokenTree.from_parents([TEXT[-1], 20, 21, 22, 23, 24, 25], [-1, 0, 0, 1, 2, 2, 5])


@cache
def stock(architecture: str) -> PreTrainedModel:
    """The same weights, run without any cache."""
    return make_network(architecture)


def error(architecture: str, context: list[int], tree: TokenTree, logits: Tensor) -> float:
    """By how much the worst node's logits are not those of its path in stock transformers."""
    worst = 0.0
    for node, scored in enumerate(logits):
        right = without_cache(stock(architecture), context + tree.path_tokens(node))[-1]
        worst = max(worst, float((scored - right).abs().max() / right.abs().max()))
    return worst


def play(architecture: str, rng: random.Random, num_steps: int = 4) -> float:
    """Score random trees in turns behind a growing text, accept random paths: the worst error."""
    model, text, worst = make_model(architecture), TEXT[: rng.randrange(1, 40)], 0.0
    Alone(model).reset(text)
    for _ in range(num_steps):
        tree = TokenTree(text[-1])
        for _ in range(rng.randrange(1, 12)):
            tree.add(rng.randrange(len(tree)), rng.randrange(VOCAB_SIZE), -1.0, "a")
        split = rng.randrange(1, len(tree) + 1)
        turns = [range(split), range(split, len(tree))]
        logits = [Alone(model).score(text, tree, nodes) for nodes in turns if nodes]
        worst = max(worst, error(architecture, text, tree, torch.cat(logits)))
        if rng.random() < 0.3:
            Alone(model).rollback()
            continue
        path = tree.path(rng.randrange(len(tree)))
        Alone(model).commit(tree, path)
        text = [*text, *(tree.tokens[node] for node in path), rng.randrange(VOCAB_SIZE)]
        if rng.random() < 0.3:  # tokens that others have proposed
            text = [*text, *(rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(30)))]
    return worst


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_nodes_score_as_their_paths_do_in_stock_transformers(architecture: str) -> None:
    """In one pass and in two, after commits and rollbacks, with tokens that came meanwhile. Red
    when any row reads another's change, or the state holds another text than was committed."""
    assert max(play(architecture, random.Random(seed)) for seed in range(3)) < 2e-5


def assert_caught(architecture: str = "qwen3_5_text") -> None:
    assert max(play(architecture, random.Random(seed), 2) for seed in range(3)) > 1e-3


def everything_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every row see all that lie before it."""
    original = forest.Lineage.__init__

    def blind(self: forest.Lineage, *given: Any) -> None:
        original(self, *given)
        column = torch.arange(8 * self._visible.shape[1])
        seen = (column <= self._numbers[:, None]).numpy()
        self._visible = torch.from_numpy(np.packbits(seen, axis=1, bitorder="little"))

    monkeypatch.setattr(forest.Lineage, "__init__", blind)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_a_siblings_change_that_leaks_is_caught(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_before(monkeypatch)
    assert_caught(architecture)


def test_a_state_that_folds_another_path_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SeatState.accept

    def accept(self: SeatState, path: list[int]) -> None:
        original(self, range(len(path)))

    monkeypatch.setattr(SeatState, "accept", accept)
    assert_caught()


@pytest.mark.parametrize("architecture", ["lfm2", "qwen3_5_text"])
def test_a_window_that_takes_a_sibling_is_caught(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = forest.Lineage.paths

    def paths(self: forest.Lineage, size: int) -> forest.Paths:
        own = original(self, size).own
        return forest.Paths(own, own[:, None] + torch.arange(1 - size, 1))

    monkeypatch.setattr(forest.Lineage, "paths", paths)
    assert_caught(architecture)


def test_a_decay_that_leaves_the_root_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = recurrence._decay

    def decay(decays: Tensor, sees: Tensor) -> tuple[Tensor, Tensor]:
        from_state, between = original(decays, sees)
        return from_state / decays[:, :, :1, None].exp(), between

    monkeypatch.setattr(recurrence, "_decay", decay)
    assert_caught()


def test_a_tail_that_is_not_moved_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = LinearLayers.fold

    def fold(self: LinearLayers, seat: int, path: Tensor) -> None:
        tail = self.state(seat)[0].clone()
        original(self, seat, path)
        self.state(seat)[0].copy_(tail)

    monkeypatch.setattr(LinearLayers, "fold", fold)
    assert_caught("lfm2")


def test_nodes_that_stay_behind_where_tokens_were_read_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LinearLayers, "shift", lambda *given: None)
    assert_caught()


@settings(max_examples=30)
@given(token_trees(), st.integers(2, 5), st.data())
def test_the_rule_over_a_tree_is_the_rule_along_each_path(
    tree: TokenTree, size: int, data: st.DataObject
) -> None:
    """Token by token, as it is written. Red when a decay, a rate or an update is another's."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))

    def some(*shape: int) -> Tensor:
        return torch.randn(len(tree), 3, *shape, generator=generator, dtype=torch.float64)

    rates = some().sigmoid() if data.draw(st.booleans()) else None
    asked = recurrence.Asked(some(size), some(size), some(4), -some().abs(), rates)
    start = torch.randn(3, size, 4, generator=generator, dtype=torch.float64)
    sees = torch.zeros(len(tree), len(tree), dtype=torch.bool)
    for node in range(len(tree)):
        sees[node, [0, *tree.path(node)]] = True
    split = data.draw(st.integers(0, len(tree)))
    read, updates = torch.zeros_like(asked.values), torch.zeros_like(asked.values)
    for begin, end in ((0, split), (split, len(tree))):
        if begin < end:
            part = asked.of(torch.arange(begin, end)[None])
            known = (each[None, :begin] for each in (asked.keys, updates, asked.decays))
            earlier, rows = recurrence.Changes(*known), sees[None, begin:end, :end]
            found = recurrence.recur(part, start[None], earlier, rows)
            read[begin:end], updates[begin:end] = (each[0] for each in found)
    changes = recurrence.Changes(asked.keys, updates, asked.decays)
    for node in range(len(tree)):
        state = start
        for row in [0, *tree.path(node)]:
            state = state * asked.decays[row].exp()[:, None, None]
            key = asked.keys[row][..., None]
            update = asked.values[row]
            if rates is not None:
                update = rates[row][:, None] * (update - (state * key).sum(1))
            state = state + key * update[:, None]
        expected = (state * asked.queries[node][..., None]).sum(1)
        assert torch.allclose(read[node], expected, atol=1e-8)
        path = recurrence.Changes(*(each[None, [0, *tree.path(node)]] for each in changes))
        assert torch.allclose(recurrence.folded(start[None], path)[0], state, atol=1e-8)


def fake_states() -> States:
    window = torch.zeros(1, 2, 3)
    return States({0: KeptByLayer(window, torch.zeros(1, 1, 2, 2))}, [1], 2, 1000)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=60), st.data())
def test_a_text_returns_to_points_within_what_it_has_in_common(
    steps: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """Red when a point is that of another length, more are kept than there is room for, the newest
    is given up, or one stays of what was cut off."""
    states = fake_states()
    (layer,), state = states.alike, SeatState(states, 0)
    assert layer.recurrent is not None
    layer.recurrent.left.fill_(1.0)
    layer.recurrent.right.fill_(1.0)
    state._most = 4
    held: list[float] = [0.0]  # by length, what the tail and the state must be
    for count, is_prompt in steps:
        rows = torch.arange(len(held), len(held) + count, dtype=torch.float32)
        layer.inputs[0, 2 : 2 + count] = rows[:, None]
        if is_prompt:
            state.read(count, 0)
        else:
            state.accept(range(count))
        held += rows.tolist()
        assert state.length == len(held) - 1
        assert len(state.points) <= 4
        if is_prompt and count >= 16:
            assert state.length in state.points
        if data.draw(st.booleans()):
            common = data.draw(st.integers(0, state.length))
            length = state.reach(common)
            assert length <= common and length in {0, state.length, *state.points}
            state.cut(length)
            del held[length + 1 :]
        tail, sums = layer.state(0)
        assert float(tail[0, -1, 0]) == held[-1]
        assert float(sums[0, 0, 0, 0]) == len(held) - 1
        assert max(state.points, default=0) <= state.length


def test_a_point_that_is_a_row_late_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the equality of texts that go back; see `assert_the_same_after_others`."""
    original = SeatState._mark

    def mark(self: SeatState) -> None:
        original(self)
        if (copy := self.points.pop(self.length, None)) is not None:
            self.points[self.length - 1] = copy

    monkeypatch.setattr(SeatState, "_mark", mark)
    with pytest.raises(AssertionError):
        assert_the_same_after_others("qwen3_5_text")


def assert_the_same_after_others(architecture: str) -> None:
    """Prompts with beginnings in common, at one seat, one after another, as if each came alone."""
    model, rng = make_model(architecture), random.Random(1)
    first = [rng.randrange(VOCAB_SIZE) for _ in range(90)]
    for common in (90, 70, 35, 10, 50):
        text = [*first[:common], *(rng.randrange(VOCAB_SIZE) for _ in range(12))]
        Alone(model).reset(text)
        kept = len(Alone(model).rows.tokens)
        assert kept <= common
        logits = Alone(model).score(text, TokenTree(text[-1]))
        assert error(architecture, text, TokenTree(0), logits) < 2e-5


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_a_prompt_begins_where_its_beginning_is_known(architecture: str) -> None:
    """Red when a state is that of another length than its rows, or nothing is ever kept."""
    assert_the_same_after_others(architecture)
    model = make_model(architecture)
    Alone(model).reset(TEXT)
    Alone(model).score(TEXT, BRANCHED)
    Alone(model).commit(BRANCHED, [2, 5])
    longer = [*TEXT, 21, 24, 9, 9]
    Alone(model).reset(longer)
    assert len(Alone(model).rows.tokens) == len(TEXT) + 2  # a reply, and more behind it
    Alone(model).reset([*TEXT[:-2], 9, 9])
    assert len(Alone(model).rows.tokens) == 32  # where the last chunk ended


def test_what_does_that_by_other_functions_is_refused_by_name() -> None:
    """Red when a layer that keeps a state is served whatever it does with it."""
    with pytest.raises(ModelLoadError, match=r"KimiLinear\w+ does not do that .* chunk_kimi_delta"):
        check_layers(modeling_kimi_linear)
    with pytest.raises(ModelLoadError, match="no layer of it is seen to keep a state"):
        check_layers(sys.modules[make_network("llama").__module__])


def test_a_function_of_another_name_is_refused() -> None:
    """Red when a transformers that renamed it would be served by its own, which knows no tree."""

    class Renamed(nn.Module):
        def forward(self, states: Tensor, cache_params: object) -> object:
            return cache_params.update_recurrent_state(chunk_rule(states))  # type: ignore[attr-defined]

    Renamed.__module__ = "renamed"
    room = ModuleType("renamed")
    room.Renamed = Renamed  # type: ignore[attr-defined]
    with pytest.raises(ModelLoadError, match="Renamed does not do that by functions known"):
        check_layers(room)


def test_a_layer_that_asks_its_cache_in_another_way_is_refused() -> None:
    """Red when it is known by its functions alone: an older transformers has the same, and fails
    where nobody can tell why."""

    class Older(nn.Module):
        def forward(self, states: Tensor, cache: Any) -> object:
            if cache.has_previous_state(0):
                return cache.update_conv_state(causal_conv1d_fn(states), 0)
            return states

    Older.__module__ = "older"
    room = ModuleType("older")
    room.Older = Older  # type: ignore[attr-defined]
    with pytest.raises(ModelLoadError, match=r"Older asks its cache .* another release"):
        check_layers(room)


def causal_conv1d_fn(states: Tensor) -> Tensor:
    """A function that is known by name."""
    return states


def chunk_rule(states: Tensor) -> Tensor:
    """A function that nobody knows."""
    return states


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_loading_proves_states_and_refuses_a_network_whose_states_are_blind(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the proof looks at a chain alone, or at one pass."""
    assert isinstance(make_model(architecture).check_seam(), Model)
    everything_before(monkeypatch)
    with pytest.raises(ModelLoadError, match="does not follow the tree mask"):
        make_model(architecture).check_seam()


def test_a_rule_that_scales_otherwise_than_stock_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when trees are compared with our own chains alone, which err alike."""
    original = recurrence.recur

    def doubled(*given: Any) -> tuple[Tensor, Tensor]:
        read, updates = original(*given)
        return 2 * read * read.abs().sqrt(), updates

    monkeypatch.setattr("engine.recurrent.states.recur", doubled)
    with pytest.raises(ModelLoadError, match="does not follow the tree mask"):
        make_model("qwen3_5_text").check_seam()


def test_another_network_of_the_same_class_is_left_as_it_is() -> None:
    """Red when functions are exchanged for everybody."""
    make_model("lfm2")
    other = make_network("lfm2")
    assert not any("forward" in vars(module) for module in other.modules())
    binding.bind(other)
    assert sum("forward" in vars(module) for module in other.modules()) == 2


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_the_plan_of_seats_counts_states_and_points(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when seats are planned by rows alone: states of a large model are as much as those."""
    model = make_model(architecture)
    kept = kept_by(model.function.probe)
    strip = strip_rows(64) * sum(rows.nbytes for rows in kept.rows)
    monkeypatch.setattr("engine.memory.free_bytes", lambda device: 2 * 4 * strip)
    assert plan_seats(kept, 64, 64).num_seats < 4
    assert model.strips.states is not None
    held = [each.nbytes for layers in model.strips.states.alike for each in layers.state(0)]
    assert model.strips.states.num_bytes == sum(held)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_what_is_counted_of_states_and_rows_is_what_they_take(architecture: str) -> None:
    """Red when rows are kept that no plan of memory knows."""
    model = make_model(architecture, num_seats=3)
    kept, states = kept_by(model.function.probe).states.values(), model.strips.states
    assert states is not None
    sizes = sum(each.num_bytes for each in kept), sum(each.row_bytes for each in kept)
    copies = num_points(sizes[0]) * sizes[0]
    counted = 3 * (seat_bytes(*sizes) - copies) + spare_bytes(*sizes)
    assert sum(each.nbytes for each in states.tensors) == counted


@pytest.mark.parametrize("architecture", ["lfm2", "qwen3_5_text"])
def test_int8_rounds_linear_layers_and_leaves_convolutions(
    architecture: str, tmp_path: Path
) -> None:
    """Red when a convolution's weights, which have three dimensions, are taken for experts'."""
    folder = save_checkpoint(tmp_path, architecture)
    sizes = {"device": "cpu", "max_model_len": 128, "chunk": 16}
    model = load_model(str(folder), dtype="int8", **sizes)  # type: ignore[arg-type]
    assert model.precision.name == "int8"
    convolutions = [each for each in model.network.modules() if isinstance(each, nn.Conv1d)]
    assert [each.weight.dtype for each in convolutions] == [torch.float32] * 2
