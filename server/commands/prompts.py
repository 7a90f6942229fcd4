"""Prompts for commands that measure: a file of them, as the model reads them, in its window."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import ConfigError
from server.text import Tokenizer

_FORM = '{"prompt": "..."}'


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue, or to answer, and its kind among others; empty if there is one kind."""

    text: str
    category: str = ""


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """The prompts of a file of `{"prompt": "...", "category": "..."}`, one a line.

    Of each category the first `limit`; either all prompts have one or none. Raises ConfigError,
    which names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--prompts {path}: cannot be read as text: {error}") from error
    pairs = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not pairs:
        raise ConfigError(f"--prompts {path}: is empty: it needs one {_FORM} a line.")
    found: list[Prompt] = []
    for number, line in pairs:
        prompt = _prompt(line, f"{path}, line {number}")
        if found and bool(prompt.category) != bool(found[0].category):
            raise ConfigError(
                f"--prompts {path}, line {number}: either every prompt has a category or none."
            )
        found.append(prompt)
    return firsts(found, limit)


def firsts(prompts: Iterable[Prompt], limit: int | None) -> list[Prompt]:
    """Of each category the first `limit`; all if it is None."""
    counts: Counter[str] = Counter()
    found: list[Prompt] = []
    for prompt in prompts:
        counts[prompt.category] += 1
        if limit is None or counts[prompt.category] <= limit:
            found.append(prompt)
    return found


def _prompt(line: str, where: str) -> Prompt:
    try:
        fields = json.loads(line)
        prompt = Prompt(fields["prompt"], fields.get("category", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        prompt = Prompt("")
    if not isinstance(prompt.text, str) or not prompt.text or not isinstance(prompt.category, str):
        raise ConfigError(f"--prompts {where}: must be {_FORM} with a text in it.")
    return prompt


def encoded(
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    is_chat: bool,
    chat_template: str | None,
    window: int,
    num_tokens: int,
) -> list[tuple[int, ...]]:
    """Their token ids, of which the window holds the end if not all beside the reply.

    In a chat each is what a user says, written out by the model's template, or by a
    `chat_template` in its place. Raises ConfigError if there is none, or no room.
    """
    if not is_chat:
        return fitted([tokenizer.encode(each.text) for each in prompts], window, num_tokens)
    template = tokenizer.templates.choose(has_tools=False, override=chat_template)
    if template is None:
        raise ConfigError(
            "--chat: the model has no chat template: leave --chat out, or name a --chat-template."
        )
    texts = [template.render([{"role": "user", "content": each.text}]) for each in prompts]
    # A template writes its own special tokens.
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return fitted(ids, window, num_tokens)


def fitted(prompts: Sequence[Sequence[int]], window: int, num_tokens: int) -> list[tuple[int, ...]]:
    """The prompts, of which the window holds the end if it cannot hold all beside the reply."""
    if num_tokens >= window:
        raise ConfigError(
            f"--tokens {num_tokens} leaves no room for a prompt in a window of {window}: ask for "
            f"{window - 1} or fewer, or raise max_model_len."
        )
    return [tuple(prompt[num_tokens - window :]) for prompt in prompts]
