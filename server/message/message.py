"""An assistant's message: the parts that a reply is made of, in the order in which it has them."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["reasoning", "content", "call"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a message; the `text` of a call is that of its arguments, JSON as it was written.

    Calls alone have a `name`, that of the tool.
    """

    kind: Kind
    text: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message, as far as it is written."""

    parts: tuple[Part, ...] = ()

    @property
    def content(self) -> str:
        """What is said, around calls in lines of its own."""
        return "\n".join(part.text for part in self.parts if part.kind == "content")

    @property
    def reasoning(self) -> str:
        """What was thought before."""
        return "".join(part.text for part in self.parts if part.kind == "reasoning")

    @property
    def calls(self) -> list[Part]:
        """The calls of tools."""
        return [part for part in self.parts if part.kind == "call"]


@dataclass(frozen=True, slots=True)
class Added:
    """What has been added to the part of this number, whose first text comes with it if `is_new`.

    Calls and contents are counted, too: it is the `rank`-th of its kind.
    """

    number: int
    rank: int
    part: Part
    is_new: bool
