"""What a model is trained towards: the text, or the opinion of a teacher."""

import pytest
import torch
from transformers import LlamaConfig, PreTrainedModel

from engine.training.jobs import new_llama
from engine.training.objectives import Distilled, NextToken, soft_cross_entropy

CONFIG = LlamaConfig(
    vocab_size=16,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    initializer_range=0.5,
)
BATCH = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def probabilities(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(BATCH[:, :-1]).logits.softmax(-1)


def test_soft_cross_entropy_is_entropy_plus_divergence() -> None:
    """Red when the wrong side is normalised, or the mean is over the wrong axis."""
    given, wanted = torch.randn(2, 3, 5), torch.randn(2, 3, 5).softmax(-1)
    divergence = (wanted * (wanted.log() - given.log_softmax(-1))).sum(-1)
    entropy = -(wanted * wanted.log()).sum(-1)
    assert soft_cross_entropy(given, wanted).item() == pytest.approx(
        (divergence + entropy).mean().item(), rel=1e-5
    )


def test_distillation_moves_the_draft_towards_the_teacher_and_not_the_teacher() -> None:
    """Red when the gradient has the wrong sign, reaches the teacher, or follows the text."""
    draft, teacher = new_llama(CONFIG, 0), new_llama(CONFIG, 1)
    wanted, before = probabilities(teacher), probabilities(draft)
    objective = Distilled(draft, teacher)
    objective.loss(BATCH).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter -= 0.05 * parameter.grad
    after = probabilities(draft)

    def divergence(given: torch.Tensor) -> float:
        return (wanted * (wanted / given).log()).sum(-1).mean().item()

    assert divergence(after) < divergence(before)
    assert torch.equal(probabilities(teacher), wanted)


def test_a_draft_that_equals_its_teacher_has_nothing_to_learn() -> None:
    """Red when draft and teacher are compared at different positions."""
    draft, teacher = new_llama(CONFIG, 1), new_llama(CONFIG, 1)
    objective = Distilled(draft, teacher)
    objective.loss(BATCH).backward()
    assert max(p.grad.abs().max().item() for p in draft.parameters()) < 1e-5
    assert objective.held_out([BATCH[:1], BATCH[1:]]).agreement == (1.0,)


def test_agreement_counts_first_choices_of_the_text_or_of_the_teacher() -> None:
    """Red when agreement is with the wrong one, or counted by sequence instead of by token."""
    draft, teacher = new_llama(CONFIG, 0), new_llama(CONFIG, 1)
    mine, theirs = probabilities(draft).argmax(-1), probabilities(teacher).argmax(-1)
    sequences = [BATCH[:1], BATCH[1:, :4]]
    text = [*(mine[0] == BATCH[0, 1:]), *(mine[1, :3] == BATCH[1, 1:4])]
    both = [*(mine[0] == theirs[0]), *(mine[1, :3] == theirs[1, :3])]
    assert NextToken(draft).held_out(sequences).agreement == (pytest.approx(sum(text) / 10),)
    for objective in (NextToken(draft, teacher), Distilled(draft, teacher)):
        assert objective.held_out(sequences).agreement == (pytest.approx(sum(both) / 10),)
