"""Stage lists over tiny random models, and requests of every kind: what the proofs run on.

The draft is the target with noisy weights, so that it is often right, often wrong, and at any
temperature. The middle stage of three is noisier still.
"""

import copy
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from engine.config import EngineConfig, HeadStageConfig, ModelStageConfig
from engine.decoder import Decoder
from engine.drafting.head import HeadModel
from engine.drafting.head_checkpoint import build_head
from engine.drafting.head_network import HeadNetwork
from engine.drafting.model import ModelDrafter
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import LookupSource, RecycleSource, Source, TableSource
from engine.drafting.stage import Drafter, NoStage
from engine.loading import read_limits
from engine.masks import DenseMasks
from engine.model import Model
from engine.request import Finished, GenerateRequest, Output, SamplingParams, Speculation
from tests.checkpoints import VOCAB_SIZE, make_head_weights, make_model
from tests.engine.tables import make_table
from tests.fakes import AdversarialDrafter

MAX_TOKENS = 24
NUM_SEATS = 3

in_float32 = pytest.mark.skipif(
    EngineConfig("").dtype not in ("auto", "float32"),
    reason="in this precision near ties fall either way, and so texts part",
)
"""Of tests that compare the texts of passes that round otherwise."""

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.005}
"""The share by which figures of such passes may differ."""


def noisy_copy(model: Model, amount: float, seed: int = 1) -> Model:
    """The same network with relative weight noise."""
    network = copy.deepcopy(model.network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            scale = amount * weight.std() if weight.dim() > 1 else 0.0
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    num_seats = len(model.strips.seats)
    return Model(network, read_limits(network.config), 512, chunk=16, num_seats=num_seats)


@cache
def target_model() -> Model:
    """The one target of all set-ups, which then share its cache; it keeps what a head reads."""
    target = make_model(num_seats=NUM_SEATS, hidden_size=48)
    target.keep_features((0, 1, 2))
    return target


def ngram(name: str = "ngram", budget: int = 6, table: bool = True) -> ModelFreeDrafter:
    """An n-gram stage with a table of the target's own habits, or with the look-up alone."""
    sources: list[Source] = [LookupSource(name)]
    if table:
        sources.append(TableSource(name, make_table(target_model()), 3))
    return ModelFreeDrafter(sources, budget, 3)


def recycle(budget: int = 6, *others: Source) -> ModelFreeDrafter:
    """A stage that recycles proposals, with other sources before it or alone."""
    return ModelFreeDrafter([*others, RecycleSource("recycle", 3)], budget, 3)


def model_stage(
    below: Drafter, name: str, amount: float = 0.1, *, budget: int = 16, passes: int = 3
) -> ModelDrafter:
    """A draft-model stage over `below`."""
    config = ModelStageConfig(model="", budget=budget, passes=passes, width=4, children=3)
    return ModelDrafter(config, noisy_copy(target_model(), amount), below, name, VOCAB_SIZE)


@cache
def fitted_head() -> HeadNetwork:
    """A head of the one target: random but for its output matrix, which least squares found.

    So it is often right and often wrong, as a draft model with noisy weights is.
    """
    target = target_model()
    config, weights = make_head_weights(target.network)
    network = build_head("", config, {**weights}, target).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(VOCAB_SIZE, (1, 512), generator=generator)
    causal = torch.full((512, 512), -math.inf).triu(1)[None, None]
    with torch.inference_mode():
        masks = DenseMasks(causal)
        known = target.network(input_ids=ids, tree_masks=masks, output_hidden_states=True)
        features = torch.cat([known.hidden_states[i] for i in network.shape.layers], dim=-1)
        rows = torch.arange(511)[None]
        masks = DenseMasks(causal[..., :511, :511])
        outputs = network(ids[:, 1:], network.fuse(features[:, :-1]), rows, DynamicCache(), masks)
        found = torch.linalg.lstsq(network.norm(outputs)[0], known.logits[0, 1:])
    network.lm_head.weight.copy_(found.solution.T)
    return network


def head_stage(below: Drafter, *, budget: int = 16, passes: int = 3) -> ModelDrafter:
    """A head stage over `below`; the target keeps what it reads."""
    config = HeadStageConfig(model="", budget=budget, passes=passes, width=4, children=3)
    head = HeadModel(fitted_head(), target_model(), chunk=16)
    return ModelDrafter(config, head, below, "head", VOCAB_SIZE)


STAGE_LISTS: dict[str, Callable[[int], Drafter]] = {
    "draft": lambda budget: model_stage(NoStage(), "draft", budget=budget),
    "ngram": lambda budget: ngram(budget=budget),
    "look-up": lambda budget: ngram("look-up", budget, table=False),
    "recycle": lambda budget: recycle(budget),
    "look-up with recycle": lambda budget: recycle(budget, LookupSource("look-up")),
    "draft over recycle": lambda budget: model_stage(recycle(), "draft", budget=budget),
    "draft over ngram": lambda budget: model_stage(ngram(), "draft", budget=budget),
    "draft over draft over ngram": lambda budget: model_stage(
        model_stage(ngram(), "draft2", 0.2, budget=5, passes=2), "draft", budget=budget, passes=2
    ),
    "head": lambda budget: head_stage(NoStage(), budget=budget),
    "head over ngram": lambda budget: head_stage(ngram(), budget=budget),
    "head over draft over ngram": lambda budget: head_stage(
        model_stage(ngram(), "draft", 0.2, budget=5, passes=2), budget=budget, passes=2
    ),
    "head over adversary": lambda budget: head_stage(
        AdversarialDrafter(budget, 6, VOCAB_SIZE), budget=budget
    ),
    "adversary": lambda budget: AdversarialDrafter(budget, budget, VOCAB_SIZE),
    "draft over adversary": lambda budget: model_stage(
        AdversarialDrafter(budget, 6, VOCAB_SIZE), "draft", budget=budget
    ),
}


def random_request(rng: random.Random, max_tokens: int = MAX_TOKENS) -> GenerateRequest:
    """Any prompt, seed, temperature and filters; some prompts repeat themselves."""
    prompt = [rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(1, 24))]
    if rng.random() < 0.3:
        prompt = prompt * 3
    params = SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.0, 1.5]),
        top_k=rng.choice([0, 0, 4, 20]),
        top_p=rng.choice([1.0, 1.0, 0.9, 0.5]),
        min_p=rng.choice([0.0, 0.0, 0.05]),
        seed=rng.getrandbits(64) - 2**63,
    )
    return GenerateRequest(
        request_id="r",
        prompt=tuple(prompt),
        max_tokens=rng.randrange(1, max_tokens + 1),
        sampling=params,
        stop_token_ids=tuple(rng.sample(range(VOCAB_SIZE), rng.randrange(3))),
        ignore_eos=rng.random() < 0.5,
    )


def run(
    decoder: Decoder, request: GenerateRequest, speculation: Speculation = "always"
) -> tuple[list[Output], Finished]:
    """All steps of a request and its end."""
    *steps, finished = decoder.generate(replace(request, speculation=speculation))
    assert isinstance(finished, Finished)
    assert all(isinstance(step, Output) for step in steps)
    return steps, finished  # type: ignore[return-value]


def token_ids(steps: list[Output]) -> list[int]:
    """The text of some steps."""
    return [token.token_id for step in steps for token in step.tokens]


def compiling_config(checkpoint: Path, folder: Path, **changes: object) -> EngineConfig:
    """One thread, since packages are compiled for a number of them."""
    plain = EngineConfig(str(checkpoint), threads=1, cache_dir=str(folder))
    return replace(plain, **changes)  # type: ignore[arg-type]
