"""Codes that an earlier load has rounded, kept beside compiled passes: reading them is faster.

A folder of the cache has those of one precision of one state of a checkpoint's files, with digests
that tell that they are whole.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from engine.code_cache import cache_root, is_usable, make_private, publish_folder
from engine.errors import first_line
from engine.kernels.dots import Codes, parted
from engine.loading.packed_formats import Format, Layer
from engine.loading.stored import Rows
from engine.scratch import Scratch
from engine.weights import IntegerEmbedding, IntegerLinear, Precision, num_weights

LEAST = 2**28
"""Weights of a model from which on rounding takes longer than reading."""
_FIRST = "0.safetensors"
_FORM = "2"
"""Of the codes, and of how they are rounded."""
_MOST_BYTES = 2**28
"""Of a file, all of which is copied as it is written."""
_log = logging.getLogger(__name__)


class KeptCodes(Format):
    """Codes of our own, which an earlier load has rounded."""

    leaves = frozenset({*Codes._fields, "pairs"})

    def bits(self, layer: Layer) -> int:
        """By whether there are minima."""
        return 4 if "minima" in layer.leaves else 8

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """Two codes of 4 bits may be in a byte."""
        if "pairs" in layer.leaves:
            num_rows, num_pairs = layer.shape("pairs")
            return num_rows, 2 * num_pairs
        return layer.shape("values")

    def rows(self, layer: Layer) -> Rows:
        """As they are."""
        return OurCodes(self.bits(layer), layer)


class OurCodes(Rows):
    """Codes of our own."""

    def __init__(self, bits: int, layer: Layer) -> None:
        self.bits = bits
        minima = layer.tensor("minima") if bits == 4 else None
        is_paired = "pairs" in layer.leaves
        values = parted(layer.tensor("pairs")) if is_paired else layer.tensor("values")
        self._codes = Codes(values, layer.tensor("scales"), minima)

    def plain(self, rows: slice = slice(None)) -> Tensor:
        """What they stand for."""
        values, scales, minima = self._codes
        return Codes(values[rows], scales[rows], None if minima is None else minima[rows]).plain()

    def codes(self) -> Codes | None:
        """Themselves."""
        return self._codes


def kept_codes(files: Sequence[Path], precision: Precision, adapter: str) -> Path:
    """Where the codes of these files in a precision are, or will be: the first of several files.

    `adapter` is the fingerprint of what was merged into them. The folder's name ends with what
    files they are of, and then in which state these are, and who has read them.
    """
    which = _digest([str(file.resolve()) for file in files], adapter)
    states = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    state = _digest(states, version("transformers"), _FORM)
    folder = f"{files[0].parent.name}-{precision.name}-{which}-{state}"
    return cache_root() / "weights" / folder / _FIRST


def _digest(*facts: object) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def find_codes(path: Path) -> list[Path]:
    """The files of codes that are there and whole."""
    return sorted(path.parent.glob("*.safetensors")) if is_usable(path) else []


def discard_codes(path: Path, error: Exception) -> None:
    """Remove codes that are whole and yet no model, and say so: they are to be made anew."""
    _log.warning("%s is not used, and is to be made anew: %s", path.parent, first_line(error))
    shutil.rmtree(path.parent, ignore_errors=True)


def keep_codes(path: Path, network: PreTrainedModel) -> None:
    """Write what a network has become, if that is worth it; what forbids it is logged.

    Those of the same files in another state go, since nothing will ask for them.
    """
    if num_weights(network) < LEAST:
        return
    try:
        make_private(path.parent.parent)
        with Scratch(path.parent.parent) as scratch:
            (draft := scratch / path.parent.name).mkdir(mode=0o700)
            for number, part in enumerate(_parts(network)):
                save_file(part, draft / f"{number}.safetensors", {"format": "pt"})
            publish_folder(draft, path)
        for other in _others(path.parent):
            shutil.rmtree(other, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        _log.warning(
            "weights that were rounded are not kept for the next time: %s", first_line(error)
        )


def _others(folder: Path) -> list[Path]:
    which = folder.name.rpartition("-")[0]
    beside = [each for each in folder.parent.iterdir() if each != folder]
    return [each for each in beside if each.name.rpartition("-")[0] == which]


def _parts(network: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """All weights, as many together as a file is to hold."""
    part: dict[str, Tensor] = {}
    for key, weight in _weights(network):
        if part and sum(each.nbytes for each in part.values()) + weight.nbytes > _MOST_BYTES:
            yield part
            part = {}
        part[key] = weight.contiguous()
    yield part


def _weights(network: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    yield from network.state_dict().items()
    for path, layer in network.named_modules():
        is_other = isinstance(layer, IntegerEmbedding) and layer.is_tied
        if isinstance(layer, IntegerLinear | IntegerEmbedding) and not is_other:
            for leaf, part in layer.named_buffers(recurse=False):
                yield f"{path}.{leaf}", part
