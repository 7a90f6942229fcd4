"""The parts of a reply as items of Responses, and the events that tell them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from server.message import Part
from server.protocol.responses_events import DeltaEvent, DoneEvent, ItemEvent, PartEvent
from server.protocol.responses_reply import (
    Output,
    OutputCustomCall,
    OutputFunctionCall,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    Status,
)
from server.translate.response_input import INPUT, NamedTool
from server.translate.telling import Step

_KINDS = {
    "content": ("msg", "response.output_text"),
    "reasoning": ("rs", "response.reasoning_text"),
    "function": ("fc", "response.function_call_arguments"),
    "custom": ("ctc", "response.custom_tool_call_input"),
}
"""What an item's id begins with, and the names of the events of its text."""


@dataclass(frozen=True, slots=True)
class ItemWriter:
    """Writes the `items` of one reply; `digest` tells them apart, `call_id` the calls among them.

    Events take their numbers from `numbers`; `tools` are by the names that the model knows.
    """

    tools: Mapping[str, NamedTool]
    digest: Callable[[int], str]
    call_id: Callable[[int], str]
    numbers: Iterator[int]
    items: list[Output] = field(default_factory=list)

    def _item(self, step: Step, status: Status) -> Output:
        """An item as it is now; one that begins has no parts."""
        part = step.part
        texts = [] if step.does == "begin" else [part.text]
        told: dict[str, Any] = {"id": self._item_id(step), "status": status}
        if part.kind == "content":
            return OutputMessage(**told, content=[OutputText(text=text) for text in texts])
        if part.kind == "reasoning":
            return OutputReasoning(**told, content=[ReasoningText(text=text) for text in texts])
        known = self.tools.get(part.name)
        told["call_id"] = self.call_id(step.rank)
        told["name"] = part.name if known is None else known.name
        told["namespace"] = None if known is None else known.namespace
        if self._kind(part) == "custom":
            return OutputCustomCall(**told, input=_input(part.text))
        return OutputFunctionCall(**told, arguments=part.text)

    def events(self, step: Step, status: Status) -> Iterator[BaseModel]:
        """The events of a step, after which its item has this status."""
        if step.does == "begin":
            yield self._item_event("response.output_item.added", step, self._item(step, status))
            yield from self._part_event("response.content_part.added", step)
        elif step.does == "grow":
            if self._kind(step.part) != "custom":  # its text is known when its JSON is whole
                yield self._delta(step, step.part.text)
        else:
            item = self._item(step, status)
            if isinstance(item, OutputCustomCall):
                yield self._delta(step, item.input)
            yield self._done(step, item)
            yield from self._part_event("response.content_part.done", step)
            yield self._item_event("response.output_item.done", step, item)
            self.items.append(item)

    def _item_event(self, kind: Any, step: Step, item: Output) -> ItemEvent:
        number = next(self.numbers)
        return ItemEvent(type=kind, output_index=step.number, item=item, sequence_number=number)

    def _part_event(self, kind: Any, step: Step) -> Iterator[PartEvent]:
        """Texts alone have parts."""
        if step.part.kind != "call":
            is_content, text = step.part.kind == "content", step.part.text
            part = OutputText(text=text) if is_content else ReasoningText(text=text)
            yield PartEvent(type=kind, part=part, **self._place(step))

    def _delta(self, step: Step, text: str) -> DeltaEvent:
        kind: Any = f"{_KINDS[self._kind(step.part)][1]}.delta"
        return DeltaEvent(type=kind, delta=text, **self._place(step), **_part_fields(step.part))

    def _done(self, step: Step, item: Output) -> DoneEvent:
        """All of an item's text, by the name that it has there."""
        kind: Any = f"{_KINDS[self._kind(step.part)][1]}.done"
        told: dict[str, Any] = {"text": step.part.text}
        if isinstance(item, OutputFunctionCall):
            told = {"arguments": item.arguments, "name": item.name}
        elif isinstance(item, OutputCustomCall):
            told = {"input": item.input}
        return DoneEvent(type=kind, **told, **self._place(step), **_part_fields(step.part))

    def _place(self, step: Step) -> dict[str, Any]:
        return {
            "item_id": self._item_id(step),
            "output_index": step.number,
            "sequence_number": next(self.numbers),
        }

    def _item_id(self, step: Step) -> str:
        return f"{_KINDS[self._kind(step.part)][0]}_{self.digest(step.number)[:32]}"

    def _kind(self, part: Part) -> str:
        if part.kind != "call":
            return part.kind
        known = self.tools.get(part.name)
        return "custom" if known is not None and known.is_custom else "function"


def _part_fields(part: Part) -> dict[str, Any]:
    """What events of texts have beside their text."""
    if part.kind == "call":
        return {}
    return {"content_index": 0, "logprobs": [] if part.kind == "content" else None}


def _input(arguments: str) -> str:
    """The text that a custom tool is given; what the model wrote, if that is not its JSON."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = given.get(INPUT) if isinstance(given, dict) else None
    return text if isinstance(text, str) else arguments
