"""Text and token ids: the tokenizer, incremental detokenising, and stop strings.

Nothing here knows of requests or of HTTP. `AutoTokenizer` would import torch; what it says is read
by the engine process and asked here without it.
"""

from server.text.detokenizer import Detokenizer
from server.text.infill import Infill, encode_inside
from server.text.stops import StopMatcher, unmarked
from server.text.tokenizer import REPLACEMENT, Tokenizer

__all__ = [
    "REPLACEMENT",
    "Detokenizer",
    "Infill",
    "StopMatcher",
    "Tokenizer",
    "encode_inside",
    "unmarked",
]
