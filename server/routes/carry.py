"""What the routes that write text have in common: a body is planned and begun."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request, Response

from engine import EngineBusyError, InvalidRequestError, ModelInfo
from server.engines import RETRY_AFTER
from server.errors import BadRequestError, QueueFullError
from server.piece import Piece
from server.plan import Plan
from server.protocol import TextRequest
from server.record import RequestRecord
from server.replies import CHUNKS, Events, reply_to
from server.state import State
from server.stream import Generation
from server.text import Tokenizer
from server.translate.reply import Reply
from server.translate.requests import Planner

Body = TypeVar("Body", bound=TextRequest)
Planned = TypeVar("Planned", bound=Plan)


@dataclass(frozen=True, slots=True)
class Begun(Generic[Planned]):
    """A plan whose pieces are to be asked for; `record` is filled meanwhile."""

    plan: Planned
    record: RequestRecord
    pieces: AsyncGenerator[Piece]
    info: ModelInfo
    tokenizer: Tokenizer


def planner_of(state: State) -> Planner:
    """For requests to the model that is served; raises NotReadyError or LoadFailedError."""
    info, shared = state.pool.nearest.info, state.pool.tokenizer
    return Planner(info, shared.get(), state.settings, shared.infill)


async def begin(
    body: Body,
    request: Request,
    state: State,
    plan_of: Callable[[Body, str, Planner], Planned],
    prefix: str,
) -> Begun[Planned]:
    """Plan a body under an id with this prefix. Raises ApiError or InvalidRequestError.

    What form the reply is to have is known to be possible then, though nobody has a seat yet.
    """
    arrived_at = time.monotonic()
    state.check_model(body.model)
    # A request that nobody will run is not worth tokenising.
    state.pool.admit()
    planner = planner_of(state)
    request_id = f"{prefix}-{request.state.request_id}"
    if state.settings.salt_by_key:
        digest = getattr(request.state, "key_digest", "")
        body = body.model_copy(update={"cache_salt": f"{digest} {body.cache_salt or ''}"})
    # A long prompt takes a while to tokenise, and others are streaming on this loop.
    plan = await asyncio.to_thread(plan_of, body, request_id, planner)
    await _compile(plan, body, state)
    most = max(sequence.max_tokens for sequence in plan.sequences)
    record = RequestRecord(plan.num_prompt_tokens, arrived_at, planner.info.stages, plan.n, most)
    pieces = Generation(plan, record, state.pool, state.metrics).pieces()
    return Begun(plan, record, pieces, planner.info, planner.tokenizer)


async def answer(
    body: Body,
    request: Request,
    state: State,
    plan_of: Callable[[Body, str, Planner], Planned],
    words_of: type[Reply[Body, Planned]],
    prefix: str,
    events: Events = CHUNKS,
) -> Response:
    """Plan a body, and tell what becomes of it; raises as `begin` and `reply_to` do."""
    begun = await begin(body, request, state, plan_of, prefix)
    model_id, patience = state.settings.model_id, state.settings.stream_wait_seconds
    words = words_of(body, begun.plan, begun.record, begun.tokenizer, model_id, begun.info)
    return await reply_to(request, begun.pieces, words, body.stream, patience, events)


async def _compile(plan: Plan, body: TextRequest, state: State) -> None:
    """Wait for the constraint of a plan; raises BadRequestError for one that cannot be kept."""
    constraint = plan.sequences[0].constraint
    if constraint is None:
        return
    wanted = body.wanted
    param = wanted.field if wanted else "tool_choice"
    is_more = wanted is not None and wanted.kind != constraint.kind == "structural_tag"
    beside = ", with what may stand beside it, such as calls of the tools" if is_more else ""
    try:
        await state.pool.nearest.compile(constraint)
    except InvalidRequestError as error:
        raise BadRequestError(f"{param}{beside}: {error}", param=param) from error
    except EngineBusyError as error:
        raise QueueFullError(str(error), retry_after=RETRY_AFTER) from error
