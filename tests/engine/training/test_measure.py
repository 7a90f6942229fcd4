"""What a drafter is worth: accepted drafts for the time that drafting takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import ConfigError, ModelLoadError
from engine.parts import Part
from engine.passes import PassInputs
from engine.training.compare import DrafterFigures, compare_drafters
from engine.training.measure import expected_accepted, pass_milliseconds
from engine.training.shapes import HeadPlan, draft_of, llama
from engine.training.teacher import load_teacher, scoring
from engine.training.tokens import windows
from engine.tree import TokenTree
from tests.checkpoints import (
    VOCAB_SIZE,
    make_head_weights,
    make_model,
    make_network,
    save_checkpoint,
    save_head_checkpoint,
)

TEXTS = windows(np.random.default_rng(0).integers(0, VOCAB_SIZE, 400).astype(np.uint16), 64, 4)


@pytest.mark.parametrize(
    ("agreement", "length", "expected"),
    [
        ((0.5,), 1, 0.5),
        ((0.5,), 3, 0.5 + 0.25 + 0.125),
        ((0.8, 0.5), 2, 0.8 + 0.4),
        ((0.8, 0.5), 4, 0.8 + 0.4 + 0.2 + 0.1),
        ((0.9, 0.5, 0.1), 2, 0.9 + 0.45),
        ((1.0,), 4, 4.0),
        ((0.0, 1.0), 4, 0.0),
    ],
)
def test_a_draft_counts_when_all_before_it_were_accepted(
    agreement: tuple[float, ...], length: int, expected: float
) -> None:
    """Red when shares are added without multiplying, or a step is lost or counted twice."""
    assert expected_accepted(agreement, length) == pytest.approx(expected)


def test_acceptance_is_weighed_by_time() -> None:
    """Red when a slow drafter wins by its agreement alone."""
    slow, fast = DrafterFigures("slow", (0.9,), 8.0), DrafterFigures("fast", (0.6,), 1.0)
    assert slow.num_accepted > fast.num_accepted
    assert fast.accepted_per_millisecond > slow.accepted_per_millisecond
    assert DrafterFigures("one", (1.0,), 2.0).accepted_per_millisecond == pytest.approx(0.5)


def test_every_timed_pass_scores_one_token_behind_the_whole_text() -> None:
    """Red when a pass reads the text again, or grows the cache from round to round."""
    model = make_model()
    rows = []
    forward = model._forward

    def noted(parts: Sequence[Part], inputs: PassInputs) -> Tensor:
        rows.append((parts[0].rows.prefix, parts[0].ids))
        return forward(parts, inputs)

    model._forward = noted
    assert pass_milliseconds(model, [5, 6, 7, 8], num_passes=3) > 0
    assert rows[0] == (0, [5, 6, 7, 8])
    assert len(rows) == 7 and set(map(str, rows[1:])) == {str((3, [8]))}


def test_drafts_and_heads_are_compared_on_the_same_texts(tmp_path: Path) -> None:
    """Red when a drafter is measured as one of the other kind, or the best does not come first."""
    target = str(save_checkpoint(tmp_path / "target"))
    teacher = load_teacher(target)
    head = save_head_checkpoint(tmp_path / "head", *make_head_weights(make_network()))
    other = save_checkpoint(tmp_path / "other", seed=1)
    names = [str(head), str(other), target]
    found = {each.name: each for each in compare_drafters(names, teacher, TEXTS, num_steps=2)}
    assert found[target].agreement == (1.0,)
    assert len(found[str(head)].agreement) == 2
    assert found[str(other)].agreement[0] < 0.5
    values = [each.accepted_per_millisecond for each in found.values()]
    assert values == sorted(values, reverse=True)
    assert torch.equal(teacher(TEXTS[0]).logits, load_teacher(target)(TEXTS[0]).logits)


def test_a_drafter_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """Red when figures are printed of a drafter that cannot be served."""
    teacher = load_teacher(str(save_checkpoint(tmp_path / "target")))
    save_checkpoint(tmp_path / "other", vocab_size=100)
    with pytest.raises(ModelLoadError, match="tokenizer"):
        compare_drafters([str(tmp_path / "other")], teacher, TEXTS, 1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mistral"])
def test_a_teacher_reads_texts_as_it_is_served(architecture: str, tmp_path: Path) -> None:
    """Red when training learns from other logits than those that serving will have."""
    teacher = load_teacher(str(save_checkpoint(tmp_path, architecture)))
    ids = TEXTS[0][:, :24]
    with scoring(teacher) as model:
        served = make_model(architecture)
        served.reset(ids[0].tolist())
        for each in (model, served):
            while each.read(ids[0].tolist()):
                pass
        last = served.score(ids[0].tolist(), TokenTree(int(ids[0, -1])))[-1]
    torch.testing.assert_close(teacher(ids).logits[0, -1], last, atol=1e-4, rtol=1e-4)


def test_what_cannot_teach_is_refused_by_name(tmp_path: Path) -> None:
    """Red when a head is loaded as a language model of random weights, or a typo is a traceback."""
    head = save_head_checkpoint(tmp_path, *make_head_weights(make_network()))
    with pytest.raises(ConfigError, match="is a head"):
        load_teacher(str(head))
    with pytest.raises(ModelLoadError, match="no-such-model"):
        load_teacher("no-such-model")


def test_shapes_follow_the_target() -> None:
    """Red when a draft has another vocabulary, or a head reads layers that the target lacks."""
    target = make_network(hidden_size=512, num_hidden_layers=9)
    config = draft_of(target, None, 1)
    assert (config.vocab_size, config.hidden_size, config.eos_token_id) == (VOCAB_SIZE, 128, 2)
    plan = HeadPlan.beside(target, num_drafts=VOCAB_SIZE)
    assert (plan.layers, plan.num_drafts) == ((3, 6, 9), None)
    assert HeadPlan.beside(target, layers=(1, 2, 9)).layers == (1, 2, 9)
    with pytest.raises(ConfigError, match="multiple of 16"):
        llama(64, 100, 1)
