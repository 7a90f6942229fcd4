"""OpenAI's predicted outputs: what a client expects a reply to be, in whole or in parts."""

from typing import Literal

from server.protocol.wire import Text, Wire


class TextPart(Wire):
    """A piece of text."""

    type: Literal["text"]
    """Always `text`."""
    text: Text
    """The text."""


class Prediction(Wire):
    """What the reply may turn out to be; it makes it faster where it does, and changes nothing."""

    type: Literal["content"]
    """Always `content`."""
    content: Text | list[TextPart]
    """What is expected, as a text or in parts."""

    @property
    def text(self) -> str:
        """All parts of it."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)
