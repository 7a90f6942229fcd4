"""A byte-level BPE for Python source, saved in Hugging Face layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from engine.training.trainer import Stream

END_OF_TEXT = "<|endoftext|>"

# Newlines and the indentation after them are tokens of their own, so that a prompt may end after
# either and the text continues with the same tokens as in training.
_PIECES = (
    r"\n+"
    r"|(?<=\n)[ \t]+"
    r"| ?[\p{L}_]+"
    r"| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}_]+"
    r"|\s+(?!\S)"
    r"|\s"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> PreTrainedTokenizerFast:
    """Learn a BPE of `vocab_size` entries, all 256 bytes among them, so any text round-trips.

    One special token, `<|endoftext|>` (id 0), stands between files: both bos and eos.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder in Hugging Face layout."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def pack(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Stream:
    """One stream of tokens [N]: every text followed by the id that ends a text, if there is one."""
    dtype = np.uint16 if len(tokenizer) <= np.iinfo(np.uint16).max else np.uint32
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return np.concatenate([np.array(e.ids + end, dtype=dtype) for e in encodings])
