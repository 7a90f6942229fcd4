"""What a model has written, read as a message: reasoning, content, and calls of tools.

A reading is a pure function of the text so far, and what it has told stays told: the message of a
text begins with that of each of its beginnings. So a client gets the same, however the text comes
in pieces. Nothing here knows of tokens, templates' engines or HTTP.
"""

from server.message.forced import Format, calls_format, constant, sequence
from server.message.message import Added, Message, Part
from server.message.reader import ReplyReader, Telling
from server.message.styles import STYLES, CallStyle, Thinking, detect_style, detect_thinking

__all__ = [
    "STYLES",
    "Added",
    "CallStyle",
    "Format",
    "Message",
    "Part",
    "ReplyReader",
    "Telling",
    "Thinking",
    "calls_format",
    "constant",
    "detect_style",
    "detect_thinking",
    "sequence",
]
