"""Hugging Face's hub: whether it can be reached, and GGUF files by repository and quantisation.

These are named as llama.cpp has it: `user/repo:Q4_K_M`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import monotonic

from engine.errors import ModelLoadError, first_line

_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*):(?P<quantisation>\w[\w.-]*)")
_PART = re.compile(r"-\d{5}-of-\d{5}")
_SECONDS = 5.0
_VALID_SECONDS = 60.0
_known: dict[str, tuple[float, bool]] = {}
"""By the address of a hub: when it was asked, and whether it answered."""


@contextmanager
def only_if_reachable() -> Iterator[None]:
    """While the block runs a hub that cannot be reached is not asked.

    What is cached is found then, and whatever else is missing is so at once: the hub's own client
    would try for 23 s, for each file.
    """
    from huggingface_hub import constants  # slow to import, and most names need none

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _is_reachable(hub: str) -> bool:
    """Whether it answers; for all that is loaded together it is asked once."""
    from huggingface_hub import get_session

    asked_at, answers = _known.get(hub, (-math.inf, False))
    if monotonic() - asked_at > _VALID_SECONDS:
        try:
            get_session().head(hub, timeout=_SECONDS)
            answers = True
        except Exception:  # whatever a network may do
            answers = False
        _known[hub] = monotonic(), answers
    return answers


def find_in_hub(name: str) -> Path | None:
    """The file that such a name means, downloaded if need be; None for any other name.

    Raises ModelLoadError, with the remedy, if the repository is not there or has no one such file.
    """
    named = _NAME.fullmatch(name)
    return None if named is None else _download(name, named["repo"], named["quantisation"])


@cache
def _download(name: str, repo: str, quantisation: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        with only_if_reachable():
            found = chosen(name, _listed(repo), quantisation)
            return Path(hf_hub_download(repo, found))
    except ModelLoadError:
        raise
    except Exception as error:  # whatever a hub may answer
        raise ModelLoadError(
            f"{name!r} cannot be had from the hub: {first_line(error)}. Check the repository's "
            "name and the network, or name a GGUF file that is there."
        ) from error


def _listed(repo: str) -> Sequence[str]:
    """The files of a repository; where the hub is not to be asked, those that are here."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        # Of which no file is asked for: a repository that is not here as a whole would be refused.
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=[]))
        return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    return HfApi().list_repo_files(repo)


def chosen(name: str, files: Sequence[str], quantisation: str) -> str:
    """The one GGUF file among those of a repository whose name says this quantisation.

    Raises ModelLoadError, with those that there are, if there is none or there are several.
    """
    models = [each for each in files if each.endswith(".gguf") and "mmproj" not in each.lower()]
    said = re.compile(rf"(^|[-._]){re.escape(quantisation)}({_PART.pattern})?$", re.IGNORECASE)
    fitting = [each for each in models if said.search(Path(each).stem)]
    if any(_PART.search(Path(each).stem) for each in fitting):
        raise ModelLoadError(
            f"{name!r} is of several parts in the hub: download them, put them together with "
            "llama.cpp's `llama-gguf-split --merge`, and name the whole."
        )
    if len(fitting) != 1:
        problem = "several files of" if fitting else "no file of"
        listed = ", ".join(sorted(fitting or models)[:8]) or "no GGUF files at all"
        raise ModelLoadError(
            f"{name!r}: the repository has {problem} this quantisation ({listed}). Name one that "
            "it has, or download a file and name that."
        )
    return fitting[0]
