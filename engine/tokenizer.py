"""A model's tokenizer as transformers feeds it: for whoever has text, which the engine has not.

A `tokenizer.json` may keep truncation, padding or dropout of its last use, and other files of a
checkpoint say more of its tokens. What of that counts, transformers alone knows; it is asked here,
once, and what it says goes on as one `tokenizer.json`.
"""

from importlib.util import find_spec
from pathlib import Path

from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engine.checkpoint import asked_once
from engine.errors import ModelLoadError, first_line
from engine.loading import silence, unpack
from engine.names import resolve
from engine.request import TokenizerState

_OLDER = ("*.model", "*.tiktoken")
"""Files that are no tokenizer.json, which transformers reads with other people's packages: those of
SentencePiece, and tiktoken's by either name."""
_READERS = {
    "sentencepiece": "sentencepiece",
    "protobuf": "google.protobuf",
    "tiktoken": "tiktoken",
}
"""These packages, and the modules that they are imported as."""


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face id or a folder. Raises ModelLoadError if none is usable."""
    unpack(str(name))
    folder = resolve(str(name))
    try:
        with asked_once(str(name)), silence():
            tokenizer = _load(folder)
    except Exception as error:  # whatever foreign files may cause
        is_missing = "instantiate the backend tokenizer" in str(error)
        said = _unread(folder) or ("it holds none" if is_missing else first_line(error)[:200])
        raise ModelLoadError(
            f"no usable tokenizer for {str(name)!r}: {said}. Name a checkpoint that comes with its "
            "tokenizer.json, or save one there with tokenizer.save_pretrained(folder)."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelLoadError(
            f"{str(name)!r} has a slow tokenizer, {type(tokenizer).__name__}, and text is read by "
            "fast ones: name a checkpoint with a tokenizer.json."
        )
    _reset(tokenizer)
    return tokenizer


def read_tokenizer(name: str) -> TokenizerState:
    """The same for a process that has no transformers. Raises ModelLoadError."""
    tokenizer = load_tokenizer(name)
    inner, end = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    try:
        whole = inner.to_str()
    except Exception as error:  # of parts that are written in Python
        raise ModelLoadError(
            f"the tokenizer of {name!r} is no tokenizer.json ({first_line(error)}): name a "
            "checkpoint with one."
        ) from error
    return TokenizerState(
        json=whole,
        eos_token_ids=() if end is None else (end,),
        splits_special_tokens=inner.encode_special_tokens,
        chat_templates=_chat_templates(tokenizer.chat_template),
        special_tokens=tokenizer.special_tokens_map,
    )


def _chat_templates(found: object) -> dict[str, str]:
    """By name, wherever a checkpoint keeps them; one alone has none and is the default."""
    if isinstance(found, dict):
        return {str(name): str(source) for name, source in found.items()}
    return {"default": str(found)} if found else {}


def _load(folder: str) -> object:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:
        # A checkpoint's own code is not run, and one without a config.json has no class of its own.
        return PreTrainedTokenizerFast.from_pretrained(folder)


def _unread(folder: str) -> str | None:
    """What keeps from reading an older kind of file, if there is one and no tokenizer.json."""
    path = Path(folder)
    found = [file.name for kind in _OLDER for file in path.glob(kind)]
    missing = [package for package, module in _READERS.items() if not _is_installed(module)]
    if not found or (path / "tokenizer.json").is_file():
        return None
    if missing:
        return f"to read its {found[0]} install what does: pip install {' '.join(missing)}"
    return f"transformers cannot read its {found[0]} by itself"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def _reset(tokenizer: PreTrainedTokenizerFast) -> None:
    """Drop what belongs to a use and not to the tokenizer, as each call of transformers does."""
    inner = tokenizer.backend_tokenizer
    inner.no_truncation()
    inner.no_padding()
    if isinstance(inner.model, BPE):
        inner.model.dropout = None
