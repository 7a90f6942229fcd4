"""Prompts for commands that measure: a file of them, and what fits into a window."""

import json
from collections.abc import Sequence
from pathlib import Path

from engine import ConfigError


def read_prompts(path: Path, limit: int | None = None) -> list[str]:
    """The prompts of a file of `{"prompt": "..."}`, one a line, or the first `limit` of them.

    Raises ConfigError, which names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--prompts {path}: cannot be read as text: {error}") from error
    pairs = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not pairs:
        raise ConfigError(f'--prompts {path}: is empty: it needs one {{"prompt": "..."}} a line.')
    return [_prompt(line, f"{path}, line {number}") for number, line in pairs[:limit]]


def _prompt(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError):
        prompt = None
    if not isinstance(prompt, str) or not prompt:
        raise ConfigError(f'--prompts {where}: must be {{"prompt": "..."}} with a text in it.')
    return prompt


def fitted(prompts: Sequence[Sequence[int]], window: int, num_tokens: int) -> list[tuple[int, ...]]:
    """The prompts, of which the window holds the end if it cannot hold all beside the reply."""
    if num_tokens >= window:
        raise ConfigError(
            f"--tokens {num_tokens} leaves no room for a prompt in a window of {window}: ask for "
            f"{window - 1} or fewer, or raise max_model_len."
        )
    return [tuple(prompt[num_tokens - window :]) for prompt in prompts]
