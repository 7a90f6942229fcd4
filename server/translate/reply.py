"""What the replies of all APIs that write text are made of, and what they all tell."""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from engine import ModelInfo
from server.errors import envelope
from server.piece import Piece
from server.plan import Plan
from server.protocol import TextRequest
from server.record import RequestRecord
from server.text import Tokenizer
from server.translate.figures import fingerprint_of

Body = TypeVar("Body", bound=TextRequest)
Planned = TypeVar("Planned", bound=Plan)


@dataclass(frozen=True, slots=True)
class Reply(ABC, Generic[Body, Planned]):
    """Says in an API's words what becomes of a plan; `record` is filled meanwhile."""

    body: Body
    plan: Planned
    record: RequestRecord
    tokenizer: Tokenizer
    model: str
    info: ModelInfo
    created: int = field(default_factory=lambda: int(time.time()))

    @abstractmethod
    def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[BaseModel]:
        """The chunks of a stream; closing it closes the generator of the pieces."""

    @abstractmethod
    def whole(self, choices: Sequence[Piece]) -> BaseModel:
        """The reply of all choices."""

    @property
    def head(self) -> dict[str, Any]:
        """The fields of a `ReplyHead`."""
        return {
            "id": self.plan.request_id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint_of(self.info),
        }

    def failure(self, error: Exception) -> BaseModel:
        """What a stream tells of an error."""
        return envelope(error)

    def call_id(self, choice: int, rank: int) -> str:
        """Of nine letters and digits: the templates of Mistral's models refuse any other.

        Turns may come under one id of the client's; no two sequences share theirs.
        """
        return self.digest(choice, rank)[:9]

    def digest(self, choice: int, number: int) -> str:
        """64 letters and digits for something that a choice has several of."""
        name = f"{self.plan.sequences[choice].request_id}-{number}"
        return hashlib.sha256(name.encode()).hexdigest()
