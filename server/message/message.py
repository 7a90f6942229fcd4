"""An assistant's message, as far as it is written."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool; `arguments` is the JSON text that the model wrote."""

    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message, or what has been added to one."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(slots=True)
class Telling:
    """Tells a message while it is being written; mutable. `is_begun` is for whoever tells it."""

    read: Callable[[str, bool], Message]
    text: str = ""
    told: Message = field(default_factory=Message)
    is_begun: bool = False

    def push(self, text: str, is_whole: bool) -> Message:
        """What the message has now beyond what was told of it.

        A call that has been told of before has only more arguments, and one of which there is
        nothing new is empty.
        """
        self.text += text
        before, self.told = self.told, self.read(self.text, is_whole)
        known = len(before.calls)
        grown = [
            Call(new.name, new.arguments[len(old.arguments) :])
            for old, new in zip(before.calls, self.told.calls, strict=False)
        ]
        return Message(
            self.told.content[len(before.content) :],
            self.told.reasoning[len(before.reasoning) :],
            (*grown, *self.told.calls[known:]),
        )
