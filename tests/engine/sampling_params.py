"""Parameters of every kind, in random combinations: what the proofs of choosing are run with."""

import random
from collections.abc import Sequence

from engine.request import SamplingParams


def random_filters(rng: random.Random) -> dict[str, float | int]:
    """A temperature, and filters of which most are off."""
    return {
        "temperature": rng.choice([0.0, 0.3, 0.7, 1.0, 1.5]),
        "top_k": rng.choice([0, 0, 0, 1, 4, 20, 400]),
        "top_p": rng.choice([1.0, 1.0, 0.9, 0.5, 0.0]),
        "min_p": rng.choice([0.0, 0.0, 0.05, 0.4]),
        "typical_p": rng.choice([1.0, 1.0, 1.0, 0.8, 0.3]),
        "top_n_sigma": rng.choice([0.0, 0.0, 0.0, 1.0, 0.3]),
        "xtc_probability": rng.choice([0.0, 0.0, 0.5, 1.0]),
        "xtc_threshold": rng.choice([0.02, 0.1, 0.3]),
        "seed": rng.getrandbits(64) - 2**63,
    }


def random_edits(rng: random.Random, vocab_size: int, words: Sequence[int]) -> dict[str, object]:
    """Edits of which most are off; bad words are parts of a text that is likely to be said."""
    starts = [rng.randrange(len(words)) for _ in range(rng.choice([0, 0, 4]))]
    bad_words = [tuple(words[start : start + rng.randrange(1, 4)]) for start in starts]
    some = rng.sample(range(vocab_size), vocab_size // 2)
    return {
        "logit_bias": tuple(
            (token, rng.choice([-100.0, -3.0, 2.0, 5.0])) for token in some[: rng.choice([0, 0, 9])]
        ),
        "repetition_penalty": rng.choice([1.0, 1.0, 1.3, 0.8]),
        "frequency_penalty": rng.choice([0.0, 0.0, 0.6, -0.5]),
        "presence_penalty": rng.choice([0.0, 0.0, 1.5, -0.7]),
        "dry_multiplier": rng.choice([0.0, 0.0, 0.8, 4.0]),
        "dry_base": rng.choice([1.0, 1.75]),
        "dry_allowed_length": rng.choice([1, 2, 3]),
        "dry_penalty_last_n": rng.choice([-1, -1, 12]),
        "dry_sequence_breakers": tuple(rng.sample(words, min(len(words), rng.choice([0, 0, 2])))),
        "allowed_token_ids": tuple(some) if rng.random() < 0.2 else (),
        "bad_words": tuple(bad_words),
        "min_tokens": rng.choice([0, 0, 5, 20]),
    }


def random_sampling(
    rng: random.Random, vocab_size: int, words: Sequence[int], share_edited: float = 0.8
) -> SamplingParams:
    """Any filters, and any edits in such a share of cases."""
    edits = random_edits(rng, vocab_size, words) if rng.random() < share_edited else {}
    return SamplingParams(**random_filters(rng), **edits)  # type: ignore[arg-type]
