"""On which device a network runs, and in which precision."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from engine.errors import ConfigError, first_line
from engine.loading.quiet import silence
from engine.memory import total_bytes
from engine.weights import BITS, Precision

_BYTES_IN_FLOAT32 = 6
"""What a weight takes while it is loaded and then packed for our kernels."""
_LARGEST_SHARE = 3 / 4
"""Of the memory may go to that; the rest is the cache's and everybody else's."""
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(device: str) -> torch.device:
    """The device by its torch name; `auto` is the first GPU, else the CPU.

    A GPU that is named by its number becomes the one of this process: graphs are captured there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
        if place.type == "cuda" and place.index is not None:
            torch.cuda.set_device(place)
    except (RuntimeError, AssertionError) as error:
        is_missing = device.startswith("cuda") and not torch.cuda.is_available()
        cause = "torch finds no GPU here" if is_missing else first_line(error)
        raise ConfigError(f"device {device!r}: {cause}. Try auto or cpu.") from error
    return place


def choose_precision(
    dtype: str,
    device: torch.device,
    config: PretrainedConfig,
    num_engines: int = 1,
    blocks: str | None = None,
) -> Precision:
    """The precision by its name; `auto` goes by the device, the checkpoint and the memory there is.

    A GPU runs the checkpoint's own precision, whatever blocks a file has. A CPU runs float32, with
    or without instructions for bfloat16: our kernels compute in float32 whatever they are given,
    and keep weights in bfloat16 where that is exact, so the text is better for the same reading.
    Only weights of bfloat16 that would not fit the memory in float32 keep their own; engines of one
    machine have equal parts.
    What a file has in `blocks` for a precision is computed in that.
    Raises ConfigError for what the device has no products for.
    """
    if dtype in BITS and device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"dtype {dtype} is for cpu and cuda, not for {device.type}: choose bfloat16 or auto.",
            "dtype",
        )
    if dtype in BITS:
        return Precision(dtype, torch.float32, "as asked for")
    if dtype != "auto":
        return Precision.of(_DTYPES[dtype], "as asked for")
    stored = getattr(config, "dtype", None)
    if device.type != "cpu":
        own = stored if isinstance(stored, torch.dtype) else torch.float32
        return Precision.of(own, "that of the checkpoint")
    if blocks is not None:
        return Precision(blocks, torch.float32, "that of the file's blocks")
    room = total_bytes()
    if stored == torch.bfloat16 and room is not None:
        needed = _BYTES_IN_FLOAT32 * num_parameters(config)
        if needed > _LARGEST_SHARE * room / num_engines:
            reason = f"that of the checkpoint: float32 takes {needed / 1e9:.0f} GB while it loads"
            sharing = f" for {num_engines} engines" if num_engines > 1 else ""
            return Precision.of(torch.bfloat16, f"{reason}, of {room / 1e9:.0f} in all{sharing}")
    return Precision.of(torch.float32, "in which every CPU computes best here")


def dtype_of_loading(precision: Precision, config: PretrainedConfig) -> torch.dtype:
    """In which numbers weights come into memory: those to be rounded as the checkpoint has them."""
    stored = getattr(config, "dtype", None)
    short = next((each for each in (torch.bfloat16, torch.float16) if each == stored), None)
    return short if precision.is_quantised and short is not None else precision.dtype


def num_parameters(config: PretrainedConfig) -> int:
    """The weights of such a network, of which none is made; 0 where it cannot be told."""
    try:
        with torch.device("meta"), silence():
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception:  # whatever a foreign configuration may cause; who loads it says so
        return 0
    return sum(weight.numel() for weight in network.parameters())
