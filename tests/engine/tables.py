"""A Katz table of what a model itself tends to say, small enough to build in a test."""

from functools import cache

from engine.decoder import Decoder
from engine.drafting.katz import KatzTable
from engine.model import Model
from engine.request import GenerateRequest, Output, SamplingParams


@cache
def make_table(model: Model) -> KatzTable:
    """Count trigrams in a few thousand tokens that the model wrote at temperature 0.7."""
    decoder = Decoder(model)
    texts = []
    for seed in range(8):
        request = GenerateRequest(
            "table",
            prompt=(1 + seed,),
            max_tokens=250,
            sampling=SamplingParams(temperature=0.7, seed=seed),
            ignore_eos=True,
        )
        steps = decoder.generate(request)
        texts.append([t.token_id for s in steps if isinstance(s, Output) for t in s.tokens])
    return KatzTable.build(texts, model.limits.vocab_size, min_count=1)
