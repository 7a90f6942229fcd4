"""What the two sides say to each other: the engine's nouns in tagged msgspec structs."""

from typing import Literal

import msgspec

from engine.request import (
    Constraint,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    TokenizerState,
    Update,
)


class Message(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """Anything on the wire."""


class Generate(Message, frozen=True):
    """Run this request."""

    request: GenerateRequest


class Cancel(Message, frozen=True):
    """End this request within one step."""

    request_id: str


class Compile(Message, frozen=True):
    """Tell whether requests may have this constraint, under an id as requests have."""

    request_id: str
    constraint: Constraint


class ReadTokenizer(Message, frozen=True):
    """Tell the model's tokenizer."""


class Close(Message, frozen=True):
    """End the process."""


class Loading(Message, frozen=True):
    """Weights are being read."""

    progress: LoadProgress


class Unloadable(Message, frozen=True):
    """They cannot be, and why; the traceback is for who looks for a fault of ours."""

    message: str
    traceback: str


class Ready(Message, frozen=True):
    """What was loaded, or has changed since; requests may come."""

    info: ModelInfo


class TokenizerRead(Message, frozen=True):
    """The model's tokenizer, or why there is none."""

    state: TokenizerState | None
    message: str = ""


class Compiled(Message, frozen=True):
    """They may."""

    request_id: str


class Stepped(Message, frozen=True):
    """What a step has brought of each request that it is about."""

    updates: tuple[Update, ...]


class Failed(Message, frozen=True):
    """A request cannot run, nor any with this constraint; or not now; or the engine broke under it.

    `why` tells which.
    """

    request_id: str
    message: str
    why: Literal["invalid", "busy", "broken"]


class Beat(Message, frozen=True):
    """Still alive."""


Order = Generate | Cancel | Compile | ReadTokenizer | Close
Event = Loading | Unloadable | Ready | TokenizerRead | Compiled | Stepped | Failed | Beat

encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_event = msgspec.msgpack.Decoder(Event).decode
