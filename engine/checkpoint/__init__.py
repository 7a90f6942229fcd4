"""What a checkpoint holds, looked at before it is loaded and checked after, each fault in one line.

For targets, drafts and heads alike: what is wrong with the files, which weights are missing or left
over, which are not numbers. Whatever stock transformers would make up is refused here.
"""

from engine.checkpoint.files import (
    check_configuration,
    check_files,
    check_weights,
    read_json,
    weight_files,
)
from engine.checkpoint.fingerprint import fingerprint
from engine.checkpoint.hub import asked_once
from engine.checkpoint.tokens import PADDING, check_same_tokens, compare_tokens
from engine.checkpoint.weights import abridged, check_keys, check_numbers

__all__ = [
    "PADDING",
    "abridged",
    "asked_once",
    "check_configuration",
    "check_files",
    "check_keys",
    "check_numbers",
    "check_same_tokens",
    "check_weights",
    "compare_tokens",
    "fingerprint",
    "read_json",
    "weight_files",
]
