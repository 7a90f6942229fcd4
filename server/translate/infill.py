"""`/infill`: a gap between two halves of a file, and what stands beside it, become a plan."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from pydantic import BaseModel

from server.piece import Piece
from server.plan import Plan
from server.protocol import (
    ChosenFields,
    InfillChunk,
    InfillReplies,
    InfillReply,
    InfillRequest,
    Timings,
)
from server.text import Infill, encode_inside
from server.translate.prompts import infill_of
from server.translate.reply import Reply
from server.translate.requests import Planner

_SNIPPET = "\n\n--- snippet ---\n\n"
"""Between files for models without a separator, as llama-server has it."""
_NUM_WORDS = 16
"""Tokens that a template and a tokenizer may add."""


def plan_infill(body: InfillRequest, request_id: str, planner: Planner) -> Plan:
    """What a body asks for; raises BadRequestError or InvalidRequestError."""
    infill = infill_of(planner, "input_suffix")
    prompt = _Gap(body, planner, infill).prompt()
    return planner.plan(body, request_id, [tuple(prompt)], None, ends=infill.ends)


@dataclass(frozen=True, slots=True)
class _Gap:
    """A gap and the room that the window has for what stands around it."""

    body: InfillRequest
    planner: Planner
    infill: Infill

    def prompt(self) -> list[int]:
        """Other files, the end of the prefix and the beginning of the suffix, as fit.

        A quarter of the room at most is the suffix's, and other files have what the halves leave.
        """
        body, tokenizer = self.body, self.planner.tokenizer
        room = self.planner.room_for_prompt(body.max_tokens) - _NUM_WORDS
        most = self.planner.most_characters
        suffix = encode_inside(body.input_suffix[:most], tokenizer)[: max(0, room // 4)]
        before = (body.input_prefix + body.prompt)[-most:]
        prefix = tokenizer.encode(before, add_special_tokens=False)
        prefix = prefix[max(0, len(prefix) - max(1, room - len(suffix))) :]
        left = room - len(suffix) - len(prefix)
        extra = [token for file in self._files() for token in file]
        extra = extra[len(extra) - left :] if left < len(extra) else extra
        start = tokenizer.encode("")
        return [*start, *(extra if left > 0 else []), *self.infill.prompt(prefix, suffix)]

    def _files(self) -> Iterator[list[int]]:
        """The other files, each with its name or a line between, as llama-server feeds them."""
        encode, infill = self._encode, self.infill
        if not self.body.input_extra:
            return
        if infill.repository is not None:
            yield [infill.repository, *encode("myproject\n")]
        for file in self.body.input_extra:
            if infill.separator is None:
                yield encode(_SNIPPET + file.text)
            else:
                yield [infill.separator, *encode(f"{file.filename}\n{file.text}")]
        if infill.separator is not None:
            yield [infill.separator, *encode("filename\n")]

    def _encode(self, text: str) -> list[int]:
        return encode_inside(text[: self.planner.most_characters], self.planner.tokenizer)


@dataclass(frozen=True, slots=True)
class InfillWords(Reply[InfillRequest, Plan]):
    """Says in llama-server's words what becomes of a plan."""

    def whole(self, choices: Sequence[Piece]) -> BaseModel:
        """The reply, or the fields of it that were asked for; a list where there are several."""
        told = [self._reply(choice, len(choice.tokens)) for choice in choices]
        return told[0] if len(told) == 1 else InfillReplies(told)

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[BaseModel]:
        """A chunk for each piece that has text, and at the end of a choice the reply without it."""
        counts = Counter[int]()
        async with aclosing(pieces):
            async for piece in pieces:
                counts[piece.index] += len(piece.tokens)
                if piece.text:
                    yield InfillChunk(index=piece.index, content=piece.text)
                if piece.finish_reason is not None:
                    yield self._reply(replace(piece, text=""), counts[piece.index])

    def _reply(self, choice: Piece, num_told: int) -> InfillReply | ChosenFields:
        num_prompt = self.record.num_prompt_tokens
        is_word = isinstance(choice.stop_reason, str)
        ended = "limit" if choice.finish_reason == "length" else "word" if is_word else "eos"
        reply = InfillReply(
            index=choice.index,
            content=choice.text,
            model=self.model,
            tokens_predicted=num_told,
            tokens_evaluated=num_prompt,
            tokens_cached=num_prompt + num_told,
            truncated=False,
            stop_type=ended,
            stopping_word=str(choice.stop_reason) if is_word else "",
            generation_settings={"n_ctx": self.info.max_model_len},
            timings=self._timings(num_told),
        )
        if not self.body.response_fields:
            return reply
        return ChosenFields(_chosen(reply.model_dump(), self.body.response_fields))

    def _timings(self, num_told: int) -> Timings:
        record, stats = self.record, self.record.stats
        num_read = max(0, record.num_prompt_tokens - record.num_cached_tokens)
        reading = 1e3 * max(0.0, record.first_token_seconds - record.queue_seconds)
        writing = max(0.0, 1e3 * record.generation_seconds - reading)
        return Timings(
            cache_n=record.num_cached_tokens,
            prompt_n=num_read,
            prompt_ms=reading,
            prompt_per_token_ms=reading / max(1, num_read),
            prompt_per_second=1e3 * num_read / reading if reading else 0.0,
            predicted_n=num_told,
            predicted_ms=writing,
            predicted_per_token_ms=writing / max(1, num_told),
            predicted_per_second=1e3 * num_told / writing if writing else 0.0,
            draft_n=stats.num_draft_tokens,
            draft_n_accepted=stats.num_accepted_drafts,
        )


def _chosen(reply: dict[str, object], paths: Sequence[str]) -> dict[str, object]:
    """What is found along each path, by the path; nothing for others."""
    chosen: dict[str, object] = {}
    for path in paths:
        found: object = reply
        for name in path.split("/"):
            found = found.get(name) if isinstance(found, dict) else None
        if found is not None:
            chosen[path] = found
    return chosen
