"""Text and token ids: the tokenizer, chat templates, incremental detokenising, and stop strings.

Nothing here knows of requests or of HTTP. `AutoTokenizer` would import torch; what it says is read
by the engine process and asked here without it.
"""

from server.text.detokenizer import Detokenizer
from server.text.infill import Infill, encode_inside
from server.text.stops import StopMatcher, num_begun, unmarked
from server.text.template import ChatTemplate, ChatTemplates, check_template
from server.text.tokenizer import REPLACEMENT, Tokenizer

__all__ = [
    "REPLACEMENT",
    "ChatTemplate",
    "ChatTemplates",
    "Detokenizer",
    "Infill",
    "StopMatcher",
    "Tokenizer",
    "check_template",
    "encode_inside",
    "num_begun",
    "unmarked",
]
