"""Log-probabilities of a prompt: the network's own, whatever is known and who else is there."""

import random
from dataclasses import replace

import pytest
import torch

from engine import scorer
from engine.decoder import Decoder
from engine.masks import DenseMasks
from engine.request import PROMPT, EmittedToken, Finished, GenerateRequest, Output
from tests.checkpoints import VOCAB_SIZE, make_model
from tests.engine.setups import STAGE_LISTS, random_request, run, target_model, token_ids


def scores(steps: list[Output]) -> tuple[EmittedToken, ...]:
    """What the first step has told of the prompt."""
    assert not any(step.prompt for step in steps[1:])
    return steps[0].prompt


def by_hand(prompt: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities (tokens, vocabulary) after each token, of one stock forward pass."""
    causal = torch.full((len(prompt),) * 2, -torch.inf).triu(1)[None, None]
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        logits = target_model().network(input_ids=ids, tree_masks=DenseMasks(causal)).logits
    return logits[0].log_softmax(dim=-1)


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(VOCAB_SIZE) for _ in range(length))


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 100])
def test_a_prompt_has_the_scores_that_one_pass_of_the_network_gives_it(length: int) -> None:
    """Red when a chunk's end is scored twice or not at all, or against another token."""
    prompt = prompt_of(length)
    request = GenerateRequest("r", prompt, 0, num_prompt_logprobs=3)
    steps, finished = run(Decoder(target_model()), request)
    told = scores(steps)
    assert tuple(each.token_id for each in told) == prompt
    assert (told[0].logprob, told[0].top_logprobs) == (None, ())
    assert token_ids(steps) == [] and finished.reason == "length"
    right = by_hand(prompt)
    for place, each in enumerate(told[1:]):
        assert each.origin == PROMPT
        assert each.logprob == pytest.approx(right[place, each.token_id].item(), abs=2e-4)
        best = right[place].topk(3)
        assert [at for at, _ in each.top_logprobs] == best.indices.tolist()
        chosen = dict(each.top_logprobs).get(each.token_id, each.logprob)
        assert chosen == each.logprob  # exactly, which is how evaluations ask what is greedy


def test_what_is_known_of_a_prompt_changes_none_of_its_scores() -> None:
    """Red when a remembered prefix is left out, or a neighbour's rows are taken."""
    decoder = Decoder(target_model())
    prompt = prompt_of(60)
    request = GenerateRequest("r", prompt, 0, num_prompt_logprobs=2)
    first = run(decoder, request)[0]
    run(decoder, GenerateRequest("warm", prompt, 8))
    again = run(decoder, request)[0]
    assert scores(again) == scores(first) and again[0].num_cached_tokens == 0
    assert run(decoder, GenerateRequest("warm", prompt, 1))[0][0].num_cached_tokens == 59


def test_company_changes_none_of_its_scores_and_scores_none_of_the_others_texts() -> None:
    """Red when a chunk is scored in one pass with other texts, or a seat is taken for another."""
    rng = random.Random(5)
    decoder = Decoder(target_model(), STAGE_LISTS["draft over ngram"](16))
    prompt = prompt_of(70)
    alone = scores(run(decoder, GenerateRequest("r", prompt, 0, num_prompt_logprobs=1))[0])
    others = [replace(random_request(rng), request_id=str(i), max_tokens=30) for i in range(3)]
    texts = {other.request_id: token_ids(run(decoder, other)[0]) for other in others}
    asked = GenerateRequest("r", prompt, 4, num_prompt_logprobs=1, num_logprobs=0)
    for request in (*others[:2], asked, others[2]):
        decoder.add(request)
    told: dict[str, list[Output]] = {}
    while decoder.is_busy:
        for event in decoder.step():
            if not isinstance(event, Finished):
                told.setdefault(event.request_id, []).append(event)
    assert scores(told.pop("r")) == alone
    assert {request_id: token_ids(steps) for request_id, steps in told.items()} == texts


@pytest.mark.parametrize("num_chunks", [1, 2, 3])
def test_a_prompt_that_was_cancelled_between_its_chunks_is_scored_from_its_beginning(
    num_chunks: int,
) -> None:
    """Red when scores, or rows, of what was broken off are taken for those of the next one."""
    decoder = Decoder(target_model())
    request = GenerateRequest("r", prompt_of(60), 0, num_prompt_logprobs=2)
    whole = scores(run(decoder, request)[0])
    decoder.add(request)
    assert [decoder.step() for _ in range(num_chunks)] == [[]] * num_chunks
    decoder.cancel("r")
    (told,) = decoder.step()
    assert isinstance(told, Finished) and told.reason == "cancelled"
    assert scores(run(decoder, request)[0]) == whole


@pytest.mark.parametrize("stages", list(STAGE_LISTS))
def test_a_scored_prompt_is_continued_as_any_other_with_and_without_speculation(
    stages: str,
) -> None:
    """Red when scoring leaves rows that are not the prompt's, for the target or a stage."""
    rng = random.Random(stages)
    for _ in range(4):
        decoder = Decoder(target_model(), STAGE_LISTS[stages](rng.randrange(1, 33)))
        request = random_request(rng, max_tokens=24)
        plain = token_ids(run(decoder, request, "off")[0])
        asked = replace(request, num_prompt_logprobs=1)
        assert token_ids(run(decoder, asked, "off")[0]) == plain
        assert token_ids(run(decoder, asked, "always")[0]) == plain
        assert token_ids(run(decoder, request, "always")[0]) == plain


def test_logits_of_a_long_prompt_are_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when memory grows with the prompt's length times the vocabulary."""
    request = GenerateRequest("r", prompt_of(50), 0, num_prompt_logprobs=0)
    whole = scores(run(Decoder(target_model()), request)[0])
    monkeypatch.setattr(scorer, "_MOST_LOGITS", 5 * VOCAB_SIZE)
    target = make_model(chunk=512)
    seen: list[int] = []
    forward = target._forward

    def watched(*args: object) -> torch.Tensor:
        logits = forward(*args)  # type: ignore[arg-type]
        seen.append(len(logits))
        return logits

    monkeypatch.setattr(target, "_forward", watched)
    run(Decoder(target), request)
    assert max(seen) == 5 and sum(seen) == 50
    monkeypatch.setattr(target_model(), "chunk", 512)
    few = scores(run(Decoder(target_model()), request)[0])
    for one, other in zip(whole[1:], few[1:], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=2e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma2"])
def test_other_families_score_prompts_too(architecture: str) -> None:
    """Red when a sliding window or learned positions are lost on a chain."""
    target = make_model(architecture)
    prompt = prompt_of(40)
    told = scores(run(Decoder(target), GenerateRequest("r", prompt, 0, num_prompt_logprobs=0))[0])
    for end in (3, 17, 39):
        asked = GenerateRequest("r", prompt[:end], 1, num_logprobs=VOCAB_SIZE)
        [token] = run(Decoder(target), asked)[0][0].tokens
        assert told[end].logprob == pytest.approx(dict(token.top_logprobs)[prompt[end]], abs=2e-4)


def test_a_reply_of_no_tokens_leaves_the_prompt_read() -> None:
    """Red when nothing of it is known afterwards, or a token is written all the same."""
    decoder = Decoder(target_model(), STAGE_LISTS["ngram"](8))
    prompt = prompt_of(40, seed=9)
    for num_logprobs in (None, 2):
        steps, finished = run(decoder, GenerateRequest("r", prompt, 0, num_logprobs=num_logprobs))
        assert (token_ids(steps), finished.reason) == ([], "length")
    assert run(decoder, GenerateRequest("r", prompt, 1))[0][0].num_cached_tokens == 39
