"""Which weights a checkpoint has brought, and whether they are numbers."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from engine.errors import ModelLoadError

_MOST_LISTED = 4
_LONGEST_NAME = 120

# What is beside the layers and says nothing of the text.
_IDLE = re.compile(
    r"(^|\.)(rotary(_pos)?_emb\.(inv_freq|(cos|sin)(_cached)?)|position_ids)$"  # angles, counts
    r"|(^|\.)((attn|attention)\.bias|masked_bias|causal_mask)$"  # masks
    r"|(^|\.)(k|v|kv)_scale$"  # of a cache in FP8
    r"|(^|\.)mtp([._]|$)"  # layers that guess ahead, left out by name for some families
    r"|^v_head\."  # a value head of reinforcement learning
    r"|^verifier_(lm_head|norm)\."  # a head's copies of its target's parts
)


def check_keys(
    name: str,
    kind: str,
    missing: Collection[str],
    left_over: Collection[str],
    mis_shaped: Collection[str],
    ahead: range = range(0),
) -> None:
    """Refuse weights that are not those of their configuration, which is of `kind`.

    The layers `ahead` guess further tokens and may be left over. Raises ModelLoadError.
    """
    left_over = [key for key in left_over if not _is_idle(key, ahead)]
    faults = {
        "missing": missing,
        "of another shape than config.json says": mis_shaped,
        "left over": left_over,
    }
    told = [f"{fault}: {abridged(keys)}" for fault, keys in faults.items() if keys]
    if told:
        raise ModelLoadError(
            f"the weights of {name!r} are not those of the {kind} that its config.json describes; "
            f"{'; '.join(told)}. Download it again, or name a checkpoint of that kind."
        )


def _is_idle(key: str, ahead: range) -> bool:
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
    return _IDLE.search(key) is not None or (layer is not None and int(layer[1]) in ahead)


def abridged(keys: Collection[str]) -> str:
    """Names of weights as one short text, those of several layers together."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for key in keys:
        first = re.search(r"(?<=\.)\d+(?=\.)", key)
        pattern = key if first is None else f"{key[: first.start()]}{{}}{key[first.end() :]}"
        numbers[pattern] |= set() if first is None else {int(first[0])}
    names = [_filled_in(pattern, sorted(found)) for pattern, found in sorted(numbers.items())]
    listed = ", ".join(name[:_LONGEST_NAME] for name in names[:_MOST_LISTED])
    num_more = len(names) - _MOST_LISTED
    return f"{listed} and {num_more} more" if num_more > 0 else listed


def _filled_in(pattern: str, numbers: list[int]) -> str:
    if not numbers:
        return pattern
    is_long = len(numbers) > _MOST_LISTED
    listed = f"{numbers[0]}..{numbers[-1]}" if is_long else ",".join(map(str, numbers))
    return pattern.replace("{}", listed if len(numbers) == 1 else f"{{{listed}}}", 1)


def check_numbers(name: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse parameters that are not finite, and buffers that are no numbers.

    Raises ModelLoadError.
    """
    if wrong := {key: weight.dtype for key, weight in weights.items() if not _is_finite(weight)}:
        dtypes = {str(dtype).removeprefix("torch.") for dtype in wrong.values()}
        raise ModelLoadError(
            f"{name!r} has weights that are not finite numbers in {', '.join(sorted(dtypes))}: "
            f"{abridged(wrong)}. Download it again, or choose a wider dtype if it is sound."
        )


def _is_finite(weight: Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel():
        return True
    # In one reading and no copy: a number that is not one is both the least and the greatest.
    ends = torch.stack(torch.aminmax(weight.detach()))
    # A buffer may be a bound that nothing reaches.
    is_sound = ends.isfinite() if isinstance(weight, nn.Parameter) else ~ends.isnan()
    return bool(is_sound.all())
