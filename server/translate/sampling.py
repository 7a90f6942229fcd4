"""How tokens are chosen, from the wire's words to the engine's ids."""

from collections.abc import Iterable
from dataclasses import fields

from engine import SamplingParams
from server.protocol import SamplingFields
from server.text import Tokenizer


def sampling_of(body: SamplingFields, seed: int, tokenizer: Tokenizer) -> SamplingParams:
    """The fields of a body that are named like the engine's, with this seed."""
    told = {field.name: getattr(body, field.name) for field in fields(SamplingParams)}
    told["seed"] = seed
    told["logit_bias"] = tuple(body.logit_bias.items())
    told["allowed_token_ids"] = tuple(body.allowed_token_ids)
    told["bad_words"] = _words(body.bad_words, tokenizer)
    strings = body.dry_sequence_breakers if body.dry_multiplier else ()
    told["dry_sequence_breakers"] = _breakers(strings, tokenizer)
    return SamplingParams(**told)


def _words(words: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The token ids of each word, at the start of a text and after a space: as vLLM reads them.

    The second reading counts where it is another word of as many tokens.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare, spaced = (
            tuple(tokenizer.encode(space + word.lstrip(), add_special_tokens=False))
            for space in ("", " ")
        )
        if bare:
            found[bare] = None
        if bare and len(spaced) == len(bare) and spaced[0] != bare[0]:
            found[spaced] = None
    return tuple(found)


def _breakers(strings: Iterable[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens in whose text any of the strings is."""
    wanted = tuple(strings)
    texts = enumerate(tokenizer.texts) if wanted else ()
    return tuple(token for token, text in texts if any(string in text for string in wanted))
