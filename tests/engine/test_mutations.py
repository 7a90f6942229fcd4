"""Break one part at a time: the equality test must notice each, or it proves nothing."""

import itertools

import pytest
import torch
from torch import Tensor

from engine import ranking
from engine.choosing import Place
from engine.kv_cache import KVCache
from engine.noise import NoiseRows
from engine.tree import TokenTree
from tests.engine.test_lossless import play


@pytest.fixture(autouse=True)
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that other tests have loaded would do what is broken here."""
    monkeypatch.setattr(ranking, "_rules", lambda samplings, logits: None)


def assert_caught(stages: str = "draft over ngram") -> None:
    num_different, _ = play(stages, num_cases=12)
    assert num_different > 0, "the mutation went unnoticed"


def test_the_unbroken_engine_passes() -> None:
    assert play("draft over ngram", num_cases=12)[0] == 0


def test_a_mask_that_shows_siblings_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything_before(self: TokenTree, columns: list[int]) -> list[int]:
        return [(2 << place) - 1 for place in range(len(columns))]

    monkeypatch.setattr(TokenTree, "ancestor_mask", everything_before)
    assert_caught()


def test_a_mask_that_hides_the_parent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def root_and_self(self: TokenTree, columns: list[int]) -> list[int]:
        return [1 | 1 << place for place in range(len(columns))]

    monkeypatch.setattr(TokenTree, "ancestor_mask", root_and_self)
    assert_caught()


def test_positions_by_node_and_not_by_depth_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = TokenTree.add

    def add(self: TokenTree, parent: int, token: int, *rest: object) -> int:
        node = original(self, parent, token, *rest)  # type: ignore[arg-type]
        self.depths[node] = node
        return node

    monkeypatch.setattr(TokenTree, "add", add)
    assert_caught("adversary")


def test_a_cache_that_is_not_compacted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(self: KVCache, sources: list[int], targets: range) -> None:
        """Leave everything where it is."""

    monkeypatch.setattr(KVCache, "move", move)
    assert_caught()


def test_a_cache_that_keeps_one_row_too_few_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = KVCache.move

    def move(self: KVCache, sources: list[int], targets: range) -> None:
        original(self, [*sources[:-1], sources[0]], targets)

    monkeypatch.setattr(KVCache, "move", move)
    assert_caught()


def test_noise_with_a_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any ordinary generator would make it: the next draw, whoever asks."""
    draws = itertools.count()

    def rows(sources: list[NoiseRows], positions: list[int]) -> Tensor:
        generator = torch.Generator().manual_seed(next(draws))
        noise = torch.empty(len(positions), sources[0].vocab_size)
        return -noise.exponential_(generator=generator).log()

    monkeypatch.setattr(ranking, "noise_rows", rows)
    assert_caught()


def test_noise_by_node_and_not_by_position_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def position(self: Place) -> int:
        return self.text.root_position + self.node + 1

    monkeypatch.setattr(Place, "position", property(position))
    assert_caught()
