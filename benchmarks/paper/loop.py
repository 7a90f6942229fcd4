"""Token-by-token decoding as a first program does it, and any such row timed as ours are."""

import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.peers.rows import Emit, Generate, Task
from engine.benchmark import Passage, Run, parted
from engine.request import SamplingParams
from engine.stats import StepStats


def token_loop(model: PreTrainedModel, sampling: SamplingParams) -> Generate:
    """A forward pass for each token, in eager mode over a growing cache."""

    @torch.inference_mode()
    def generate(task: Task, emit: Emit) -> None:
        ids = torch.tensor([task.prompt], device=model.device)
        cache = DynamicCache(config=model.config)
        for _ in range(task.num_tokens):
            logits = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits
            ids = _chosen(logits[:, -1].float(), sampling)
            emit([int(ids)])

    return generate


def _chosen(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """A token id [1, 1] for logits [1, vocabulary]."""
    if sampling.is_greedy:
        return logits.argmax(-1, keepdim=True)
    best = logits.topk(min(sampling.top_k, logits.shape[-1]))
    probabilities = (best.values / sampling.temperature).softmax(-1)
    return best.indices.gather(-1, probabilities.multinomial(1))


def run_peer(generate: Generate, passages: Sequence[Passage]) -> Run:
    """A row that is none of ours over all passages: every token is a step, all of it the target's.

    Texts are compared where no noise is in them: others draw their own.
    """
    run = Run()
    for index, passage in enumerate(passages):
        ids: list[int] = []
        times = [time.perf_counter()]

        def emit(new: Sequence[int], ids: list[int] = ids, times: list[float] = times) -> None:
            times.append(time.perf_counter())
            ids.extend(new)

        generate(Task(passage.request.prompt, len(passage.text)), emit)
        run.first_token_seconds.append(times[1] - times[0])
        run.seconds.append(time.perf_counter() - times[1])
        gaps = [1e3 * (after - before) for before, after in pairwise(times[1:])]
        run.steps += [StepStats(1, 0, gap, gap) for gap in gaps]
        is_compared = passage.request.sampling.is_greedy
        if is_compared and (divergence := parted(index, passage.text, ids)) is not None:
            run.divergences.append(divergence)
    return run
