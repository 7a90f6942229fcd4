"""Break the door for choosing one part at a time: a proof of it must notice each."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from engine import ranking
from engine.choosing import Place
from engine.edits import EditedRow, rows
from engine.edits.bans import Bans
from engine.edits.bias import Bias
from engine.edits.dry import Dry
from engine.edits.edit import Touched
from engine.edits.penalties import Penalties
from engine.filters import Filters
from engine.noise import NoiseRows
from engine.request import SamplingParams
from engine.sampling import Sampling
from tests.engine import test_choosing
from tests.engine.test_edited_texts import play


@pytest.fixture(autouse=True)
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that other tests have loaded would do what is broken here."""
    monkeypatch.setattr(ranking, "_rules", lambda samplings, logits: None)


def assert_texts_differ(stages: str = "draft over ngram", num_cases: int = 300) -> None:
    """Case by case, since one that tells is enough."""
    differs = (play(stages, 1, seed)[0] > 0 for seed in range(num_cases))
    assert any(differs), "the mutation went unnoticed"


def assert_rows_differ(proof: Callable[[int], None]) -> None:
    """One of the proofs of single rows fails for one of many seeds."""
    for seed in range(300):
        try:
            proof.hypothesis.inner_test(seed)  # type: ignore[attr-defined]
        except AssertionError:
            return
    raise AssertionError("the mutation went unnoticed")


def ignoring_paths(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    original = kind.touched

    def touched(self: object, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        return original(self, tokens, ())

    monkeypatch.setattr(kind, "touched", touched)


def test_the_unbroken_door_passes() -> None:
    assert play("draft over ngram", 20)[0] == 0


@pytest.mark.parametrize("kind", [Penalties, Dry, Bans])
def test_an_edit_that_ignores_the_path_is_caught(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignoring_paths(monkeypatch, kind)
    assert_texts_differ(num_cases=300)


def test_the_path_of_another_node_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def edited_row(self: Place) -> EditedRow:
        path = self.tree.path_tokens(max(0, self.node - 1))
        return EditedRow(self.text.sampling.edits, self.text.tokens, path)

    monkeypatch.setattr(Place, "edited_row", property(edited_row))
    assert_texts_differ()


def test_a_path_without_its_last_token_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bad words one token late would be."""
    original = Bans.touched

    def touched(self: Bans, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        return original(self, tokens, path[:-1])

    monkeypatch.setattr(Bans, "touched", touched)
    assert_texts_differ(num_cases=300)


def test_counts_that_keep_a_path_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Penalties.touched

    def touched(self: Penalties, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        for token in path:
            if token in self._places:
                self._counts[self._places[token]] += 1
        return original(self, tokens, path)

    monkeypatch.setattr(Penalties, "touched", touched)
    assert_texts_differ()


def test_a_draw_of_xtc_with_a_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = itertools.count()
    monkeypatch.setattr(NoiseRows, "draw", lambda self, position: next(draws) * 0.37 % 1)
    assert_texts_differ(num_cases=300)


def test_a_draw_of_xtc_by_row_and_not_by_position_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = ranking._filters

    def filters(samplings: Sequence[Sampling], positions: Sequence[int]) -> Filters:
        return original(samplings, range(len(positions)))

    monkeypatch.setattr(ranking, "_filters", filters)
    assert_rows_differ(test_choosing.test_every_row_is_edited_and_filtered_as_documented)


def test_the_parameters_of_the_first_row_for_all_rows_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of(params: Sequence[SamplingParams], vocab_size: int) -> Filters:
        return original([params[0]], vocab_size)

    original = Filters.of
    monkeypatch.setattr(Filters, "of", of)
    assert_rows_differ(test_choosing.test_rows_of_different_texts_are_each_as_if_alone)


def test_the_seed_of_the_first_row_for_all_rows_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_the_first(sources: Sequence[NoiseRows], positions: Sequence[int]) -> Tensor:
        return torch.stack([sources[0].row(position) for position in positions])

    monkeypatch.setattr(ranking, "noise_rows", of_the_first)
    assert_rows_differ(test_choosing.test_rows_of_different_texts_are_each_as_if_alone)


@pytest.mark.parametrize(
    "order", [(Penalties, Bias, Dry, Bans), (Bias, Dry, Penalties, Bans), (Bias, Penalties, Dry)]
)
def test_edits_in_another_order_are_caught(
    order: tuple[type, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_ORDER", order)
    assert_rows_differ(test_choosing.test_every_row_is_edited_and_filtered_as_documented)


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typical_p", "top_n_sigma"])
def test_a_filter_that_is_left_out_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Filters.of

    def of(params: Sequence[SamplingParams], vocab_size: int) -> Filters:
        off = -math.inf if name == "min_p" else None
        return original(params, vocab_size)._replace(**{name: off})

    monkeypatch.setattr(Filters, "of", of)
    assert_rows_differ(test_choosing.test_every_row_is_edited_and_filtered_as_documented)
