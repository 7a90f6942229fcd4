"""A checkpoint in Hugging Face's layout, made once of the GGUF file of a packaged model.

Its blocks become float32, in which every value that they stand for has room. It is kept as compiled
code is: in a folder that nobody else can write to, with digests that tell that it is whole.
"""

from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from engine.code_cache import is_usable, make_private, publish_folder
from engine.errors import ModelLoadError, first_line
from engine.loading.quiet import silence
from engine.packaged import PACKAGED
from engine.scratch import Scratch

_FIRST = "config.json"


def unpack(name: str) -> None:
    """Have the folder of a packaged model hold its checkpoint; other names are not looked at.

    It takes a quarter of a minute the first time. Raises ModelLoadError if it cannot be made.
    """
    if (model := PACKAGED.get(name)) is not None:
        _unpack(name, model.file(), model.folder())


@cache
def _unpack(name: str, file: Path, folder: Path) -> None:
    try:
        if is_usable(folder / _FIRST):
            return
        make_private(folder.parent)
        # Reading GGUF shows a progress bar, whatever transformers was told.
        with Scratch(folder.parent) as scratch, silence(), redirect_stderr(StringIO()):
            (draft := scratch / folder.name).mkdir(mode=0o700)
            _write_checkpoint(file, draft)
            publish_folder(draft, folder / _FIRST)
    except OSError as error:
        raise ModelLoadError(
            f"{name!r} cannot be unpacked to {str(folder)!r}: {first_line(error)}. Make room for "
            "it there, or name another cache folder in XDG_CACHE_HOME."
        ) from error
    except Exception as error:  # whatever a foreign file may cause
        raise ModelLoadError(
            f"{name!r} cannot be read from {str(file)!r}: {first_line(error)}. Install its package "
            "again."
        ) from error


def _write_checkpoint(file: Path, folder: Path) -> None:
    """The weights, the tokenizer with its chat template, and what ends a text."""
    network = AutoModelForCausalLM.from_pretrained(
        str(file.parent),
        gguf_file=file.name,
        trust_remote_code=False,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    network.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        str(file.parent), gguf_file=file.name, trust_remote_code=False
    )
    # As one file, tokenizer_config.json, which whoever reads no template needs not know of.
    tokenizer.save_pretrained(folder, save_jinja_files=False)
