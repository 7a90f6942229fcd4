"""A head's training-time test computes what serving computes, row by row; and a head learns."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.drafting.head import HeadModel
from engine.drafting.head_checkpoint import load_head, save_head
from engine.drafting.head_network import HeadNetwork
from engine.model import Model
from engine.training.head import TrainingTimeTest, new_head
from engine.training.recipe import Recipe
from engine.training.teacher import read_whole_texts
from engine.training.tokens import windows
from engine.training.trainer import Run
from engine.tree import TokenTree
from tests.alone import Alone
from tests.checkpoints import VOCAB_SIZE, make_model, make_network, save_checkpoint

NUM_STEPS = 3
LAYERS = (0, 1, 2)
TEXT = torch.randint(VOCAB_SIZE, (1, 20), generator=torch.Generator().manual_seed(7))


@cache
def teacher() -> PreTrainedModel:
    """The target as training reads it: whole texts at once."""
    network = make_network()
    read_whole_texts(network)
    return network


@cache
def target() -> Model:
    """The same target as it is served."""
    model = make_model()
    model.keep_features(LAYERS)
    return model


def noisy_head(draft_ids: list[int] | None = None) -> HeadNetwork:
    """A head whose every weight matters: none is zero or small."""
    torch.manual_seed(3)
    head = new_head(teacher(), 40, LAYERS, draft_ids)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return head.requires_grad_(False)


def served_logits(
    head: HeadNetwork, context: list[int], ahead: list[int], passes: list[list[int]]
) -> torch.Tensor:
    """Logits of the last node of a chain below a context, its nodes scored in these passes."""
    model = target()
    Alone(model).reset(context)
    Alone(model).score(context, TokenTree(context[-1]))
    Alone(model).rollback()
    scorer = HeadModel(head, model)
    chain = TokenTree.from_parents([context[-1], *ahead], [-1, *range(len(ahead))])
    Alone(scorer).reset(context)
    for nodes in passes:
        logits = Alone(scorer).score(context, chain, nodes)
    return logits[-1]


def passes_of(row: int, step: int, is_mixed: bool) -> list[list[int]]:
    """Which nodes of a chain share a pass, such that each row holds what training gave it.

    Node k's row holds its parent's output if the parent was in an earlier pass, and otherwise what
    the parent's row holds; in the mixed rows training keeps the latter where bit k - 1 is set.
    """
    passes = [[0]]
    for node in range(1, step + 1):
        if is_mixed and row >> (node - 1) & 1:
            passes[-1].append(node)
        else:
            passes.append([node])
    return passes


@pytest.mark.parametrize("is_mixed", [False, True], ids=["own output", "inherited features"])
@pytest.mark.parametrize("draft_ids", [None, list(range(3, 40))], ids=["whole", "draft vocabulary"])
def test_training_and_serving_compute_the_same_logits(
    draft_ids: list[int] | None, is_mixed: bool
) -> None:
    """Red when tokens, features, positions or the mask of a step differ from those of a draft."""
    head = noisy_head(draft_ids)
    objective = TrainingTimeTest(head, teacher(), NUM_STEPS)
    features = objective._teach(TEXT).features
    steps = objective._ahead(TEXT, features, is_mixed)
    tokens = TEXT[0].tolist()
    assert [given.shape[1] for given in steps] == [16] * NUM_STEPS
    for step, given in enumerate(steps):
        for row in range(given.shape[1]):
            root = row + 1
            served = served_logits(
                head,
                tokens[: root + 1],
                tokens[root + 1 : root + 1 + step],
                passes_of(row, step, is_mixed),
            )[head.draft_ids]
            torch.testing.assert_close(given[0, row], served, atol=2e-5, rtol=1e-5)


def test_each_step_is_compared_with_the_token_it_is_about() -> None:
    """Red when a step's rows are lined up with the target's opinion of another token."""
    objective = TrainingTimeTest(noisy_head(), teacher(), NUM_STEPS)
    choices = teacher()(TEXT[:, :-1]).logits.argmax(-1)[0]
    steps = objective._ahead(TEXT, objective._teach(TEXT).features, is_mixed=False)
    expected = [
        np.mean([given[0, row].argmax() == choices[row + step + 1] for row in range(16)])
        for step, given in enumerate(steps)
    ]
    assert objective.held_out([TEXT]).agreement == pytest.approx(expected)


def test_a_token_that_cannot_be_drafted_is_a_disagreement() -> None:
    """Red when a small draft vocabulary is compared with the best of what it holds."""
    choices = set(teacher()(TEXT[:, :-1]).logits.argmax(-1)[0].tolist())
    others = [token for token in range(VOCAB_SIZE) if token not in choices]
    objective = TrainingTimeTest(noisy_head(others), teacher(), NUM_STEPS)
    assert objective.held_out([TEXT]).agreement == (0.0, 0.0, 0.0)


def test_a_toy_head_learns_and_is_served_as_it_was_trained(tmp_path: Path) -> None:
    """Red when the gradient does not reach the head, moves the target, or is lost on disk."""
    folder = save_checkpoint(tmp_path / "target")
    network = AutoModelForCausalLM.from_pretrained(folder)
    stream = np.random.default_rng(0).integers(0, VOCAB_SIZE, 4000).astype(np.uint16)
    objective = TrainingTimeTest(new_head(network, 48, LAYERS), network, NUM_STEPS)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start = objective.held_out(windows(stream, 32, 8)).agreement
    recipe = Recipe(5, max_steps=150, batch_tokens=512, lengths=((0.0, 32),))
    end = Run(objective, recipe, tmp_path / "head.pt").train(stream, stream[:300]).agreement
    assert all(last > 1.5 * first for first, last in zip(start, end, strict=True))
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    save_head(objective.head, tmp_path / "saved", is_sharing=True)
    served = load_head(str(tmp_path / "saved"), target(), 64).network
    again = TrainingTimeTest(served, teacher(), NUM_STEPS).held_out(windows(stream[:300], 32, 16))
    assert again.agreement == pytest.approx(end, abs=0.05)


def test_a_new_head_repeats_what_the_target_reads_last() -> None:
    """Red when a head starts from noise, which costs the first minutes of every training."""
    head = new_head(teacher(), 40, LAYERS)
    features = torch.randn(5, len(LAYERS) * 32)
    assert torch.equal(head.fuse(features), features[:, -32:])


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma2", "qwen3", "mistral"])
def test_heads_fit_targets_of_every_family(architecture: str) -> None:
    """Red when a target's configuration lacks what a head is shaped by."""
    network = make_network(architecture)
    read_whole_texts(network)
    objective = TrainingTimeTest(new_head(network, 40, LAYERS), network, NUM_STEPS)
    assert torch.isfinite(objective.loss(TEXT))
