"""Tokenizers: a byte-level BPE of our own for Python source, or a target's; and packing by one."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from engine.training.tokens import Stream, id_type

END_OF_TEXT = "<|endoftext|>"

_TEXTS_AT_ONCE = 64

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


def pack(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Stream:
    """One stream of tokens [N]: every text followed by the id that ends a text, if there is one."""
    dtype = id_type(1 + max(tokenizer.get_vocab().values()))
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    remaining, parts = iter(texts), [np.empty(0, dtype)]
    # In batches: what the library returns of a text takes a hundred times the room of its ids.
    while batch := list(islice(remaining, _TEXTS_AT_ONCE)):
        encodings = tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False)
        parts += [np.array(encoding.ids + end, dtype=dtype) for encoding in encodings]
    return np.concatenate(parts)
