"""Names that clients send and that are no fields of ours: one table of what becomes of each.

Another name of one of our fields is read as that one. What cannot change a text is left aside, with
any value or with the values that ask for nothing. Whatever else there is would be ignored, and is
refused.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

ALIASES: Mapping[str, str] = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "n_cmpl": "n",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "regex": "guided_regex",
    "ebnf": "guided_grammar",
}
"""Other people's names, and ours."""

HARMLESS: frozenset[str] = frozenset(
    [
        # Who asks, where it is kept and how it is billed.
        *("user", "metadata", "store", "service_tier", "request_id", "safety_identifier"),
        # Hints for caches and slots, which are managed here.
        *("cache_prompt", "id_slot", "slot_id", "n_keep", "n_discard", "n_cache_reuse"),
        *("prompt_cache_key", "prompt_cache_retention"),
        # What a reply tells beside its text.
        *("timings_per_token", "return_progress", "response_fields", "verbose"),
        # Details of samplers that are not there: these are switched on by another name.
        *("mirostat_tau", "mirostat_eta", "dynatemp_exponent", "smoothing_curve"),
    ]
)
"""What changes nothing, whatever its value."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # Samplers that are not there, off.
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "tfs": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "dynatemp_range": (0,),
    "smoothing_factor": (0,),
    "adaptive_target": (-1,),
    "guidance_scale": (1,),
    "no_repeat_ngram_size": (0,),
    "penalize_nl": (False,),
    "repeat_last_n": (-1,),
    "min_keep": (0,),
    "min_length": (0,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "do_sample": (True,),
    "logits_processors": ([],),
    "lora": ([],),
    # Limits of time, and of lines.
    "t_max_prompt_ms": (0, -1),
    "t_max_predict_ms": (0, -1),
    "n_indent": (0,),
    # What a reply looks like.
    "detokenize": (True,),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "return_tokens": (False,),
    "post_sampling_probs": (False,),
    "n_probs": (0,),
    "vllm_xargs": ({},),
    "prompt_embeds": (),
    "kv_transfer_params": (),
}
"""What would change a text or a reply and is not supported, with the values that do not."""


_LONGEST_NAME = 64


def refusal(param: str, reason: str) -> PydanticCustomError:
    """A complaint about one field of a body."""
    return PydanticCustomError("refused", "{reason}", {"param": param, "reason": reason})


def own_fields(
    body: Mapping[str, Any],
    fields: Iterable[str],
    unsupported: Mapping[str, tuple[Any, ...]],
    harmless: frozenset[str] = HARMLESS,
) -> dict[str, Any]:
    """A body by the names of our `fields`, without nulls; raises for what would be ignored."""
    known, own = frozenset(fields), dict[str, Any]()
    for said, value in body.items():
        given = said.encode(errors="replace").decode()  # half a surrogate pair cannot be told back
        name = given if given in known else ALIASES.get(given, given)
        if value is None or name in harmless - known:
            continue
        if name not in known:
            _check_neutral(given, value, known, unsupported)
        elif own.setdefault(name, value) != value:
            others = [other for other, ours in ALIASES.items() if ours == name and other in body]
            raise refusal(name, f"is said otherwise by {', '.join(others)}; give one of them")
    return own


def _check_neutral(
    name: str, value: Any, known: frozenset[str], unsupported: Mapping[str, tuple[Any, ...]]
) -> None:
    if name not in unsupported:
        likely = difflib.get_close_matches(name[:_LONGEST_NAME], [*known, *ALIASES], n=1)
        hint = f"did you mean {likely[0]}?" if likely else "leave it out"
        raise refusal(name[:_LONGEST_NAME], f"is no parameter that is known here; {hint}")
    if value not in unsupported[name]:
        raise refusal(name, "is not supported; leave it out or null")
