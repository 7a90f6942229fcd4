"""Whether two checkpoints mean the same by their token ids."""

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


def check_same_tokens(draft: str, target: str) -> None:
    """Refuse a draft or a head whose tokenizer gives ids another meaning than its target's.

    Where either has no tokenizer.json nothing is known. Raises ModelLoadError.
    """
    drafts, targets = _tokenizer_file(draft), _tokenizer_file(target)
    if drafts is None or targets is None or drafts.read_bytes() == targets.read_bytes():
        return
    ours, theirs = _tokens(targets), _tokens(drafts)
    shared = ours.keys() & theirs.keys()
    num_same = sum(ours[token_id] == theirs[token_id] for token_id in shared)
    if num_same < _KNOWN_TOKENS * len(shared):
        raise ModelLoadError(
            f"{draft!r} cannot draft: its tokenizer is another than the target's, of {len(shared)} "
            f"token ids {len(shared) - num_same} mean something else. Name a draft of the same "
            "family, or none."
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
