"""Penalties, bans and samplers through the official client, down to a real engine and back."""

from typing import Any

import pytest

from tests.server.command import PROMPT, Command

NUM_TOKENS = 40
ASKED: dict[str, dict[str, Any]] = {
    "openai's": {
        "frequency_penalty": 0.7,
        "presence_penalty": -0.4,
        "logit_bias": {"104": 3, "0": -100},
    },
    "vllm's": {
        "extra_body": {
            "repetition_penalty": 1.3,
            "min_tokens": 20,
            "bad_words": ["h", "el"],
            "allowed_token_ids": [0, *range(60, 200)],
        }
    },
    "llama.cpp's": {
        "extra_body": {
            "typical_p": 0.9,
            "top_n_sigma": 2,
            "xtc_probability": 0.5,
            "xtc_threshold": 0.02,
            "dry_multiplier": 0.8,
            "dry_sequence_breakers": ["\n"],
        }
    },
}


def written(command: Command, speculation: str = "off", **asked: Any) -> list[int]:
    """The token ids of a reply."""
    extra = {"return_token_ids": True, "speculation": speculation, **asked.pop("extra_body", {})}
    reply = command.client.completions.create(
        model="tiny",
        prompt=PROMPT,
        **{"max_tokens": NUM_TOKENS, "seed": 5, "temperature": 0.9, **asked},
        extra_body=extra,
    )
    token_ids: list[int] = (reply.choices[0].model_extra or {})["token_ids"]
    return token_ids


@pytest.mark.parametrize("temperature", [0, 0.9])
@pytest.mark.parametrize("asked", list(ASKED.values()), ids=list(ASKED))
def test_they_change_the_text_and_speculation_does_not(
    command: Command, asked: dict[str, Any], temperature: float
) -> None:
    """Red when a parameter is lost on its way, or edits depend on what was drafted."""
    texts = [
        written(command, speculation, temperature=temperature, **asked)
        for speculation in ("off", "auto", "always")
    ]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0] != written(command, temperature=temperature)


def test_each_does_what_it_says(command: Command) -> None:
    """Red when one is given to the engine in place of another."""

    def asking(**extra: Any) -> list[int]:
        return written(command, "always", extra_body=extra)

    assert set(written(command, logit_bias={"104": 100})) == {104}
    assert set(asking(allowed_token_ids=[101, 102])) == {101, 102}
    plain = asking(ignore_eos=True)
    assert len({*asking(presence_penalty=2, ignore_eos=True)}) > len({*plain})
    ended = asking(logit_bias={"0": 100})
    assert len(ended) == 1 and len(asking(logit_bias={"0": 100}, min_tokens=12)) == 13


def test_a_bad_word_is_not_written(command: Command) -> None:
    asked = {"temperature": 0, "speculation": "always", "ignore_eos": True, "logprobs": 0}
    plain = command.complete(**asked)["choices"][0]["logprobs"]["tokens"]
    word = next(text for text in plain if text.isascii() and text.isalnum())
    other = command.complete(bad_words=[word], **asked)["choices"][0]["logprobs"]["tokens"]
    assert word not in other and other != plain
