"""Whether two checkpoints mean the same by their token ids."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from tokenizers import Tokenizer

from engine.errors import ModelLoadError, first_line
from engine.names import find_folder

_TOKENIZER = "tokenizer.json"
PADDING = 0.01
"""Families pad one vocabulary to different sizes; a larger difference is another tokenizer."""
_KNOWN_TOKENS = 0.99
"""Of the ids that two tokenizers share, how many must mean the same for one to draft for the other:
families add a few special tokens of their own."""


@dataclass(frozen=True, slots=True)
class TokenComparison:
    """Of the ids that two tokenizers share, how many mean something else in one than in the other.

    `first` is the lowest of those: the id, the target's token, the draft's.
    """

    num_shared: int
    num_different: int
    first: tuple[int, str, str]

    @property
    def is_same(self) -> bool:
        """Whether one may draft for the other."""
        return self.num_shared - self.num_different >= _KNOWN_TOKENS * self.num_shared


def compare_tokens(draft: str, target: str) -> TokenComparison | None:
    """Compare what ids mean; None if nothing differs, or either has no tokenizer.json.

    Raises ModelLoadError for a file that is none.
    """
    drafts, targets = _tokenizer_file(draft), _tokenizer_file(target)
    if drafts is None or targets is None or drafts.read_bytes() == targets.read_bytes():
        return None
    ours, theirs = _tokens(targets), _tokens(drafts)
    shared = sorted(ours.keys() & theirs.keys())
    different = [token_id for token_id in shared if ours[token_id] != theirs[token_id]]
    if not different:
        return None
    at = different[0]
    return TokenComparison(len(shared), len(different), (at, ours[at], theirs[at]))


def check_same_tokens(draft: str, target: str) -> None:
    """Refuse a draft or a head whose tokenizer gives ids another meaning than its target's.

    Where either has no tokenizer.json nothing is known. Raises ModelLoadError.
    """
    found = compare_tokens(draft, target)
    if found is not None and not found.is_same:
        token_id, ours, theirs = found.first
        raise ModelLoadError(
            f"{draft!r} cannot draft: its tokenizer is another than the target's, of "
            f"{found.num_shared} token ids {found.num_different} mean something else, the first of "
            f"them {token_id}, {theirs!r} for {ours!r}. Name a draft of the same family, or none."
        )


def _tokenizer_file(name: str) -> Path | None:
    try:
        if (folder := find_folder(name)) is not None:
            file = folder / _TOKENIZER
        elif isinstance(try_to_load_from_cache(name, "config.json"), str):
            file = Path(hf_hub_download(name, _TOKENIZER))
        else:  # a shape of random weights, which no hub need be asked for
            return None
    except Exception:  # whatever a hub may answer that is not there, or has no such file
        return None
    return file if file.is_file() else None


def _tokens(file: Path) -> dict[int, str]:
    try:
        vocabulary = Tokenizer.from_file(str(file)).get_vocab()
    except Exception as error:  # the library raises nothing narrower
        raise ModelLoadError(f"{str(file)!r} cannot be read: {first_line(error)}.") from error
    return {token_id: token for token, token_id in vocabulary.items()}
