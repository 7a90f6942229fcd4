"""How often speculation's other widths of passes change a text in low precision, and by how little.

    python benchmarks/divergence.py --prompts prompts.jsonl --dtype bfloat16
    python benchmarks/divergence.py --prompts prompts.jsonl --dtype int8 --compile wait

Every prompt is continued with speculation off and with it on, under one seed. Where the two texts
first differ, the target's scores of the two tokens are computed again: log-probability over
temperature plus the position's noise. Their difference should be a near tie, no larger than what
another width of pass does to a score, which is measured beside it.

What the precision itself does is told first: the perplexity of the prompts, and how far the
distribution of each next token is from that of float32 (Kullback-Leibler).
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.api import Engine
from engine.benchmark import gap, machine, read_prompts, rounding
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig
from engine.loading import load_model
from engine.request import EmittedToken, GenerateRequest, Output, SamplingParams
from engine.rows import Tokens
from engine.scorer import TreeScorer
from engine.weights import lay_out

STAGES = (
    ModelStageConfig("embedded/draft", budget=16, passes=3),
    NgramStageConfig(table="embedded/draft2", budget=8),
)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two texts part, and by how much the plain one's token scored more."""

    place: int
    gap: float


def main() -> None:
    """Print the rate per 1,000 tokens at each temperature, and the gaps."""
    arguments = _parse()
    config = EngineConfig(arguments.model, STAGES, dtype=arguments.dtype, compile=arguments.compile)
    engine = Engine.load(config)
    prompts = read_prompts(arguments.prompts, arguments.num_prompts, arguments.model)
    print(f"{engine.info.model} in {engine.info.dtype}; {machine()}")
    print(_quality(arguments, engine.scorers["target"], prompts))
    print(f"rounding: another width of pass changes a score by {_rounding(arguments, prompts)}")
    for temperature in (0.0, 1.0):
        sampling = SamplingParams(temperature)
        requests = [
            GenerateRequest("r", prompt, arguments.tokens, replace(sampling, seed=seed))
            for seed, prompt in enumerate(prompts)
        ]
        found, num_tokens = [], 0
        for request in requests:
            divergence, length = _compare(engine, request)
            num_tokens += length
            found += [divergence] if divergence else []
        gaps = ", ".join(f"{divergence.gap:.3f}" for divergence in found)
        rate = 1000 * len(found) / num_tokens
        print(f"T = {temperature:g}: {len(found)} of {len(requests)} texts part, {rate:.2f} per")
        print(f"    1,000 tokens of text in common; gaps: {gaps or 'none'}")


def _compare(engine: Engine, request: GenerateRequest) -> tuple[Divergence | None, int]:
    """The first difference, if there is one, and how many tokens were compared."""
    off, on = (
        [token.token_id for token in _tokens(engine, replace(request, speculation=speculation))]
        for speculation in ("off", "always")
    )
    for place, (plain, other) in enumerate(zip(off, on, strict=False)):
        if plain != other:
            return Divergence(place, gap(engine, request, off[:place], plain, other)), place + 1
    return None, len(off)


def _tokens(engine: Engine, request: GenerateRequest) -> Iterator[EmittedToken]:
    for item in engine.generate(request):
        if isinstance(item, Output):
            yield from item.tokens


def _quality(
    arguments: argparse.Namespace, scorer: TreeScorer, prompts: Sequence[tuple[int, ...]]
) -> str:
    """What the precision does to the prompts' tokens, beside float32."""
    exact = load_model(
        arguments.model, dtype="float32", device="cpu", max_model_len=None, chunk=512
    )
    losses: list[list[Tensor]] = [[], []]
    divergences, agreements = [], []
    for prompt in prompts:
        both = [log_probabilities(each, prompt) for each in (scorer, exact)]
        targets = torch.tensor(prompt[1:])[:, None]
        for found, each in zip(losses, both, strict=True):
            found.append(-each.gather(1, targets))
        rounded, right = both
        divergences.append((right.exp() * (right - rounded)).sum(1))
        agreements.append((right.argmax(1) == rounded.argmax(1)).double())
    ours, theirs = (float(torch.cat(each).mean().exp()) for each in losses)
    divergence, same = (float(torch.cat(each).mean()) for each in (divergences, agreements))
    return (
        f"perplexity {ours:.3f}, in float32 {theirs:.3f}; divergence {divergence:.5f} nats a "
        f"token; the same most likely token {100 * same:.1f} %"
    )


def log_probabilities(scorer: TreeScorer, prompt: Sequence[int]) -> Tensor:
    """Of every next token, in float64: (tokens - 1, vocabulary)."""
    scorer.strips.forget()
    text, logits = Tokens([*prompt]), []
    while len(scored := scorer.read_scored(text)):
        logits.append(scored.double().log_softmax(1))
    scorer.strips.forget()
    return torch.cat(logits)


def _rounding(arguments: argparse.Namespace, prompts: Sequence[tuple[int, ...]]) -> str:
    """The difference of a root's logits between a pass of 1 row and one of 16, by quantile."""
    model = load_model(
        arguments.model, dtype=arguments.dtype, device="auto", max_model_len=None, chunk=512
    )
    lay_out(model.network, has_kernels=False)
    differences = rounding(model, prompts)
    median, worst = statistics.median(differences), max(differences)
    return f"{median:.4f} (median), {worst:.4f} (worst)"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--prompts", type=Path, required=True, help="JSON lines, each with a `prompt`"
    )
    parser.add_argument("--num-prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", default="embedded/target")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--compile", default="cached", help="wait: over our kernels")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
