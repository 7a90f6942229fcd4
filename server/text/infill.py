"""Fill-in-the-middle: the prompt that a code model was trained to read around a gap."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from server.text.tokenizer import Tokenizer

FAMILIES = (
    "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",  # Qwen2.5-Coder, CodeGemma
    "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",  # StarCoder2, Granite
    "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>",  # SantaCoder
    "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>",  # CodeLlama
    "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",  # DeepSeek-Coder
    "[SUFFIX]{suffix}[PREFIX]{prefix}",  # Codestral
    "<|code_prefix|>{prefix}<|code_suffix|>{suffix}<|code_middle|>",  # GLM-4.5
)
"""By their own words for it; the first whose tokens are all there is the model's."""

_FILES = ("<|file_sep|>", "<file_sep>", "<filename>")
_REPOSITORIES = ("<|repo_name|>", "<repo_name>", "<reponame>")
_OTHER_ENDS = (
    *("<|fim_pad|>", "<fim_pad>", "<fim-pad>", "▁<EOT>", "<EOT>", "<|EOT|>", "<|endoftext|>"),
    *("<｜end▁of▁sentence｜>",),
)
_HOLE = re.compile(r"\{(prefix|suffix)\}")
_STRANGER = "☺"


@dataclass(frozen=True, slots=True)
class Infill:
    """How one tokenizer's model is asked to fill a gap; `ends` are tokens that end its answer.

    `parts` are the token ids around and between the two halves, which stand in the order of
    `holes`. Without a `separator` other files come as plain text.
    """

    template: str
    parts: tuple[tuple[int, ...], ...]
    holes: tuple[str, ...]
    ends: tuple[int, ...]
    separator: int | None
    repository: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: str | None = None) -> Self | None:
        """That of a template, or of the family whose tokens there are; None if there is none."""
        known = tokenizer.inner.token_to_id
        if template is None:
            fitting = (each for each in FAMILIES if all(known(w) is not None for w in _words(each)))
            template = next(fitting, None)
        if not template:
            return None
        words = _HOLE.split(template)[::2]
        own = [_ids(word, tokenizer) for word in words]
        names = (*_FILES, *_REPOSITORIES, *_OTHER_ENDS, *_words(template))
        ends = dict.fromkeys(at for name in names if (at := known(name)) is not None)
        return cls(
            template,
            tuple(own),
            tuple(_HOLE.findall(template)),
            tuple(ends),
            next((known(name) for name in _FILES if known(name) is not None), None),
            next((known(name) for name in _REPOSITORIES if known(name) is not None), None),
        )

    def prompt(self, prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
        """The token ids of a gap between two halves."""
        halves = {"prefix": prefix, "suffix": suffix}
        filled = [*self.parts[0]]
        for hole, part in zip(self.holes, self.parts[1:], strict=True):
            filled += [*halves[hole], *part]
        return filled


def encode_inside(text: str, tokenizer: Tokenizer) -> list[int]:
    """The token ids of a text that goes on where another ended: no space is put before it."""
    plain = tokenizer.encode(text, add_special_tokens=False)
    stranger = tokenizer.encode(_STRANGER, add_special_tokens=False)
    if not tokenizer.token_text(stranger[0]).startswith(" "):
        return plain
    together = tokenizer.encode(_STRANGER + text, add_special_tokens=False)
    return together[len(stranger) :] if together[: len(stranger)] == stranger else plain


def _words(template: str) -> list[str]:
    return [word for word in _HOLE.split(template)[::2] if word]


def _ids(word: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """A word of a template: a token if it is one."""
    if not word:
        return ()
    own = tokenizer.inner.token_to_id(word)
    return tuple(tokenizer.encode(word, add_special_tokens=False)) if own is None else (own,)
