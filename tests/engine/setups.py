"""Stage lists over tiny random models, and requests of every kind: what the proofs run on.

The draft is the target with noisy weights, so that it is often right, often wrong, and at any
temperature. The middle stage of three is noisier still.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from engine.config import ModelStageConfig, NgramStageConfig
from engine.decoder import Decoder
from engine.drafting.base import Drafter, NoStage
from engine.drafting.model import ModelDrafter
from engine.drafting.ngram import NgramDrafter
from engine.loading import read_limits
from engine.model import Model
from engine.request import Finished, GenerateRequest, SamplingParams, Speculation, Step
from tests.checkpoints import VOCAB_SIZE, make_model
from tests.engine.tables import make_table
from tests.fakes import AdversarialDrafter

MAX_TOKENS = 24


def noisy_copy(model: Model, amount: float, seed: int = 1) -> Model:
    """The same network with relative weight noise."""
    network = copy.deepcopy(model.network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            scale = amount * weight.std() if weight.dim() > 1 else 0.0
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return Model(network, read_limits(network.config), 512, chunk=16)


@cache
def target_model() -> Model:
    """The one target of all set-ups, which then share its cache as well."""
    return make_model(hidden_size=48)


def ngram(name: str = "ngram", budget: int = 6, table: bool = True) -> NgramDrafter:
    """An n-gram stage with a table of the target's own habits, or with the look-up alone."""
    config = NgramStageConfig(budget=budget, children=3)
    return NgramDrafter(config, make_table(target_model()) if table else None, name)


def model_stage(
    below: Drafter, name: str, amount: float = 0.1, *, budget: int = 16, passes: int = 3
) -> ModelDrafter:
    """A draft-model stage over `below`."""
    config = ModelStageConfig(model="", budget=budget, passes=passes, width=4, children=3)
    return ModelDrafter(config, noisy_copy(target_model(), amount), below, name, VOCAB_SIZE)


STAGE_LISTS: dict[str, Callable[[int], Drafter]] = {
    "draft": lambda budget: model_stage(NoStage(), "draft", budget=budget),
    "ngram": lambda budget: ngram(budget=budget),
    "look-up": lambda budget: ngram("look-up", budget, table=False),
    "draft over ngram": lambda budget: model_stage(ngram(), "draft", budget=budget),
    "draft over draft over ngram": lambda budget: model_stage(
        model_stage(ngram(), "draft2", 0.2, budget=5, passes=2), "draft", budget=budget, passes=2
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
) -> tuple[list[Step], Finished]:
    """All steps of a request and its end."""
    *steps, finished = decoder.generate(replace(request, speculation=speculation))
    assert isinstance(finished, Finished)
    assert all(isinstance(step, Step) for step in steps)
    return steps, finished  # type: ignore[return-value]


def token_ids(steps: list[Step]) -> list[int]:
    """The text of some steps."""
    return [token.token_id for step in steps for token in step.tokens]
