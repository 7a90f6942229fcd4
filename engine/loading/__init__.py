"""From a name to a `Model`: checkpoints on disk or on the Hugging Face hub, dtype and device.

`embedded/...` names a part of the family that ships with the engine. A GGUF file is described
once in Hugging Face's layout, in a folder of the cache (`unpacking.py`). Weights that are in blocks
or packed, and those that are to be rounded, are read where they are: a source (`gguf_weights.py`,
`safetensors_weights.py`) has them by name, each with its rows (`gguf_blocks.py`,
`packed_rows.py`; `adapter.py` adds to them), and `filling.py` gives them to a network, one after
another. `weights.py` says which way a checkpoint goes; others transformers loads (`network.py`).
"""

from engine.loading.checkpoint import Checkpoint, load_model, random_model
from engine.loading.limits import read_limits, rope_boundary
from engine.loading.precision import choose_device, choose_precision, num_parameters
from engine.loading.quiet import silence
from engine.loading.unpacking import unpack

__all__ = [
    "Checkpoint",
    "choose_device",
    "choose_precision",
    "load_model",
    "num_parameters",
    "random_model",
    "read_limits",
    "rope_boundary",
    "silence",
    "unpack",
]
