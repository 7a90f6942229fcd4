"""What the tokens of a model are as bytes of a text."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import xgrammar


class Vocabulary:
    """The bytes of every token by its id; none of special tokens, which are no text.

    To xgrammar those have names that no text spells, since a form may ask for them by their ids.

    A model's vocabulary may be padded beyond its tokenizer's. `ends` are ids that end a text to the
    model. Tokens are written in a `kind` of xgrammar's, by default as they are.
    """

    def __init__(
        self,
        tokens: Sequence[str] | Sequence[bytes],
        ends: Iterable[int],
        kind: "xgrammar.VocabType | None" = None,
        adds_space: bool = False,
    ) -> None:
        import xgrammar

        self.ends = frozenset(ends)
        named: list[Any] = ["" if token in self.ends else text for token, text in enumerate(tokens)]
        spelled = xgrammar.TokenizerInfo(
            named, kind or xgrammar.VocabType.RAW, vocab_size=len(named), stop_token_ids=[]
        )
        self.texts = [bytes(text) for text in spelled.decoded_vocab]
        names: list[bytes] = [
            text or (b"" if token in self.ends else b"\xff\xff%d" % token)
            for token, text in enumerate(self.texts)
        ]
        self.info = xgrammar.TokenizerInfo(
            names,
            xgrammar.VocabType.RAW,
            vocab_size=len(names),
            stop_token_ids=sorted(self.ends),
            add_prefix_space=adds_space,
        )

    @classmethod
    def of(cls, tokenizer: Any, vocab_size: int, ends: Iterable[int]) -> Self:
        """That of a tokenizer of transformers, for a model with so many tokens."""
        import xgrammar

        ends = {*ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
        known = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocab_size, stop_token_ids=sorted(ends)
        )
        special = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
        tokens = [""] * vocab_size
        for text, token in tokenizer.get_vocab().items():
            if token < vocab_size and token not in special:
                tokens[token] = text
        return cls(tokens, ends, known.vocab_type, known.add_prefix_space)
