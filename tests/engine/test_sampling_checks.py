"""What a request may ask of the choice of its tokens, refused before it runs."""

import math
import random
from dataclasses import replace

import pytest

from engine.request import GenerateRequest, SamplingParams
from engine.sampling_checks import sampling_problems
from tests.engine.sampling_params import random_sampling

WRONG: list[tuple[dict[str, object], str]] = [
    ({"top_p": math.nan}, "top_p is nan: it must be from 0 to 1"),
    ({"typical_p": 1.5}, "typical_p is 1.5: it must be from 0 to 1"),
    ({"top_n_sigma": -1.0}, "top_n_sigma is -1.0: it must be 0 or more"),
    ({"top_n_sigma": math.inf}, "top_n_sigma is inf"),
    ({"xtc_probability": 2.0}, "xtc_probability is 2.0"),
    ({"xtc_threshold": -0.1}, "xtc_threshold is -0.1"),
    ({"presence_penalty": 2.5}, "presence_penalty is 2.5: it must be from -2 to 2"),
    ({"frequency_penalty": -3.0}, "frequency_penalty is -3.0"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0: it must be from 0.01 to 100"),
    ({"repetition_penalty": 5e-324}, "repetition_penalty is 5e-324: it must be"),
    ({"repetition_penalty": math.nan}, "repetition_penalty is nan"),
    ({"dry_multiplier": -0.5}, "dry_multiplier is -0.5"),
    ({"dry_base": 0.5}, "dry_base is 0.5: it must be 1 or more"),
    ({"dry_allowed_length": 0}, "dry_allowed_length is 0: it must be 1 or more"),
    ({"dry_penalty_last_n": -2}, "dry_penalty_last_n is -2: it must be -1 or more"),
    ({"dry_sequence_breakers": (100,)}, "dry_sequence_breakers: 100 is no token"),
    ({"min_tokens": -1}, "min_tokens is -1: it must be 0 or more"),
    ({"min_tokens": 51}, "min_tokens is 51, and the reply has 50 at most"),
    ({"logit_bias": ((3, 101.0),)}, "logit_bias of token 3 is 101.0: it must be from -100 to 100"),
    ({"logit_bias": ((3, math.nan),)}, "logit_bias of token 3 is nan"),
    ({"logit_bias": ((100, 1.0),)}, "logit_bias: 100 is no token: ids must be from 0 to 99"),
    ({"logit_bias": ((3, 1.0), (3, 1.0))}, "names a token twice"),
    ({"allowed_token_ids": (5, -1)}, "allowed_token_ids: -1 is no token"),
    ({"bad_words": ((4, 100),)}, "bad_words: 100 is no token"),
    ({"bad_words": ((),)}, "must be of 1 to 100 tokens"),
    ({"bad_words": ((1,) * 101,)}, "must be of 1 to 100 tokens"),
    ({"bad_words": ((1,),) * 1001}, "bad_words are 1001: give 1000 at most"),
]


@pytest.mark.parametrize(("wrong", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_cannot_be_is_refused_by_name_with_its_remedy(
    wrong: dict[str, object], told: str
) -> None:
    params = replace(SamplingParams(), **wrong)  # type: ignore[arg-type]
    ((name, problem),) = sampling_problems(params, vocab_size=100, max_tokens=50)
    assert name in wrong and told in problem


def test_what_can_be_is_not_refused() -> None:
    """Red when a bound is not the documented one."""
    rng = random.Random(1)
    for _ in range(200):
        params = random_sampling(rng, 100, range(100))
        assert not [*sampling_problems(params, vocab_size=100, max_tokens=50)]
    least = SamplingParams(
        0.0, dry_base=1.0, top_p=0.0, presence_penalty=-2.0, logit_bias=((99, -100.0),)
    )
    most = SamplingParams(xtc_threshold=1.0, frequency_penalty=2.0, min_tokens=50, min_p=1.0)
    for params in (least, most, SamplingParams()):
        assert not [*sampling_problems(params, vocab_size=100, max_tokens=50)]


def test_every_parameter_crosses_to_the_engine_process() -> None:
    """Red when one is of a type that the wire changes."""
    messages = pytest.importorskip("engine.process.messages")
    rng = random.Random(2)
    for _ in range(50):
        request = GenerateRequest("r", (1,), 9, random_sampling(rng, 100, range(100)))
        order = messages.decode_order(messages.encode(messages.Generate(request)))
        assert order.request == request
